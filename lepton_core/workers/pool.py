"""The caller's side of worker processes."""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

from lepton_core import codec
from lepton_core.errors import (
    OperationCancelledError,
    PluginFailureError,
    WorkerCrashError,
    WorkerMemoryError,
    WorkerTimeoutError,
    error_from_dict,
)
from lepton_core.markers import hookimpl
from lepton_core.workers import protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_core.context import Context, ProgressTask
    from lepton_core.types import Model

_POLL_SECONDS = 0.1
_LOG_TAIL_BYTES = 4000


class RemoteTracebackError(Exception):
    """Carries a worker's traceback as the ``__cause__`` of the error raised here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Worker:
    """One worker process.

    Args:
        name: Plugin id, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.Lock()
        self._log = tempfile.TemporaryFile(prefix="lepton-worker-")  # noqa: SIM115 - lives as long
        environment = dict(os.environ)
        # The worker must find the same modules, in the same order, as this process does.
        environment["PYTHONPATH"] = os.pathsep.join(p or os.curdir for p in sys.path)
        environment["PYTHONUNBUFFERED"] = "1"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lepton_core.workers.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            start_new_session=True,  # Ctrl-C is ours to handle; see WorkerPool.close
        )
        self._ended: str | None = None

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def log_tail(self) -> str:
        """Return the end of what the process printed."""
        self._log.seek(0, os.SEEK_END)
        size = self._log.tell()
        self._log.seek(max(0, size - _LOG_TAIL_BYTES))
        return self._log.read().decode(errors="replace").strip()

    def end(self, why: str = "") -> None:
        """Kill the process and everything it started."""
        import psutil

        self._ended = self._ended or why
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self._process.pid)
            for child in process.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    child.kill()
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def call(self, message: dict[str, Any], context: Context) -> dict[str, Any]:
        """Send one call and wait for its answer, passing progress on.

        Raises:
            WorkerError: The process passed a limit or died.
        """
        if self._process.stdin is None or self._process.stdout is None:
            msg = "a worker has pipes"
            raise RuntimeError(msg)
        with self.lock, self._watched(context):
            tasks: dict[int, ProgressTask] = {}
            with contextlib.suppress(OSError):
                protocol.send(self._process.stdin, message)
            while True:
                try:
                    answer = protocol.receive(self._process.stdout)
                except (OSError, ValueError):
                    answer = None
                if answer is None:
                    raise self._death(context)
                if answer["event"] == "answer":
                    return answer
                _report(answer, tasks, context)

    @contextlib.contextmanager
    def _watched(self, context: Context) -> Iterator[None]:
        """Hold the process to its limits while a call runs; end it on Ctrl-C."""
        done = threading.Event()
        thread = threading.Thread(target=self._watch, args=(context, done), daemon=True)
        thread.start()
        try:
            yield
        except KeyboardInterrupt:
            self.end("cancelled")
            raise
        finally:
            done.set()
            thread.join()

    def _watch(self, context: Context, done: threading.Event) -> None:
        limits, began = context.limits, time.monotonic()
        while not done.wait(_POLL_SECONDS):
            if limits.seconds is not None and time.monotonic() - began > limits.seconds:
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

    def _death(self, context: Context) -> Exception:
        self._process.wait()
        limits, tail = context.limits, self.log_tail()
        if self._ended == "cancelled":
            return OperationCancelledError(
                "LPT-STOP-001", "Stopped on request", remedy="Run the same command again."
            )
        if self._ended == "time":
            return WorkerTimeoutError(
                "LPT-WORK-001",
                f"The worker of {self.name!r} was ended after its limit of {limits.seconds:g} s",
                cause=tail or None,
                remedy="Raise --time-limit if the work is really that long.",
            )
        if self._ended == "memory":
            mib = (limits.memory_bytes or 0) >> 20
            return WorkerMemoryError(
                "LPT-WORK-002",
                f"The worker of {self.name!r} was ended at its memory limit of {mib} MiB",
                cause=tail or None,
                remedy="Raise --mem-limit, or use a smaller batch or model.",
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
            details={"returncode": code},
        )


