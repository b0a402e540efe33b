"""The workers of one registry, and the stand-in that sends a plugin's hooks to them."""

from __future__ import annotations

import atexit
import os
import threading
from typing import TYPE_CHECKING, Any

from lepton_core import codec
from lepton_core.errors import PluginFailureError, WorkerError, error_from_dict
from lepton_core.markers import hookimpl
from lepton_core.workers.process import POLL_SECONDS, Worker

if TYPE_CHECKING:
    from lepton_core.context import Context
    from lepton_core.types import Model


class RemoteTracebackError(Exception):
    """Carries a worker's traceback as the ``__cause__`` of the error raised here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class WorkerPool:
    """The workers of one registry: one per plugin, started when first needed, reused."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def call(self, verb: str, owner: str, model: Model, request: object, context: Context) -> Any:  # noqa: ANN401 - the verb's result class
        """Run one call in the worker of *owner*; calls of several threads take turns.

        Raises:
            UsageError: The request holds something that is not plain data.
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
        answer = self._exchange(owner, message, context)
        if "result" in answer:
            return None if answer["result"] is None else codec.untagged(answer["result"])
        error = _rebuilt(answer, verb, owner)
        if isinstance(error, WorkerError | PluginFailureError):
            # It answered, so it ended in order and has taken its own reproducer away.
            error.details.update({k: v for k, v in answer["word"].items() if k != "reproducer"})
        raise error from RemoteTracebackError(answer["traceback"])

    def _exchange(self, owner: str, message: dict[str, Any], context: Context) -> dict[str, Any]:
        while True:
            worker = self._worker(owner)
            while not worker.lock.acquire(timeout=POLL_SECONDS):
                context.checkpoint()
            try:
                if worker.alive:  # the call before may have been its last
                    return worker.call(message, context)
            finally:
                worker.lock.release()

    def _worker(self, owner: str) -> Worker:
        with self._lock:
            worker = self._workers.get(owner)
            if worker is not None and worker.alive:
                return worker
            if worker is not None:
                worker.close()
            if not self._workers:
                atexit.register(self.close)
            worker = self._workers[owner] = Worker(owner)
            return worker

    def close(self) -> None:
        """End all workers; calling it again does nothing."""
        atexit.unregister(self.close)
        with self._lock:
            workers = list(self._workers.values())
            self._workers.clear()
        if os.getpid() == self._pid:  # in a fork they are the parent's
            for worker in workers:
                worker.close()

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


__all__ = ["Remote", "RemoteTracebackError", "WorkerPool"]
