"""Calling hooks: one owner, its wrappers, checked results."""

from __future__ import annotations

import os
import time
import warnings

import pytest

from lepton_core import types
from lepton_core.capabilities import (
    Backend,
    Capability,
    Edge,
    ExtensionInfo,
    Opens,
    SourceFormat,
    Support,
    TargetInfo,
)
from lepton_core.dispatch import Hooks
from lepton_core.errors import (
    ConversionError,
    OperationCancelledError,
    PluginConflictError,
    PluginDependencyError,
    PluginFailureError,
    PluginNotInstalledError,
    StorageError,
    UnknownTargetError,
    UnsupportedOperationError,
)
from lepton_core.executor import LocalExecutor
from lepton_core.markers import hookimpl
from lepton_core.registry import PluginWarning

ROGUE = types.Model("rogue-source", "nowhere")


@pytest.fixture
def rogue(fakes, context):
    """Return a function that makes the rogue plugin do something in this process."""
    hooks = Hooks(fakes("rogue"))
    return lambda do, **options: hooks.convert(
        ROGUE, types.ConvertRequest("rogue", options={"do": do, **options}), context
    )


class Watch:
    """Collects stage events."""

    def __init__(self):
        self.events = []

    @hookimpl
    def lepton_stage_started(self, event):
        self.events.append(event)

    @hookimpl
    def lepton_stage_finished(self, event):
        self.events.append(event)


WATCH = ExtensionInfo("watch", "Watch", "tests", always=True)


# --- what comes back ----------------------------------------------------------------------------


def test_an_unexpected_exception_names_the_plugin_and_its_version(rogue):
    with pytest.raises(PluginFailureError) as caught:
        rogue("raise")
    error = caught.value
    assert error.code == "LPT-PLUG-010"
    assert "fake-rogue 1.0" in str(error)
    assert error.cause == "ZeroDivisionError: a fault of the plugin"
    assert isinstance(error.__cause__, ZeroDivisionError), "--debug shows the plugin's traceback"
    assert error.details == {"plugin": "rogue", "verb": "convert", "exception": "ZeroDivisionError"}


def test_a_backend_that_calls_sys_exit_does_not_end_the_program(rogue):
    with pytest.raises(ConversionError, match=r"sys\.exit") as caught:
        rogue("quit")
    assert caught.value.code == "LPT-CONV-001"
    assert isinstance(caught.value.__cause__, PluginFailureError)
    assert caught.value.__cause__.details["exception"] == "SystemExit"


def test_an_expected_failure_comes_through_as_it_is(rogue):
    with pytest.raises(ConversionError) as caught:
        rogue("expected")
    assert caught.value.code == "ROGUE-CONV-001"
    assert caught.value.details == {"operator": "Frobnicate"}


def test_a_full_disk_is_no_fault_of_the_plugin(rogue):
    with pytest.raises(StorageError) as caught:
        rogue("disk-full")
    assert caught.value.code == "LPT-IO-001"


@pytest.mark.parametrize(
    ("do", "name"), [("text", "str"), ("foreign", "_ForeignResult"), ("check", "CheckResult")]
)
def test_a_wrong_type_is_a_fault_of_the_plugin(rogue, do, name):
    with pytest.raises(PluginFailureError) as caught:
        rogue(do)
    assert caught.value.code == "LPT-PLUG-011"
    for word in (name, "ConvertResult", "fake-rogue 1.0"):
        assert word in str(caught.value)


def test_none_means_not_mine(rogue):
    with pytest.raises(UnsupportedOperationError) as caught:
        rogue("decline")
    assert caught.value.code == "LPT-OP-002"
    assert caught.value.details["support"] == "unknown"


def test_what_is_no_session_is_a_fault_of_the_plugin(fakes, context):
    hooks = Hooks(fakes("rogue"))
    with pytest.raises(PluginFailureError) as caught:
        hooks.open(types.Model("rogue", "x"), types.OpenRequest("rogue"), context)
    assert caught.value.code == "LPT-PLUG-011"


# --- observers and wrappers ---------------------------------------------------------------------


def test_stage_events_tell_what_happened(fakes, context):
    registry = fakes("rogue")
    watch = Watch()
    registry.register(watch, WATCH)
    hooks = Hooks(registry)
    hooks.convert(ROGUE.evolve(digest="sha256:1"), types.ConvertRequest("rogue"), context)
    started, finished = watch.events
    assert started == types.StageEvent("convert", "rogue", "rogue", "sha256:1")
    assert (finished.status, finished.error_code) == ("ok", None)
    assert finished.seconds > 0


