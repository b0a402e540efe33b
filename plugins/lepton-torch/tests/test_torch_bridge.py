"""The bridge on whole models: torch to the pivot and back gives the same numbers and names."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lepton_core.errors import ConversionError
from lepton_core.types import CheckRequest, ConvertRequest, InspectResult, Model, OperatorUse
from lepton_torch import info, plugin
from lepton_torch._bridge import catalogue
from lepton_torch._bridge._graph import read_graph

MODELS = Path(__file__).parents[3] / "tests" / "conformance" / "models.py"
SAMPLES = runpy.run_path(str(MODELS.with_name("samples.py")))["SAMPLES"]


def back(hooks, pivot, **request):
    asked = ConvertRequest("torch", to_format="torch.export", **request)
    return plugin.lepton_convert(pivot, asked, hooks.context())


def graph_model(tmp_path, nodes, inputs, outputs, weights=(), opset=21, extra=()):
    """Write an ONNX file; inputs and outputs are (name, shape) of float32."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs],
        [onnx.numpy_helper.from_array(a, n) for n, a in weights],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in extra)]
    path = tmp_path / "pivot.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)
    return Model("pivot", str(path))


LONG = ("encoder", "tagger")
"""Their attention and recurrence are small in test_torch_bridge_layers.py."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.conformance if n in LONG else ()) for n in SAMPLES],
)
def test_whole_model_there_and_back_at_any_batch(hooks, name):
    program = hooks.materialise(Model("torch.factory", str(MODELS), name)).model
    result = back(hooks, hooks.pivot(program).model)
    assert result.warnings == ()
    assert result.facts["dynamic_batch"] is True
    assert str(result.model.signature) == str(program.signature)
    with hooks.open(program) as first, hooks.open(result.model) as second:
        for rows in (1, 2, 5):
            inputs = {k: v[:rows] for k, v in SAMPLES[name]().items()}
            expected, found = first.run(inputs), second.run(inputs)
            assert list(found) == list(expected)
            for key, value in expected.items():
                error = np.linalg.norm(found[key] - value) / np.linalg.norm(value)
                assert error <= 1e-5, (key, rows, error)


def test_weights_keep_their_names_and_are_shared(hooks, tmp_path):
    weight = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")
    nodes = [
        helper.make_node("MatMul", ["x", "body.0.weight"], ["h"]),
        helper.make_node("Transpose", ["body.0.weight"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["h", "t"], ["y"]),
    ]
    pivot = graph_model(
        tmp_path, nodes, [("x", ["n", 4])], [("y", ["n", 4])], [("body.0.weight", weight)]
    )
    result = back(hooks, pivot)
    assert result.facts["parameters"] == 16
    assert str(result.model.signature) == "(x: float32[n, 4]) -> (y: float32[n, 4])"
    x = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")
    with hooks.open(result.model) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], x @ weight @ weight.T, rtol=1e-5)


def test_a_weight_may_have_any_name(hooks, tmp_path):
    """A module cannot hold what Python's grammar keeps for itself, such as ``in``."""
    weight = np.eye(3, dtype="float32")
    nodes = [helper.make_node("MatMul", ["x", "in.class.weight"], ["y"])]
    model = graph_model(
        tmp_path, nodes, [("x", ["b", 3])], [("y", ["b", 3])], [("in.class.weight", weight)]
    )
    with hooks.open(back(hooks, model).model) as session:
        x = np.ones((2, 3), "float32")
        np.testing.assert_array_equal(session.run({"x": x})["y"], x)


def test_same_pivot_gives_the_same_bytes(hooks, digits_program):
    pivot = hooks.pivot(digits_program.model).model
    first, second = back(hooks, pivot).model, back(hooks, pivot).model
    assert first.digest == second.digest
    assert first.lineage[-1].step == "convert pivot -> torch.export"


def test_dimension_that_the_graph_fixes_is_told(hooks, tmp_path):
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    pivot = graph_model(
        tmp_path, nodes, [("x", ["n", "c"])], [("y", ["n", 4])], [("w", np.ones(4, "float32"))]
    )
    with pytest.raises(ConversionError) as caught:
        back(hooks, pivot)
    assert caught.value.code == "LPT-CONV-116"
    assert "Add" in caught.value.message


@pytest.mark.parametrize(
    ("operator", "domain", "cause"),
    [
        ("Loop", "", "control flow"),
        ("If", "", "control flow"),
        ("SequenceConstruct", "", "sequences"),
        ("StringNormalizer", "", "strings"),
        ("FusedConv", "com.microsoft", "'com.microsoft' is not ONNX's own"),
        ("ImageDecoder", "", "does not know"),
    ],
)
def test_what_has_no_translation_is_refused_by_name(hooks, tmp_path, operator, domain, cause):
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node(operator, ["h"], ["y"], name="block/odd", domain=domain),
    ]
    extra = [domain] if domain else []
    pivot = graph_model(tmp_path, nodes, [("x", [2])], [("y", [2])], extra=extra)
    with pytest.raises(ConversionError) as caught:
        back(hooks, pivot)
    error = caught.value
    assert error.code == "LPT-CONV-111"
    assert error.details["operators"] == [f"{domain or 'ai.onnx'}::{operator}"]
    assert "block/odd" in error.details["where"]
    assert cause in error.cause


