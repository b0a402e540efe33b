"""Freezing keeps the numbers, is deterministic, and gives names that stay."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lepton_core.errors import LeptonError, SourceError
from lepton_onnx import pivot
from lepton_onnx.external import EXTERNAL_KEY, digest
from lepton_onnx.names import is_counted, is_stable, is_valid, sanitized


def dropout_and_identity(graphs):
    return graphs.model(
        [
            graphs.node("Identity", ["w"], ["w_alias"]),
            graphs.node("MatMul", ["x", "w_alias"], ["h"]),
            graphs.node("Dropout", ["h", "ratio"], ["d", "mask"]),
            graphs.node("Constant", [], ["c"], value_float=2.0),
            graphs.node("Mul", ["d", "c"], ["m"]),
            graphs.node("Exp", ["d"], ["unused"]),
            graphs.node("Identity", ["m"], ["y"]),
        ],
        [graphs.value("x", ["n", 3])],
        [graphs.value("y", ["n", 3])],
        [
            graphs.weight("w", np.eye(3, dtype="f4") * 2),
            graphs.weight("ratio", np.float32(0.5)),
            graphs.weight("orphan", np.ones(5, "f4")),
        ],
    )


def with_function(graphs):
    function = helper.make_function(
        "local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 21)],
    )  # fmt: skip
    return graphs.model(
        [graphs.node("Twice", ["x"], ["1"], domain="local"), graphs.node("Neg", ["1"], ["y"])],
        [graphs.value("x", ["n", 2])],
        [graphs.value("y", ["n", 2])],
        domains=["local"],
        functions=[function],
    )


CASES = {
    "mlp": (lambda g: g.mlp(), (2, 8)),
    "old": (lambda g: g.mlp(opset=11, ir=6), (2, 8)),
    "branches": (lambda g: g.branches(), (2, 3)),
    "cleanups": (dropout_and_identity, (2, 3)),
    "function": (with_function, (2, 2)),
}


@pytest.mark.parametrize("case", CASES)
def test_freezing_keeps_numbers_and_is_idempotent(tmp_path, graphs, run, case):
    build, shape = CASES[case]
    source = build(graphs)
    before = source.SerializeToString(deterministic=True)
    one, two = tmp_path / "one.onnx", tmp_path / "two.onnx"
    facts = pivot.freeze(source, one)
    again = pivot.freeze(one, two)
    assert source.SerializeToString(deterministic=True) == before
    assert one.read_bytes() == two.read_bytes()
    assert again.renamed == 0
    assert facts.opset == 21
    pivot.check(one)
    x = np.random.default_rng(1).normal(size=shape).astype("f4")
    for sign in (1, -1):
        expected, found = run(source, {"x": sign * x}), run(one, {"x": sign * x})
        np.testing.assert_array_equal(found["y"], expected["y"])


def test_cleanups_are_counted(tmp_path, graphs):
    facts = pivot.freeze(dropout_and_identity(graphs), tmp_path / "p.onnx")
    assert facts.removed == {
        "constants": 1, "dropouts": 1, "identities": 2, "nodes": 1, "initializers": 2,
    }  # fmt: skip
    graph = onnx.load(tmp_path / "p.onnx").graph
    assert [n.op_type for n in graph.node] == ["MatMul", "Mul"]
    assert graph.node[-1].output == ["y"]


def test_names_are_derived_from_weights_and_inputs(tmp_path, graphs):
    facts = pivot.freeze(graphs.mlp(), tmp_path / "p.onnx")
    graph = onnx.load(tmp_path / "p.onnx").graph
    assert [n.output[0] for n in graph.node] == [
        "fc/MatMul", "fc/MatMul/Add", "fc/MatMul/Add/Relu", "y",
    ]  # fmt: skip
    assert graph.node[-1].name == "/head/Mul"
    assert "fc/MatMul/Add.B" in {t.name for t in graph.initializer}
    assert facts.names["val_9"] == "fc/MatMul/Add.B"
    assert all(n.name for n in graph.node)
    assert len({n.name for n in graph.node}) == len(graph.node)


def test_names_do_not_depend_on_shape_arithmetic(tmp_path, graphs):
    """The same layers with and without the nodes that a dynamic batch needs."""

    def build(dynamic, first):
        count = iter(range(first, 100))

        def fresh():
            return f"val_{next(count)}"

        nodes, shape = [], "fixed"
        if dynamic:
            sizes, shape = fresh(), fresh()
            nodes = [
                graphs.node("Shape", ["x"], [sizes], end=1),
                graphs.node("Concat", [sizes, "rest"], [shape], axis=0),
            ]
        flat, product = fresh(), fresh()
        nodes += [
            graphs.node("Reshape", ["x", shape], [flat]),
            graphs.node("MatMul", [flat, "fc.weight"], [product]),
            graphs.node("Relu", [product], ["y"]),
        ]
        return graphs.model(
            nodes,
            [graphs.value("x", ["n" if dynamic else 2, 2, 3])],
            [graphs.value("y", ["n" if dynamic else 2, 4])],
            [
                graphs.weight("fc.weight", np.ones((6, 4), "f4")),
                graphs.weight("rest", np.array([6], "i8")),
                graphs.weight("fixed", np.array([2, 6], "i8")),
            ],
        )

    found = []
    for dynamic, first in ((True, 3), (False, 40)):
        pivot.freeze(build(dynamic, first), tmp_path / "p.onnx")
        graph = onnx.load(tmp_path / "p.onnx").graph
        found.append([n.output[0] for n in graph.node if n.op_type in ("Reshape", "MatMul")])
    assert found[0] == found[1] == ["x/Reshape", "fc/MatMul"]


@pytest.mark.parametrize(
    ("name", "stable"),
    [
        ("layers.0.self_attn/linear", True),
        ("/conv1/Conv_output_0", True),
        ("linear_1", True),
        ("37", False),
        ("val_3", False),
        ("onnx::Conv_25", False),
        ("a b", False),
        ("", False),
        ("x" * 400, False),
    ],
)
def test_which_names_are_stable(name, stable):
    assert is_stable(name) is stable
    repaired = sanitized(name)
    assert is_valid(repaired)
    assert not is_counted(repaired)


def test_inputs_and_outputs_keep_odd_names(tmp_path, graphs):
    proto = graphs.model(
        [graphs.node("Relu", ["my input:0"], ["val_1"]), graphs.node("Neg", ["val_1"], ["17"])],
        [graphs.value("my input:0", [2])],
        [graphs.value("17", [2])],
    )
    facts = pivot.freeze(proto, tmp_path / "p.onnx")
    assert str(facts.signature) == "(my input:0: float32[2]) -> (17: float32[2])"


def test_a_normalization_without_axes_is_frozen(tmp_path, graphs, run):
    """ONNX's checker looks for the axes that its own body refers to, not for their default."""
    proto = graphs.model(
        [graphs.node("MeanVarianceNormalization", ["x"], ["y"])],
        [graphs.value("x", [2, 3, 4, 4])],
        [graphs.value("y", [2, 3, 4, 4])],
    )
    pivot.freeze(proto, tmp_path / "p.onnx")
    assert not proto.graph.node[0].attribute
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype("f4")
    y = run(tmp_path / "p.onnx", {"x": x})["y"]
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-5)