@pytest.mark.parametrize(
    ("do", "code"),
    [
        ("expected", "ROGUE-CONV-001"),
        ("raise", "LPT-PLUG-010"),
        ("disk-full", "LPT-IO-001"),
        ("text", "LPT-PLUG-011"),
        ("decline", "LPT-OP-002"),
    ],
)
def test_a_stage_that_fails_is_never_announced_as_ok(fakes, context, do, code):
    registry = fakes("rogue")
    watch = Watch()
    registry.register(watch, WATCH)
    with pytest.raises(Exception, match=code):
        Hooks(registry).convert(
            ROGUE, types.ConvertRequest("rogue", options={"do": do}), context
        )  # fmt: skip
    assert [e.status for e in watch.events] == ["started", "failed"]
    assert watch.events[1].error_code == code


def test_an_observer_that_fails_is_a_warning_and_stops_nothing(fakes, context, plugin_warnings):
    registry = fakes("rogue", "observer")
    watch = Watch()
    registry.register(watch, WATCH)
    with plugin_warnings() as warned:
        result = Hooks(registry).convert(ROGUE, types.ConvertRequest("rogue"), context)
    assert result.model.format == "rogue"
    assert len(watch.events) == 2, "other observers are still told"
    texts = [str(w.message) for w in warned]
    assert len(texts) == 2
    assert "cannot observe convert" in texts[0]
    assert "SystemExit" in texts[1]


def test_a_wrapper_goes_around_the_owner(fakes, context):
    result = Hooks(fakes("rogue", "wrapper")).convert(ROGUE, types.ConvertRequest("rogue"), context)
    assert result.facts["wrapped_in"] == os.getpid()


def test_a_step_goes_to_its_owner_and_to_nobody_else(fakes, context):
    registry = fakes("rogue", "ok")
    registry.load("fake")  # its lepton_convert is registered, too

    class Loud:
        @hookimpl
        def lepton_convert(self, model, request, context):
            raise AssertionError("asked though it owns nothing")

    registry.register(Loud(), TargetInfo("loud", "Loud", "tests"))
    result = Hooks(registry).convert(ROGUE, types.ConvertRequest("rogue"), context)
    assert result.model.format == "rogue"


def test_each_step_gets_the_options_that_are_meant_for_it(fakes, context):
    """The last one gets what no other names, and refuses what it does not know."""
    seen = {}

    class Steps:
        @hookimpl
        def lepton_convert(self, model, request, context):
            seen[request.to_format] = dict(request.options)
            return types.ConvertResult(types.Model(request.to_format, model.path))

    registry = fakes("ok")
    edges = (
        Edge("first", "middle", isolated=False, options=("early",)),
        Edge("middle", "last", isolated=False),
    )
    registry.register(Steps(), TargetInfo("steps", "Steps", "tests", edges=edges, artifact="last"))
    options = {"early": 1, "late": 2}
    model = types.Model("first", ROGUE.path)
    Hooks(registry).convert(model, types.ConvertRequest("steps", options=options), context)
    assert seen == {"middle": {"early": 1}, "last": {"late": 2}}
    Hooks(registry).convert(
        model, types.ConvertRequest("steps", "middle", options=options), context
    )
    assert seen["middle"] == options
    model = types.Model("middle", ROGUE.path)
    Hooks(registry).convert(model, types.ConvertRequest("steps", options=options), context)
    assert seen["last"] == options, "a step that is not on the path takes nothing away"


@pytest.mark.parametrize("isolated", [True, False])
def test_isolated_conversions_without_a_worker_come_one_at_a_time(fakes, context, isolated):
    """In an engine's worker there is none; torch.export in two threads raised, or took stderr."""
    together, most = [], []

    class Steps:
        @hookimpl
        def lepton_convert(self, model, request, context):
            together.append(1)
            time.sleep(0.1)
            most.append(len(together))
            together.pop()
            return types.ConvertResult(types.Model("last", model.path))

    registry = fakes("ok")
    edges = (Edge("first", "last", isolated=isolated),)
    registry.register(Steps(), TargetInfo("steps", "Steps", "tests", edges=edges, artifact="last"))
    hooks, model = Hooks(registry), types.Model("first", ROGUE.path)

    def convert(_):
        return hooks.convert(model, types.ConvertRequest("steps"), context)

    with LocalExecutor(2) as executor:
        assert len(executor.map(convert, range(2))) == 2
    assert max(most) == (1 if isolated else 2)


# --- owners -------------------------------------------------------------------------------------


def test_two_owners_of_one_edge_are_an_error_and_the_rest_works(fakes, context):
    registry = fakes("ok", "same_edge", "rogue")
    hooks = Hooks(registry)
    with pytest.raises(PluginConflictError) as caught:
        hooks.convert(types.Model("fake-graph", "x"), types.ConvertRequest("fake"), context)
    assert caught.value.code == "LPT-PLUG-008"
    for name in ("fake", "same-edge"):
        assert name in caught.value.cause
    assert hooks.convert(ROGUE, types.ConvertRequest("rogue"), context).model.format == "rogue"


