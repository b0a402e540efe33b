"""Sums of products of integers are exact, also on CPUs that add them in 16 bits."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

import lepton_kernels as lk
from lepton_core.environment import NARROW, sums_may_saturate
from lepton_core.errors import SessionError
from lepton_core.types import OpenRequest
from lepton_openvino import _products, bundle_runtime, plugin

WIDTH, UNITS = 96, 24
SCALE = np.float32(0.02)


def integer_product(graphs, largest, *, stored=True):
    """Return a graph of one uint8 x int8 product, its weight and rows that reach far.

    Weights are stored as integers, or as floats that the graph quantizes.
    """
    rng = np.random.default_rng(3)
    codes = rng.integers(-largest, largest + 1, (WIDTH, UNITS)).astype(np.int8)
    weights = {
        "w": codes,
        "ws": np.full(UNITS, 0.01, "f4"),
        "wz": np.zeros(UNITS, "i1"),
        "xs": SCALE,
        "xz": np.uint8(0),
    }
    nodes = [
        graphs.node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        graphs.node("DequantizeLinear", ["q", "xs", "xz"], ["d"]),
        graphs.node("DequantizeLinear", ["w", "ws", "wz"], ["v"], axis=1),
        graphs.node("MatMul", ["d", "v"], ["y"]),
    ]
    if not stored:
        weights["f"] = codes * np.float32(0.01)
        nodes.insert(0, graphs.node("QuantizeLinear", ["f", "ws", "wz"], ["w"], axis=1))
        del weights["w"]
    proto = graphs.model(
        nodes,
        [graphs.value("x", ["batch", WIDTH], TensorProto.FLOAT)],
        [graphs.value("y", ["batch", UNITS], TensorProto.FLOAT)],
        [graphs.weight(name, array) for name, array in weights.items()],
    )
    return proto, codes, (rng.random((16, WIDTH)) * 255 * SCALE).astype("f4")


def emulated(rows, codes, *, saturate16):
    """What the products are by the emulator, in the unit of ``y``."""
    inputs = lk.quantize(rows, SCALE, 0, dtype="uint8")
    product = lk.matmul_u8s8(inputs, codes, saturate16=saturate16)
    return product.values * (np.float64(SCALE) * np.float64(np.float32(0.01))), product.saturated


@pytest.fixture(params=[True, False], ids=["stored", "quantized-in-the-graph"])
def wide(request, graphs, to_pivot, convert):
    proto, codes, rows = integer_product(graphs, 127, stored=request.param)
    return convert(to_pivot(proto)).model, codes, rows


def distance(found, expected):
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_products_are_exact_where_the_emulator_saturates(wide, opened, device):
    model, codes, rows = wide
    exact, _ = emulated(rows, codes, saturate16=False)
    _, saturated = emulated(rows, codes, saturate16=True)
    assert saturated > 100
    with opened(model, device=device) as session:
        assert session.facts["integers"].startswith("exact")
        assert distance(session.run({"x": rows})["y"], exact) < 1e-5


def test_fast_kernels_are_a_choice_and_what_they_do_is_what_the_emulator_says(wide, opened):
    model, codes, rows = wide
    exact, _ = emulated(rows, codes, saturate16=False)
    with opened(model, options={"integer_products": "fast"}) as session:
        found = distance(session.run({"x": rows})["y"], exact)
        if sums_may_saturate():
            assert session.facts["integers"] == _products.SATURATING
            assert found > 0.01
        else:
            assert session.facts["integers"] == _products.EXACT
            assert found < 1e-5


def test_a_cache_keeps_fast_and_exact_kernels_apart(wide, opened, tmp_path):
    """OpenVINO tells compiled models apart by properties that this is not among."""
    model, codes, rows = wide
    exact, _ = emulated(rows, codes, saturate16=False)
    cache = {"cache": str(tmp_path)}
    with opened(model, options={"integer_products": "fast", **cache}) as session:
        session.run({"x": rows})
    for loaded in (not sums_may_saturate(), True):
        with opened(model, options=cache) as session:
            assert session.facts["loaded_from_cache"] is loaded
            assert distance(session.run({"x": rows})["y"], exact) < 1e-5


def test_narrow_weights_keep_the_fast_kernels(graphs, to_pivot, convert, opened):
    proto, codes, rows = integer_product(graphs, NARROW)
    exact, _ = emulated(rows, codes, saturate16=False)
    _, saturated = emulated(np.full_like(rows, 255 * SCALE), codes, saturate16=True)
    assert saturated == 0
    with opened(convert(to_pivot(proto)).model) as session:
        assert session.facts["integers"].startswith("exact")
        assert "float" not in session.facts["integers"]
        assert session.facts["execution_layers"].get("int8")
        assert distance(session.run({"x": rows})["y"], exact) < 1e-5


@pytest.mark.parametrize(
    ("largest", "may", "options", "says"),
    [
        (127, False, {}, _products.EXACT),
        (127, True, {}, _products.FLOAT_EXACT),
        (127, True, {"integer_products": "fast"}, _products.SATURATING),
        (64, True, {}, _products.NARROW_EXACT),
        (64, True, {"integer_products": "fast"}, _products.NARROW_EXACT),
    ],
)
def test_the_session_checks_the_cpu(monkeypatch, graphs, to_pivot, opened, largest, may, options,
                                    says):  # fmt: skip
    monkeypatch.setattr(_products, "sums_may_saturate", lambda: may)
    proto, _, rows = integer_product(graphs, largest)
    with opened(to_pivot(proto), options=options) as session:
        assert session.facts["integers"] == says
        session.run({"x": rows})


def test_models_without_integer_products_say_nothing(graphs, to_pivot, opened):
    with opened(to_pivot(graphs.mlp())) as session:
        assert "integers" not in session.facts


def test_a_choice_that_there_is_not(wide, context):
    request = OpenRequest("openvino", options={"integer_products": "slow"})
    with pytest.raises(SessionError, match="exact, fast") as caught:
        plugin.lepton_open(wide[0], request, context)
    assert caught.value.code == "LPT-RUN-307"


def test_a_bundle_is_exact_too(wide):
    model, codes, rows = wide
    exact, _ = emulated(rows, codes, saturate16=False)
    found = bundle_runtime.load(model.path, threads=1)({"x": rows})["y"]
    assert distance(found, exact) < 1e-5
