"""What an Edge TPU would run, held against each line of Google's table."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from lepton_core.errors import ConversionError
from lepton_core.types import CheckRequest, InspectRequest, InspectResult, Model, OperatorUse
from lepton_tflite import _flatbuffer as flat
from lepton_tflite import info, plugin
from lepton_tflite._edgetpu import fact, placed, refuse_floats, sentences
from lepton_tflite._edgetpu_products import as_convolutions
from lepton_tflite._edgetpu_rules import KNOWN, SOURCE, why_not

pytestmark = pytest.mark.xdist_group("tflite")

GRID = (0.1, 0)


def one(
    handmade, operator, shapes, out, *, constants=(), more=None, kinds=None, grid=GRID, version=2
):
    """Return a file with one operator: int8 inputs of these shapes, constants after them."""
    kinds = kinds or {}
    tensors = {
        f"x{i}": (kinds.get(f"x{i}", "int8"), shape, None, GRID) for i, shape in enumerate(shapes)
    }
    names = list(tensors)
    for i, values in enumerate(constants):
        array = np.asarray(values)
        kind = "int8" if array.dtype == np.int8 else "int32"
        tensors[f"k{i}"] = (kind, array.shape, array, grid if kind == "int8" else None)
    tensors["y"] = (kinds.get("y", "int8"), out, None, GRID)
    order = [f"k{i}" for i in range(len(constants))]
    takes = [*order, *names] if operator == "SPLIT" else [*names, *order]
    entry = [(operator, takes, ["y"], *([more] if more else []))]
    return flat.unpack(handmade.file_of(tensors, entry, names, ["y"], version))


def weights(*shape):
    return np.ones(shape, np.int8)


IMAGE = (1, 8, 8, 4)

CASES = {
    # name: operator, shapes, output, constants, options, reason or "" if it is mapped, and the
    # scale and zero point of constants if they are others
    "add": ("ADD", [IMAGE, IMAGE], IMAGE, [], None, ""),
    "conv": ("CONV_2D", [IMAGE], IMAGE, [weights(4, 3, 3, 4)],
             ("Conv2DOptions", {"dilationHFactor": 2, "dilationWFactor": 2}), ""),
    "conv, uneven": ("CONV_2D", [IMAGE], IMAGE, [weights(4, 3, 3, 4)],
                     ("Conv2DOptions", {"dilationHFactor": 2, "dilationWFactor": 1}), "dilation"),
    "conv, computed": ("CONV_2D", [IMAGE, (1, 3, 3, 4)], IMAGE, [], ("Conv2DOptions", {}),
                       "weights are computed"),
    "pool": ("MAX_POOL_2D", [IMAGE], IMAGE, [], ("Pool2DOptions", {}), ""),
    "pool and relu": ("AVERAGE_POOL_2D", [IMAGE], IMAGE, [],
                      ("Pool2DOptions", {"fusedActivationFunction": 1}), "activation"),
    "five dimensions": ("TRANSPOSE", [(2, 1, 8, 8, 4)], (1, 2, 8, 8, 4), [[1, 0, 2, 3, 4]], None,
                        "three innermost"),
    "batch of two": ("RELU", [(2, 8, 8, 4)], (2, 8, 8, 4), [], None, "three innermost"),
    "dense": ("FULLY_CONNECTED", [(1, 12)], (1, 5), [weights(5, 12)],
              ("FullyConnectedOptions", {}), ""),
    "dense, rows": ("FULLY_CONNECTED", [(7, 12)], (7, 5), [weights(5, 12)],
                    ("FullyConnectedOptions", {}), "more than one dimension"),
    "dense, shuffled": ("FULLY_CONNECTED", [(1, 12)], (1, 5), [weights(5, 12)],
                        ("FullyConnectedOptions", {"weightsFormat": 1}), "default format"),
    "softmax": ("SOFTMAX", [(1, 10)], (1, 10), [], ("SoftmaxOptions", {"beta": 1.0}), ""),
    "softmax, rows": ("SOFTMAX", [(1, 4, 10)], (1, 4, 10), [], None, "more than one dimension"),
    "softmax, long": ("SOFTMAX", [(1, 16001)], (1, 16001), [], None, "16001 elements"),
    "mean": ("MEAN", [IMAGE], (1, 4), [[1, 2]], ("ReducerOptions", {}), ""),
    "mean, batch": ("MEAN", [IMAGE], (8, 8, 4), [[0]], None, "batch"),
    "mean, inner": ("MEAN", [IMAGE], (1, 8, 8), [[-1]], None, ""),
    "mean, odd": ("MEAN", [(1, 8, 8, 3)], (1, 8, 8), [[3]], None, "multiple of 4"),
    "sum, batch": ("SUM", [IMAGE], (8, 8, 4), [[0]], None, "batch"),
    "max": ("REDUCE_MAX", [IMAGE], (1, 4), [[1, 2]], None, ""),
    "pad": ("PAD", [IMAGE], (1, 10, 10, 4), [[[0, 0], [1, 1], [1, 1], [0, 0]]], None, ""),
    "pad, batch": ("PAD", [(1, 8, 8)], (2, 8, 8), [[[1, 0], [0, 0], [0, 0]]], None, "batch"),
    "pad, value": ("PADV2", [IMAGE], IMAGE, [[[0, 0]] * 4], None, "does not know"),
    "split": ("SPLIT", [IMAGE], IMAGE, [3], ("SplitOptions", {"numSplits": 1}), ""),
    "split, batch": ("SPLIT", [IMAGE], IMAGE, [0], ("SplitOptions", {"numSplits": 1}), "batch"),
    "pack, batch": ("PACK", [(8, 4)], (1, 8, 4), [], ("PackOptions", {"axis": 0}), "batch"),
    "pack": ("PACK", [(8, 4)], (8, 1, 4), [], ("PackOptions", {"axis": 1}), ""),
    "concat": ("CONCATENATION", [IMAGE, IMAGE], (1, 8, 8, 8), [],
               ("ConcatenationOptions", {"axis": 3}), ""),
    "concat, zeros": ("CONCATENATION", [IMAGE], (1, 8, 8, 8), [0 * weights(*IMAGE)],
                      ("ConcatenationOptions", {"axis": 3}), ""),
    "concat, ones": ("CONCATENATION", [IMAGE], (1, 8, 8, 8), [weights(*IMAGE)],
                     ("ConcatenationOptions", {"axis": 3}), "constant"),
    "concat, integers 0": ("CONCATENATION", [IMAGE], (1, 8, 8, 8), [0 * weights(*IMAGE)],
                           ("ConcatenationOptions", {"axis": 3}), "constant", (0.1, 7)),
    "concat, zeros at 7": ("CONCATENATION", [IMAGE], (1, 8, 8, 8), [7 * weights(*IMAGE)],
                           ("ConcatenationOptions", {"axis": 3}), "", (0.1, 7)),
    "prelu": ("PRELU", [IMAGE], IMAGE, [weights(1, 1, 4)], None, ""),
    "prelu, computed": ("PRELU", [IMAGE, (1, 1, 4)], IMAGE, [], None, "'x1' is computed"),
    "prelu, places": ("PRELU", [IMAGE], IMAGE, [weights(8, 8, 4)], None, "innermost"),
    "squeeze": ("SQUEEZE", [(1, 1, 10)], (10,), [], ("SqueezeOptions", {"squeezeDims": [0, 1]}),
                ""),
    "squeeze, inside": ("SQUEEZE", [(5, 1, 10)], (5, 10), [],
                        ("SqueezeOptions", {"squeezeDims": [1]}), "leading"),
    "slice": ("STRIDED_SLICE", [(8, 4)], (2, 4), [[0, 0], [2, 4], [1, 1]],
              ("StridedSliceOptions", {}), ""),
    "slice, steps": ("STRIDED_SLICE", [(8, 4)], (4, 4), [[0, 0], [8, 4], [2, 1]],
                     ("StridedSliceOptions", {}), "strides"),
    "slice, new axis": ("STRIDED_SLICE", [(8, 4)], (1, 8, 4), [[0, 0], [8, 4], [1, 1]],
                        ("StridedSliceOptions", {"newAxisMask": 1}), "new axis"),
    "gelu": ("GELU", [IMAGE], IMAGE, [], None, "does not know"),
    "leaky": ("LEAKY_RELU", [IMAGE], IMAGE, [], None, "does not know"),
    "gather": ("GATHER", [(8, 4)], (2, 4), [[0, 1]], None, "does not know"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_limit_of_the_table(handmade, name):
    operator, shapes, out, constants, more, reason, *grid = CASES[name]
    options = handmade.options(more[0], **more[1]) if more else None
    how = {"constants": constants, "more": options, "grid": grid[0] if grid else GRID}
    model = one(handmade, operator, shapes, out, **how)
    (found,) = placed(model)
    assert found.operator == operator
    assert bool(found.why_not) == bool(reason), found.why_not
    assert reason in found.why_not


def test_tensors_have_to_be_of_8_bits(handmade):
    for kinds in ({"x0": "int16"}, {"y": "int32"}):
        model = one(handmade, "RELU", [(1, 4)], (1, 4), kinds=kinds)
        (found,) = placed(model)
        assert "8 bits" in found.why_not
    (found,) = placed(one(handmade, "RELU", [(1, 4)], (1, 4), kinds={"x0": "uint8", "y": "uint8"}))
    assert found.mapped


@pytest.mark.parametrize(("operator", "first"), [("CONV_2D", 6), ("TRANSPOSE_CONV", 4)])
def test_versions_that_came_after_the_compiler_are_refused_by_it(handmade, operator, first):
    """As reported: "Didn't find op for builtin opcode 'CONV_2D' version '6'"."""
    constants = [weights(4, 3, 3, 4)]
    for version in (first - 1, first):
        (found,) = placed(
            one(handmade, operator, [IMAGE], IMAGE, constants=constants, version=version)
        )
        assert bool(found.why_not) == (version == first)
    assert f"version {first} is newer than the compiler" in found.why_not


def lstm(handmade, *, computed=False):
    """A layer of int8 as LiteRT's converter writes it: its cell has 16 bits, and is a variable."""
    names = [f"w{i}" for i in range(1, 16)]
    kind = "UNIDIRECTIONAL_SEQUENCE_LSTM"
    tensors = {"x": ("int8", (1, 5, 4), None, GRID)}
    tensors |= {n: ("int8", (4, 4), None if computed else weights(4, 4), GRID) for n in names}
    tensors |= {"h": ("int8", (1, 4), None, GRID), "c": ("int16", (1, 4), None, (2**-11, 0))}
    tensors["y"] = ("int8", (1, 5, 4), None, GRID)
    takes = ["x", *names, "", "", "h", "c"]
    model = flat.unpack(
        handmade.file_of(tensors, [(kind, takes, ["y"])], ["x", *names] if computed else ["x"],
                         ["y"], version=3)
    )  # fmt: skip
    for tensor in model.subgraphs[0].tensors:
        tensor.isVariable = flat.text(tensor.name) in ("h", "c")
    return model


