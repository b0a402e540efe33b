"""Importing and calling coremltools without its chatter.

On import it warns about versions of scikit-learn and torch and about its missing native part
(Linux has none), and while converting it draws progress bars on standard error.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import threading
import warnings
from typing import TYPE_CHECKING, Any

from lepton_core.errors import PluginDependencyError
from lepton_core.installing import install_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_lock = threading.RLock()
"""Held while output is collected: streams, log handlers and the shims are the whole process's."""
_LONGEST = 4000
_NEXT = re.compile(r"Converting op (?P<name>.*) : (?P<kind>\S+)$")


class Chatter(logging.Handler):
    """What coremltools said.

    Attributes:
        records: Log messages and printed lines, oldest first.
    """

    def __init__(self, tell: Callable[[str, str], None] | None = None) -> None:
        super().__init__(logging.WARNING if tell is None else logging.INFO)
        self.records: list[str] = []
        self.printed = io.StringIO()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record; pass on the name of an operator that comes next."""
        with contextlib.suppress(Exception):
            text = record.getMessage()[:_LONGEST]
            if record.levelno >= logging.WARNING:
                self.records.append(text)
            elif self._tell is not None and (found := _NEXT.match(text)):
                self._tell(found["kind"], found["name"])


@contextlib.contextmanager
def captured(tell: Callable[[str, str], None] | None = None) -> Iterator[Chatter]:
    """Collect what is logged, warned and printed until the block ends; one thread at a time.

    Args:
        tell: Gets kind and name of every operator before coremltools translates it.
    """
    with _lock:
        yield from _captured(tell)


def _captured(tell: Callable[[str, str], None] | None) -> Iterator[Chatter]:
    chatter = Chatter(tell)
    logger = logging.getLogger("coremltools")
    handlers, propagate, level = logger.handlers[:], logger.propagate, logger.level
    logger.handlers[:], logger.propagate = [chatter], False
    if tell is not None:
        logger.setLevel(logging.INFO)
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
        logger.setLevel(level)


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
                remedy=install_command("lepton-coreml"),
            ) from error
    return package


__all__ = ["Chatter", "captured", "coremltools"]
