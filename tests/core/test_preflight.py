"""The pre-flight matrix."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lepton_core.capabilities import Constraints, Support, TargetInfo
from lepton_core.catalogue import KNOWN
from lepton_core.dispatch import Hooks
from lepton_core.errors import PluginNotInstalledError, SourceError, UnknownTargetError
from lepton_core.preflight import check, judge_by_constraints
from lepton_core.testing.fake_target import write_graph
from lepton_core.types import InspectResult, Model, OperatorUse, Signature, TensorSpec


@pytest.fixture
def hooks(fake_registry):
    return Hooks(fake_registry)


@pytest.fixture
def fitting(tmp_path):
    layers = [{"op": "linear", "weight": [[1.0, 2.0]], "bias": [0.0]}, {"op": "relu"}]
    return write_graph(tmp_path / "fits.fake", 2, layers)


@pytest.fixture
def impossible(tmp_path):
    layers = [{"op": "linear", "weight": [[1.0, 2.0]], "bias": [0.0]}, {"op": "sinh"}]
    return write_graph(tmp_path / "impossible.fake", 2, layers)


def test_a_model_that_fits(hooks, context, fitting, tmp_path):
    before = sorted(context.workdir.iterdir())
    report = check(str(fitting), ["fake"], hooks, context)
    (target,) = report.targets
    assert (target.verdict, target.ok, target.reasons) == ("fits", True, ())
    assert target.path == ("fake-graph", "fake")
    assert target.precisions == ("fp32", "fp16", "int8")
    assert report.ok
    assert sorted(context.workdir.iterdir()) == before, "nothing is converted"
    data = report.to_dict()
    assert data["ok"] is True
    assert data["source"]["parameters"] == 3
    assert data["source"]["digest"].startswith("sha256:")


def test_a_rewrite_is_named_and_counts_if_someone_does_it(hooks, context, graph_file):
    report = check(str(graph_file), ["fake"], hooks, context)
    (target,) = report.targets
    assert target.verdict == "needs-rewrite"
    assert target.reasons == ("rewrite fold-scale: 1 of scale",)
    assert target.supported
    assert report.ok


def test_a_rewrite_that_nobody_does_is_not_ok(registry, context, graph_file):
    from lepton_core.testing import fake_target

    abilities = dict(fake_target.INFO.capabilities)
    del abilities["adapt"]
    registry.register(fake_target, replace(fake_target.INFO, capabilities=abilities))
    report = check(str(graph_file), ["fake"], Hooks(registry), context)
    (target,) = report.targets
    assert target.verdict == "needs-rewrite"
    assert not target.supported
    assert not report.ok
    assert "No installed plugin does this rewrite" in target.remedy


def test_the_impossible_says_why_and_where(hooks, context, impossible):
    report = check(str(impossible), ["fake"], hooks, context)
    (target,) = report.targets
    assert target.verdict == "impossible"
    assert any("sinh" in reason and "layer 1" in reason for reason in target.reasons)
    assert target.precisions == ()
    assert not report.ok


def test_all_known_targets_are_listed_and_only_usable_ones_count(hooks, context, fitting):
    report = check(str(fitting), [], hooks, context)
    verdicts = {t.target: t for t in report.targets}
    assert set(verdicts) == {"fake", *(k.id for k in KNOWN.values() if k.kind == "target")}
    assert report.ok
    for known in KNOWN.values():
        if known.kind == "target":
            assert verdicts[known.id].verdict == "unavailable"
            assert verdicts[known.id].remedy == known.remedy


def test_a_target_that_was_asked_for_but_is_not_installed_is_not_ok(hooks, context, fitting):
    installable = next(
        k for k in KNOWN.values() if k.kind == "target" and k.support is Support.FULL
    )
    report = check(str(fitting), ["fake", installable.id], hooks, context)
    assert [t.ok for t in report.targets] == [True, False]
    assert report.targets[1].remedy.startswith("pip install ")
    assert report.targets[1].code == "LPT-PLUG-001"
    assert not report.ok


def test_no_way_is_impossible_with_the_edges_that_there_are(fake_registry, context, fitting):
    class Nothing:
        pass

    fake_registry.register(Nothing(), TargetInfo("island", "Island", "x", artifact="island"))
    report = check(str(fitting), ["island"], Hooks(fake_registry), context)
    (target,) = report.targets
    assert (target.verdict, target.code) == ("impossible", "LPT-PLAN-001")
    assert any("fake-graph -> fake" in reason for reason in target.reasons)


def test_a_device_that_is_not_there(hooks, context, fitting):
    report = check(str(fitting), ["fake:abacus"], hooks, context)
    (target,) = report.targets
    assert target.verdict == "impossible"
    assert "abacus" in target.reasons[0]
    assert "cpu" in target.reasons[0]


@pytest.mark.parametrize(
    ("source", "targets", "error"),
    [
        ("net.fake", ["fak"], UnknownTargetError),
        ("nowhere.fake", ["fake"], SourceError),
        ("model.onnx", ["fake"], PluginNotInstalledError),
    ],
)
def test_what_cannot_be_checked_at_all(
    hooks, context, tmp_path, monkeypatch, source, targets, error
):
    monkeypatch.chdir(tmp_path)
    if source != "nowhere.fake":
        (tmp_path / source).write_text("{}")
    with pytest.raises(error) as caught:
        check(source, targets, hooks, context)
    assert caught.value.remedy


def test_an_unknown_target_stops_before_the_source_is_read(hooks, context):
    with pytest.raises(UnknownTargetError):
        check("nowhere.fake", ["fake", "fak"], hooks, context)


def test_problems_of_the_source_stop_every_conversion(registry, context, fitting):
    """A target that sees nothing wrong does not help if the way to it is blocked."""
    from lepton_core.markers import hookimpl
    from lepton_core.testing import fake_target
    from lepton_core.types import CheckResult

    class Plugin:
        @hookimpl
        def lepton_inspect(self, model, request, context):
            found = fake_target.lepton_inspect(model, request, context)
            use = OperatorUse("aten.weird.default", 1, "net.py:31 in forward", False, "no rule")
            return replace(found, operators=(use,))

        @hookimpl
        def lepton_check(self, model, request, context):
            return CheckResult("fits", precisions=("fp32",))

    registry.register(Plugin(), fake_target.INFO)
    (target,) = check(str(fitting), ["fake"], Hooks(registry), context).targets
    assert target.verdict == "impossible"
    assert target.reasons == (
        "aten.weird.default at net.py:31 in forward has no way to the pivot: no rule",
    )


# --- a target whose plugin does not judge -----------------------------------------------------

INFO = TargetInfo(
    "t",
    "T",
    "d",
    precisions=("fp32",),
    constraints=Constraints(static_shapes=True, max_rank=3, forbidden_ops=("ai.onnx::If",)),
)


def inspected(shape, *operators):
    signature = Signature((TensorSpec("x", "float32", shape),), ())
    return InspectResult(Model("f", "p", signature=signature), operators)


@pytest.mark.parametrize(
    ("inspection", "verdict", "word"),
    [
        (inspected((1, 8)), "fits", ""),
        (inspected(("batch", 8)), "needs-rewrite", "batch"),
        (inspected((1, 2, 3, 4)), "impossible", "rank 4"),
        (inspected((1, 8), OperatorUse("If", 1, "net.py:3")), "impossible", "net.py:3"),
        (inspected((1, 8), OperatorUse("Conv", 1)), "fits", ""),
    ],
)
def test_declared_constraints_judge_where_the_plugin_does_not(inspection, verdict, word):
    result = judge_by_constraints(inspection, INFO)
    assert result.verdict == verdict
    assert word in " ".join(result.reasons)


def test_a_plugin_without_a_check_hook_is_judged_by_its_constraints(registry, context, fitting):
    from lepton_core.markers import hookimpl
    from lepton_core.testing import fake_target

    class Plugin:
        @hookimpl
        def lepton_inspect(self, model, request, context):
            return fake_target.lepton_inspect(model, request, context)

    strict = Constraints(static_shapes=True)
    registry.register(Plugin(), replace(fake_target.INFO, constraints=strict))
    (target,) = check(str(fitting), ["fake"], Hooks(registry), context).targets
    assert target.verdict == "needs-rewrite"
    assert "batch" in target.reasons[0]
