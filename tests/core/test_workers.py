"""Worker processes, with real processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from lepton_core import types
from lepton_core.dispatch import Hooks
from lepton_core.errors import (
    ConversionError,
    OperationCancelledError,
    PluginBrokenError,
    PluginFailureError,
    StorageError,
    UsageError,
    WorkerCrashError,
    WorkerMemoryError,
    WorkerTimeoutError,
)

ROGUE = types.Model("rogue-source", "nowhere")
posix = pytest.mark.skipif(os.name != "posix", reason="signals and fork are POSIX")


def request(do="", **options):
    return types.ConvertRequest("rogue", options={"do": do, **options})


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Let reproducers of crashes lie below the test's folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@contextlib.contextmanager
def ended(kind, match=""):
    """Expect that a worker ends; yields what holds its error as ``value``."""
    caught = SimpleNamespace(value=None)
    with pytest.raises(ConversionError) as whole:
        yield caught
    assert whole.value.code == "LPT-CONV-001"
    caught.value = whole.value.__cause__
    assert isinstance(caught.value, kind)
    assert re.search(match, str(caught.value))


@pytest.fixture
def hooks(fakes, pool):
    return Hooks(fakes("rogue", "ok"), pool)


@pytest.fixture
def rogue(hooks, context):
    """Return a function that makes the rogue plugin do something in its worker."""

    def call(do="", limits=None, **options):
        place = replace(context, limits=limits) if limits else context
        return hooks.convert(ROGUE, request(do, **options), place)

    return call


# --- the call itself ----------------------------------------------------------------------------


def test_a_call_runs_elsewhere_and_the_process_is_reused(rogue):
    first, second = rogue().facts["pid"], rogue().facts["pid"]
    assert first == second != os.getpid()


def test_what_the_context_says_arrives(hooks, context):
    result = hooks.convert(ROGUE, request(), replace(context, seed=41))
    assert result.facts["seed"] == 41
    assert result.facts["workdir"] == str(context.workdir)


def test_progress_and_remarks_arrive(rogue, reporter):
    rogue("report")
    assert reporter.notes == ["a remark"]
    assert reporter.warnings == ["a warning"]
    (task,) = reporter.tasks
    assert (task.description, task.total, task.done, task.finished) == ("convert", 3, 3, "done")


def test_progress_that_comes_after_the_answer_confuses_nobody(rogue, reporter):
    rogue("report-later")
    assert rogue("sleep", seconds=0.5).facts["pid"]
    assert [t.description for t in reporter.tasks] == ["from a thread"]


def test_results_equal_those_in_process(fakes, pool, graph_file, context, tmp_path):
    registry = fakes("ok")
    results = []
    for number, one in enumerate((None, pool)):
        place = tmp_path / str(number)
        place.mkdir()
        hooks, here = Hooks(registry, one), replace(context, workdir=place)
        model = hooks.inspect(
            types.Model("fake-graph", str(graph_file)), types.InspectRequest(), here
        ).model
        model = hooks.adapt(model, types.AdaptRequest("fake"), here).model
        results.append(hooks.convert(model, types.ConvertRequest("fake"), here))
    here, there = results
    assert there.model.evolve(path="") == here.model.evolve(path="")
    assert there.facts == here.facts
    assert Path(there.model.path).read_bytes() == Path(here.model.path).read_bytes()


def test_wrappers_apply_around_a_remote_call(fakes, pool, context):
    hooks = Hooks(fakes("rogue", "wrapper"), pool)
    facts = hooks.convert(ROGUE, request(), context).facts
    assert facts["wrapped_in"] == os.getpid() != facts["pid"]


def test_the_plugin_is_not_imported_here(rogue):
    rogue()
    assert "fake_rogue.plugin" not in sys.modules


def test_big_messages(rogue):
    size = 20 << 20
    assert len(rogue("big", size=size).facts["big"]) == size


def test_big_requests(hooks, context):
    assert hooks.convert(ROGUE, request(ballast="x" * (20 << 20)), context).facts["pid"]


# --- failures -----------------------------------------------------------------------------------


def test_an_expected_failure_comes_back_with_its_traceback(rogue):
    with pytest.raises(ConversionError) as caught:
        rogue("expected")
    assert caught.value.code == "ROGUE-CONV-001"
    assert caught.value.details == {"operator": "Frobnicate"}
    assert "fake_rogue" in str(caught.value.__cause__), "--debug shows the worker's traceback"


def test_an_unexpected_one_names_the_plugin_and_its_version(rogue):
    with pytest.raises(PluginFailureError) as caught:
        rogue("raise")
    assert caught.value.code == "LPT-PLUG-010"
    assert "fake-rogue 1.0" in str(caught.value)
    assert "ZeroDivisionError" in caught.value.cause
    assert rogue().facts["pid"], "the worker goes on"


def test_sys_exit_in_a_worker(rogue):
    with ended(PluginFailureError) as caught:
        rogue("quit")
    assert "SystemExit" in caught.value.cause
    assert rogue().facts["pid"], "the worker goes on"


def test_a_full_disk_in_a_worker(rogue):
    with pytest.raises(StorageError) as caught:
        rogue("disk-full")
    assert caught.value.code == "LPT-IO-001"
    assert caught.value.cause.count("Errno 28") == 1


def test_out_of_memory_in_a_worker(rogue):
    with ended(WorkerCrashError) as caught:
        rogue("out-of-memory")
    assert caught.value.code == "LPT-WORK-004"


@pytest.mark.parametrize(
    ("do", "name"), [("text", "str"), ("foreign", "_ForeignResult"), ("check", "CheckResult")]
)
def test_a_wrong_type_is_a_fault_of_the_plugin_as_it_is_in_process(rogue, do, name):
    with pytest.raises(PluginFailureError) as caught:
        rogue(do)
    assert caught.value.code == "LPT-PLUG-011"
    assert name in str(caught.value)


@pytest.mark.parametrize("do", ["unencodable", "odd-details"])
def test_what_a_plugin_returns_must_be_plain(rogue, do):
    with pytest.raises((PluginFailureError, ConversionError)) as caught:
        rogue(do)
    assert not isinstance(caught.value, WorkerCrashError)
    assert "plain data" in str(caught.value) or caught.value.code == "ROGUE-CONV-002"
    assert rogue().facts["pid"], "the worker goes on"


@pytest.mark.parametrize("value", [threading.Lock(), lambda: None])
def test_what_is_not_plain_never_crosses(rogue, value):
    with pytest.raises(UsageError, match="not plain data") as caught:
        rogue(value=value)
    assert caught.value.code == "LPT-USE-002"


def test_a_broken_plugin_is_reported_by_the_worker_as_it_is_here(fakes, pool, context):
    registry = fakes("raise_at_import")
    with pytest.raises(PluginBrokenError) as caught:
        pool.call("convert", "raise-at-import", ROGUE, request(), context)
    assert caught.value.code == "LPT-PLUG-003"
    assert "fake-raise-at-import 1.0" in str(caught.value)
    assert "licence server" in str(caught.value)
    assert registry.records


# --- crashes and limits -------------------------------------------------------------------------


def test_exit_is_a_crash_with_the_captured_output(rogue):
    before = rogue().facts["pid"]
    with ended(WorkerCrashError) as caught:
        rogue("exit")
    assert caught.value.code == "LPT-WORK-003"
    assert caught.value.details == {"returncode": 7}
    assert "last words on stdout" in caught.value.cause
    assert "last words on stderr" in caught.value.cause
    assert rogue().facts["pid"] != before, "the next call gets a new process"


@posix
@pytest.mark.parametrize(("do", "number"), [("abort", 6), ("segfault", 11)])
def test_a_signal_is_a_crash(rogue, do, number):
    with ended(WorkerCrashError, match=f"signal {number}"):
        rogue(do)


@posix
def test_a_crash_is_seen_though_a_forked_child_holds_the_pipes(rogue):
    began = time.monotonic()
    with ended(WorkerCrashError, match="exit code 9"):
        rogue("fork-and-exit")
    assert time.monotonic() - began < 20


def test_time_limit(rogue):
    began = time.monotonic()
    with ended(WorkerTimeoutError, match="limit of 2 s") as caught:
        rogue("hang", limits=types.Limits(seconds=2))
    assert caught.value.code == "LPT-WORK-001"
    assert time.monotonic() - began < 10


def test_memory_limit(rogue):
    with ended(WorkerMemoryError, match="256 MiB") as caught:
        rogue("eat", limits=types.Limits(seconds=60, memory_bytes=256 << 20))
    assert caught.value.code == "LPT-WORK-002"


def test_chatter_does_not_disturb_and_is_not_kept_for_ever(rogue, pool, capfd):
    before = rogue().facts["pid"]
    for _ in range(3):
        assert rogue("chatter").facts["pid"] == before
    assert capfd.readouterr() == ("", "")
    (worker,) = pool._workers.values()
    assert os.fstat(worker._log.fileno()).st_size < 3_000_000, "chatter of answered calls goes"


# --- cancelling ---------------------------------------------------------------------------------


def test_cancelling_ends_the_worker(hooks, context):
    event = threading.Event()
    timer = threading.Timer(1.0, event.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(OperationCancelledError):
        hooks.convert(ROGUE, request("hang"), replace(context, cancelled=event))
    timer.join()
    assert time.monotonic() - began < 10


def test_closing_the_pool_stops_a_running_call(hooks, pool, context):
    timer = threading.Timer(1.0, pool.close)
    timer.start()
    with pytest.raises(OperationCancelledError):
        hooks.convert(ROGUE, request("hang"), context)
    timer.join()


def test_a_reporter_that_raises_does_not_mix_up_the_answers(hooks, context):
    class Broken:
        def note(self, text):
            raise BrokenPipeError("the terminal is gone")

    with pytest.raises(Exception, match="terminal is gone"):
        hooks.convert(ROGUE, request("report"), replace(context, reporter=Broken()))
    assert hooks.convert(ROGUE, request("big", size=3), context).facts["big"] == "xxx"


_PARENT = """
import sys, threading
from pathlib import Path
from lepton_core import types
from lepton_core.context import Context
from lepton_core.dispatch import Hooks
from lepton_core.registry import Registry
from lepton_core.workers import WorkerPool

