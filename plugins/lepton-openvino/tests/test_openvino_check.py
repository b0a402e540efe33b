"""The pre-flight check, and that its tables say what the installed OpenVINO says."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from lepton_core.types import (
    CheckRequest,
    ConvertRequest,
    InspectRequest,
    InspectResult,
    Model,
    OperatorUse,
    Signature,
    TensorSpec,
)
from lepton_onnx import plugin as onnx_plugin
from lepton_openvino import plugin
from lepton_openvino._messages import operators_without_rule
from lepton_openvino._operators import MICROSOFT, is_known
from lepton_openvino._telemetry import openvino
from lepton_openvino.info import INFO


def verdict(inspection, context):
    return plugin.lepton_check(inspection.model, CheckRequest("openvino", inspection), context)


def inspected(operators=(), domain="onnx", **more):
    return InspectResult(Model("onnx", "m.onnx"), tuple(operators), domain, **more)


def test_a_model_that_fits(graphs, context, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(graphs.mlp().SerializeToString())
    found = onnx_plugin.lepton_inspect(Model("onnx", str(path)), InspectRequest(), context)
    result = verdict(found, context)
    assert (result.verdict, result.reasons) == ("fits", ())
    assert result.precisions == ("fp32", "fp16")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("ai.onnx::Conv", True),
        ("ai.onnx::Det", False),
        ("com.microsoft::FastGelu", True),
        ("com.microsoft::BeamSearch", False),
        ("ai.onnx.ml::TreeEnsemble", False),
        ("acme::Conv", False),
    ],
)
def test_operators_are_judged_by_domain(context, name, known):
    use = OperatorUse(name, 3, where="net.py:7 in forward")
    result = verdict(inspected([use], facts={"opset": 21}), context)
    assert result.verdict == ("fits" if known else "impossible")
    if not known:
        assert name in result.reasons[0]
        assert "net.py:7" in result.reasons[0]


@pytest.mark.parametrize(("opset", "fits"), [(7, True), (27, True), (28, False), (5, False)])
def test_opsets(context, opset, fits):
    result = verdict(inspected(facts={"opset": opset}), context)
    assert (result.verdict == "fits") is fits
    assert fits or f"opset {opset}" in result.reasons[0]


def test_other_sources_are_judged_by_the_way_to_the_pivot(context):
    good = OperatorUse("aten.conv2d.default", 1, convertible=True)
    unsure = OperatorUse("aten.new.default", 1)
    bad = OperatorUse("aten.foo.default", 1, where="net.py:3", convertible=False, note="why")
    assert verdict(inspected([good, unsure], "aten"), context).verdict == "fits"
    result = verdict(inspected([good, bad], "aten", problems=("a loop",)), context)
    assert result.verdict == "impossible"
    assert result.reasons == ("aten.foo.default at net.py:3 has no way to ONNX: why", "a loop")


def test_strings_do_not_fit(context):
    signature = Signature((TensorSpec("s", "string", ("n",)),), ())
    found = InspectResult(Model("onnx", "m.onnx", signature=signature), domain="onnx")
    assert "s: string[n]" in verdict(found, context).reasons[0]


# --- the tables, asked of OpenVINO ------------------------------------------------------------


def _without_rule(nodes, inputs, tmp_path, domains=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in inputs],
        [helper.make_tensor_value_info(n.output[0], TensorProto.FLOAT, None) for n in nodes],
    )
    imports = [helper.make_opsetid("", 27), *(helper.make_opsetid(d, 1) for d in domains)]
    path = tmp_path / "asked.onnx"
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    with pytest.raises(RuntimeError) as caught:
        openvino().Core().read_model(path)
    return set(operators_without_rule(caught.value))


def test_openvino_has_no_rule_for_what_is_declared_forbidden(tmp_path):
    nodes = [
        helper.make_node(name, ["x", "x", "x"], [f"o{i}"])
        for i, name in enumerate(INFO.constraints.forbidden_ops)
    ]
    assert _without_rule(nodes, ["x"], tmp_path) == set(INFO.constraints.forbidden_ops)


PROBE = """
import json, sys
from lepton_openvino._telemetry import openvino
from lepton_openvino._messages import operators_without_rule
core = openvino().Core()
missing = []
for path in sys.argv[1:]:
    try:
        core.read_model(path)
    except RuntimeError as error:
        missing += operators_without_rule(error)
print(json.dumps(missing))
"""


def test_openvino_has_a_rule_for_what_is_not_forbidden(tmp_path, run_python):
    """One node of each operator of ONNX, with as many inputs as it needs at least.

    Most of these nodes make no sense and are refused, but not for the want of a rule.
    """
    paths = []
    for schema in onnx.defs.get_all_schemas():
        if schema.domain or schema.deprecated or not is_known(f"ai.onnx::{schema.name}"):
            continue
        names = [f"x{i}" for i in range(schema.min_input)]
        node = helper.make_node(schema.name, names, ["y"])
        graph = helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in names],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        )
        paths.append(tmp_path / f"{schema.name}.onnx")
        opset = [helper.make_opsetid("", 27)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), paths[-1])
    assert len(paths) > 150
    missing = run_python(PROBE, *paths)
    # OpenVINO's own helpers for sequences that nothing makes a tensor of are no operators of ONNX.
    assert [name for name in missing if not name.startswith("util::")] == []


def test_sequences_work_where_they_end_in_a_tensor(graphs, to_pivot, context):
    proto = graphs.model(
        [
            graphs.node("SplitToSequence", ["x"], ["parts"], axis=0),
            graphs.node("ConcatFromSequence", ["parts"], ["y"], axis=1),
        ],
        [graphs.value("x", [2, 3])],
        [graphs.value("y", [1, 6])],
    )
    pivot = to_pivot(proto)
    assert plugin.lepton_convert(pivot, ConvertRequest("openvino"), context) is not None


def test_the_table_of_other_domains(tmp_path):
    unknown = ["BeamSearch", "NhwcConv", "Sampling", "MoE"]
    assert not set(unknown) & MICROSOFT
    nodes = [
        helper.make_node(n, ["x"], [f"o{i}"], domain="com.microsoft") for i, n in enumerate(unknown)
    ]
    found = _without_rule(nodes, ["x"], tmp_path, ["com.microsoft"])
    assert found == {f"com.microsoft.{n}" for n in unknown}
