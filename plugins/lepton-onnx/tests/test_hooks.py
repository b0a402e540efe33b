"""The hooks of lepton-onnx, the reference session, and what importing costs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from lepton_core.errors import LeptonError, SessionError
from lepton_core.types import ConvertRequest, InspectRequest, Model, OpenRequest
from lepton_onnx import pivot, plugin
from lepton_onnx.info import INFO
from lepton_onnx.operators import inventory


@pytest.fixture
def source(tmp_path, graphs):
    path = tmp_path / "model.onnx"
    path.write_bytes(graphs.mlp(opset=17, ir=8).SerializeToString())
    return Model("onnx", str(path))


def test_listing_and_loading_the_plugin_import_no_backend():
    code = (
        "import sys, lepton_onnx, lepton_onnx.info, lepton_onnx.plugin\n"
        "heavy = {'onnx', 'numpy', 'google.protobuf'} & set(sys.modules)\n"
        "raise SystemExit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_info_declares_what_the_hooks_do():
    assert INFO.id == "onnx"
    assert [(e.source, e.result) for e in INFO.edges] == [("onnx", "pivot")]
    assert INFO.sources[0].suffixes == (".onnx",)
    assert INFO.opens_format("pivot").reference_rank == 50


def test_inspect(source, context):
    found = plugin.lepton_inspect(source, InspectRequest(), context)
    assert {use.name: use.count for use in found.operators} == {
        "ai.onnx::Add": 1, "ai.onnx::MatMul": 1, "ai.onnx::Mul": 1, "ai.onnx::Relu": 1,
    }  # fmt: skip
    assert found.domain == "onnx"
    assert found.parameters == 8 * 4 + 4
    assert found.facts["opset"] == 17
    assert found.facts["weights"] == {"float32": 37}
    assert found.model.digest.startswith("sha256:")
    assert str(found.model.signature).startswith("(x: float32[batch, 8])")
    assert found.problems == ()
    short = plugin.lepton_inspect(source, InspectRequest(operators=False), context)
    assert short.operators == ()


def test_inspect_names_custom_operators(tmp_path, graphs, context):
    proto = graphs.model(
        [graphs.node("Foo", ["x"], ["y"], name="here", domain="acme")],
        [graphs.value("x", [2])],
        [graphs.value("y", [2])],
        domains=["acme"],
    )
    path = tmp_path / "custom.onnx"
    path.write_bytes(proto.SerializeToString())
    found = plugin.lepton_inspect(Model("onnx", str(path)), InspectRequest(), context)
    assert found.operators[0].name == "acme::Foo"
    assert found.operators[0].convertible is None
    assert "'here'" in found.problems[0]


def test_inventory_counts_nested_graphs(graphs):
    counts = {use.name: use.count for use in inventory(graphs.branches())}
    assert counts["ai.onnx::Neg"] == 2
    assert counts["ai.onnx::If"] == 1


def test_convert_writes_only_in_the_work_directory(source, context, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    result = plugin.lepton_convert(source, ConvertRequest("any", "pivot"), context)
    new = set(tmp_path.rglob("*")) - set(before)
    assert {p.name for p in new} == {"pivot.onnx"}
    model = result.model
    assert model.format == "pivot"
    assert result.facts["opset"] == 21
    step = model.lineage[-1]
    assert step.parent.startswith("sha256:")
    assert step.owner.startswith("lepton-onnx ")
    assert "onnx" in step.tools
    again = plugin.lepton_convert(source, ConvertRequest("any", "pivot"), context)
    assert again.model.digest == model.digest


def test_hooks_decline_what_is_not_theirs(source, context):
    other = source.evolve(format="torch.export")
    assert plugin.lepton_inspect(other, InspectRequest(), context) is None
    assert plugin.lepton_convert(source, ConvertRequest("x", "tflite"), context) is None
    assert plugin.lepton_open(other, OpenRequest("onnx"), context) is None


def test_convert_warns_of_half_precision_sources(tmp_path, graphs, context):
    from lepton_onnx import float16

    path = tmp_path / "half.onnx"
    pivot.save(float16.convert(graphs.mlp()).model, path)
    model = Model("onnx", str(path))
    result = plugin.lepton_convert(model, ConvertRequest("any", "pivot"), context)
    assert "float16" in result.warnings[0]


def test_the_reference_session(source, context):
    with plugin.lepton_open(source, OpenRequest("onnx", reference=True), context) as session:
        x = np.random.default_rng(0).normal(size=(3, 8)).astype("f4")
        first = session.run({"x": x})
        assert list(first) == ["y"]
        assert first["y"].shape == (3, 4)
        np.testing.assert_array_equal(session.run({"x": x[::1]})["y"], first["y"])
        nan = x.copy()
        nan[1] = np.nan
        assert np.isnan(session.run({"x": nan})["y"][1]).any()
    with pytest.raises(SessionError) as caught:
        session.run({"x": x})
    assert caught.value.code == "LPT-RUN-208"
    with pytest.raises(SessionError) as caught:
        plugin.lepton_open(source, OpenRequest("onnx", device="cuda"), context)
    assert caught.value.code == "LPT-RUN-206"


@pytest.mark.parametrize(
    ("inputs", "code", "words"),
    [
        ({}, "LPT-RUN-201", "'x' is missing"),
        ({"X": np.ones((1, 8), "f4")}, "LPT-RUN-202", "did you mean 'x'"),
        ({"x": np.ones((1, 8))}, "LPT-RUN-203", "float64"),
        ({"x": [[1.0] * 8]}, "LPT-RUN-203", "list"),
        ({"x": np.ones(8, "f4")}, "LPT-RUN-204", "[8]"),
        ({"x": np.ones((1, 9), "f4")}, "LPT-RUN-204", "[1, 9]"),
    ],
)
def test_wrong_inputs(source, context, inputs, code, words):
    session = plugin.lepton_open(source, OpenRequest("onnx"), context)
    with pytest.raises(SessionError) as caught:
        session.run(inputs)
    assert caught.value.code == code
    assert words in caught.value.message
    assert "float32[batch, 8]" in str(caught.value)


def test_a_symbol_has_one_size(tmp_path, graphs, context):
    proto = graphs.model(
        [graphs.node("Add", ["a", "b"], ["y"])],
        [graphs.value("a", ["n"]), graphs.value("b", ["n"])],
        [graphs.value("y", ["n"])],
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    session = plugin.lepton_open(Model("onnx", str(path)), OpenRequest("onnx"), context)
    swapped = np.ones(2, ">f4")
    assert session.run({"a": swapped, "b": np.ones(2, "f4")})["y"].tolist() == [2, 2]
    with pytest.raises(LeptonError) as caught:
        session.run({"a": np.ones(2, "f4"), "b": np.ones(1, "f4")})
    assert "'n', which is 2 in 'a'" in caught.value.cause