hooks = Hooks(Registry(), WorkerPool())
request = types.ConvertRequest("rogue", options={"do": "hang"})
print("calling", flush=True)
hooks.convert(types.Model("rogue-source", "x"), request, Context(Path(sys.argv[1])))
"""


def _start_parent(tmp_path, fakes):
    """Start a program whose worker hangs; return it and the worker's pid."""
    fakes("rogue")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until = time.monotonic() + 30
    file = tmp_path / "pid"
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < until, "the worker did not start"
        assert parent.poll() is None, parent.stderr.read()
        time.sleep(0.05)
    return parent, psutil.Process(int(file.read_text()))


@posix
def test_ctrl_c_ends_the_worker_and_leaves_nothing(tmp_path, fakes):
    parent, worker = _start_parent(tmp_path, fakes)
    parent.send_signal(signal.SIGINT)
    _, stderr = parent.communicate(timeout=20)
    assert "KeyboardInterrupt" in stderr
    assert parent.returncode != 0
    psutil.wait_procs([worker], timeout=10)
    assert not worker.is_running()


@posix
def test_a_worker_ends_by_itself_when_its_caller_is_killed(tmp_path, fakes):
    parent, worker = _start_parent(tmp_path, fakes)
    parent.kill()
    parent.communicate(timeout=20)
    _, alive = psutil.wait_procs([worker], timeout=10)
    assert not alive, "the worker has outlived its caller"


