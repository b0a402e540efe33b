"""Says in words, with the user's line, why torch.export refused a module."""

from __future__ import annotations

import logging
import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_core.errors import ConversionError
from lepton_torch._chatter import captured
from lepton_torch._usercode import describe_frame, parse_stack, pick_frame, where_raised

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_torch._sources import LiveSource

_SHAPES_LOG = "torch.fx.experimental.symbolic_shapes"
_FIXED = re.compile(r"marked (\S+) as dynamic but your code specialized it[^(]*\((\d+)\)")
_REMEDIES = {
    "a decision in Python": "Use torch.where, torch.cond or masking instead of Python's if, "
    "while or indexing by a tensor's value.",
    "the code does not work": "Use the sizes of the input (x.shape[0]) and -1 in reshapes "
    "instead of fixed numbers, and no Python loop over the batch.",
    "the exported program computes": "Keep constants that depend on the batch out of __init__ "
    "and of Python's state.",
}


class RefusalError(Exception):
    """Why a module could not be captured, in words, and where."""

    def __init__(self, reason: str, where: str, error: BaseException | None = None) -> None:
        super().__init__(reason + (f" ({where})" if where else ""))
        self.reason = reason
        self.where = where
        self.error = error


def explain(error: Exception, source: LiveSource, again: Callable[[], object]) -> RefusalError:
    """Put torch's error into one sentence with the user's line.

    Args:
        error: What ``torch.export.export`` raised.
        source: The module that was exported.
        again: Repeats the export; called to learn where a size was fixed, which torch's error
            does not tell.
    """
    text = str(error)
    if "Constraints violated" in text:
        found = _FIXED.search(text)
        fixed = f"it fixes {found[1]} to {found[2]}" if found else first_line(text)
        place = _where_specialised(source, again)
        return RefusalError(f"the code does not work for every size: {fixed}", place, error)
    where = where_raised(error, source.root)
    if not where:
        where = describe_frame(pick_frame(parse_stack(text), source.root), source.root)
    kind = type(error).__name__
    if "data-dependent" in text.lower() or kind == "GuardOnDataDependentSymNode":
        return RefusalError("a decision in Python depends on the values of a tensor", where, error)
    return RefusalError(f"{kind}: {first_line(text)}", where, error)


def first_line(text: str) -> str:
    """Return the first line that says something, at most 300 characters of it."""
    lines = [line.strip(" -") for line in text.splitlines() if line.strip()]
    return (lines[0] if lines else "no message")[:300]


class _GuardFinder(logging.Handler):
    """Notes the user's line while torch logs that it fixes a size.

    torch names its own frame there; the user's is still on the stack when the record is made.
    """

    def __init__(self, root: Path | None) -> None:
        super().__init__(logging.INFO)
        self._root = root
        self.guards: list[str] = []
        self.replacements: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Look up the stack if the record is about a decision on a size."""
        text = record.getMessage()
        if text.startswith("set_replacement"):
            found = self.replacements
        elif text.startswith("eval") and "guard added" in text:
            found = self.guards
        else:
            return
        stack = [(f.filename, f.lineno or 0, f.name) for f in traceback.extract_stack()]
        frame = pick_frame(stack, self._root)
        if frame is not None and self._root and Path(frame[0]).is_relative_to(self._root):
            found.append(describe_frame(frame, self._root))


def _where_specialised(source: LiveSource, again: Callable[[], object]) -> str:
    """Export again with torch's log of shape decisions on; return the line of the first one."""
    logger = logging.getLogger(_SHAPES_LOG)
    finder = _GuardFinder(source.root)
    level = logger.level
    try:
        with captured():
            logger.addHandler(finder)
            logger.setLevel(logging.INFO)
            again()
    except Exception:  # noqa: S110 - it failed before; only the log matters
        pass
    finally:
        logger.setLevel(level)
        logger.removeHandler(finder)
    return next(iter(finder.replacements + finder.guards), "")


def failure(source: LiveSource, refusal: RefusalError, dynamic: bool = False) -> ConversionError:
    """Return the error for a module that cannot be captured.

    Args:
        source: The module.
        refusal: Why.
        dynamic: Whether it is about a batch size that had to stay symbolic.
    """
    name = source.origin.get("module", "the module")
    remedy = next((v for k, v in _REMEDIES.items() if refusal.reason.startswith(k)), None)
    return ConversionError(
        "LPT-CONV-102" if dynamic else "LPT-CONV-101",
        f"{name} cannot be exported"
        + (" with a dynamic batch" if dynamic else "")
        + (f": {refusal.where}" if refusal.where else ""),
        cause=refusal.reason,
        remedy=remedy or "Write the line with tensor operators that torch.export can follow.",
        details={"where": refusal.where, "reason": refusal.reason},
    )