def _report(answer: dict[str, Any], tasks: dict[int, ProgressTask], context: Context) -> None:
    event, reporter = answer["event"], context.reporter
    if event == "task":
        tasks[answer["task"]] = reporter.task(answer["description"], answer["total"])
    elif event == "advance":
        tasks[answer["task"]].advance(answer["amount"])
    elif event == "finish":
        tasks[answer["task"]].finish(answer["note"])
    elif event == "note":
        reporter.note(answer["text"])
    elif event == "warn":
        reporter.warn(answer["text"])


class WorkerPool:
    """The workers of one registry: one per plugin, started when first needed, reused."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        self._lock = threading.Lock()
        atexit.register(self.close)

    def call(self, verb: str, owner: str, model: Model, request: object, context: Context) -> Any:  # noqa: ANN401 - the verb's result class
        """Run one call in the worker of *owner*.

        Raises:
            LeptonError: What the call raised there, or how the worker ended.
        """
        message = {
            "verb": verb,
            "owner": owner,
            "model": codec.tagged(model),
            "request": codec.tagged(request),
            "context": {
                "workdir": str(context.workdir),
                "seed": context.seed,
                "limits": codec.to_data(context.limits),
            },
        }
        answer = self._worker(owner).call(message, context)
        if "result" in answer:
            return None if answer["result"] is None else codec.untagged(answer["result"])
        raise _rebuilt(answer, verb, owner) from RemoteTracebackError(answer["traceback"])

    def _worker(self, owner: str) -> Worker:
        with self._lock:
            worker = self._workers.get(owner)
            if worker is None or not worker.alive:
                worker = self._workers[owner] = Worker(owner)
            return worker

    def close(self) -> None:
        """End all workers; calling it again does nothing."""
        with self._lock:
            for worker in self._workers.values():
                worker.end("closed")
            self._workers.clear()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()


def _rebuilt(answer: dict[str, Any], verb: str, owner: str) -> Exception:
    if "error" in answer:
        return error_from_dict(answer["error"])
    if "os_error" in answer:
        return OSError(*answer["os_error"])
    kind, text = answer["exception"]
    return PluginFailureError(
        "LPT-PLUG-010",
        f"The plugin {owner!r} failed unexpectedly in `{verb}`",
        cause=f"{kind}: {text}",
        remedy="Run again with --debug for the traceback, and report it to the plugin's makers.",
        details={"plugin": owner, "verb": verb, "exception": kind},
    )


class Remote:
    """Stands in for a plugin whose hooks run in its worker, so that wrappers still apply."""

    def __init__(self, pool: WorkerPool, owner: str) -> None:
        self._pool = pool
        self._owner = owner

    def _call(self, verb: str, model: Model, request: object, context: Context) -> Any:  # noqa: ANN401 - the verb's result class
        return self._pool.call(verb, self._owner, model, request, context)

    @hookimpl
    def lepton_inspect(self, model: Model, request: object, context: Context) -> Any:  # noqa: ANN401, D102
        return self._call("inspect", model, request, context)

    @hookimpl
    def lepton_check(self, model: Model, request: object, context: Context) -> Any:  # noqa: ANN401, D102
        return self._call("check", model, request, context)

    @hookimpl
    def lepton_adapt(self, model: Model, request: object, context: Context) -> Any:  # noqa: ANN401, D102
        return self._call("adapt", model, request, context)

    @hookimpl
    def lepton_convert(self, model: Model, request: object, context: Context) -> Any:  # noqa: ANN401, D102
        return self._call("convert", model, request, context)

    @hookimpl
    def lepton_optimize(self, model: Model, request: object, context: Context) -> Any:  # noqa: ANN401, D102
        return self._call("optimize", model, request, context)

    @hookimpl
    def lepton_deploy(self, model: Model, request: object, context: Context) -> Any:  # noqa: ANN401, D102
        return self._call("deploy", model, request, context)

    @hookimpl
    def lepton_adjust(self, model: Model, request: object, context: Context) -> Any:  # noqa: ANN401, D102
        return self._call("adjust", model, request, context)

    @hookimpl
    def lepton_migrate(self, model: Model, request: object, context: Context) -> Any:  # noqa: ANN401, D102
        return self._call("migrate", model, request, context)


__all__ = ["Remote", "RemoteTracebackError", "Worker", "WorkerPool"]
