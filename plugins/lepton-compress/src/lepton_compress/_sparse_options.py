"""Checking the options of pruning and of palettes."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from lepton_core.errors import OptimizeError
from lepton_core.recipe import LARGEST_GROUP, PRUNINGS, SCOPES

if TYPE_CHECKING:
    from collections.abc import Mapping

SPARSE, PALETTE = "sparse", "palette"
SPARSE_PRECISIONS = (SPARSE, PALETTE)
OF_PRUNING = ("sparsity", "pattern", "prune", "scope")
OF_PALETTES = ("palette", "group")
OF_SPARSE = (*OF_PRUNING, *OF_PALETTES)
PRUNED = (SPARSE, PALETTE, "int8", "int16", "int8-weight", "int4")
"""Precisions whose weights can be pruned."""

DEFAULT_BITS = 4
_PATTERN = re.compile(r"(\d{1,3}):(\d{1,3})")


def read_sparse_options(given: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """Check the options of pruning and palettes among those given, and return them.

    Raises:
        OptimizeError: ``LPT-OPT-015`` one of another precision, a wrong value, or none where one
            is needed.
    """
    _refuse_foreign(given, precision)
    found: dict[str, Any] = {}
    if given.get("sparsity") is not None:
        found["sparsity"] = _share(given["sparsity"])
    if given.get("pattern") is not None:
        found["pattern"] = _pattern(given["pattern"])
    for name, known in (("prune", PRUNINGS), ("scope", SCOPES)):
        if given.get(name) is not None:
            if given[name] not in known:
                raise refuse(f"{name} cannot be {given[name]!r}", f"known are {', '.join(known)}")
            found[name] = given[name]
    for name, high in (("palette", 8), ("group", 2**31)):
        if given.get(name) is not None:
            found[name] = _whole(name, given[name], high)
    _check_together(found, given, precision)
    if precision == PALETTE:
        found.setdefault("palette", DEFAULT_BITS)
    return found


def _refuse_foreign(given: Mapping[str, Any], precision: str) -> None:
    for names, fit in ((OF_PRUNING, PRUNED), (OF_PALETTES, (PALETTE,))):
        odd = [name for name in names if given.get(name) is not None]
        if odd and precision not in fit:
            raise refuse(
                f"{odd[0]!r} is no option of {precision}", f"it is one of {', '.join(fit)}"
            )


def _check_together(found: Mapping[str, Any], given: Mapping[str, Any], precision: str) -> None:
    how_much = "sparsity" in found or "pattern" in found
    asked = [name for name in ("prune", "scope") if name in found]
    if (asked or precision == SPARSE) and not how_much:
        raise refuse("Nothing says how much is pruned", "sparsity (a share) or pattern (N:M) does")
    if "sparsity" in found and "pattern" in found:
        raise refuse("sparsity and pattern are given both", "a pattern says how much is pruned")
    if "pattern" in found and "scope" in found:
        raise refuse("A pattern takes no scope", "every group is ranked for itself")
    if how_much and given.get("method") == "gptq":
        raise refuse(
            "Pruned weights are not rounded by gptq", "it would move what is pruned from 0"
        )


def _share(value: object) -> float:
    text = str(value).strip()
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise refuse(f"sparsity cannot be {value!r}", "a share between 0 and 1 is needed")
    return share


def _pattern(value: object) -> tuple[int, int]:
    text = value if isinstance(value, str) else ":".join(map(str, _items(value)))
    found = _PATTERN.fullmatch(text)
    n, m = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 < n < m <= LARGEST_GROUP:
        raise refuse(
            f"pattern cannot be {value!r}",
            f"N:M keeps N of M values, such as 2:4; M is at most {LARGEST_GROUP}",
        )
    return n, m


def _items(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _whole(name: str, value: object, high: int) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = 0
    if not 1 <= number <= high:
        raise refuse(f"{name} cannot be {value!r}", f"a number from 1 to {high} is needed")
    return number


def refuse(message: str, cause: str) -> OptimizeError:
    """Return the error of an option."""
    return OptimizeError(
        "LPT-OPT-015", message, cause=cause, remedy="Correct the option or leave it out."
    )


__all__ = [
    "OF_PALETTES",
    "OF_PRUNING",
    "OF_SPARSE",
    "PALETTE",
    "SPARSE",
    "SPARSE_PRECISIONS",
    "read_sparse_options",
    "refuse",
]  # fmt: skip
