"""Which operator a conversion fails at, where the converter itself does not say.

A converter may end, or refuse a graph, in a pass over the whole of it; its last word then names a
step and no operator. Where the plugin declares how (``narrow`` of its info), parts of the graph are
converted in worker processes of their own until the smallest part is found that still fails in the
same way. Effort is bounded: :data:`BUDGET_SECONDS` in all, which ``LEPTON_NARROW_SECONDS`` changes.
"""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core.errors import (
    ConversionError,
    LeptonError,
    OperationCancelledError,
    PluginFailureError,
    WorkerError,
    WorkerMemoryError,
    WorkerTimeoutError,
)
from lepton_core.types import ConvertRequest, Limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_core.capabilities import PluginInfo
    from lepton_core.context import Context
    from lepton_core.types import Model

NARROW = "narrow"
"""A plugin sets this detail of an error that names no operator, if parts of the graph can tell."""

BUDGET_SECONDS = 120.0
VARIABLE = "LEPTON_NARROW_SECONDS"


@dataclass(frozen=True, slots=True)
class Narrowed:
    """The smallest part of a graph that was found to fail.

    Attributes:
        operator: Its last operator: all before it converts.
        where: The node.
        nodes: Names of the nodes of the part, in the graph's order.
        of: Number of nodes of the whole graph.
        model: The part.
        request: What to ask of it, for the same failure.
    """

    operator: str
    where: str
    nodes: tuple[str, ...]
    of: int
    model: Model
    request: ConvertRequest


class SpentError(Exception):
    """The budget is spent; what was found so far is the answer."""


@dataclass
class Trials:
    """Converts parts of a graph, each in a fresh worker if the one before ended.

    Attributes:
        owner: The plugin that converts.
        kind: How the whole graph fails (:func:`kind_of`).
        context: Of the conversion that failed; its limits hold for each part as well.
        ends: Time at which the budget is spent (:func:`time.monotonic`).
        made: Number of parts converted.
    """

    owner: str
    kind: str
    context: Context
    ends: float
    made: int = 0
    _pool: Any = None

    def fails(self, model: Model, request: ConvertRequest) -> bool:
        """Tell whether a part fails as the whole does.

        Raises:
            SpentError: There is no time left, or no worker starts.
            OperationCancelledError: The user asked to stop.
        """
        from dataclasses import replace

        from lepton_core.context import SilentReporter
        from lepton_core.workers import WorkerPool

        self.context.checkpoint()
        left = self.ends - time.monotonic()
        if left <= 0:
            raise SpentError
        own = self.context.limits
        seconds = min(left, own.seconds) if own.seconds is not None else left
        self._pool = self._pool or WorkerPool()
        self.made += 1
        with tempfile.TemporaryDirectory(prefix="lepton-narrow-") as workdir:
            context = replace(
                self.context,
                workdir=Path(workdir),
                reporter=SilentReporter(),
                limits=Limits(seconds, own.memory_bytes),
            )
            try:
                self._pool.call("convert", self.owner, model, request, context)
            except OperationCancelledError:
                raise
            except WorkerTimeoutError as error:
                _forget(error)
                raise SpentError from error
            except LeptonError as error:
                _forget(error)
                if error.code == "LPT-WORK-005":  # it was not started
                    raise SpentError from error
                return kind_of(error) == self.kind
        return False

    def close(self) -> None:
        """End the worker."""
        if self._pool is not None:
            self._pool.close()


def _forget(error: LeptonError) -> None:
    """Remove the reproducer of a part."""
    folder = error.details.get("reproducer")
    if folder:
        shutil.rmtree(str(folder), ignore_errors=True)


def kind_of(error: LeptonError) -> str:
    """Return how a conversion failed: ``"crash"``, or the code of its error.

    A limit that was passed, memory that was not there and a worker that did not start are no
    crashes.
    """
    ended = error.details.get("exception") == "SystemExit"
    if isinstance(error, PluginFailureError):
        return "crash" if ended else error.code
    limit = isinstance(error, WorkerTimeoutError | WorkerMemoryError)
    other = limit or error.code in ("LPT-WORK-004", "LPT-WORK-005")
    return "crash" if isinstance(error, WorkerError) and not other else error.code


def narrowed(
    error: ConversionError,
    info: PluginInfo,
    model: Model,
    request: ConvertRequest,
    context: Context,
) -> ConversionError:
    """Return the error with the operator that the conversion fails at, if it can be found.

    Args:
        error: Names no operator; its ``__cause__`` is how the worker ended, if it did.
        info: The plugin that converts.
        model: What was to be converted.
        request: What was asked for.
        context: Of the conversion.

    Returns:
        An error of the same code with ``operator``, ``where``, the nodes of the smallest part that
        fails (``part``) and a reproducer of it; the same error if it is not to be found.
    """
    narrow = getattr(info, "narrow", "")
    cause = error.__cause__ if isinstance(error.__cause__, LeptonError) else error
    hooks, seconds = context.hooks, _budget()
    kind = kind_of(cause)
    if not narrow or hooks is None or hooks.pool is None or seconds <= 0:
        return error
    if (kind != "crash" and cause is not error) or not hooks.registry.record(info.id).entry:
        return error
    context.reporter.note(
        f"{info.title} does not say which operator it failed at: parts of the graph are converted "
        f"to find it, for {seconds:g} s at most."
    )
    trials = Trials(info.id, kind, context, time.monotonic() + seconds)
    module, _, name = narrow.partition(":")
    with tempfile.TemporaryDirectory(prefix="lepton-narrow-") as folder:
        try:
            search: Callable[..., Narrowed | None] = getattr(importlib.import_module(module), name)
            found = search(model, request, Path(folder), trials.fails)
        except OperationCancelledError:
            raise
        except Exception:  # the failure is what must be told, whatever the search ran into
            return error
        finally:
            trials.close()
        return error if found is None else _told(error, found, info.id, trials.made)


def _budget() -> float:
    try:
        return float(os.environ.get(VARIABLE) or BUDGET_SECONDS)
    except ValueError:
        return BUDGET_SECONDS


def _told(error: ConversionError, found: Narrowed, owner: str, made: int) -> ConversionError:
    from lepton_core.crashes import write_reproducer

    place = f" ({found.where})" if found.where else ""
    smallest = write_reproducer(owner, found.model, found.request, error, keep=True)
    whole = error.details.get("reproducer")
    remedy = f"`python {smallest}/convert.py` does it again with that part. " if smallest else ""
    names = ", ".join(found.nodes[:8]) + (", …" if len(found.nodes) > 8 else "")
    part = (
        f"Found by converting {made} parts of the graph: {len(found.nodes)} of its {found.of} "
        f"nodes are enough ({names})."
    )
    return ConversionError(
        error.code,
        f"{error.message}, at the operator {found.operator!r}{place}",
        cause="\n".join(filter(None, (part, error.cause))),
        remedy=f"{remedy}{error.remedy or ''}".strip(),
        details={
            **{key: value for key, value in error.details.items() if key != NARROW},
            "operator": found.operator,
            "where": found.where,
            "part": list(found.nodes),
            "parts_tried": made,
            "reproducer": smallest or whole,
            "whole_reproducer": whole,
        },
    )


__all__ = [
    "BUDGET_SECONDS",
    "NARROW",
    "VARIABLE",
    "Narrowed",
    "SpentError",
    "Trials",
    "kind_of",
    "narrowed",
]
