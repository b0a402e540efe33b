"""Weights in few bits: written into a graph, run by two runtimes, and read back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lepton_kernels as lk
from lepton_core.errors import OptimizeError
from lepton_core.recipe import BlockWeight, Layer, PivotId, Recipe
from lepton_onnx import qdq

ort = pytest.importorskip("onnxruntime")


def rand(*shape, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * 0.3).astype(np.float32)


def graph_of(op, weight, bias=None, **attributes):
    inputs = weight.shape[1 if attributes.get("transB") else 0]
    weights = {"w": weight} | ({} if bias is None else {"b": bias})
    node = helper.make_node(op, ["x", *weights], ["y"], **attributes)
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "m"])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def recipe_of(op, entry):
    layers = {"y": Layer(op, "y", (), "w", mode="weight")}
    return Recipe(PivotId("sha256:1", 21), "int4-weight-only", {}, layers, blocks={"w": entry})


def lower(model, entry, op="MatMul", arrays=None):
    return qdq.lower(model, recipe_of(op, entry), digest="sha256:1", arrays=arrays).model


def run_ort(model, x):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def run_openvino(model, x, folder):
    openvino = pytest.importorskip("lepton_openvino._telemetry").openvino()
    onnx.save(model, folder / "m.onnx")
    core = openvino.Core()
    # With VNNI it rounds inputs to 8 bits unless told not to.
    hint = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": 1,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    return core.compile_model(core.read_model(folder / "m.onnx"), "CPU", hint)({"x": x})[0]


CASES = [
    (bits, symmetric, inputs)
    for bits in (2, 3, 4, 5, 8)
    for symmetric in (True, False)
    for inputs in (64, 100)  # the second is not a multiple of the block
]


@pytest.mark.parametrize(("bits", "symmetric", "inputs"), CASES)
def test_both_runtimes_compute_with_the_integers_of_the_rule(bits, symmetric, inputs, tmp_path):
    weight, x = rand(inputs, 24, seed=bits), rand(3, inputs, seed=9)
    entry = BlockWeight(bits, 32, 0, symmetric, "mse")
    model = lower(graph_of("MatMul", weight), entry)
    found = lk.quantize_blocks(
        weight.T, 32, bits=bits, scheme="signed_max" if symmetric else "asymmetric", clip="mse"
    )
    values = lk.dequantize_blocks(found.codes, found.scale, found.zero_point, 32)
    wanted = x @ values.T
    size = np.linalg.norm(wanted)
    # ONNX Runtime's fast kernel rounds inputs to 8 bits; OpenVINO's product is float.
    assert np.linalg.norm(run_ort(model, x) - wanted) < 0.02 * size
    assert np.linalg.norm(run_openvino(model, x, tmp_path) - wanted) < 1e-5 * size
    stored = qdq.read_blocks(model)["w"]
    assert np.array_equal(stored.codes, found.codes)
    assert np.array_equal(stored.scale, found.scale)
    assert symmetric == (stored.zero_point is None)
    if not symmetric:
        assert np.array_equal(stored.zero_point, found.zero_point)
    packed = next(t for t in model.graph.initializer if t.name.startswith("w/uint"))
    width = {2: 2, 3: 4, 4: 4, 5: 8, 8: 8}[bits]
    assert packed.name == f"w/uint{width}"
    assert len(packed.raw_data) == 24 * -(-inputs // 32) * 32 * width // 8


@pytest.mark.parametrize("bias", [None, rand(24, seed=3)])
def test_a_gemm_with_a_transposed_weight_and_its_bias(bias, tmp_path):
    weight, x = rand(24, 64), rand(5, 64, seed=1)
    entry = BlockWeight(8, 16, 1, True, "rtn")
    model = lower(graph_of("Gemm", weight, bias, transB=1), entry, "Gemm")
    wanted = x @ weight.T + (0 if bias is None else bias)
    for found in (run_ort(model, x), run_openvino(model, x, tmp_path)):
        assert np.linalg.norm(found - wanted) < 0.01 * np.linalg.norm(wanted)
    assert not any(t.name == "w" for t in model.graph.initializer)


def test_inputs_are_rescaled_where_the_recipe_says_so(tmp_path):
    weight, x = rand(64, 24), rand(5, 64, seed=1)
    factors = np.exp(rand(64, seed=2)).astype(np.float32)
    entry = BlockWeight(4, 32, 0, True, "awq", input_scale="x/input_scale")
    model = lower(graph_of("MatMul", weight), entry, arrays={"x/input_scale": factors})
    found = lk.quantize_blocks(weight.T * factors, 32, clip="mse")
    wanted = x @ (lk.dequantize_blocks(found.codes, found.scale, None, 32) / factors).T
    assert np.allclose(run_openvino(model, x, tmp_path), wanted, atol=1e-4)
    assert np.linalg.norm(run_ort(model, x) - wanted) < 0.02 * np.linalg.norm(wanted)


def kept(codes, scale, **more):
    entry = BlockWeight(4, 32, 0, True, "gptq", "i", "s", **more)
    return entry, {"i": codes, "s": scale}


def test_integers_of_the_sidecar_are_what_the_file_holds():
    rng = np.random.default_rng(0)
    codes = rng.integers(-8, 8, (64, 24)).astype(np.int8)
    scale = np.exp(rand(24, 2)).astype(np.float32)
    entry, arrays = kept(codes, scale)
    stored = qdq.read_blocks(lower(graph_of("MatMul", rand(64, 24)), entry, arrays=arrays))["w"]
    assert np.array_equal(stored.codes, codes.T)
    assert np.array_equal(stored.scale, scale)
    wanted = {"w": qdq.block_integers("w", rand(64, 24), entry, arrays)}
    assert qdq.compare_blocks(wanted, {"w": stored}) == []
    other = replace(stored, codes=stored.codes + np.int8(1), scale=stored.scale * np.float32(2))
    assert qdq.compare_blocks(wanted, {"w": other}) == ["w: other integers", "w: other scales"]
    assert qdq.compare_blocks(wanted, {}) == ["w: not stored in blocks"]


@pytest.mark.parametrize(
    ("codes", "scale"),
    [
        (np.zeros((24, 64), np.int8), np.ones((24, 2), np.float32)),
        (np.zeros((64, 24), np.int8), np.ones((24, 3), np.float32)),
        (np.full((64, 24), 8, np.int8), np.ones((24, 2), np.float32)),
        (np.zeros((64, 24), np.int8), np.zeros((24, 2), np.float32)),
    ],
)
def test_a_sidecar_that_does_not_fit_is_refused(codes, scale):
    entry, arrays = kept(codes, scale)
    with pytest.raises(OptimizeError) as caught:
        lower(graph_of("MatMul", rand(64, 24)), entry, arrays=arrays)
    assert caught.value.code == "LPT-OPT-006"


@pytest.mark.parametrize(
    ("op", "axis", "attributes", "weight"),
    [
        ("MatMul", 1, {}, rand(64, 24)),
        ("Gemm", 0, {"transB": 1}, rand(24, 64)),
        ("Gemm", 0, {"alpha": 2.0}, rand(64, 24)),
        ("MatMul", 0, {}, np.full((64, 24), np.nan, np.float32)),
    ],
)
def test_a_layer_that_cannot_read_blocks_is_refused(op, axis, attributes, weight):
    with pytest.raises(OptimizeError) as caught:
        lower(graph_of(op, weight, **attributes), BlockWeight(4, 32, axis), op)
    assert caught.value.code == "LPT-OPT-005"


def test_a_recipe_for_another_pivot_is_refused():
    recipe = recipe_of("MatMul", BlockWeight(4, 32, 0))
    with pytest.raises(OptimizeError) as caught:
        qdq.lower(graph_of("MatMul", rand(64, 24)), recipe, digest="sha256:2")
    assert caught.value.code == "LPT-OPT-003"


def test_two_products_of_one_weight_share_its_integers():
    model = graph_of("MatMul", rand(64, 64))
    second = helper.make_node("MatMul", ["y", "w"], ["z"])
    model.graph.node.append(second)
    recipe = recipe_of("MatMul", BlockWeight(4, 32, 0))
    recipe = replace(
        recipe, layers={**recipe.layers, "z": Layer("MatMul", "z", (), "w", mode="weight")}
    )
    lowered = qdq.lower(model, recipe, digest="sha256:1")
    assert lowered.block_layers == 2
    names = [t.name for t in lowered.model.graph.initializer]
    assert sorted(names) == ["w/scale", "w/uint4"]
    assert json.dumps(qdq.is_quantized(lowered.model)).count("MatMulNBits") == 1
