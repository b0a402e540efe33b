"""Every hook of the contract, called through the registry on the fake target, really done."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lepton_core import types
from lepton_core.capabilities import Edge, ExtensionInfo, Opens, TargetInfo
from lepton_core.context import Session
from lepton_core.dispatch import Hooks
from lepton_core.errors import (
    AdaptError,
    AdjustError,
    ConversionError,
    DeployError,
    MigrateError,
    OptimizeError,
    SessionError,
    SourceError,
    UsageError,
)
from lepton_core.hookspecs import LeptonSpecs
from lepton_core.markers import hookimpl
from lepton_core.testing.fake_target import write_graph

HOOKS = sorted(name for name in vars(LeptonSpecs) if name.startswith("lepton_"))
X = np.linspace(-2, 2, 48, dtype=np.float32).reshape(8, 6)


@pytest.fixture
def hooks(fake_registry):
    return Hooks(fake_registry)


@pytest.fixture
def place(context, tmp_path):
    """Return a function that gives each step a workdir of its own, as the façade does."""

    def make(name):
        workdir = tmp_path / "steps" / name
        workdir.mkdir(parents=True, exist_ok=True)
        return replace(context, workdir=workdir)

    return make


@pytest.fixture
def source(hooks, graph_file, place):
    unread = types.Model("fake-graph", str(graph_file))
    return hooks.inspect(unread, types.InspectRequest(), place("inspect")).model


@pytest.fixture
def adapted(hooks, source, place):
    return hooks.adapt(source, types.AdaptRequest("fake"), place("adapt")).model


@pytest.fixture
def built(hooks, adapted, place):
    return hooks.convert(adapted, types.ConvertRequest("fake"), place("convert")).model


def run(hooks, model, context, target="fake"):
    with hooks.open(model, types.OpenRequest(target), context) as session:
        return session.run({"x": X})["y"]


# --- inspect and check --------------------------------------------------------------------------


def test_inspect_reads_signature_digest_and_operators(hooks, graph_file, context):
    from lepton_core.files import digest_path

    unread = types.Model("fake-graph", str(graph_file))
    result = hooks.inspect(unread, types.InspectRequest(), context)
    assert str(result.model.signature) == "(x: float32[batch, 6]) -> (y: float32[batch, 3])"
    assert result.model.digest == digest_path(graph_file)
    assert [(u.name, u.count, u.convertible) for u in result.operators] == [
        ("linear", 2, True),
        ("relu", 1, True),
        ("scale", 1, True),
    ]
    assert result.parameters == 8 * 6 + 8 + 3 * 8 + 3
    assert unread.digest == "", "the model that went in is unchanged"


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"width": 2, "layers": [{"op": "linear"}]}', "\x00", "null"]
)
def test_inspect_refuses_what_is_no_graph(hooks, tmp_path, context, text):
    path = tmp_path / "bad.fake"
    path.write_text(text)
    with pytest.raises(SourceError) as caught:
        hooks.inspect(types.Model("fake-graph", str(path)), types.InspectRequest(), context)
    assert caught.value.code == "FAKE-SRC-002"


def test_inspect_of_nothing(hooks, tmp_path, context):
    with pytest.raises(SourceError) as caught:
        hooks.inspect(
            types.Model("fake-graph", str(tmp_path / "no")), types.InspectRequest(), context
        )
    assert caught.value.code == "FAKE-SRC-001"


@pytest.mark.parametrize(
    ("layers", "verdict", "word"),
    [
        ([{"op": "relu"}], "fits", ""),
        ([{"op": "scale", "factor": 2.0}], "needs-rewrite", "fold-scale"),
        ([{"op": "softmax"}], "impossible", "layer 0"),
    ],
)
def test_check_judges_without_converting(hooks, tmp_path, context, layers, verdict, word):
    path = write_graph(tmp_path / "n.fake", 2, layers)
    inspection = hooks.inspect(
        types.Model("fake-graph", str(path)), types.InspectRequest(), context
    )
    result = hooks.check(inspection.model, types.CheckRequest("fake", inspection), context)
    assert result.verdict == verdict
    assert word in " ".join(result.reasons)
    assert not list(context.workdir.iterdir())


# --- adapt, convert, open -----------------------------------------------------------------------


def test_adapt_folds_the_scale_and_changes_nothing_else(hooks, source, place):
    before = Path(source.path).read_bytes()
    result = hooks.adapt(source, types.AdaptRequest("fake"), place("adapt"))
    assert result.changes == ("fold-scale: layer 1 (by 0.5)",)
    operators = hooks.inspect(result.model, types.InspectRequest(), place("i")).operators
    assert "scale" not in [u.name for u in operators]
    np.testing.assert_allclose(
        run(hooks, result.model, place("a")), run(hooks, source, place("b")), rtol=1e-5, atol=1e-6
    )
    assert Path(source.path).read_bytes() == before
    assert [s.step for s in result.model.lineage] == ["adapt"]
    assert result.model.lineage[0].parent == source.digest != result.model.digest


LINEAR = {"op": "linear", "weight": [[1.0, -2.0], [0.5, 3.0]], "bias": [0.1, -0.2]}
SCALE = {"op": "scale", "factor": -3.0}


@pytest.mark.parametrize(
    "layers",
    [[LINEAR, SCALE], [SCALE, LINEAR], [SCALE, SCALE, LINEAR, SCALE], [LINEAR, SCALE, SCALE]],
)
def test_adapt_keeps_the_function(hooks, tmp_path, place, layers):
    path = write_graph(tmp_path / "n.fake", 2, layers)
    source = types.Model("fake-graph", str(path))
    adapted = hooks.adapt(source, types.AdaptRequest("fake"), place("a")).model
    outputs = []
    for model in (source, adapted):
        with hooks.open(model, types.OpenRequest("fake"), place("o")) as session:
            outputs.append(session.run({"x": X[:, :2].copy()})["y"])
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-5)


def test_adapt_says_where_it_cannot(hooks, tmp_path, place):
    path = write_graph(tmp_path / "n.fake", 2, [SCALE, {"op": "relu"}])
    with pytest.raises(AdaptError, match="layer 0") as caught:
        hooks.adapt(types.Model("fake-graph", str(path)), types.AdaptRequest("fake"), place("a"))
    assert caught.value.code == "FAKE-ADAPT-001"


def test_adapt_refuses_a_rewrite_that_nobody_brings(hooks, source, place):
    with pytest.raises(UsageError, match="fold-scal") as caught:
        hooks.adapt(source, types.AdaptRequest("fake", ("fold-scal",)), place("a"))
    assert caught.value.code == "LPT-ADAPT-001"
    assert caught.value.details["nearest"] == ["fold-scale"]


def test_convert_names_the_operator_that_has_no_counterpart(hooks, source, place):
    with pytest.raises(ConversionError, match="scale") as caught:
        hooks.convert(source, types.ConvertRequest("fake"), place("c"))
    assert "layer 1" in caught.value.cause


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("fp16", 5e-3)])
def test_convert_stores_the_precision_and_open_runs_it(hooks, adapted, place, precision, tolerance):
    request = types.ConvertRequest("fake", precision=precision)
    result = hooks.convert(adapted, request, place(precision))
    assert result.model.format == "fake"
    want, got = run(hooks, adapted, place("a")), run(hooks, result.model, place("b"))
    assert np.linalg.norm(got - want) / np.linalg.norm(want) <= tolerance
    with hooks.open(result.model, types.OpenRequest("fake", threads=2), place("c")) as session:
        assert isinstance(session, Session)
        assert session.facts["storage_precision"] == precision
        assert session.facts["execution_precision"] == "fp32"
        assert session.facts["threads"] == 2


def test_the_same_inputs_give_the_same_bytes(hooks, adapted, place):
    models = [
        hooks.convert(adapted, types.ConvertRequest("fake"), place(name)).model for name in "ab"
    ]
    assert Path(models[0].path).read_bytes() == Path(models[1].path).read_bytes()
    assert models[0].digest == models[1].digest


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"z": X},
        {"x": X, "z": X},
        {"x": X.astype(np.float64)},
        {"x": X[:, :5]},
        {"x": X[0]},
    ],
)
def test_a_session_refuses_what_does_not_fit(hooks, source, context, inputs):
    with hooks.open(source, types.OpenRequest("fake"), context) as session:
        with pytest.raises(SessionError, match=r"float32\[batch, 6\]"):
            session.run(inputs)
    session.close()
    with pytest.raises(SessionError, match="closed"):
        session.run({"x": X})


# --- optimize -----------------------------------------------------------------------------------


def test_optimize_really_makes_it_smaller_and_says_what_it_costs(hooks, adapted, place, tmp_path):
    from lepton_core.testing import _fake_graph as work

    np.savez(tmp_path / "s.npz", x=X)
    request = types.OptimizeRequest("fake", "fake", max_drop=0.05, samples=str(tmp_path / "s.npz"))
    result = hooks.optimize(adapted, request, place("opt"))
    layer = json.loads(Path(result.model.path).read_text())["layers"][0]
    assert layer["weight"]["dtype"] == "int8"
    before, after = run(hooks, adapted, place("a")), run(hooks, result.model, place("b"))
    loss = np.linalg.norm(after - before) / np.linalg.norm(before)
    assert 0 < loss < 0.05
    assert result.facts["rel_l2"] == pytest.approx(loss)
    assert json.loads(Path(result.recipe).read_text())["model"] == adapted.digest
    weight = work.decode(work.read(adapted.path)["layers"][0]["weight"])
    step = np.abs(weight).max(axis=1, keepdims=True) / 127
    assert (np.abs(work.decode(layer["weight"]) - weight) <= step / 2 * 1.001).all()


def test_optimize_keeps_to_the_budget(hooks, adapted, place, tmp_path):
    np.savez(tmp_path / "s.npz", x=X)
    request = types.OptimizeRequest("fake", "fake", max_drop=1e-9, samples=str(tmp_path / "s.npz"))
    with pytest.raises(OptimizeError, match="budget") as caught:
        hooks.optimize(adapted, request, place("opt"))
    assert caught.value.details["loss"] > 1e-9


def test_optimize_without_samples_is_weak(hooks, adapted, place):
    result = hooks.optimize(adapted, types.OptimizeRequest("fake", "fake"), place("opt"))
    assert result.why.startswith("weak")
    assert result.facts["rel_l2"] is None


# --- deploy, adjust, migrate --------------------------------------------------------------------


@pytest.fixture
def deployed(hooks, built, place):
    request = types.DeployRequest("net", "fake", engine="fake")
    hooks.deploy(built, request, place("store"))
    return place("store").workdir / "net"


def current(deployed):
    return json.loads((deployed / "current.json").read_text())


def test_deploy_writes_versions_that_stay(hooks, built, adapted, place, deployed):
    first = (deployed / "v1.json").read_bytes()
    assert first == Path(built.path).read_bytes()
    assert current(deployed)["version"] == "1"
    half = hooks.convert(adapted, types.ConvertRequest("fake", precision="fp16"), place("half"))
    result = hooks.deploy(
        half.model, types.DeployRequest("net", "fake", engine="fake"), place("store")
    )
    assert result.version == "2" == current(deployed)["version"]
    assert (deployed / "v1.json").read_bytes() == first


def test_deploy_refuses_a_file_that_has_changed(hooks, built, place, deployed):
    Path(built.path).write_bytes(b"tampered")
    with pytest.raises(DeployError, match="not the file that was proved"):
        hooks.deploy(built, types.DeployRequest("net", "fake", engine="fake"), place("store"))
    assert current(deployed)["version"] == "1", "what stood before still stands"


TELEMETRY = [
    {"threads": 1, "batch": 1, "p50_ms": 4.0, "accuracy": 0.99},
    {"threads": 2, "batch": 1, "p50_ms": 2.5, "accuracy": 0.99},
    {"threads": 2, "batch": 8, "p50_ms": 8.0, "accuracy": 0.99},
    {"threads": 4, "batch": 1, "p50_ms": 1.0, "accuracy": 0.90},
]


@pytest.mark.parametrize(
    ("objective", "floor", "table"),
    [
        ("latency", None, {"threads": 4, "batch": 1}),
        ("latency", 0.95, {"threads": 2, "batch": 1}),
        ("throughput", 0.95, {"threads": 2, "batch": 8}),
    ],
)
def test_adjust_leaves_a_table_for_the_fast_path(
    hooks, built, place, deployed, objective, floor, table
):
    request = types.AdjustRequest("net", objective, floor, "fake", {"telemetry": TELEMETRY})
    result = hooks.adjust(built, request, place("store"))
    assert json.loads((deployed / "dispatch.json").read_text()) == table
    assert {c["set"]: c["to"] for c in result.changes} == table


@pytest.mark.parametrize(("name", "telemetry"), [("net", []), ("other", TELEMETRY)])
def test_adjust_without_anything_to_go_by(hooks, built, place, deployed, name, telemetry):
    request = types.AdjustRequest(name, engine="fake", options={"telemetry": telemetry})
    with pytest.raises(AdjustError):
        hooks.adjust(built, request, place("store"))
    assert not (deployed / "dispatch.json").exists()


class OtherTarget:
    """A second target that takes the fake one's artifact, faithfully or not."""

    def __init__(self, error):
        self.error = error

    @hookimpl
    def lepton_convert(self, model, request, context):
        from lepton_core.testing import _fake_graph as work

        graph = work.read(model.path)
        for layer in graph["layers"]:
            if layer["op"] == "linear":
                layer["bias"] = work.encode(work.decode(layer["bias"]) + work.F32(self.error))
        out = model.evolve(format="other")
        return types.ConvertResult(work.write(graph, context.workdir / "other.json", out))

    @hookimpl
    def lepton_open(self, model):
        from lepton_core.testing import _fake_graph as work

        return work.FakeSession(work.read(model.path), 1)


