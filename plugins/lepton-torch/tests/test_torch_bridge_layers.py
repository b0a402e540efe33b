"""Recurrent layers and attention through the bridge, in forms that torch's layers have not."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from lepton_core.errors import ConversionError
from lepton_torch._bridge._export import capture_graph
from lepton_torch._bridge._graph import read_graph
from lepton_torch._bridge._module import BridgeModule
from lepton_torch.bridge import value_names

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
TIME, ROWS, WIDTH, HIDDEN = 5, 3, 4, 6


def compared(node, feeds, weights, outputs, runtime=True):
    """Run a node through the bridge and in onnxruntime, and compare every output."""
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
         for n, a in feeds.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    found = BridgeModule(read_graph(model))(*map(torch.from_numpy, feeds.values()))
    if not runtime:  # it gives no answer
        return
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = session.run(None, feeds)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-4, atol=1e-5)


def recurrent(kind, direction, lengths, **attributes):
    rng = np.random.default_rng(0)
    ways, gates = (2 if direction == "bidirectional" else 1), GATES[kind]
    weights = {
        "w": rng.normal(size=(ways, gates * HIDDEN, WIDTH)),
        "r": rng.normal(size=(ways, gates * HIDDEN, HIDDEN)) / 2,
        "b": rng.normal(size=(ways, 2 * gates * HIDDEN)) / 2,
        "h0": rng.normal(size=(ways, ROWS, HIDDEN)),
    }
    if kind == "LSTM":
        weights["c0"] = rng.normal(size=(ways, ROWS, HIDDEN))
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    feeds = {"x": rng.normal(size=(TIME, ROWS, WIDTH)).astype(np.float32)}
    if lengths is not None:
        feeds["n"] = np.array(lengths, np.int32)
    names = ["x", "w", "r", "b", "n" if lengths is not None else "", "h0"]
    names += ["c0"] if kind == "LSTM" else []
    outputs = ["y", "h"] + (["c"] if kind == "LSTM" else [])
    node = helper.make_node(
        kind, names, outputs, hidden_size=HIDDEN, direction=direction, **attributes
    )
    compared(node, feeds, weights, outputs)


@pytest.mark.parametrize(
    ("kind", "direction"),
    [*itertools.product(GATES, ("forward", "reverse", "bidirectional"))],
)
def test_rows_of_different_lengths(kind, direction):
    more = {"linear_before_reset": 1} if kind == "GRU" else {}
    recurrent(kind, direction, [2, 5, 3], **more)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", GATES)
def test_rows_without_a_step_end_in_zeros(kind, direction):
    recurrent(kind, direction, [0, 5, 3])


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("LSTM", {"clip": 0.4}),
        ("LSTM", {"input_forget": 1}),
        ("LSTM", {"activations": ["Sigmoid", "Softsign", "Relu"]}),
        ("GRU", {"clip": 0.4, "linear_before_reset": 1}),
        ("GRU", {"activations": ["Sigmoid", "Relu"]}),
        ("RNN", {"activations": ["Relu"]}),
        ("RNN", {"activations": ["Sigmoid"]}),
    ],
)
def test_cells_of_other_forms(kind, attributes):
    recurrent(kind, "forward", None, **attributes)


def test_an_activation_with_a_slope_is_refused():
    with pytest.raises(ConversionError) as caught:
        recurrent("RNN", "forward", None, activations=["LeakyRelu"], activation_alpha=[0.1])
    assert caught.value.code == "LPT-CONV-112"
    assert "leakyrelu" in caught.value.message


@pytest.mark.parametrize("activations", [["Tanh"], ["Sigmoid", "Tanh", "Tanh", "Sigmoid"]])
def test_activations_for_some_of_the_directions_are_refused(activations):
    node = helper.make_node(
        "LSTM", ["x", "w", "r"], ["y"], hidden_size=1, direction="bidirectional",
        activations=activations,
    )  # fmt: skip
    x, w = np.zeros((2, 1, 1), np.float32), np.zeros((2, 4, 1), np.float32)
    with pytest.raises(ConversionError) as caught:
        compared(node, {"x": x}, {"w": w, "r": w}, ["y"], runtime=False)
    assert caught.value.code == "LPT-CONV-112"
    assert f"{len(activations)} activations, and 2 directions take 6" in caught.value.message


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's own, in a deep copy
def test_values_inside_are_found_by_their_names():
    ones = {"w": np.eye(4, dtype=np.float32), "scale": np.ones(2, np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["block/h"], name="block/product"),
        helper.make_node("Gelu", ["block/h"], ["block/g"]),
        helper.make_node("Split", ["block/g"], ["left", "right"], axis=1, num_outputs=2),
        helper.make_node("LayerNormalization", ["left", "scale"], ["normal"]),
        helper.make_node("Add", ["normal", "right"], ["y"]),
    ]
    inner = ["block/h", "block/g", "left", "right", "normal", "y"]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in inner],
        [numpy_helper.from_array(a, n) for n, a in ones.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = dict(zip(inner, session.run(None, {"x": x}), strict=True))
    del model.graph.output[:-1]
    program = torch.export.export(
        BridgeModule(read_graph(model)), (torch.from_numpy(x),), strict=False
    )
    for way in (program, program.run_decompositions()):
        places = value_names(way)
        assert set(places) == set(inner)
        seen = _values(way, torch.from_numpy(x))
        for name, place in places.items():
            np.testing.assert_allclose(seen[place], expected[name], rtol=1e-4, atol=1e-5)
    told = (n.meta.get("custom", {}).get("onnx") for n in program.graph.nodes)
    assert next(filter(None, told)) == {
        "operator": "MatMul", "place": "node 'block/product'", "outputs": ["block/h"],
    }  # fmt: skip


def _values(program, x):
    seen = {}

    class Watching(torch.fx.Interpreter):
        def run_node(self, n):
            result = super().run_node(n)
            if isinstance(result, torch.Tensor):
                seen[n.name] = result.detach().numpy()
            return result

    state = {**program.state_dict, **program.constants}
    given = [
        state[s.target] if s.target is not None else x for s in program.graph_signature.input_specs
    ]
    Watching(program.graph_module).run(*given)
    return seen


def test_a_program_that_is_loaded_again_keeps_the_names(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["inside"]),
        helper.make_node("Neg", ["inside"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:]),
        opset_imports=[helper.make_opsetid("", 21)],
    )
    program = torch.export.export(BridgeModule(read_graph(model)), (torch.zeros(2),), strict=False)
    torch.export.save(program, tmp_path / "model.pt2")
    assert value_names(torch.export.load(tmp_path / "model.pt2")) == value_names(program)
    assert set(value_names(program)) == {"inside", "y"}


def test_onnx_file_is_not_changed_by_expanding_operators():
    node = helper.make_node("HannWindow", ["n"], ["y"])
    graph = helper.make_graph(
        [node], "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8])],
        [numpy_helper.from_array(np.array(8, np.int64), "n")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    before = onnx.ModelProto()
    before.CopyFrom(model)
    (found,) = BridgeModule(read_graph(model))()
    np.testing.assert_allclose(found.numpy(), torch.hann_window(8).numpy(), atol=1e-6)
    assert model == before


@pytest.mark.timeout(60)
@pytest.mark.parametrize("imported", ["", "ai.onnx"])
def test_the_long_name_of_onnxs_domain_is_expanded_too(imported):
    node = helper.make_node("HannWindow", ["n"], ["y"], domain="ai.onnx")
    graph = helper.make_graph(
        [node], "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8])],
        [numpy_helper.from_array(np.array(8, np.int64), "n")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(imported, 21)])
    (found,) = BridgeModule(read_graph(model))()
    np.testing.assert_allclose(found.numpy(), torch.hann_window(8).numpy(), atol=1e-6)


@pytest.mark.timeout(60)
def test_an_operator_whose_body_is_not_put_in_is_refused(monkeypatch):
    monkeypatch.setattr("onnx.inliner.inline_selected_functions", lambda model, *_, **__: model)
    node = helper.make_node("HannWindow", ["n"], ["y"], name="window")
    ends = [helper.make_tensor_value_info("n", TensorProto.INT64, [])]
    ends += [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    model = helper.make_model(
        helper.make_graph([node], "g", ends[:1], ends[1:]),
        opset_imports=[helper.make_opsetid("", 21)],
    )
    with pytest.raises(ConversionError) as caught:
        read_graph(model)
    assert caught.value.code == "LPT-CONV-111"
    assert "window" in caught.value.message


def test_weights_are_held_once():
    weight = np.random.default_rng(0).normal(size=(300, 300)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 300]) for n in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")]),
        opset_imports=[helper.make_opsetid("", 21)],
    )
    module = BridgeModule(read_graph(model))
    module(torch.zeros(1, 300))
    module.register()
    (parameter,) = module.parameters()
    assert np.shares_memory(parameter.detach().numpy(), module._graph.constants["w"].values)


@pytest.mark.parametrize("masked", [True, False])
def test_attention_at_any_batch_and_length(masked):
    shapes = {name: ["n", "t", 16] for name in ("q", "k", "v")}
    names = ["q", "k", "v"]
    if masked:
        shapes["mask"] = [1, 1, "t", "t"]
        names.append("mask")
    node = helper.make_node(
        "Attention", names, ["y"], q_num_heads=4, kv_num_heads=4, is_causal=0 if masked else 1
    )
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "t", 16])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    read = read_graph(model)
    program, warnings = capture_graph(BridgeModule(read), read.signature)
    assert warnings == []
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(0)
    for rows, length in ((1, 3), (4, 7)):
        sizes = {"n": rows, "t": length}
        feeds = {
            name: rng.normal(size=[sizes.get(s, s) for s in shape]).astype(np.float32)
            for name, shape in shapes.items()
        }
        (found,) = program.exported.module()(*map(torch.from_numpy, feeds.values()))
        (expected,) = session.run(None, feeds)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("scale", [0.0, -0.5])
def test_attention_of_a_scale_that_is_not_positive(scale, softcap):
    """Onnxruntime refuses these; ONNX does not, and a scale of zero is no missing one."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, 2, 3, 4)).astype(np.float32) for _ in range(3))
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], scale=scale, softcap=softcap)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, q.shape) for n in "qkvy"]
    model = helper.make_model(
        helper.make_graph([node], "g", ends[:3], ends[3:]),
        opset_imports=[helper.make_opsetid("", 23)],
    )
    (found,) = BridgeModule(read_graph(model))(*map(torch.from_numpy, (q, k, v)))
    scores = scale * q @ k.swapaxes(2, 3)
    scores = np.tanh(scores / softcap) * softcap if softcap else scores
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(found.numpy(), weights @ v, rtol=1e-4, atol=1e-5)
