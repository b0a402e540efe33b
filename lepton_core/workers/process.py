"""One worker process, seen from the caller: start, call, watch, end."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

from lepton_core.errors import (
    LeptonError,
    OperationCancelledError,
    WorkerCrashError,
    WorkerError,
    WorkerMemoryError,
    WorkerTimeoutError,
)
from lepton_core.progress import show_board, show_remaining
from lepton_core.workers import protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_core.context import Context, ProgressTask

POLL_SECONDS = 0.1
_LOG_TAIL_BYTES = 4000
_FAULT = re.compile(rb"^(?:Fatal Python error|Windows fatal exception): .*", re.MULTILINE)
"""Where faulthandler begins; it writes up to a hundred frames, the innermost first."""
_FAULT_BYTES = 1500


class _Word:
    """What a worker said last of its work, for the error of one that dies."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        self._bars: dict[int, str] = {}

    def hear(self, event: dict[str, Any]) -> None:
        """Take up one event."""
        if event["event"] == "about" and not event["step"]:
            self._said = {}
        elif event["event"] == "about":
            kept = event["reproducer"] or self._said.get("reproducer", "")
            self._said = {k: event[k] for k in ("step", "operator", "where")}
            self._said["reproducer"] = kept
        elif event["event"] == "task":
            self._bars[event["task"]] = event["description"]
        elif event["event"] == "finish":
            self._bars.pop(event["task"], None)

    def facts(self) -> dict[str, str]:
        """Return ``step``, ``operator``, ``where``, ``reproducer`` and ``bar``, if known."""
        bar = next(reversed(self._bars.values()), "")
        return {k: v for k, v in {**self._said, "bar": bar}.items() if v}