def test_two_readers_of_one_format_are_a_conflict(fakes):
    hooks = Hooks(fakes("ok", "same_edge"))
    with pytest.raises(PluginConflictError) as caught:
        hooks.source_owner("fake-graph")
    assert caught.value.code == "LPT-PLUG-012"
    assert "same-edge" in str(caught.value)


def test_two_engines_of_one_name_are_a_conflict(registry):
    for name in ("a", "b"):
        registry.register(object(), ExtensionInfo(name, name, f"lepton-{name}", engine="tune"))
    with pytest.raises(PluginConflictError) as caught:
        Hooks(registry).engine_owner("optimize", "tune")
    assert caught.value.code == "LPT-PLUG-012"


def test_engine_owner_by_engine_or_by_plugin_name(registry):
    registry.register(object(), ExtensionInfo("acme-tune", "T", "lepton-acme", engine="tune"))
    registry.register(object(), TargetInfo("acme", "A", "lepton-acme"))
    hooks = Hooks(registry)
    assert hooks.engine_owner("optimize", "tune") == "acme-tune"
    assert hooks.engine_owner("optimize", "acme") == "acme"


@pytest.mark.parametrize(("engine", "support"), [("compress", "full"), ("nobodys", "unknown")])
def test_an_engine_that_is_not_installed_says_how_far_it_is(registry, context, engine, support):
    with pytest.raises(PluginNotInstalledError) as caught:
        Hooks(registry).optimize(
            ROGUE, types.OptimizeRequest("x", engine), context
        )  # fmt: skip
    assert caught.value.details["support"] == support


def test_the_yardstick_is_the_best_ranked_that_can_run(registry):
    opens = {"a": Opens("m", 5), "b": Opens("m", 1), "c": Opens("m"), "d": Opens("m", 0)}
    absent = Backend("nowhere", ("a-package-that-is-nowhere",))
    for name, one in opens.items():
        backends = (absent,) if name == "d" else ()
        info = TargetInfo(name, name, "tests", opens=(one,), backends=backends)
        registry.register(object(), info)
    hooks = Hooks(registry)
    assert hooks.reference_owner("m") == "b"
    with pytest.raises(PluginNotInstalledError) as caught:
        hooks.reference_owner("other")
    assert caught.value.code == "LPT-PLUG-009"


def test_a_missing_backend_says_what_to_install_before_importing(fakes, context):
    import sys

    hooks = Hooks(fakes("missing_backend"))
    with pytest.raises(PluginDependencyError) as caught:
        hooks.call("open", "missing-backend", ROGUE, types.OpenRequest("missing-backend"), context)
    assert 'pip install "nowhere[cpu]"' in caught.value.remedy
    assert "fake_missing_backend.plugin" not in sys.modules


def test_a_backend_of_a_wrong_version(registry, context):
    import pluggy

    backend = Backend("pluggy", ("pluggy",), "<1")
    registry.register(object(), TargetInfo("old", "Old", "tests", backends=(backend,)))
    with pytest.raises(PluginDependencyError) as caught:
        Hooks(registry).call("open", "old", ROGUE, types.OpenRequest("old"), context)
    with pytest.raises(PluginDependencyError, match=str(caught.value.message)[:20]):
        registry.require("old")
    for word in ("<1", pluggy.__version__):
        assert word in str(caught.value)


@pytest.mark.parametrize(("versions", "works"), [(">=1", True), ("<1", False)])
def test_a_fallback_does_where_a_backend_is_missing(registry, versions, works):
    other = Backend("pluggy", ("pluggy",), versions)
    wanted = Backend("nowhere", ("a-package-that-is-nowhere",), ">=9", fallbacks=(other,))
    registry.register(object(), TargetInfo("either", "Either", "tests", backends=(wanted,)))
    if works:
        registry.require("either")
        return
    with pytest.raises(PluginDependencyError) as caught:
        registry.require("either")
    assert "pluggy <1" in caught.value.message


def test_a_declared_lack_is_said_without_asking_the_plugin(registry, context):
    info = TargetInfo(
        "half", "Half", "tests",
        capabilities={"open": Capability(Support.NOT_IMPLEMENTED, note="next year")},
        opens=(Opens("m"),),
    )  # fmt: skip
    registry.register(object(), info)
    with pytest.raises(UnsupportedOperationError) as caught:
        Hooks(registry).open(types.Model("m", "x"), types.OpenRequest("half"), context)
    assert caught.value.code == "LPT-OP-001"
    assert caught.value.cause == "next year"
    assert caught.value.details["support"] == "not-implemented"


