"""Quantized graphs through the bridge: the integers of onnxruntime, by tensor, slice and block."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from lepton_core.types import ConvertRequest, Model
from lepton_torch import plugin
from lepton_torch._archive import load_program
from lepton_torch._bridge._graph import read_graph
from lepton_torch._bridge._module import BridgeModule

MODELS = Path(__file__).parents[3] / "tests" / "conformance" / "models.py"
SAMPLES = runpy.run_path(str(MODELS.with_name("samples.py")))["SAMPLES"]
RANGES = {"INT8": (-128, 127), "UINT8": (0, 255), "INT16": (-32768, 32767), "INT4": (-8, 7),
          "UINT4": (0, 15)}  # fmt: skip
BLOCK = 16


def info(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def saved(tmp_path, nodes, inputs, outputs, weights):
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    path = tmp_path / "pivot.onnx"
    onnx.save(model, path)
    return Model("pivot", str(path))


def by_onnxruntime(model, inputs):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.path, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def translated(hooks, pivot):
    asked = ConvertRequest("torch", to_format="torch.export")
    return plugin.lepton_convert(pivot, asked, hooks.context())


def constant(name, kind, values):
    number = getattr(TensorProto, kind)
    return helper.make_tensor(name, number, np.shape(values), np.ravel(values).tolist())


@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize("form", ["tensor", "slice", "block"])
@pytest.mark.parametrize("zero", [True, False])
def test_quantize_and_back_as_onnxruntime(tmp_path, kind, form, zero):
    low, high = RANGES[kind]
    shape = {"tensor": (), "slice": (6,), "block": (6, 3)}[form]
    rng = np.random.default_rng(0)
    scale = rng.uniform(2.0, 6.0, shape).astype(np.float32) / (high - low)
    more = {"tensor": {}, "slice": {"axis": 1}, "block": {"axis": 2, "block_size": 4}}[form]
    if form == "block":
        scale = np.broadcast_to(scale, (2, 6, 3)).copy()
        shape = scale.shape
    weights = [numpy_helper.from_array(scale, "scale")]
    names = ["scale"]
    asked = {}
    if zero:
        points = rng.integers(low // 2, high // 2 + 1, shape)
        weights.append(constant("zero", kind, points))
        names.append("zero")
    else:
        asked = {"output_dtype": getattr(TensorProto, kind)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *names], ["q"], **more, **asked),
        helper.make_node("DequantizeLinear", ["q", *names], ["y"], **more),
    ]
    pivot = saved(tmp_path, nodes, [info("x", [2, 6, 12])], [info("y", [2, 6, 12])], weights)
    x = rng.normal(size=(2, 6, 12)).astype(np.float32) * 3
    x[0, 0, :2] = (100.0, -100.0)
    x[1, 0, :3] = np.array([0.5, 1.5, -2.5]) * scale.flat[0]  # ties
    expected = by_onnxruntime(pivot, {"x": x})["y"]
    (found,) = BridgeModule(read_graph(onnx.load(pivot.path)))(torch.from_numpy(x))
    np.testing.assert_array_equal(found.numpy(), expected)


def with_blocks(source, kind, target):
    """Replace the weights of products by integers of four bits in blocks of 16 rows."""
    model = onnx.load(source)
    low, high = RANGES[kind]
    held = {t.name: t for t in model.graph.initializer}
    uses = [n for n in model.graph.node if n.op_type in ("MatMul", "Gemm")]
    replaced = {}
    for node in uses:
        name = node.input[1]
        array = numpy_helper.to_array(held[name]) if name in held else np.empty(0)
        turned = any(a.name == "transB" and a.i for a in node.attribute)
        axis = 1 if turned else 0
        if array.ndim != 2 or array.shape[axis] % BLOCK or name in replaced:
            continue
        rows = np.moveaxis(array, axis, 0).reshape(-1, BLOCK, array.shape[1 - axis])
        bottom, top = rows.min(1), rows.max(1)
        scale = np.maximum((top - bottom) / (high - low), 1e-6).astype(np.float32)
        zero = np.clip(np.round(low - bottom / scale), low, high)
        codes = np.clip(np.round(rows / scale[:, None] + zero[:, None]), low, high)
        codes = np.moveaxis(codes.reshape(-1, array.shape[1 - axis]), 0, axis)
        scale, zero = (np.moveaxis(a, 0, axis) for a in (scale, zero))
        replaced[name] = (
            [
                constant(f"{name}/codes", kind, codes.astype(int)),
                numpy_helper.from_array(np.ascontiguousarray(scale), f"{name}/scale"),
                constant(f"{name}/zero", kind, zero.astype(int)),
            ],
            axis,
        )
    nodes = []
    for name, (_, axis) in replaced.items():
        parts = [f"{name}/{part}" for part in ("codes", "scale", "zero")]
        nodes.append(helper.make_node(
            "DequantizeLinear", parts, [f"{name}/real"], axis=axis, block_size=BLOCK
        ))  # fmt: skip
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node in uses and node.input[1] in replaced:
            copy.input[1] = f"{node.input[1]}/real"
        nodes.append(copy)
    kept = [t for name, t in held.items() if name not in replaced]
    kept += [t for tensors, _ in replaced.values() for t in tensors]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)
    model.ir_version = max(model.ir_version, 10)
    for opset in model.opset_import:
        opset.version = max(opset.version, 21) if not opset.domain else opset.version
    onnx.save(model, target)
    return Model("pivot", str(target)), replaced


@pytest.mark.parametrize("kind", ["INT4", "UINT4"])
@pytest.mark.parametrize("name", ["wide", pytest.param("encoder", marks=pytest.mark.conformance)])
def test_whole_models_of_four_bits_in_blocks(hooks, tmp_path, name, kind):
    program = hooks.materialise(Model("torch.factory", str(MODELS), name)).model
    pivot, replaced = with_blocks(hooks.pivot(program).model.path, kind, tmp_path / "small.onnx")
    assert replaced
    result = translated(hooks, pivot)
    assert result.facts["dynamic_batch"] is True
    held = load_program(result.model.path).exported.state_dict
    for tensors, _ in replaced.values():
        codes = tensors[0]
        key = codes.name.replace("/", "_")
        found = held[f"w{key}" if key.startswith("_") else key]
        assert found.dtype == (torch.int8 if kind == "INT4" else torch.uint8)
        wanted = numpy_helper.to_array(codes).astype(np.int64)
        np.testing.assert_array_equal(found.numpy(), wanted)
    with hooks.open(result.model) as session:
        for rows in (1, 3):
            inputs = {k: v[:rows] for k, v in SAMPLES[name]().items()}
            expected, found = by_onnxruntime(pivot, inputs), session.run(inputs)
            for key, value in expected.items():
                error = np.linalg.norm(found[key] - value) / np.linalg.norm(value)
                assert error <= 1e-5, (key, rows, error)


def test_four_bits_at_the_edges_stand_in_bytes_and_are_told(hooks, tmp_path):
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "scale"], ["real"]),
        helper.make_node("QuantizeLinear", ["real", "scale"], ["y"], output_dtype=22),
    ]
    pivot = saved(
        tmp_path, nodes, [info("x", ["n", 4], TensorProto.INT4)],
        [info("y", ["n", 4], TensorProto.INT4)],
        [numpy_helper.from_array(np.float32(0.5), "scale")],
    )  # fmt: skip
    result = translated(hooks, pivot)
    assert str(result.model.signature) == "(x: int8[n, 4]) -> (y: int8[n, 4])"
    assert result.warnings == (
        "'x' of type int4 stands in int8.",
        "'y' of type int4 stands in int8.",
    )
    x = np.array([[-8, -1, 0, 7]], np.int8)
    with hooks.open(result.model) as session:
        np.testing.assert_array_equal(session.run({"x": x})["y"], x)
