"""Rewrites as declared data: who brings them, what a target asks for, how a port adapts."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from lepton_core import rewrites, sources, types
from lepton_core._adapt_step import AdaptStep
from lepton_core.capabilities import Constraints, ExtensionInfo, Rewrite
from lepton_core.dispatch import Hooks
from lepton_core.errors import PluginConflictError, SessionError, UsageError
from lepton_core.porting import port
from lepton_core.preflight import check
from lepton_core.testing import fake_target
from lepton_core.testing.fake_target import write_graph
from lepton_core.types import OperatorUse, Signature, TensorSpec

FIX = Rewrite("fix", "fixes sizes", ("f",), fixes_shapes=True)
FOLD = Rewrite("fold", "folds", ("f",), removes=("aten.batch_norm",), standard=True)
FORM = Rewrite("form", "writes anew", ("f",), removes=("aten.batch_norm", "aten.silu"))
ALL = (FIX, FOLD, FORM)


# --- who brings them ----------------------------------------------------------------------------


def test_a_plugin_brings_rewrites_for_the_format_of_another_and_nothing_is_imported(fakes):
    registry = fakes("rewrites")
    registry.register(fake_target, fake_target.INFO)
    found = rewrites.offers(registry, "fake-graph")
    assert [(o.rewrite.name, o.distribution) for o in found] == [
        ("fold-scale", "lepton-core"), ("drop-relu", "fake-rewrites"),
    ]  # fmt: skip
    assert "fake_rewrites.info" in sys.modules
    assert not {"fake_rewrites.plugin", "fake_rewrites.work"} & set(sys.modules)
    rewrites.check_names(("drop-relu",), "fake-graph", registry)


def test_a_plugin_that_is_switched_off_brings_nothing(fakes):
    registry = fakes("rewrites", LEPTON_DISABLED_PLUGINS="rewrites")
    assert rewrites.offers(registry) == ()


def test_a_broken_plugin_does_not_stop_the_others(fakes, plugin_warnings):
    with plugin_warnings() as found:
        registry = fakes("rewrites", "other_id")
        assert [o.rewrite.name for o in rewrites.offers(registry)] == ["drop-relu"]
    assert found


def test_the_owner_of_the_format_comes_first(registry):
    extra = ExtensionInfo("a", "A", "a", rewrites=(replace(FORM, formats=("fake-graph",)),))
    registry.register(object(), extra)
    registry.register(fake_target, fake_target.INFO)
    names = [o.rewrite.name for o in rewrites.offers(registry, "fake-graph")]
    assert names == ["fold-scale", "form"]


def test_one_name_from_two_plugins_is_a_conflict(registry):
    for name in "ab":
        registry.register(object(), ExtensionInfo(name, name, f"dist-{name}", rewrites=(FORM,)))
    with pytest.raises(PluginConflictError, match="form") as caught:
        rewrites.offers(registry)
    assert caught.value.code == "LPT-ADAPT-002"
    assert "dist-a" in caught.value.cause
    assert "dist-b" in caught.value.cause


def test_an_unknown_name_suggests_the_nearest_and_a_foreign_one_says_what_it_is_for(fakes):
    registry = fakes("rewrites")
    with pytest.raises(UsageError) as caught:
        rewrites.check_names(("drop-rellu",), "fake-graph", registry)
    assert "Did you mean drop-relu?" in caught.value.remedy
    with pytest.raises(UsageError) as caught:
        rewrites.check_names(("drop-relu",), "onnx", registry)
    assert "drop-relu works on fake-graph" in caught.value.cause


# --- what a target asks for ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator", "pattern", "same"),
    [
        ("ai.onnx::If", "If", True),
        ("ai.onnx::If", "ai.onnx::If", True),
        ("ai.onnx::IfElse", "If", False),
        ("aten.silu.default", "aten.silu", True),
        ("aten.silu_.default", "aten.silu", True),
        ("aten.silu.default", "aten.silu.default", True),
        ("aten.silu.default", "aten.silu.out", False),
        ("aten.silu_backward.default", "aten.silu", False),
        ("aten._native_batch_norm_legit.no_stats", "aten._native_batch_norm_legit", True),
        ("scale", "scale", True),
    ],
)
def test_names_of_operators(operator, pattern, same):
    assert rewrites.matches(operator, pattern) is same


def test_what_is_broken_and_what_cures_it():
    operators = (
        OperatorUse("aten.batch_norm.default", 3, "net.py:5 in forward"),
        OperatorUse("aten.silu.default", 1),
        OperatorUse("aten.erfinv.default", 1, "net.py:7 in forward"),
        OperatorUse("aten.relu.default", 9),
    )
    signature = Signature((TensorSpec("x", "float32", ("batch", 3)),), ())
    limits = Constraints(
        static_shapes=True,
        forbidden_ops=("aten.batch_norm", "aten.silu.default", "aten.erfinv"),
    )
    found = rewrites.broken_constraints(operators, signature, limits, ALL)
    assert [b.rewrites for b in found] == [("fix",), ("fold", "form"), ("form",), ()]
    assert "batch" in found[0].reason
    assert "3 times, first at net.py:5 in forward" in found[1].reason


@pytest.mark.parametrize(
    ("constraints", "symbolic", "may"),
    [
        (Constraints(), True, False),
        (Constraints(forbidden_ops=("Det",)), True, False),
        (Constraints(forbidden_ops=("aten.silu",)), False, True),
        (Constraints(forbidden_ops=("aten.silu.default",)), False, True),
        (Constraints(static_shapes=True), True, True),
        (Constraints(static_shapes=True), False, False),
        (Constraints(rewrites=("fold",)), False, True),
    ],
)
def test_whether_a_target_may_ask_at_all(constraints, symbolic, may):
    assert rewrites.may_apply(constraints, ALL, symbolic=symbolic) is may


def test_when_in_words():
    assert rewrites.when(FOLD) == "for every target"
    assert "static shapes" in rewrites.when(FIX)
    assert "aten.silu" in rewrites.when(FORM)
    assert rewrites.asked_by(FORM, Constraints(forbidden_ops=("aten.silu",))) == "forbids aten.silu"
    assert rewrites.asked_by(FORM, Constraints()) == ""
    assert FOLD.numbers == "exact"
    assert replace(FOLD, tolerance=1e-5).numbers == "within 1e-05"


# --- check and port -----------------------------------------------------------------------------


def test_check_names_the_rewrites(fake_registry, context, graph_file):
    (target,) = check(str(graph_file), ["fake"], Hooks(fake_registry), context).targets
    assert target.verdict == "needs-rewrite"
    assert target.rewrites == ("fold-scale",)
    assert target.to_dict()["rewrites"] == ["fold-scale"]


def test_check_says_more_than_a_plugin_that_knows_nothing_of_its_constraints(
    registry, context, tmp_path
):
    class Careless:
        INFO = fake_target.INFO
        lepton_inspect = staticmethod(fake_target.lepton_inspect)

    registry.register(Careless(), fake_target.INFO)
    path = write_graph(tmp_path / "n.fake", 2, [{"op": "scale", "factor": 2.0}])
    (target,) = check(str(path), ["fake"], Hooks(registry), context).targets
    assert target.verdict == "needs-rewrite"
    assert target.reasons[0].startswith("rewrite fold-scale: scale cannot be run")


@pytest.fixture
def samples(tmp_path):
    path = tmp_path / "samples.npz"
    rng = np.random.default_rng(0)
    np.savez(path, x=rng.normal(size=(64, 6)).astype("float32"))
    return path


def test_port_adapts_what_its_target_forbids_and_keeps_the_source_as_the_yardstick(
    fake_registry, graph_file, samples, tmp_path
):
    result = port(
        graph_file,
        targets=["fake"],
        samples=samples,
        precisions=["fp32", "fp16"],
        out=tmp_path / "out",
        latency_seconds=0,
        hooks=Hooks(fake_registry),
    )
    assert result.exit_code() == 0
    for variant in result.variants:
        steps = [step["step"] for step in variant.passport["variant"]["lineage"]]
        assert steps == ["adapt", "convert fake-graph -> fake"]
        assert variant.passport["source"]["digest"] == result.source["digest"]
        assert variant.passport["source"]["lineage"] == []
        limit = 1e-5 if variant.precision == "fp32" else 1e-3
        assert variant.passport["outputs"]["y"]["rel_l2"] < limit


def test_targets_of_one_family_are_adapted_once(fake_registry, graph_file, context, samples):
    from lepton_core.samples import load_samples

    hooks = Hooks(fake_registry)
    calls = []
    real = hooks.adapt
    hooks.adapt = lambda *a: calls.append(a) or real(*a)
    for name, more in (("second", ()), ("third", ("other.op",)), ("fourth", ())):
        limits = Constraints(forbidden_ops=("scale", *more), static_shapes=name == "fourth")
        info = replace(
            fake_target.INFO, id=name, sources=(), rewrites=(), edges=(), constraints=limits
        )
        fake_registry.register(object(), info)
    step = AdaptStep(hooks)
    model = hooks.inspect(
        types.Model("fake-graph", str(graph_file)), types.InspectRequest(), context
    )

    def place(name):
        folder = context.workdir / f"{name}-{len(calls)}"
        folder.mkdir()
        return replace(context, workdir=folder)

    rows = load_samples(str(samples))
    made = {
        t: step.make(model.model, t, rows, place) for t in ("fake", "second", "third", "fourth")
    }
    assert len(calls) == 2, "static shapes make another family, a foreign operator does not"
    assert made["fake"] is made["second"] is made["third"]
    assert calls[1][1].shapes == {"batch": 1}


def test_what_cannot_be_adapted_is_one_targets_failure(fake_registry, tmp_path):
    path = write_graph(tmp_path / "n.fake", 2, [{"op": "scale", "factor": 2.0}, {"op": "relu"}])
    with pytest.raises(Exception, match="cannot be folded"):
        port(path, targets=["fake"], out=tmp_path / "out", hooks=Hooks(fake_registry))
    assert not (tmp_path / "out").exists()


# --- what adapt wrote is a model ----------------------------------------------------------------


@pytest.fixture
def adapted(fake_registry, context, graph_file):
    """A directory as ``lepton adapt`` leaves it."""
    from lepton_core.built import write_marker

    hooks = Hooks(fake_registry)
    model = hooks.inspect(
        types.Model("fake-graph", str(graph_file)), types.InspectRequest(), context
    ).model
    made = hooks.adapt(model, types.AdaptRequest("fake"), context).model
    where = context.workdir
    return write_marker(where, where, made, kind="adapt", target="fake", precision="")


def test_a_directory_or_file_that_adapt_wrote_is_a_source_with_its_history(adapted, fake_registry):
    for text in (adapted.path, str(adapted.path).rpartition("/")[0]):
        model = sources.resolve(text, fake_registry)
        assert model.format == "fake-graph"
        assert [step.step for step in model.lineage] == ["adapt"]
        assert model.digest == adapted.digest


def test_an_adapted_file_that_was_changed_is_refused(adapted, fake_registry):
    with open(adapted.path, "a") as file:
        file.write(" ")
    with pytest.raises(SessionError) as caught:
        sources.resolve(adapted.path, fake_registry)
    assert caught.value.code == "LPT-RUN-003"


def test_port_takes_the_object_and_the_directory(adapted, fake_registry, tmp_path):
    folder = str(adapted.path).rpartition("/")[0]
    for number, source in enumerate((adapted, folder)):
        result = port(
            source, targets=["fake"], out=tmp_path / str(number), latency_seconds=0,
            hooks=Hooks(fake_registry),
        )  # fmt: skip
        passport = result["fake"].best.passport
        assert [s["step"] for s in passport["source"]["lineage"]] == ["adapt"]


def test_a_result_in_a_format_that_nobody_reads_is_no_source(adapted, fake_registry, tmp_path):
    marker = tmp_path / "work" / "lepton.json"
    data = json.loads(marker.read_text())
    data["model"]["format"] = "strange"
    marker.write_text(json.dumps(data))
    assert sources.resolve(adapted.path, fake_registry).lineage == ()