def test_opening_a_format_that_the_target_does_not_run(fake_registry, context):
    with pytest.raises(UnsupportedOperationError) as caught:
        Hooks(fake_registry).open(types.Model("onnx", "x"), types.OpenRequest("fake"), context)
    assert caught.value.code == "LPT-OP-003"
    assert "fake-graph" in caught.value.cause


@pytest.mark.parametrize("verb", ["open", "convert", "check", "adapt"])
def test_a_misspelt_target_is_suggested_by_every_verb(fake_registry, context, verb):
    requests = {
        "open": types.OpenRequest("fakke"),
        "convert": types.ConvertRequest("fakke"),
        "check": types.CheckRequest("fakke", types.InspectResult(ROGUE)),
        "adapt": types.AdaptRequest("fakke"),
    }
    with pytest.raises(UnknownTargetError) as caught:
        getattr(Hooks(fake_registry), verb)(ROGUE, requests[verb], context)
    assert caught.value.details["nearest"] == ["fake"]


def test_what_is_no_verb(fake_registry, context):
    with pytest.raises(ValueError, match="not a verb"):
        Hooks(fake_registry).call("polish", "fake", ROGUE, object(), context)


def test_no_reader_for_a_format(registry, context):
    with pytest.raises(PluginNotInstalledError, match="unheard-of"):
        Hooks(registry).inspect(types.Model("unheard-of", "x"), types.InspectRequest(), context)


# --- several steps ------------------------------------------------------------------------------


class Chain:
    """Owns a -> b -> c and notes its surroundings."""

    def __init__(self):
        self.seen = []

    @hookimpl
    def lepton_convert(self, model, request, context):
        self.seen.append((model.format, request.to_format, context))
        assert not list(context.workdir.iterdir()), "a step finds its place empty"
        (context.workdir / "model").write_text(request.to_format)
        return types.ConvertResult(
            model.evolve(format=request.to_format, path=str(context.workdir / "model")),
            {request.to_format: True},
            (f"warning of {request.to_format}",),
        )


CHAIN = TargetInfo(
    "chain", "Chain", "tests", artifact="c",
    edges=(Edge("a", "b"), Edge("b", "c", ("fp32", "fp16"))),
    sources=(SourceFormat("a", "A"),),
)  # fmt: skip


def test_convert_walks_the_whole_path(registry, context):
    chain = Chain()
    registry.register(chain, CHAIN)
    hooks = Hooks(registry)
    result = hooks.convert(types.Model("a", "x"), types.ConvertRequest("chain"), context)
    assert [(a, b) for a, b, _ in chain.seen] == [("a", "b"), ("b", "c")]
    assert result.facts == {"b": True, "c": True}
    assert result.warnings == ("warning of b", "warning of c")
    assert result.model.path.startswith(str(context.workdir))
    assert all(c.hooks is hooks for _, _, c in chain.seen)


def test_to_format_stops_on_the_way(registry, context):
    chain = Chain()
    registry.register(chain, CHAIN)
    request = types.ConvertRequest("chain", to_format="b")
    assert Hooks(registry).convert(types.Model("a", "x"), request, context).model.format == "b"


def test_convert_stops_between_steps_when_asked(registry, context):
    import threading
    from dataclasses import replace

    event = threading.Event()

    class Stopping(Chain):
        @hookimpl
        def lepton_convert(self, model, request, context):
            event.set()
            return types.ConvertResult(model.evolve(format=request.to_format))

    registry.register(Stopping(), CHAIN)
    with pytest.raises(OperationCancelledError):
        Hooks(registry).convert(
            types.Model("a", "x"),
            types.ConvertRequest("chain"),
            replace(context, cancelled=event),
        )


def test_programs_call_the_default_hooks(monkeypatch, fakes, context):
    from lepton_core import hooks

    monkeypatch.setenv("LEPTON_ISOLATION", "0")
    assert hooks.default() is hooks.default()
    assert hooks.default().pool is None
    mine = Hooks(fakes("rogue"))
    old = hooks.use(mine)
    assert hooks.default() is mine
    assert hooks.convert(ROGUE, types.ConvertRequest("rogue"), context).facts["pid"] == os.getpid()
    assert hooks.use(old) is mine


def test_workers_of_the_default_hooks_end_with_the_test(fakes, context):
    """Its end fails otherwise: the guard for child processes looks after ``fresh_hooks``."""
    from lepton_core import hooks
    from lepton_core.workers import WorkerPool

    hooks.use(Hooks(fakes("rogue"), WorkerPool()))
    assert hooks.convert(ROGUE, types.ConvertRequest("rogue"), context).facts["pid"] != os.getpid()


def test_no_warning_when_all_is_well(fakes, context):
    with warnings.catch_warnings():
        warnings.simplefilter("error", PluginWarning)
        Hooks(fakes("rogue", "wrapper")).convert(ROGUE, types.ConvertRequest("rogue"), context)