# --- several at once ----------------------------------------------------------------------------


def test_two_threads_share_one_worker_in_turn(hooks, context):
    with ThreadPoolExecutor(4) as threads:
        results = list(
            threads.map(
                lambda n: hooks.convert(ROGUE, request("big", size=n), context).facts, range(1, 13)
            )
        )
    assert [len(facts["big"]) for facts in results] == list(range(1, 13))
    assert len({facts["pid"] for facts in results}) == 1


def test_a_call_that_waits_while_the_worker_is_ended_gets_a_new_one(hooks, context):
    outcomes = {}

    def hang():
        with ended(WorkerTimeoutError):
            hooks.convert(ROGUE, request("hang"), replace(context, limits=types.Limits(seconds=2)))
        outcomes["hang"] = True

    hooks.convert(ROGUE, request(), context)
    thread = threading.Thread(target=hang)
    thread.start()
    time.sleep(0.5)
    assert hooks.convert(ROGUE, request(), context).facts["pid"]
    thread.join()
    assert outcomes == {"hang": True}


def test_two_plugins_have_two_workers_at_the_same_time(hooks, pool, context, graph_file):
    source = types.Model("fake-graph", str(graph_file))
    adapted = hooks.adapt(source, types.AdaptRequest("fake"), context).model
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(hooks.convert, ROGUE, request("sleep", seconds=2), context)
        while "rogue" not in pool._workers:
            time.sleep(0.01)
        hooks.convert(adapted, types.ConvertRequest("fake"), context)
        assert not slow.done(), "neither waits for the other"
        assert slow.result().facts["pid"]
    assert set(pool._workers) == {"rogue", "fake"}


def test_closing_twice_and_using_again(hooks, pool, context):
    first = hooks.convert(ROGUE, request(), context).facts["pid"]
    pool.close()
    pool.close()
    assert not psutil.pid_exists(first)
    assert hooks.convert(ROGUE, request(), context).facts["pid"] != first


def test_a_board_crosses_the_process_border(context):
    """What a worker sends is what the caller's reporter shows; one without boards is left alone."""
    from lepton_core.context import SilentReporter
    from lepton_core.progress import show_board
    from lepton_core.workers.child import PipeReporter
    from lepton_core.workers.process import _report

    class Boards(SilentReporter):
        def __init__(self):
            self.shown = []

        def board(self, *table):
            self.shown.append(table)

    sent = []
    outlet = type("Outlet", (), {"send": staticmethod(sent.append)})
    show_board(PipeReporter(outlet), "search", ("what", "bytes"), [("best", 12)])
    reporter = Boards()
    for message in sent:
        _report(message, {}, replace(context, reporter=reporter))
        _report(message, {}, replace(context, reporter=SilentReporter()))
    assert reporter.shown == [("search", ["what", "bytes"], [["best", "12"]])]
