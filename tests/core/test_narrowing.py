"""Errors that name no operator: what parts of the graph tell, and what stops the search."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import lepton_core.workers
from lepton_core.capabilities import TargetInfo
from lepton_core.context import Context
from lepton_core.errors import (
    ConversionError,
    OperationCancelledError,
    PluginFailureError,
    WorkerCrashError,
    WorkerMemoryError,
    WorkerTimeoutError,
)
from lepton_core.narrowing import NARROW, VARIABLE, Narrowed, SpentError, kind_of, narrowed
from lepton_core.types import ConvertRequest, Limits, Model

CRASH = WorkerCrashError("LPT-WORK-003", "The worker ended by signal 11")
REFUSED = ConversionError("LPT-CONV-402", "cannot convert the model")
INFO = TargetInfo("any", "Any", "tests", narrow="narrow_fake:search")
REQUEST = ConvertRequest("any")


def after(error, cause=None):
    """Return an error without an operator, as what ended the worker leads to it."""
    made = ConversionError(error.code, error.message, remedy="Try.", details={NARROW: True})
    made.__cause__ = cause
    return made


@pytest.fixture
def setting(monkeypatch, tmp_path):
    """A pool whose conversions end as is said, and a search of a given kind."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    made = SimpleNamespace(calls=[], raises=CRASH, place=place, closed=0, search=None)

    class Pool:
        def call(self, verb, owner, model, request, context):
            made.calls.append((verb, owner, model.path, context.limits.seconds))
            folder = tempfile.mkdtemp(prefix="lepton-any-")
            if made.raises is not None and "bad" in Path(model.path).name:
                error = type(made.raises)(made.raises.code, made.raises.message)
                error.details["reproducer"] = folder
                raise error
            Path(folder).rmdir()

        def close(self):
            made.closed += 1

    module = ModuleType("narrow_fake")

    def search(model, request, folder, fails):
        return made.search(model, request, folder, fails)

    module.search = search
    monkeypatch.setitem(sys.modules, "narrow_fake", module)
    monkeypatch.setattr(lepton_core.workers, "WorkerPool", Pool)
    hooks = SimpleNamespace(
        pool=object(), registry=SimpleNamespace(record=lambda name: SimpleNamespace(entry="any"))
    )
    made.context = Context(tmp_path, hooks=hooks)
    return made


def parts(*names):
    """Return a search that tries files of these names, and takes the last that fails."""

    def search(model, request, folder, fails):
        found = None
        for name in names:
            part = folder / name
            part.write_bytes(name.encode())
            if fails(model.evolve(path=str(part)), request):
                found = Narrowed(
                    "Pool", "node 'p'", ("p",), 8, model.evolve(path=str(part)), request
                )
        return found

    return search


def call(setting, error, **limits):
    context = setting.context
    if limits:
        context = Context(context.workdir, hooks=context.hooks, limits=Limits(**limits))
    return narrowed(error, INFO, Model("pivot", "whole.onnx"), REQUEST, context)


@pytest.mark.parametrize(
    ("error", "raises"), [(after(CRASH, CRASH), CRASH), (after(REFUSED), REFUSED)]
)
def test_the_operator_is_named_and_the_part_is_kept(setting, error, raises):
    setting.search, setting.raises = parts("good.onnx", "bad.onnx"), raises
    found = call(setting, error)
    assert found.code == error.code
    assert "at the operator 'Pool' (node 'p')" in found.message
    assert "2 parts" in found.cause
    assert "1 of its 8 nodes" in found.cause
    assert (found.details["operator"], found.details["parts_tried"]) == ("Pool", 2)
    assert NARROW not in found.details
    folder = Path(found.details["reproducer"])
    assert (folder / "bad.onnx").read_bytes() == b"bad.onnx"
    assert str(folder) in found.remedy
    assert [p.name for p in setting.place.iterdir()] == [folder.name], "parts leave nothing behind"
    assert setting.closed == 1
    assert all(verb == "convert" and owner == "any" for verb, owner, *_ in setting.calls)


@pytest.mark.parametrize(
    ("raises", "cause"),
    [
        (REFUSED, CRASH),
        (WorkerMemoryError("LPT-WORK-002", "memory"), CRASH),
        (CRASH, None),
        (ConversionError("LPT-CONV-111", "other"), None),
    ],
)
def test_a_part_that_fails_in_another_way_says_nothing(setting, raises, cause):
    error = after(CRASH, cause) if cause else after(REFUSED)
    setting.search, setting.raises = parts("bad.onnx"), raises
    assert call(setting, error) is error
    assert len(setting.calls) == 1


@pytest.mark.parametrize(
    "raises",
    [
        WorkerCrashError("LPT-WORK-005", "could not be started"),
        WorkerTimeoutError("LPT-WORK-001", "took too long"),
    ],
)
def test_workers_that_do_not_start_or_take_too_long_end_the_search(setting, raises):
    def search(model, request, folder, fails):
        with pytest.raises(SpentError):
            parts("bad.onnx")(model, request, folder, fails)

    setting.search, setting.raises = search, raises
    error = after(CRASH, CRASH)
    assert call(setting, error) is error


def test_the_budget_and_the_limits_bound_each_part(setting, monkeypatch):
    monkeypatch.setenv(VARIABLE, "50")
    setting.search = parts("bad.onnx", "bad.onnx")
    call(setting, after(CRASH, CRASH))
    assert all(40 < seconds <= 50 for *_, seconds in setting.calls)
    setting.calls.clear()
    call(setting, after(CRASH, CRASH), seconds=7.0)
    assert [seconds for *_, seconds in setting.calls] == [7.0, 7.0]
    monkeypatch.setenv(VARIABLE, "0.01")

    def slow(model, request, folder, fails):
        time.sleep(0.02)
        with pytest.raises(SpentError):
            parts("bad.onnx")(model, request, folder, fails)

    setting.search = slow
    setting.calls.clear()
    call(setting, after(CRASH, CRASH))
    assert not setting.calls


def test_what_the_search_runs_into_does_not_hide_the_failure(setting):
    def search(*arguments):
        raise ZeroDivisionError

    setting.search = search
    error = after(CRASH, CRASH)
    assert call(setting, error) is error

    def stopped(*arguments):
        raise OperationCancelledError("LPT-STOP-001", "Stopped on request")

    setting.search = stopped
    with pytest.raises(OperationCancelledError):
        call(setting, error)
    assert setting.closed == 0, "no worker was asked"


@pytest.mark.parametrize(
    "cause",
    [
        WorkerTimeoutError("LPT-WORK-001", "time"),
        WorkerMemoryError("LPT-WORK-002", "memory"),
        WorkerCrashError("LPT-WORK-004", "no memory"),
    ],
)
def test_limits_are_not_searched_for(setting, cause):
    setting.search = parts("bad.onnx")
    error = after(CRASH, cause)
    assert call(setting, error) is error
    assert not setting.calls


def test_kinds():
    assert kind_of(CRASH) == "crash"
    left = PluginFailureError("LPT-PLUG-010", "x", details={"exception": "SystemExit"})
    assert kind_of(left) == "crash"
    assert kind_of(PluginFailureError("LPT-PLUG-010", "x")) == "LPT-PLUG-010"
    assert kind_of(REFUSED) == "LPT-CONV-402"
