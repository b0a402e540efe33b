"""Running several jobs at once; the core knows no more of it than ``submit`` and ``map``.

Threads are enough here, because heavy work waits for worker processes. An extension may bring an
executor that spans machines.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

from lepton_core.errors import OperationCancelledError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


class Executor(Protocol):
    """What the core asks of an executor."""

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Start *function* as soon as there is room; return its future."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return ``function(item)`` for each item, in the order of *items*.

        Raises:
            Exception: The first that any of them raised; the others are stopped.
        """


class LocalExecutor:
    """Runs jobs in threads of this process.

    Pass ``executor.cancelled`` to each job as ``Context.cancelled``: it is set when the first
    job of a :meth:`map` fails, on Ctrl-C, and by :meth:`cancel`, and then jobs that wait are
    dropped and running ones stop at their next checkpoint. A stopped executor stays stopped.

    Args:
        workers: Jobs at a time; as many as there are CPUs by default.
        cancelled: Event to share with the caller; a new one by default.
    """

    def __init__(
        self, workers: int | None = None, *, cancelled: threading.Event | None = None
    ) -> None:
        from concurrent.futures import ThreadPoolExecutor

        from lepton_core.environment import available_cpus

        self.cancelled = cancelled or threading.Event()
        self._threads = ThreadPoolExecutor(workers or available_cpus(), "lepton-job")

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Start *function* as soon as there is room; return its future.

        Its result raises :class:`~lepton_core.errors.OperationCancelledError` if the executor
        was stopped before the job began.
        """
        from functools import partial

        return self._threads.submit(self._run, partial(function, *args, **kwargs))

    def _run(self, job: Callable[[], R]) -> R:
        if self.cancelled.is_set():
            raise OperationCancelledError(
                "LPT-STOP-001", "Stopped on request", remedy="Run the same command again."
            )
        return job()

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return ``function(item)`` for each item, in the order of *items*.

        Returns only after every started job has ended.

        Raises:
            Exception: The first that any of them raised, by time.
        """
        from concurrent.futures import wait

        failures: list[BaseException] = []
        lock = threading.Lock()

        def guarded(item: T) -> R:
            try:
                return function(item)
            except BaseException as error:
                with lock:
                    failures.append(error)
                self.cancelled.set()
                raise

        futures = [self.submit(guarded, item) for item in items]
        try:
            wait(futures)
        except BaseException:  # Ctrl-C while waiting: let the jobs end, then pass it on
            self.cancelled.set()
            wait(futures)
            raise
        if failures:
            raise failures[0]
        return [future.result() for future in futures]

    def cancel(self) -> None:
        """Stop: waiting jobs are dropped, running ones stop at their next checkpoint."""
        self.cancelled.set()

    def close(self) -> None:
        """Wait for running jobs and free the threads; calling it again does nothing."""
        self._threads.shutdown(wait=True)

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if error is not None:
            self.cancel()
        self.close()


__all__ = ["Executor", "LocalExecutor"]