class Worker:
    """One worker process.

    Args:
        name: Plugin id, for messages.

    Raises:
        WorkerCrashError: The system cannot start a process.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.Lock()
        """Held by the one call that runs."""
        self._ending = threading.Lock()
        self._ended: str | None = None
        self._word = _Word()
        self._log = tempfile.TemporaryFile(prefix="lepton-worker-")  # noqa: SIM115 - see close
        environment = dict(os.environ)
        # The worker must find the same modules, in the same order, as this process does.
        environment["PYTHONPATH"] = os.pathsep.join(p or os.curdir for p in sys.path)
        environment["PYTHONUNBUFFERED"] = "1"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "lepton_core.workers.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
                start_new_session=True,  # Ctrl-C is ours to handle; see call
            )
        except OSError as error:
            self._log.close()
            raise WorkerCrashError(
                "LPT-WORK-005",
                f"The worker of {name!r} could not be started",
                cause=str(error),
                remedy="Free memory or processes, or run everything in this process with "
                "LEPTON_ISOLATION=0.",
            ) from error

    @property
    def alive(self) -> bool:
        """Whether the process still runs and has not been told to end."""
        return self._ended is None and self._process.poll() is None

    def call(self, message: dict[str, Any], context: Context) -> dict[str, Any]:
        """Send one call and wait for its answer, passing progress on; hold :attr:`lock`.

        However it ends without an answer (a limit, a crash, Ctrl-C, a reporter that raises), the
        process ends with it, so that no later call can take this call's answer for its own.

        Raises:
            WorkerError: The process passed a limit or died.
            OperationCancelledError: The work was cancelled, or the pool closed.
        """
        self._forget_log()
        self._word = _Word()
        try:
            with self._watched(context):
                return self._exchange(message, context)
        except BaseException as error:
            self.end("cancelled")
            folder = self._word.facts().get("reproducer")
            if folder and not isinstance(error, WorkerError):  # of something that has not failed
                shutil.rmtree(folder, ignore_errors=True)
            raise

    def _exchange(self, message: dict[str, Any], context: Context) -> dict[str, Any]:
        inlet, outlet = self._process.stdin, self._process.stdout
        if inlet is None or outlet is None:
            msg = "a worker has pipes"
            raise RuntimeError(msg)
        with contextlib.suppress(OSError):  # it died; reading says how
            protocol.send(inlet, message)
        tasks: dict[int, ProgressTask] = {}
        word = self._word
        while True:
            try:
                answer = protocol.receive(outlet)
            except OSError:
                answer = None
            if answer is None:
                raise self._death(context, word.facts())
            if answer["event"] == "answer":
                return {**answer, "word": word.facts()}
            word.hear(answer)
            _report(answer, tasks, context)

    # --- watching and ending ------------------------------------------------------------------

    @contextlib.contextmanager
    def _watched(self, context: Context) -> Iterator[None]:
        """Hold the process to its limits while a call runs."""
        done = threading.Event()
        thread = threading.Thread(
            target=self._watch, args=(context, done), name="lepton-worker-watch", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _watch(self, context: Context, done: threading.Event) -> None:
        limits, began = context.limits, time.monotonic()
        while not done.wait(POLL_SECONDS):
            if self._process.poll() is not None:
                # Children that it forked may hold its pipes open, and reading would never end.
                self.end("crash")
            elif limits.seconds is not None and time.monotonic() - began > limits.seconds:
                self.end("time")
            elif limits.memory_bytes is not None and self._memory() > limits.memory_bytes:
                self.end("memory")
            elif context.cancelled is not None and context.cancelled.is_set():
                self.end("cancelled")
            else:
                continue
            return

    def _memory(self) -> int:
        import psutil

        total = 0
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self._process.pid)
            for one in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += one.memory_info().rss
        return total

    def end(self, why: str) -> None:
        """Kill the process and everything it started; only the first reason counts."""
        with self._ending:
            if self._ended is not None:
                return
            self._ended = why
            self._kill_children()
            self._process.kill()
            if os.name == "posix":  # what the process left behind is still of its group
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _kill_children(self) -> None:
        import psutil

        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self._process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    child.kill()

    def close(self) -> None:
        """End the process, let a call that waits for it fail, and free pipes and log."""
        self.end("closed")
        held = self.lock.acquire(timeout=5)
        try:
            for stream in (self._process.stdin, self._process.stdout, self._log):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        finally:
            if held:
                self.lock.release()

    # --- the captured output ------------------------------------------------------------------

    def _forget_log(self) -> None:
        """Empty the log; the worker shares the file's position and goes on at its start."""
        os.ftruncate(self._log.fileno(), 0)
        os.lseek(self._log.fileno(), 0, os.SEEK_SET)

    def log_tail(self) -> str:
        """Return the end of what the process printed during the last call.

        Where a fatal signal left the stack, that is the end of what was printed before, and the
        innermost frames.
        """
        self._log.seek(0, os.SEEK_END)
        size = self._log.tell()
        self._log.seek(max(0, size - 8 * _LOG_TAIL_BYTES))
        said, stack = self._log.read(), b""
        faults = list(_FAULT.finditer(said))
        if faults:
            begin = faults[-1].start()
            said, stack = said[:begin], said[begin : begin + _FAULT_BYTES]
        parts = (part.decode(errors="replace") for part in (said[-_LOG_TAIL_BYTES:], stack))
        return "\n".join(text for part in parts if (text := part.strip()))

    def _death(self, context: Context, word: dict[str, str]) -> LeptonError:
        """Return the error that says why the process is gone, and what it said last."""
        with self._ending:
            why = self._ended
        self._process.wait()
        limits, tail = context.limits, self.log_tail()
        if why in ("cancelled", "closed"):
            return OperationCancelledError(
                "LPT-STOP-001", "Stopped on request", remedy="Run the same command again."
            )
        if why == "time":
            return WorkerTimeoutError(
                "LPT-WORK-001",
                f"The worker of {self.name!r} was ended after its limit of {limits.seconds:g} s",
                cause=tail or None,
                remedy="Raise --time-limit if the work is really that long.",
                details={**word},
            )
        if why == "memory":
            mib = (limits.memory_bytes or 0) >> 20
            return WorkerMemoryError(
                "LPT-WORK-002",
                f"The worker of {self.name!r} was ended at its memory limit of {mib} MiB",
                cause=tail or None,
                remedy="Raise --mem-limit, or use a smaller batch or model.",
                details={**word},
            )
        code = self._process.returncode
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        oom = " (the system may have run out of memory)" if code == -9 else ""
        return WorkerCrashError(
            "LPT-WORK-003",
            f"The worker of {self.name!r} ended {how}{oom}",
            cause=tail or "it printed nothing",
            remedy="The rest of lepton is unharmed. If it happens again, report it to the "
            "plugin's makers with the text above.",
            details={"returncode": code, **word},
        )


def _report(answer: dict[str, Any], tasks: dict[int, ProgressTask], context: Context) -> None:
    """Pass one event on; a bar of an earlier call, from a thread left behind, is dropped."""
    event, reporter = answer["event"], context.reporter
    if event == "task":
        tasks[answer["task"]] = reporter.task(answer["description"], answer["total"])
    elif event == "advance" and answer["task"] in tasks:
        tasks[answer["task"]].advance(answer["amount"])
    elif event == "finish" and answer["task"] in tasks:
        tasks[answer["task"]].finish(answer["note"])
    elif event == "board":
        show_board(reporter, answer["title"], answer["columns"], answer["rows"])
    elif event == "remaining":
        show_remaining(reporter, answer["seconds"], answer["share"], whole=answer["whole"])
    elif event == "note":
        reporter.note(answer["text"])
    elif event == "warn":
        reporter.warn(answer["text"])


__all__ = ["POLL_SECONDS", "Worker"]