def test_an_lstm_of_int8_is_mapped_with_its_state_of_16_bits(handmade):
    (found,) = placed(lstm(handmade))
    assert found.mapped, found.why_not
    (found,) = placed(lstm(handmade, computed=True))
    assert "'w1' is computed" in found.why_not


def products(handmade, rows, *, bias=True, scales=5, shared=False, relu=False):
    """A product of int8 with a scale for each output, behind another operator or not."""
    rng = np.random.default_rng(0)
    scale = np.linspace(0.002, 0.02, scales).astype("f4") if scales > 1 else np.float32(0.01)
    tensors = {
        "x": ("int8", (*rows, 12), None, (0.05, 3)),
        "w": ("int8", (5, 12), rng.integers(-127, 128, (5, 12)), (scale, 0)),
        "b": ("int32", (5,), rng.integers(-500, 500, 5), (np.float32(0.05) * scale, 0)),
        "m": ("int8", (*rows, 5), None, (0.11, -4)),
        "y": ("int8", (*rows, 5), None, (0.11, -4)),
    }
    code = {"fusedActivationFunction": int(relu), "keepNumDims": len(rows) > 1}
    options = handmade.options("FullyConnectedOptions", **code)
    takes = ["x", "w", "b"] if bias else ["x", "w"]
    operators = [("FULLY_CONNECTED", takes, ["y"], options)]
    if shared:
        tensors["z"] = ("int8", (5, 12), None, (0.01, 0))
        operators.append(("RELU", ["w"], ["z"]))
    outputs = ["y", "z"] if shared else ["y"]
    return flat.unpack(handmade.file_of(tensors, operators, ["x"], outputs, version=5))