@pytest.mark.parametrize(
    ("operator", "opset"), [("HannWindow", 13), ("HannWindow", 9), ("Celu", 11)]
)
def test_operators_younger_than_the_opset_are_refused(operator, opset):
    ends = [
        helper.make_tensor_value_info("n", TensorProto.INT64, []),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    graph = helper.make_graph([helper.make_node(operator, ["n"], ["y"])], "g", ends[:1], ends[1:])
    with pytest.raises(ConversionError) as caught:
        read_graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))
    assert caught.value.code == "LPT-CONV-111"
    assert f"opset {opset} has no such operator" in caught.value.cause


@pytest.mark.parametrize("loss", ["SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"])
def test_a_foreign_operator_beside_a_loss_is_refused_by_name(hooks, tmp_path, loss):
    """ONNX's inliner cannot put a body in where a type follows from a foreign operator."""
    nodes = [
        helper.make_node("Odd", ["x"], ["h"], domain="com.microsoft"),
        helper.make_node("Cast", ["t"], ["i"], to=TensorProto.INT64),
        helper.make_node(loss, ["h", "i"], ["y"]),
    ]
    pivot = graph_model(
        tmp_path, nodes, [("x", [2, 3]), ("t", [2])], [("y", [])], extra=["com.microsoft"]
    )
    with pytest.raises(ConversionError) as caught:
        back(hooks, pivot)
    assert caught.value.code == "LPT-CONV-111"
    assert caught.value.details["operators"] == ["com.microsoft::Odd"]


def test_a_loss_whose_labels_are_constants_is_expanded():
    """ONNX's inliner finds the type of a constant only where it is declared."""
    node = helper.make_node("NegativeLogLikelihoodLoss", ["x", "t"], ["y"], reduction="mean")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [onnx.numpy_helper.from_array(np.array([1, 0, 4]), "t")],
    )
    read = read_graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
    assert "NegativeLogLikelihoodLoss" not in {node.operator for node in read.nodes}


def test_shape_that_follows_from_values_is_refused(hooks, tmp_path):
    nodes = [
        helper.make_node("Cast", ["s"], ["i"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["x", "i"], ["y"], name="odd"),
    ]
    pivot = graph_model(tmp_path, nodes, [("x", [4]), ("s", [2])], [("y", [2, 2])])
    with pytest.raises(ConversionError) as caught:
        back(hooks, pivot)
    assert caught.value.code == "LPT-CONV-115"
    assert caught.value.details["input"] == "i"


def test_old_definitions_are_refused(hooks, tmp_path):
    nodes = [helper.make_node("Softmax", ["x"], ["y"])]
    pivot = graph_model(tmp_path, nodes, [("x", [2, 3])], [("y", [2, 3])], opset=11)
    with pytest.raises(ConversionError) as caught:
        back(hooks, pivot)
    assert caught.value.code == "LPT-CONV-111"
    assert "opset 11 defines it differently" in caught.value.cause


def test_catalogue_is_the_table():
    import lepton_torch._bridge.operators  # noqa: F401
    from lepton_torch._bridge._registry import OPERATORS

    found: dict[str, set[str]] = {}
    for name, entry in OPERATORS.items():
        found.setdefault(entry.family, set()).add(name)
    assert {f: set(names.split()) for f, names in catalogue.FAMILIES.items()} == found
    assert len(OPERATORS) >= 110


def test_check_judges_an_onnx_model_by_its_operators():
    def judge(*names):
        uses = tuple(OperatorUse(n, 1, where="node 'n'") for n in names)
        model = Model("onnx", "m.onnx")
        return plugin.lepton_check(model, CheckRequest("torch", InspectResult(model, uses)))

    assert judge("ai.onnx::Add", "ai.onnx::Constant").verdict == "fits"
    refused = judge("ai.onnx::Add", "com.microsoft::Gelu")
    assert refused.verdict == "impossible"
    assert refused.reasons == ("com.microsoft::Gelu (node 'n') has no translation to torch",)


def test_plans_from_torch_do_not_take_the_way_back():
    from lepton_core.planner import plan
    from lepton_core.registry import Registry

    infos = Registry().infos()
    assert [str(s) for s in plan("torch.factory", "pivot", infos).steps] == [
        "torch.factory -> torch.export (torch)",
        "torch.export -> pivot (torch)",
    ]
    assert [str(s) for s in plan("onnx", "torch.export", infos).steps] == [
        "onnx -> pivot (onnx)",
        "pivot -> torch.export (torch)",
    ]
    assert info.INFO.artifact == "torch.export"


def test_reference_page_lists_every_operator_and_no_other():
    import re

    page = (MODELS.parents[2] / "docs" / "reference" / "bridge.md").read_text()
    table = page.split("## Operators")[1].split("## What is refused")[0]
    assert set(re.findall(r"`(\w+)`", table)) == catalogue.NAMES