def test_volatile_metadata_goes_and_the_users_stays(tmp_path, graphs):
    proto = graphs.mlp()
    proto.producer_name, proto.producer_version = "exporter", "9.9"
    proto.doc_string = "made in /models/of/someone/models"
    helper.set_model_props(
        proto,
        {"labels": "cat,dog", "file": "/models/of/someone/net.py", "date": "2026-01-02T03:04:05"},
    )
    node = proto.graph.node[0]
    node.doc_string = "somewhere"
    trace = 'File "/models/of/someone/net.py", line 31, in forward\n    x = self.fc(x)\n'
    trace += '  File "/env/site-packages/torch/nn/modules/linear.py", line 1, in forward\n'
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=trace)
    node.metadata_props.add(
        key="pkg.torch.onnx.name_scopes", value="['', 'encoder.fc', 'linear_7']"
    )
    facts = pivot.freeze(proto, tmp_path / "p.onnx", metadata={"k": "v"})
    data = (tmp_path / "p.onnx").read_bytes()
    assert b"someone" not in data
    assert b"2026" not in data
    kept = {p.key: p.value for p in onnx.load(tmp_path / "p.onnx").metadata_props}
    assert kept == {"k": "v", "labels": "cat,dog"}
    assert facts.producer == "exporter 9.9"
    assert facts.locations == {"encoder.fc/linear/MatMul": "net.py:31 in forward"}