def run_of(model, x):
    from ai_edge_litert.interpreter import Interpreter

    found = Interpreter(model_content=flat.pack(model))
    found.allocate_tensors()
    found.set_tensor(found.get_input_details()[0]["index"], x)
    found.invoke()
    return found.get_tensor(found.get_output_details()[0]["index"])


@pytest.mark.parametrize("rows", [(1,), (7,), (1, 7), (1, 1, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_with_a_scale_for_each_output_becomes_a_convolution(handmade, rows, bias):
    """Interpreters as old as the compiler give zero points for such a product, whatever comes."""
    x = np.random.default_rng(1).integers(-128, 128, (*rows, 12)).astype(np.int8)
    model = products(handmade, rows, bias=bias, relu=bias)
    assert "a scale for each output" in placed(model)[0].why_not
    wanted = run_of(model, x)
    assert len(np.unique(wanted)) > 2
    assert as_convolutions(model) == 1
    nodes = placed(model)
    assert all(node.mapped for node in nodes)
    computing = [node for node in nodes if node.operator != "RESHAPE"]
    assert [(node.operator, node.sources) for node in computing] == [("CONV_2D", ("y",))]
    assert len(nodes) == (1 if len(rows) == 3 else 3)
    np.testing.assert_array_equal(run_of(model, x), wanted)


def test_other_products_stay_as_they_are(handmade):
    for more in ({"scales": 1}, {"shared": True}):
        model = products(handmade, (1,), **more)
        assert as_convolutions(model) == 0
        assert placed(model)[0].operator == "FULLY_CONNECTED"


def test_the_table_names_forty_operators_and_its_source():
    assert len(KNOWN) == 40
    assert SOURCE.startswith("https://coral.ai/docs/edgetpu/")
    assert callable(why_not)


@pytest.fixture
def cut_file(handmade):
    """Four operators, of which the second is not mapped."""
    shape = (1, 12)
    tensors = dict.fromkeys(("x", "a;", "act;;b;1", "c;", "y"), ("int8", shape, None, GRID))
    operators = [
        ("TANH", ["x"], ["a;"]),
        ("LEAKY_RELU", ["a;"], ["act;;b;1"], handmade.options("LeakyReluOptions", alpha=0.1)),
        ("RESHAPE", ["act;;b;1"], ["c;"]),
        ("GELU", ["c;"], ["y"]),
    ]
    return handmade.file_of(tensors, operators, ["x"], ["y"], version=1)


def test_the_first_cut_takes_all_after_it(cut_file):
    nodes = placed(flat.unpack(cut_file))
    assert [node.mapped for node in nodes] == [True, False, False, False]
    assert [bool(node.why_not) for node in nodes] == [False, True, False, True]
    said = fact(nodes)
    assert (said["mapped"], said["of"], said["compiler"]) == (1, 4, "not run")
    assert said["first_cut"]["operator"] == "LEAKY_RELU"
    assert said["first_cut"]["sources"] == ["b", "act"]
    assert [entry["operator"] for entry in said["cpu"]] == ["LEAKY_RELU", "RESHAPE", "GELU"]
    assert "after the first cut" in said["cpu"][1]["why"]
    first, *others = sentences(nodes)
    assert "1 of 4" in first
    assert "LEAKY_RELU (b, act)" in first
    assert [re.match(r"\w+", s).group() for s in others] == ["LEAKY_RELU", "GELU"]


def test_a_reshape_may_be_left_to_the_cpu(handmade):
    nodes = placed(one(handmade, "RESHAPE", [(1, 4)], (4,)))
    assert nodes[0].mapped
    assert fact(nodes)["uncertain"][0]["operator"] == "RESHAPE"
    assert not list(sentences(nodes))


def test_floats_and_open_sizes_are_refused_with_their_places(handmade):
    model = one(handmade, "TANH", [(1, 4)], (1, 4), kinds={"x0": "float32", "y": "float32"})
    with pytest.raises(ConversionError) as caught:
        refuse_floats(model)
    assert caught.value.code == "LPT-CONV-415"
    assert "TANH (y)" in caught.value.cause
    model = one(handmade, "TANH", [(1, 4)], (1, 4))
    model.subgraphs[0].tensors[0].shapeSignature = np.array([-1, 4])
    with pytest.raises(ConversionError) as caught:
        refuse_floats(model)
    assert caught.value.details["nodes"] == ["TANH (y)"]


def inspected(path):
    found = plugin.lepton_inspect(Model("tflite", str(path)), InspectRequest(), None)
    return found.model, found


def test_check_says_it_of_a_file(cut_file, handmade, tmp_path):
    path = tmp_path / "cut.tflite"
    path.write_bytes(cut_file)
    model, found = inspected(path)
    said = plugin.lepton_check(model, CheckRequest("tflite", found, "edgetpu"), None)
    assert said.verdict == "fits"
    assert "first cut is LEAKY_RELU" in said.reasons[0]
    assert not plugin.lepton_check(model, CheckRequest("tflite", found), None).reasons
    path.write_bytes(handmade.int8_net())
    model, found = inspected(path)
    said = plugin.lepton_check(model, CheckRequest("tflite", found, "edgetpu"), None)
    assert (said.verdict, said.reasons) == ("fits", ())


def test_check_says_it_of_operators_that_give_nothing(handmade, tmp_path):
    tensors = {"x": ("int8", (1, 4), None, GRID), "v": ("resource", (1,), None, None)}
    operators = [
        ("VAR_HANDLE", [], ["v"], handmade.options("VarHandleOptions")),
        ("ASSIGN_VARIABLE", ["v", "x"], [], handmade.options("AssignVariableOptions")),
        ("RELU", ["x"], ["y"]),
    ]
    path = tmp_path / "state.tflite"
    tensors["y"] = tensors["x"]
    path.write_bytes(handmade.file_of(tensors, operators, ["x"], ["y"], version=1))
    model, found = inspected(path)
    said = plugin.lepton_check(model, CheckRequest("tflite", found, "edgetpu"), None)
    assert said.verdict == "fits"
    assert any(reason.startswith("ASSIGN_VARIABLE is not mapped") for reason in said.reasons)


@pytest.mark.parametrize(
    ("columns", "reason"), [(13, "Tensor 1 is invalidly specified"), (11, "is damaged")]
)
def test_check_refuses_what_only_a_closer_look_finds_damaged(handmade, tmp_path, columns, reason):
    built = flat.unpack(handmade.int8_net())
    # Of 60 values; the runtime lets it pass that there are more than the shape says.
    built.subgraphs[0].tensors[1].shape = np.array([5, columns], np.int32)
    path = tmp_path / "damaged.tflite"
    path.write_bytes(flat.pack(built))
    model, found = inspected(path)
    said = plugin.lepton_check(model, CheckRequest("tflite", found, "edgetpu"), None)
    assert said.verdict == "impossible"
    assert reason in said.reasons[0]


def test_check_refuses_a_file_of_floats(single):
    model, found = inspected(single.model.path)
    said = plugin.lepton_check(model, CheckRequest("tflite", found, "edgetpu"), None)
    assert said.verdict == "impossible"
    assert "DEPTHWISE_CONV_2D" in said.reasons[0]


def test_check_names_what_a_source_would_leave_to_the_cpu(graphs, tmp_path):
    node = graphs.node
    proto = graphs.model(
        [
            node("Relu", ["x"], ["a"], "first"),
            node("LeakyRelu", ["a"], ["b"], "second"),
            node("Tanh", ["b"], ["y"], "third"),
        ],
        [graphs.value("x", ["batch", 4])],
        [graphs.value("y", ["batch", 4])],
    )
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    uses = tuple(
        OperatorUse(f"ai.onnx::{kind}", 1, where=f"node {name!r}")
        for kind, name in (("Relu", "first"), ("LeakyRelu", "second"), ("Tanh", "third"))
    )
    model = Model("onnx", str(path))
    found = InspectResult(model, operators=uses, domain="onnx")
    said = plugin.lepton_check(model, CheckRequest("tflite", found, "edgetpu"), None)
    assert (said.verdict, said.precisions) == ("fits", ("int8",))
    assert "The first cut for an Edge TPU is 'second' (LeakyRelu): 1 of 3" in said.reasons[0]
    assert "LeakyRelu (1 times, first at node 'second')" in said.reasons[1]
    torch = replace(
        found, domain="aten", model=Model("torch.factory", "net.py"),
        operators=(OperatorUse("aten.gelu.default", 2, where="net.py:9", convertible=True),
                   OperatorUse("aten.relu_.default", 1, convertible=True)),
    )  # fmt: skip
    said = plugin.lepton_check(torch.model, CheckRequest("tflite", torch, "edgetpu"), None)
    assert len(said.reasons) == 1
    assert "aten.gelu.default (2 times, first at net.py:9)" in said.reasons[0]


def test_the_profile_claims_no_more_than_was_seen():
    said = info.INFO.capabilities["device.edgetpu"]
    assert not said.support
    assert "neither edgetpu_compiler nor a chip has been seen" in said.note
