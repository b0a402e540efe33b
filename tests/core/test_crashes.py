"""Conversions whose process ends, with real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import types as python
from dataclasses import replace
from pathlib import Path

import pytest

from lepton_core import types
from lepton_core._proof import _reason
from lepton_core.context import SilentReporter
from lepton_core.dispatch import Hooks
from lepton_core.errors import (
    ConversionError,
    OperationCancelledError,
    PluginFailureError,
    WorkerCrashError,
    WorkerMemoryError,
    WorkerTimeoutError,
)

posix = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
ROGUE = types.Model("rogue-source", "nowhere")
FAKES = Path(__file__).parents[1] / "data" / "fake_plugins"
NET = {"width": 8, "layers": [{"op": "relu"}]}


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Let reproducers lie below the test's folder."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    return place


@pytest.fixture
def crash(fakes, pool, context):
    """Return a function that lets a conversion end in a worker; it returns the error."""
    hooks = Hooks(fakes("rogue"), pool)

    def call(do, limits=None, **options):
        place = replace(context, limits=limits) if limits else context
        request = types.ConvertRequest("rogue", options={"do": do, **options})
        with pytest.raises(ConversionError) as caught:
            hooks.convert(ROGUE, request, place)
        return caught.value

    return call


def again(folder, *fakes):
    """Run a reproducer as a user does; returns its exit code and what it printed."""
    paths = [*(str(FAKES / fake) for fake in fakes), *(p for p in sys.path if p)]
    ended = subprocess.run(
        [sys.executable, f"{folder}/convert.py"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return python.SimpleNamespace(code=ended.returncode, text=ended.stdout + ended.stderr)


@pytest.mark.parametrize(
    ("do", "how", "worker", "code", "cause"),
    [
        ("exit", "crashed", WorkerCrashError, "LPT-WORK-003", "last words on stderr"),
        pytest.param("abort", "crashed", WorkerCrashError, "LPT-WORK-003", "_abort", marks=posix),
        pytest.param(
            "segfault", "crashed", WorkerCrashError, "LPT-WORK-003", "_segfault", marks=posix
        ),
        ("quit", "ended its process", PluginFailureError, "LPT-PLUG-010", "SystemExit"),
        ("out-of-memory", "ran out of memory", WorkerCrashError, "LPT-WORK-004", ""),
    ],
)
def test_the_end_of_a_process_is_a_conversion_error(crash, do, how, worker, code, cause):
    error = crash(do)
    assert (error.code, error.exit_code) == ("LPT-CONV-001", 1)
    assert error.message == f"The converter of Rogue {how}"
    assert isinstance(error.__cause__, worker)
    assert error.__cause__.code == error.details["worker"]["code"] == code
    assert error.cause.startswith(f"{code}: ")
    assert cause in error.cause
    assert json.loads(json.dumps(error.to_dict()))["details"]["plugin"] == "rogue"


@posix
def test_a_signal_leaves_the_innermost_frame(crash):
    first, frame, *_ = crash("abort").cause.splitlines()
    assert first == "LPT-WORK-003: The worker of 'rogue' ended by signal 6."
    assert frame.startswith("It was in _abort (fake_rogue/plugin.py:")


@pytest.mark.parametrize(
    ("do", "limits", "how", "worker", "option"),
    [
        ("hang", types.Limits(seconds=2), "time", WorkerTimeoutError, "--time-limit"),
        (
            "eat", types.Limits(seconds=60, memory_bytes=256 << 20), "memory", WorkerMemoryError,
            "--mem-limit",
        ),
    ],
)  # fmt: skip
def test_a_limit_is_one_too_and_says_how_to_raise_it(crash, do, limits, how, worker, option):
    error = crash(do, limits)
    assert error.message == f"The converter of Rogue passed its {how} limit"
    assert isinstance(error.__cause__, worker)
    assert option in error.remedy


def test_other_failures_stay_what_they_are(fakes, pool, context):
    hooks = Hooks(fakes("rogue"), pool)
    for do, code in (("expected", "ROGUE-CONV-001"), ("raise", "LPT-PLUG-010")):
        with pytest.raises((ConversionError, PluginFailureError)) as caught:
            hooks.convert(ROGUE, types.ConvertRequest("rogue", options={"do": do}), context)
        assert caught.value.code == code


# --- what it was at -----------------------------------------------------------------------------


def test_the_last_word_names_the_operator(crash):
    error = crash("words-and-exit")
    assert error.message == (
        "The converter of Rogue crashed while lowering, at the operator 'Frobnicate' (net.py:31)"
    )
    assert error.details["operator"] == "Frobnicate"
    assert error.details["where"] == "net.py:31"
    assert error.details["step"] == "lowering"


def test_a_plugins_own_reproducer_is_named(crash, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    error = crash("words-and-exit", reproducer=str(own))
    assert error.details["reproducer"] == str(own)
    assert f"`python {own}/convert.py` does it again." in error.remedy


def test_a_bar_that_is_open_stands_for_a_word(crash):
    assert crash("bar-and-exit").message == (
        "The converter of Rogue crashed at the step 'fold constants'"
    )


def test_words_of_an_earlier_call_are_forgotten(fakes, pool, context, crash):
    Hooks(fakes("rogue"), pool).convert(
        ROGUE, types.ConvertRequest("rogue", options={"do": "words"}), context
    )
    assert crash("exit").message == "The converter of Rogue crashed"


def test_cancelling_takes_a_plugins_reproducer_away(fakes, pool, context, tmp_path):
    own, stop = tmp_path / "own", threading.Event()
    own.mkdir()
    request = types.ConvertRequest(
        "rogue", options={"do": "words-and-hang", "reproducer": str(own)}
    )

    def stop_it():
        until = time.monotonic() + 60
        while not (context.workdir / "pid").exists() and time.monotonic() < until:
            time.sleep(0.02)
        stop.set()

    thread = threading.Thread(target=stop_it)
    thread.start()
    with pytest.raises(OperationCancelledError):
        Hooks(fakes("rogue"), pool).convert(ROGUE, request, replace(context, cancelled=stop))
    thread.join()
    assert not own.exists()


def test_ctrl_c_takes_a_plugins_reproducer_away(fakes, pool, context, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    options = {"do": "words-and-note", "reproducer": str(own)}

    class Interrupting(SilentReporter):
        def note(self, text):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Hooks(fakes("rogue"), pool).convert(
            ROGUE,
            types.ConvertRequest("rogue", options=options),
            replace(context, reporter=Interrupting()),
        )
    assert not own.exists()


def test_an_ordinary_failure_names_no_reproducer(fakes, pool, context, tmp_path):
    """The plugin has ended in order, and taken its folder away."""
    own = tmp_path / "own"
    own.mkdir()
    options = {"do": "words-and-raise", "reproducer": str(own)}
    with pytest.raises(PluginFailureError) as caught:
        Hooks(fakes("rogue"), pool).convert(
            ROGUE, types.ConvertRequest("rogue", options=options), context
        )
    assert not own.exists()
    assert "reproducer" not in caught.value.details
    assert "convert.py" not in _reason(python.SimpleNamespace(error=caught.value))


# --- conversions inside another verb's worker ---------------------------------------------------


@pytest.fixture
def optimize(fakes, pool, context):
    """Return a function that converts in the worker of an engine, which dies of it."""
    hooks = Hooks(fakes("rogue"), pool)

    def call(do, **options):
        request = types.OptimizeRequest("rogue", "rogue", options={"do": do, **options})
        with pytest.raises(WorkerCrashError) as caught:
            hooks.call("optimize", "rogue", ROGUE, request, context, isolated=True)
        return caught.value

    return call


def test_an_engine_that_dies_of_a_conversion_quotes_the_last_word(optimize, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    error = optimize("words-and-exit", reproducer=str(own))
    assert error.code == "LPT-WORK-003"
    first = "It was lowering, at the operator 'Frobnicate' (net.py:31)."
    assert error.cause.splitlines()[0] == first
    assert error.remedy.startswith(f"`python {own}/convert.py` does it again. ")
    assert error.details["operator"] == "Frobnicate"


def test_a_converter_that_left_no_word_is_named_there_all_the_same(optimize):
    error = optimize("exit")
    assert error.cause.splitlines()[0] == "It was converting with Rogue."
    assert "last words on stderr" in error.cause


@pytest.mark.parametrize("do", ["words", "expected"])
def test_words_of_a_conversion_that_is_over_are_forgotten(optimize, do):
    error = optimize(do, then="exit")
    assert "It was" not in error.cause
    assert "operator" not in error.details


# --- the reproducer -----------------------------------------------------------------------------


@posix
def test_the_reproducer_survives_and_ends_the_same_way(fakes, pool, context, tmp_path):
    """A model that lepton made is in it, with the files beside it; those may go then."""
    source, beside = tmp_path / "made.json", tmp_path / "made.data"
    source.write_text(json.dumps(NET))
    beside.write_bytes(b"weights")
    step = types.LineageStep("made", "test 1", "sha256:" + "0" * 64)
    model = types.Model(
        "fake-graph", str(source), lineage=(step,), metadata={"external_files": ["made.data"]}
    )
    hooks = Hooks(fakes("crasher", "ok"), pool)
    with pytest.raises(ConversionError, match="at the operator 'relu'") as caught:
        hooks.convert(model, types.ConvertRequest("crasher"), context)
    source.unlink()
    beside.unlink()
    folder = Path(caught.value.details["reproducer"])
    assert {p.name for p in folder.iterdir()} == {
        "call.json", "convert.py", "log.txt", "made.json", "made.data",
    }  # fmt: skip
    assert "rank > 0" in (folder / "log.txt").read_text()
    ended = again(folder, "crasher", "ok")
    assert ended.code == -6, ended.text
    assert "rank > 0" in ended.text


@posix
def test_a_users_own_file_stays_where_it_is(fakes, pool, context, tmp_path):
    source = tmp_path / "own.fake"
    source.write_text(json.dumps(NET))
    hooks = Hooks(fakes("crasher", "ok"), pool)
    with pytest.raises(ConversionError) as caught:
        hooks.convert(
            types.Model("fake-graph", str(source)), types.ConvertRequest("crasher"), context
        )
    folder = Path(caught.value.details["reproducer"])
    assert not (folder / "own.fake").exists()
    assert again(folder, "crasher", "ok").code == -6
    source.write_text(json.dumps({**NET, "layers": []}))
    mended = again(folder, "crasher", "ok")
    assert (mended.code, "nothing to crash at" in mended.text) == (1, True)


def test_without_room_for_a_reproducer_the_crash_is_still_told(crash, monkeypatch):
    monkeypatch.setattr(Path, "write_text", _full)
    error = crash("exit")
    assert error.details["reproducer"] is None
    assert "convert.py" not in error.remedy


def test_without_a_folder_for_temporary_files_it_is_told_too(
    crash, fakes, pool, context, monkeypatch, tmp_path
):
    words = types.ConvertRequest("rogue", options={"do": "words"})
    Hooks(fakes("rogue"), pool).convert(ROGUE, words, context)  # the worker has its log
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    error = crash("exit")
    assert error.details["reproducer"] is None
    assert "convert.py" not in error.remedy


def _full(self, *given, **named):
    raise OSError(28, "No space left on device")
