"""Checking the options of pruning and of palettes."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from lepton_core.errors import OptimizeRequestError
from lepton_core.recipe import LARGEST_GROUP, PRUNINGS, SCOPES

if TYPE_CHECKING:
    from collections.abc import Mapping

SPARSE, PALETTE = "sparse", "palette"
SPARSE_PRECISIONS = (SPARSE, PALETTE)
OF_PRUNING = ("sparsity", "pattern", "prune", "scope")
OF_PALETTES = ("palette", "group")
OF_SPARSE = (*OF_PRUNING, *OF_PALETTES)
MIXED = "mixed"
PRUNED = (SPARSE, PALETTE, "int8", "int16", "int8-weight", "int4", MIXED)
"""Precisions whose weights can be pruned."""

AUTO = "auto"
DEFAULT_BITS = 4
OFFERED = (0.3, 0.5, 0.7)
"""Shares that a search for ``mixed`` may choose between where it is to choose them itself."""
OFFERED_BITS = (4, 2)
"""Bits of palettes, likewise; files of all targets hold them without filling."""
GRID = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Shares that a search for the largest sparsity goes through."""
_PATTERN = re.compile(r"(\d{1,3}):(\d{1,3})")


def read_sparse_options(given: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """Check the options of pruning and palettes among those given, and return them.

    Raises:
        OptimizeError: ``LPT-OPT-015`` one of another precision, a wrong value, or none where one
            is needed.
    """
    _refuse_foreign(given, precision)
    found = _offered(given) if precision == MIXED else _one_of_each(given, precision)
    for name, known in (("prune", PRUNINGS), ("scope", SCOPES)):
        if given.get(name) is not None:
            if given[name] not in known:
                raise refuse(f"{name} cannot be {given[name]!r}", f"known are {', '.join(known)}")
            found[name] = given[name]
    if given.get("group") is not None:
        found["group"] = _whole("group", given["group"], 2**31)
    _check_together(found, given, precision)
    if precision == PALETTE:
        found.setdefault("palette", DEFAULT_BITS)
    return found


def _one_of_each(given: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """Return how much is pruned, and bits of palettes, of a precision that all weights get."""
    found: dict[str, Any] = {}
    if given.get("sparsity") == AUTO:
        if precision != SPARSE:
            raise refuse(
                f"sparsity cannot be 'auto' for {precision}",
                f"{SPARSE} looks for one share, {MIXED} for one for each weight",
            )
        found["sparsities"] = GRID
    elif given.get("sparsity") is not None:
        found["sparsity"] = _share(given["sparsity"])
    elif precision == SPARSE and given.get("pattern") is None:
        found["sparsities"] = GRID
    if given.get("pattern") is not None:
        found["pattern"] = _pattern(given["pattern"])
    if given.get("palette") is not None:
        found["palette"] = _whole("palette", given["palette"], 8)
    return found


def _offered(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a search may choose for each weight besides integers."""
    found: dict[str, Any] = {}
    if given.get("sparsity") is not None:
        said = _several(given["sparsity"])
        shares = OFFERED if said == [AUTO] else [_share(one) for one in said]
        found["sparsities"] = tuple(sorted(set(shares)))
    if given.get("pattern") is not None:
        patterns = given["pattern"]
        if isinstance(patterns, str):
            patterns = [part.strip() for part in patterns.split(",")]
        elif all(isinstance(one, int) for one in _items(patterns)):
            patterns = [patterns]
        found["patterns"] = tuple(dict.fromkeys(_pattern(one) for one in patterns))
    if given.get("palette") is not None:
        said = _several(given["palette"])
        bits = OFFERED_BITS if said == [AUTO] else [_whole("palette", one, 8) for one in said]
        found["palettes"] = tuple(sorted(set(bits), reverse=True))
    return found


def _several(value: object) -> list[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return _items(value)


def _refuse_foreign(given: Mapping[str, Any], precision: str) -> None:
    for names, fit in ((OF_PRUNING, PRUNED), (OF_PALETTES, (PALETTE, MIXED))):
        odd = [name for name in names if given.get(name) is not None]
        if odd and precision not in fit:
            raise refuse(
                f"{odd[0]!r} is no option of {precision}", f"it is one of {', '.join(fit)}"
            )


def _check_together(found: Mapping[str, Any], given: Mapping[str, Any], precision: str) -> None:
    searched = "sparsities" in found or "patterns" in found
    how_much = searched or "sparsity" in found or "pattern" in found
    asked = [name for name in ("prune", "scope") if name in found]
    if asked and not how_much:
        raise refuse("Nothing says how much is pruned", "sparsity (a share) or pattern (N:M) does")
    if precision == MIXED:
        _check_mixed(found)
        return
    if "pattern" in found and ("sparsity" in found or searched):
        raise refuse("sparsity and pattern are given both", "a pattern says how much is pruned")
    if "pattern" in found and "scope" in found:
        raise refuse("A pattern takes no scope", "every group is ranked for itself")
    if how_much and given.get("method") == "gptq":
        raise refuse(
            "Pruned weights are not rounded by gptq", "it would move what is pruned from 0"
        )


def _check_mixed(found: Mapping[str, Any]) -> None:
    if found.get("scope") == "global":
        raise refuse(
            "A search takes no scope 'global'", "each weight is pruned, or not, for itself"
        )
    if "group" in found and "palettes" not in found:
        raise refuse("Nothing says how many bits palettes have", "the option palette does")


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


def refuse(message: str, cause: str) -> OptimizeRequestError:
    """Return the error of an option."""
    return OptimizeRequestError(
        "LPT-OPT-015", message, cause=cause, remedy="Correct the option or leave it out."
    )


__all__ = [
    "AUTO",
    "GRID",
    "MIXED",
    "OF_PALETTES",
    "OF_PRUNING",
    "OF_SPARSE",
    "PALETTE",
    "SPARSE",
    "SPARSE_PRECISIONS",
    "read_sparse_options",
    "refuse",
]  # fmt: skip
