"""Keeps what torch, onnxscript and transformers print away from the user's terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_NOISY = ("torch", "onnxscript", "onnx_ir", "transformers", "huggingface_hub")
_LONGEST = 2000
_lock = threading.RLock()
"""Held while output is collected: streams and log handlers are the whole process's, and so is what
``torch.export`` keeps while it traces. Two who put streams back in another order lose them."""


class Chatter(logging.Handler):
    """Collects log records, warnings and printed text.

    Attributes:
        records: Log messages, oldest first, each cut to 2,000 characters.
        errors: Exceptions that were logged instead of raised.
        warnings: Python warnings as they were raised.
    """

    def __init__(self, level: int = logging.WARNING) -> None:
        super().__init__(level)
        self.records: list[str] = []
        self.errors: list[BaseException] = []
        self.warnings: list[warnings.WarningMessage] = []
        self.printed = io.StringIO()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        with contextlib.suppress(Exception):  # a broken format string is not our failure
            self.records.append(record.getMessage()[:_LONGEST])
            if record.exc_info and record.exc_info[1] is not None:
                self.errors.append(record.exc_info[1])


def _noisy_loggers() -> list[logging.Logger]:
    known = [
        logger
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and name.split(".")[0] in _NOISY
    ]
    return known + [
        logging.getLogger(name) for name in _NOISY if name not in logging.root.manager.loggerDict
    ]


@contextlib.contextmanager
def captured() -> Iterator[Chatter]:
    """Collect instead of printing, until the block ends; one thread at a time.

    Handlers of the noisy loggers are set aside and put back; Python's own streams are redirected
    because the ONNX exporter prints its progress.
    """
    with _lock:
        yield from _captured()


def _captured() -> Iterator[Chatter]:
    chatter = Chatter()
    kept = [(logger, logger.handlers[:], logger.propagate) for logger in _noisy_loggers()]
    for logger, _, _ in kept:
        root = "." not in logger.name
        logger.handlers[:] = [chatter] if root else []
        logger.propagate = not root
    try:
        with (
            warnings.catch_warnings(record=True) as raised,
            contextlib.redirect_stdout(chatter.printed),
            contextlib.redirect_stderr(chatter.printed),
        ):
            warnings.simplefilter("always")
            chatter.warnings = raised
            yield chatter
    finally:
        for logger, handlers, propagate in kept:
            logger.handlers[:] = handlers
            logger.propagate = propagate
