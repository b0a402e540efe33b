"""Importing and calling coremltools without its chatter.

On import it warns about versions of scikit-learn and torch and about its missing native part
(Linux has none), and while converting it draws progress bars on standard error.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import warnings
from typing import TYPE_CHECKING, Any

from lepton_core.errors import PluginDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator

_lock = threading.RLock()
"""Held while output is collected: streams, log handlers and the shims are the whole process's."""
_LONGEST = 4000


class Chatter(logging.Handler):
    """What coremltools said.

    Attributes:
        records: Log messages and printed lines, oldest first.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[str] = []
        self.printed = io.StringIO()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        with contextlib.suppress(Exception):
            self.records.append(record.getMessage()[:_LONGEST])


@contextlib.contextmanager
def captured() -> Iterator[Chatter]:
    """Collect what is logged, warned and printed until the block ends; one thread at a time."""
    with _lock:
        yield from _captured()


def _captured() -> Iterator[Chatter]:
    chatter = Chatter()
    logger = logging.getLogger("coremltools")
    handlers, propagate = logger.handlers[:], logger.propagate
    logger.handlers[:], logger.propagate = [chatter], False
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(chatter.printed),
            contextlib.redirect_stderr(chatter.printed),
        ):
            warnings.simplefilter("ignore")
            yield chatter
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate


def coremltools() -> Any:  # noqa: ANN401 - the package has no types
    """Return the package ``coremltools``.

    Raises:
        PluginDependencyError: LPT-RUN-509, it is not installed or does not load.
    """
    with captured():
        try:
            import coremltools as package  # type: ignore[import-untyped]
        except ImportError as error:
            raise PluginDependencyError(
                "LPT-RUN-509",
                "coremltools cannot be imported",
                cause=str(error),
                remedy="pip install lepton-coreml",
            ) from error
    return package


__all__ = ["Chatter", "captured", "coremltools"]
