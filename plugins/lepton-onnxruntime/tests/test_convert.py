"""From the pivot to the artifact: precisions, facts, determinism, refusals."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from lepton_core.context import Context
from lepton_core.errors import ConversionError, UnsupportedOperationError, UsageError
from lepton_core.types import ConvertRequest, OpenRequest
from lepton_onnxruntime import plugin


def convert(model, context, precision="fp32", **options):
    request = ConvertRequest("onnxruntime", "onnxruntime", precision=precision, options=options)
    return plugin.lepton_convert(model, request, context)


def test_fp32_is_the_frozen_graph(graphs, to_pivot, context):
    pivot = to_pivot(graphs.mlp())
    result = convert(pivot, context)
    assert result.model.format == "onnxruntime"
    assert result.model.digest == pivot.digest
    assert result.facts["storage_precision"] == "fp32"
    assert result.model.lineage[-1].parent == pivot.digest
    assert len(result.model.lineage) == 2
    assert "onnxruntime" in result.model.lineage[-1].tools
    assert [p.name for p in context.workdir.iterdir()] == ["model.onnx"]


def test_fp16_is_smaller_near_and_recorded(graphs, to_pivot, context, tmp_path):
    pivot = to_pivot(graphs.mlp(width=256))
    result = convert(pivot, context, "fp16")
    assert result.facts["storage_precision"] == "fp16"
    assert result.facts["kept_in_fp32"] == {}
    small = (context.workdir / "model.onnx").stat().st_size
    assert small < 0.6 * (tmp_path / "source" / "pivot.onnx").stat().st_size
    x = np.random.default_rng(0).normal(size=(5, 8)).astype("f4")
    with plugin.lepton_open(pivot, OpenRequest("onnxruntime", reference=True), context) as s:
        expected = s.run({"x": x})["y"]
    with plugin.lepton_open(result.model, OpenRequest("onnxruntime"), context) as s:
        found = s.run({"x": x})["y"]
    assert found.dtype == np.float32
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 2e-3


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_same_bytes_every_time(graphs, to_pivot, tmp_path, precision):
    pivot = to_pivot(graphs.mlp())
    digests = set()
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        digests.add(convert(pivot, Context(folder), precision).model.digest)
    assert len(digests) == 1


def test_values_to_keep_are_kept_and_recorded(graphs, to_pivot, context):
    result = convert(to_pivot(graphs.mlp()), context, "fp16", keep=["last"])
    assert result.facts["kept_in_fp32"] == {"last": "asked for"}
    assert result.model.lineage[-1].request["options"] == {"keep": ["last"]}


def test_options_as_the_command_line_gives_them(graphs, to_pivot, context):
    pivot = to_pivot(graphs.mlp())
    kept = convert(pivot, context, "fp16", keep="last, fc1.weight").facts["kept_in_fp32"]
    assert kept["last"] == "asked for"
    assert not kept.keys() & set("last")
    with pytest.raises(UsageError, match="no option 'batch'") as caught:
        convert(pivot, context, batch="2")
    assert caught.value.code == "LPT-CONV-217"


def test_what_it_cannot_build(graphs, to_pivot, context):
    pivot = to_pivot(graphs.mlp())
    with pytest.raises(UnsupportedOperationError) as caught:
        convert(pivot, context, "int4")
    assert caught.value.code == "LPT-CONV-211"
    request = ConvertRequest("onnxruntime", "onnxruntime", "fp16", recipe="r.json")
    with pytest.raises(UnsupportedOperationError) as caught:
        plugin.lepton_convert(pivot, request, context)
    assert caught.value.code == "LPT-CONV-212"
    other = pivot.evolve(format="onnx")
    assert plugin.lepton_convert(other, ConvertRequest("onnxruntime"), context) is None


def test_a_recurrent_layer_whose_batch_comes_first(graphs, to_pivot, context):
    """The kernels have no such layout."""
    rng = np.random.default_rng(0)
    proto = graphs.model(
        [graphs.node("GRU", ["x", "W", "R", "", "", "h"], ["y", "last"], hidden_size=4, layout=1)],
        [graphs.value("x", [2, 3, 5]), graphs.value("h", [2, 1, 4])],
        [graphs.value("y", [2, 3, 1, 4]), graphs.value("last", [2, 1, 4])],
        [
            graphs.weight("W", rng.normal(size=(1, 12, 5)).astype("f4")),
            graphs.weight("R", rng.normal(size=(1, 12, 4)).astype("f4")),
        ],
    )
    pivot = to_pivot(proto)
    feed = {"x": rng.normal(size=(2, 3, 5)), "h": rng.normal(size=(2, 1, 4))}
    feed = {name: array.astype("f4") for name, array in feed.items()}
    made = convert(pivot, context).model
    with plugin.lepton_open(made, OpenRequest("onnxruntime"), context) as session:
        found = session.run(feed)
    (wanted, *_) = ReferenceEvaluator(pivot.path).run(None, feed)
    np.testing.assert_allclose(found["y"], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["last"], found["y"][:, -1], rtol=1e-5)


def test_types_that_a_session_cannot_pass(graphs, to_pivot, context):
    proto = graphs.model(
        [graphs.node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)],
        [graphs.value("x", [2])],
        [graphs.value("y", [2], TensorProto.BFLOAT16)],
    )
    with pytest.raises(ConversionError) as caught:
        convert(to_pivot(proto), context)
    assert caught.value.code == "LPT-CONV-215"


def test_an_operator_that_loads_and_never_runs(graphs, to_pivot, context):
    weights = [
        graphs.weight("w", np.ones((2, 1, 2, 2), "u1")),
        graphs.weight("zero", np.zeros((), "u1")),
        graphs.weight("zeros", np.zeros(2, "u1")),
    ]
    node = graphs.node("ConvInteger", ["x", "w", "zero", "zeros"], ["y"])
    ports = [graphs.value("x", [1, 1, 4, 4], TensorProto.UINT8)]
    proto = graphs.model([node], ports, [graphs.value("y", None, TensorProto.INT32)], weights)
    with pytest.raises(ConversionError) as caught:
        convert(to_pivot(proto), context)
    assert caught.value.code == "LPT-CONV-216"
    node.input[3] = "zero"
    proto = graphs.model([node], ports, [graphs.value("y", None, TensorProto.INT32)], weights)
    assert convert(to_pivot(proto, "again"), context).model.format == "onnxruntime"


def test_a_graph_that_the_runtime_refuses(graphs, to_pivot, context):
    proto = graphs.model(
        [graphs.node("Foo", ["x"], ["y"], name="here", domain="acme")],
        [graphs.value("x", [2])],
        [graphs.value("y", [2])],
        domains=["acme"],
    )
    with pytest.raises(ConversionError) as caught:
        convert(to_pivot(proto), context)
    assert caught.value.code == "LPT-CONV-213"
    assert "acme" in caught.value.cause


def test_external_data_moves_along(graphs, to_pivot, context, tmp_path):
    from lepton_onnx import pivot as library

    pivot = to_pivot(graphs.mlp(width=256))
    big = tmp_path / "big.onnx"
    library.freeze(pivot.path, big, external_above=1000)
    proto = onnx.load(big, load_external_data=False)
    assert any(t.external_data for t in proto.graph.initializer)
    result = convert(pivot.evolve(path=str(big), digest=""), context)
    x = np.ones((1, 8), "f4")
    expected = plugin.lepton_open(pivot, OpenRequest("onnxruntime"), context).run({"x": x})["y"]
    for model in (result.model, pivot.evolve(path=str(big))):
        found = plugin.lepton_open(model, OpenRequest("onnxruntime"), context).run({"x": x})["y"]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