def test_a_newer_opset_is_kept_with_the_reason(tmp_path, graphs):
    facts = pivot.freeze(graphs.mlp(opset=23, ir=11), tmp_path / "p.onnx")
    assert (facts.opset, facts.source_opset) == (23, 23)
    assert "kept at 23" in facts.opset_note


def test_custom_operators_are_kept(tmp_path, graphs):
    proto = graphs.model(
        [graphs.node("Foo", ["x"], ["1"], domain="acme"), graphs.node("Relu", ["1"], ["y"])],
        [graphs.value("x", [2])],
        [graphs.value("y", [2])],
        opset=17,
        domains=["acme", "unused"],
    )
    facts = pivot.freeze(proto, tmp_path / "p.onnx")
    assert facts.domains == {"acme": 1}
    assert "acme" in (tmp_path / "p.onnx").read_bytes().decode("latin1")


def test_weights_over_the_limit_stand_beside(tmp_path, graphs, run):
    rng = np.random.default_rng(0)
    proto = graphs.model(
        [graphs.node("MatMul", ["x", "w"], ["y"])],
        [graphs.value("x", ["n", 64])],
        [graphs.value("y", ["n", 64])],
        [graphs.weight("w", rng.normal(size=(64, 64)).astype("f4"))],
    )
    out, back = tmp_path / "p.onnx", tmp_path / "q.onnx"
    facts = pivot.freeze(proto, out, external_above=1000)
    assert facts.external_files == ("p.onnx.data",)
    recorded = {p.key: p.value for p in onnx.load(out).metadata_props}[EXTERNAL_KEY]
    data = (tmp_path / "p.onnx.data").read_bytes()
    assert recorded.endswith(hashlib.sha256(data).hexdigest())
    x = rng.normal(size=(2, 64)).astype("f4")
    np.testing.assert_array_equal(run(out, {"x": x})["y"], run(proto, {"x": x})["y"])
    pivot.freeze(out, back)
    pivot.freeze(proto, out)
    assert back.read_bytes() == out.read_bytes()


def test_another_data_file_is_noticed(tmp_path, graphs):
    proto = graphs.model(
        [graphs.node("MatMul", ["x", "w"], ["y"])],
        [graphs.value("x", [1, 64])],
        [graphs.value("y", [1, 64])],
        [graphs.weight("w", np.ones((64, 64), "f4"))],
    )
    out = tmp_path / "p.onnx"
    pivot.freeze(proto, out, external_above=1000)
    assert digest(out, verify=True) == digest(out)
    (tmp_path / "p.onnx.data").write_bytes(b"\1" * 64 * 64 * 4)
    with pytest.raises(SourceError) as caught:
        digest(out, verify=True)
    assert caught.value.code == "LPT-SRC-213"


def test_a_refused_place_leaves_nothing(tmp_path, graphs):
    with pytest.raises((LeptonError, OSError)):
        pivot.freeze(graphs.mlp(), tmp_path / "no" / "p.onnx")
    bad = graphs.mlp()
    bad.graph.node[0].op_type = "Nonsense"
    with pytest.raises(LeptonError):
        pivot.freeze(bad, tmp_path / "p.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.conformance
def test_more_than_two_gibibytes(tmp_path, graphs):
    """A sparse file stands in for the weights: read, checked and signed without loading them."""
    size = 2_200_000_000 // 4
    proto = graphs.model(
        [graphs.node("Gather", ["w", "i"], ["y"])],
        [graphs.value("i", ["n"], TensorProto.INT64)],
        [graphs.value("y", ["n"])],
    )
    tensor = proto.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[size])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    tensor.external_data.add(key="length", value=str(size * 4))
    path = tmp_path / "big.onnx"
    path.write_bytes(proto.SerializeToString())
    with (tmp_path / "w.bin").open("wb") as stream:
        stream.truncate(size * 4)
    pivot.check(path)
    facts = pivot.freeze(path, tmp_path / "p.onnx")
    assert facts.external_files == ("p.onnx.data",)
    assert facts.parameters == size
    assert (tmp_path / "p.onnx.data").stat().st_size == size * 4
    pivot.check(tmp_path / "p.onnx")
