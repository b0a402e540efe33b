"""The worker's side: started as ``python -P -m lepton_core.workers.child``.

Whatever a backend prints goes to the captured log; the original standard input and output carry
messages. When the caller goes away, the worker ends at once.
"""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import os
import queue
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core import codec
from lepton_core.context import Context
from lepton_core.errors import (
    LeptonError,
    PluginFailureError,
    UsageError,
    WorkerCrashError,
)
from lepton_core.types import Limits
from lepton_core.workers import protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO

    from lepton_core.context import ProgressTask
    from lepton_core.dispatch import Hooks


class _Outlet:
    """Sends messages from any thread."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        with self._lock, contextlib.suppress(BrokenPipeError):
            protocol.send(self._stream, message)


class _PipeTask:
    def __init__(self, outlet: _Outlet, number: int) -> None:
        self._outlet = outlet
        self._number = number

    def advance(self, amount: float = 1.0) -> None:
        self._outlet.send({"event": "advance", "task": self._number, "amount": amount})

    def finish(self, note: str = "") -> None:
        self._outlet.send({"event": "finish", "task": self._number, "note": note})


class PipeReporter:
    """Sends progress to the caller's reporter."""

    def __init__(self, outlet: _Outlet) -> None:
        self._outlet = outlet
        self._numbers = itertools.count(1)

    def task(self, description: str, total: float | None = None) -> ProgressTask:
        """Start a bar at the caller."""
        number = next(self._numbers)
        self._outlet.send(
            {"event": "task", "task": number, "description": description, "total": total}
        )
        return _PipeTask(self._outlet, number)

    def board(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Pass a table on; see :func:`lepton_core.progress.show_board`."""
        table = {"title": title, "columns": list(columns), "rows": [list(r) for r in rows]}
        self._outlet.send({"event": "board", **table})

    def remaining(self, seconds: float | None, share: float = 0.0, *, whole: bool = True) -> None:
        """Pass on what is left; see :func:`lepton_core.progress.show_remaining`."""
        left = {"seconds": seconds, "share": share, "whole": whole}
        self._outlet.send({"event": "remaining", **left})

    def about_to(self, step: str, operator: str, where: str, reproducer: str | None) -> None:
        """Pass on what comes next; see :meth:`.Context.about_to`."""
        word = {"step": step, "operator": operator, "where": where, "reproducer": reproducer}
        self._outlet.send({"event": "about", **word})

    def note(self, text: str) -> None:
        """Pass a remark on."""
        self._outlet.send({"event": "note", "text": text})

    def warn(self, text: str) -> None:
        """Pass a warning on."""
        self._outlet.send({"event": "warn", "text": text})


def _claim_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Keep the message pipes for ourselves and point stdin and stdout elsewhere."""
    inlet = os.fdopen(os.dup(0), "rb")
    outlet = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    # A plugin may send descriptor 2 elsewhere; what a fatal signal leaves must be in the log.
    faulthandler.enable(file=os.dup(2), all_threads=False)
    return inlet, outlet


def _inbox(inlet: IO[bytes]) -> queue.SimpleQueue[dict[str, Any]]:
    """Read messages in a thread; end the process when the caller is gone."""
    messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        while True:
            message = protocol.receive(inlet)
            if message is None:
                os._exit(0)
            messages.put(message)

    threading.Thread(target=read, name="lepton-worker-inbox", daemon=True).start()
    return messages


def _answer(hooks: Hooks, message: dict[str, Any], outlet: _Outlet) -> dict[str, Any]:
    data = message["context"]
    context = Context(
        workdir=Path(data["workdir"]),
        seed=data["seed"],
        reporter=PipeReporter(outlet),
        limits=codec.from_data(data["limits"], Limits),
        hooks=hooks,
    )
    model = codec.untagged(message["model"])
    request = codec.untagged(message["request"])
    if message["verb"] == "evaluate":
        from lepton_core.evaluate import evaluate

        result: object = evaluate(hooks, model, request, context)
    else:
        result = hooks.call_owner(message["verb"], message["owner"], model, request, context)
    if result is None:
        return {"result": None}
    return {"result": _encoded(result, message["verb"], message["owner"])}


def _encoded(result: object, verb: str, owner: str) -> dict[str, Any]:
    """Return a result as a message.

    Raises:
        PluginFailureError: It holds something that cannot cross the process border.
    """
    try:
        return codec.tagged(result)
    except UsageError as error:
        raise PluginFailureError(
            "LPT-PLUG-013",
            f"The plugin {owner!r} returned something from `{verb}` that is not plain data",
            cause=error.cause,
            remedy="Report this to the plugin's makers.",
        ) from error


def _plain_details(details: dict[str, Any]) -> dict[str, Any]:
    """Replace what cannot cross by its text, so that the error itself does."""
    plain = {}
    for key, value in details.items():
        try:
            plain[str(key)] = codec.to_data(value)
        except UsageError:
            plain[str(key)] = repr(value)
    return plain


def _failure(error: BaseException) -> dict[str, Any]:
    text = traceback.format_exc()
    if isinstance(error, LeptonError):
        data = error.to_dict()
        return {"error": {**data, "details": _plain_details(data["details"])}, "traceback": text}
    if isinstance(error, OSError) and error.errno is not None:
        parts = [error.errno, error.strerror or str(error)]
        if error.filename is not None:
            parts.append(str(error.filename))
        return {"os_error": parts, "traceback": text}
    return {"exception": [type(error).__name__, str(error)], "traceback": text}


def main() -> None:
    """Serve calls until the caller closes the pipe."""
    inlet, stream = _claim_streams()
    outlet = _Outlet(stream)
    messages = _inbox(inlet)
    from lepton_core.dispatch import Hooks
    from lepton_core.registry import Registry

    hooks = Hooks(Registry())
    outlet.send({"event": "ready"})
    while True:
        message = messages.get()
        try:
            answer = _answer(hooks, message, outlet)
        except MemoryError as error:
            crash = WorkerCrashError(
                "LPT-WORK-004",
                "The worker ran out of memory",
                cause=str(error) or None,
                remedy="Use a smaller batch or model, or a machine with more memory.",
            )
            answer = {"error": crash.to_dict(), "traceback": traceback.format_exc()}
        except (Exception, SystemExit) as error:
            answer = _failure(error)
        outlet.send({"event": "answer", **answer})


if __name__ == "__main__":
    main()