@pytest.mark.parametrize(
    ("error", "outcome", "target"),
    [(0.0, "done", "other"), (0.1, "returned", "fake"), (float("nan"), "returned", "fake")],
)
def test_migrate_moves_only_what_it_has_compared(
    hooks, built, place, deployed, error, outcome, target
):
    info = TargetInfo(
        "other", "Other", "tests", artifact="other",
        edges=(Edge("fake", "other"),), opens=(Opens("other"),),
    )  # fmt: skip
    hooks.registry.register(OtherTarget(error), info)
    result = hooks.migrate(
        built, types.MigrateRequest("net", "other", engine="fake"), place("store")
    )
    assert result.outcome == outcome
    assert current(deployed)["target"] == target
    assert Path(current(deployed)["artifact"]).is_file()
    assert result.why


def test_migrate_needs_a_deployment(hooks, built, place):
    with pytest.raises(MigrateError):
        hooks.migrate(built, types.MigrateRequest("none", "fake", engine="fake"), place("store"))


# --- none left out ------------------------------------------------------------------------------


def test_every_hook_is_called_with_the_arguments_of_its_specification(
    fake_registry, graph_file, place
):
    """Drive the whole route and record, inside pluggy, which hooks were called and how."""
    called = {}
    manager = fake_registry.manager

    def before(name, impls, kwargs):
        if impls:
            called.setdefault(name, set()).add(tuple(kwargs))

    undo = manager.add_hookcall_monitoring(before, lambda *_: None)

    class Watch:
        @hookimpl
        def lepton_stage_started(self, event):
            pass

        @hookimpl
        def lepton_stage_finished(self, event):
            pass

    fake_registry.register(Watch(), ExtensionInfo("watch", "Watch", "tests", always=True))
    hooks = Hooks(fake_registry)
    inspection = hooks.inspect(
        types.Model("fake-graph", str(graph_file)), types.InspectRequest(), place("i")
    )
    hooks.check(inspection.model, types.CheckRequest("fake", inspection), place("i"))
    adapted = hooks.adapt(inspection.model, types.AdaptRequest("fake"), place("a")).model
    built = hooks.convert(adapted, types.ConvertRequest("fake"), place("c")).model
    hooks.optimize(adapted, types.OptimizeRequest("fake", "fake"), place("o"))
    hooks.deploy(built, types.DeployRequest("n", "fake", engine="fake"), place("s"))
    hooks.adjust(
        built,
        types.AdjustRequest("n", engine="fake", options={"telemetry": TELEMETRY}),
        place("s"),
    )
    hooks.migrate(built, types.MigrateRequest("n", "fake", engine="fake"), place("s"))
    hooks.open(built, types.OpenRequest("fake"), place("x")).close()
    undo()
    assert sorted(called) == HOOKS
    expected = {("event",) if "stage" in name else ("model", "request", "context")
                for name in called}  # fmt: skip
    assert {arguments for kinds in called.values() for arguments in kinds} == expected
