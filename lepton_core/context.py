"""What a hook gets beside model and request: where to write, how to report, when to stop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lepton_core.errors import OperationCancelledError, UsageError
from lepton_core.types import Limits, Signature

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    import numpy as np

    from lepton_core.dispatch import Hooks


class ProgressTask(Protocol):
    """One running bar."""

    def advance(self, amount: float = 1.0) -> None:
        """Move the bar by *amount* of its total."""

    def finish(self, note: str = "") -> None:
        """Complete the bar; *note* replaces its description's tail."""


class Reporter(Protocol):
    """Where progress and remarks go; silent, on a terminal, or over a pipe."""

    def task(self, description: str, total: float | None = None) -> ProgressTask:
        """Start a bar; ``total=None`` means of unknown length."""

    def note(self, text: str) -> None:
        """Say something once."""

    def warn(self, text: str) -> None:
        """Say something the user should act on."""


class _SilentTask:
    def advance(self, amount: float = 1.0) -> None:
        """Do nothing."""

    def finish(self, note: str = "") -> None:
        """Do nothing."""


class SilentReporter:
    """Reports nothing; the default for programs."""

    def task(self, description: str, total: float | None = None) -> ProgressTask:
        """Return a bar that shows nothing."""
        return _SilentTask()

    def note(self, text: str) -> None:
        """Drop *text*."""

    def warn(self, text: str) -> None:
        """Drop *text*."""


LARGEST_SEED = 2**32 - 1
"""What every generator of random numbers takes."""


@dataclass(frozen=True)
class Context:
    """Surroundings of one call.

    Attributes:
        workdir: The only place a hook may write to; exists and is empty or the hook's own.
        seed: Seed of everything random, from 0 to :data:`LARGEST_SEED`.
        reporter: Where progress goes.
        limits: Bounds for worker processes.
        cancelled: Set when the user asked to stop; see :meth:`checkpoint`.
        hooks: Calls other verbs (engines use it), bound to the same registry.

    Raises:
        UsageError: LPT-USE-009, the seed is none.
    """

    workdir: Path
    seed: int = 0
    reporter: Reporter = field(default_factory=SilentReporter)
    limits: Limits = field(default_factory=Limits)
    cancelled: threading.Event | None = None
    hooks: Hooks | None = None

    def __post_init__(self) -> None:
        """Refuse a seed here, before minutes of work end at the first use of it."""
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(
                "LPT-USE-009",
                f"{self.seed} cannot be a seed",
                remedy=f"Give a whole number from 0 to {LARGEST_SEED}.",
            )

    def about_to(
        self, step: str, *, operator: str = "", where: str = "", reproducer: str | None = None
    ) -> None:
        """Leave word of what comes next, so that a crash there has a name.

        A crash ends the process and tells nothing. In a worker the word is with the caller before
        the call returns, and the error of a conversion that ends without an answer quotes the last
        one (:mod:`lepton_core.crashes`). In the caller's own process nothing is kept.

        Args:
            step: What the hook will do, as in "while lowering the graph"; empty takes all words
                back, since what they told of is over.
            operator: The operator that it will treat.
            where: The node, module or source line of it.
            reproducer: A folder that the hook has written and leaves behind if it never returns;
                it stands for this and all later words of the call.
        """
        tell = getattr(self.reporter, "about_to", None)
        if tell is not None:
            tell(step, operator, where, reproducer)

    def checkpoint(self) -> None:
        """Stop here if the user asked to.

        Raises:
            OperationCancelledError: The work was cancelled.
        """
        if self.cancelled is not None and self.cancelled.is_set():
            raise OperationCancelledError(
                "LPT-STOP-001", "Stopped on request", remedy="Run the same command again."
            )


@runtime_checkable
class Session(Protocol):
    """A model opened on a runtime: named arrays in, named arrays out.

    Attributes:
        signature: Inputs and outputs as this runtime names them.
        facts: Runtime and version, providers, threads, ``storage_precision`` and
            ``execution_precision`` (two facts), and whatever else the runtime tells.
    """

    signature: Signature
    facts: Mapping[str, Any]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once.

        Args:
            inputs: One array per input, of the dtype and shape that the signature states.

        Returns:
            One array per output, in the signature's order.

        Raises:
            SessionError: An input is missing, unknown, or of a wrong dtype or shape, or the
                runtime failed.
        """

    def close(self) -> None:
        """Free the runtime's resources; calling it again does nothing."""

    def __enter__(self) -> Session:
        """Return the session."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the session."""


@runtime_checkable
class InnerSession(Session, Protocol):
    """A session that shows what goes on inside of its artifact; not every runtime can.

    A target whose sessions are such ones declares :data:`lepton_core.capabilities.INNER`, and
    opens them if the request says ``reference``. With the option ``unverified`` it opens an
    artifact that it would refuse for its bytes alone.
    """

    def inner(
        self, inputs: Mapping[str, np.ndarray], fed: Mapping[str, np.ndarray] | None = None
    ) -> Iterator[tuple[str, str, np.ndarray]]:
        """Run once, and yield name, operator and array of every value, in the order made.

        Args:
            inputs: As for :meth:`run`.
            fed: Values by name that operators read in the place of those made here.

        Raises:
            SessionError: As :meth:`run`; ``details`` has ``operator`` and ``where``, the name of
                the value, where an operator fails.
        """

    def differences(self, other: InnerSession) -> Sequence[str]:
        """Return how the artifact of this session differs from another's, in words."""


__all__ = [
    "LARGEST_SEED",
    "Context",
    "InnerSession",
    "ProgressTask",
    "Reporter",
    "Session",
    "SilentReporter",
]
