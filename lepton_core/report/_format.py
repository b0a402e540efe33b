"""Numbers as people read them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MISSING = "\N{EN DASH}"
_TIMES = "\N{MULTIPLICATION SIGN}"


def number(value: Any, digits: int = 3) -> str:  # noqa: ANN401 - a number as it stands in JSON
    """Return a number with *digits* significant digits; powers of ten where it is very small."""
    if value is None:
        return _MISSING
    found = float(value)
    if math.isnan(found):
        return _MISSING
    if math.isinf(found):
        return "∞" if found > 0 else "-∞"
    if found == 0:
        return "0"
    exponent = math.floor(math.log10(abs(found)))
    if -3 <= exponent < 6:
        return f"{found:.{digits}g}" if exponent < digits else f"{found:,.0f}"
    mantissa, power = f"{found:.{max(0, digits - 2)}e}".split("e")
    return f"{mantissa} {_TIMES} 10{str(int(power)).translate(_SUPERSCRIPTS)}"


def cosine(value: Any) -> str:  # noqa: ANN401 - a number as it stands in JSON
    """Return a cosine with as many digits as it needs to be told from one."""
    if value is None:
        return _MISSING
    found = float(value)
    if found == 1 or not math.isfinite(found):
        return number(found)
    gap = abs(1 - found)
    digits = 4 if gap == 0 else min(9, max(4, 1 - math.floor(math.log10(gap))))
    return "1 - " + number(1 - found, 2) if gap < 1e-8 else f"{found:.{digits}f}"


def size(value: float | None) -> str:
    """Return a number of bytes in KiB, MiB or GiB (powers of 1024), as the command line does."""
    if value is None:
        return _MISSING
    if value < 1024:
        return f"{value:.0f} B"
    shown, unit = value / 1024, "KiB"
    for larger in ("MiB", "GiB"):
        if shown < 999.5:  # what follows would round to four digits
            break
        shown, unit = shown / 1024, larger
    return f"{shown:.3g} {unit}" if shown < 999.5 else f"{shown:,.0f} {unit}"


def milliseconds(value: float | None) -> str:
    """Return a duration given in milliseconds, in µs, ms or s."""
    if value is None:
        return _MISSING
    found = float(value)
    if found < 1:
        return f"{found * 1000:.3g} µs"
    return f"{found:.3g} ms" if found < 1000 else f"{found / 1000:.3g} s"


def metric(value: Any, unit: str) -> str:  # noqa: ANN401 - a number as it stands in JSON
    """Return a metric's value; shares of samples as percentages with two decimals."""
    if value is None:
        return _MISSING
    if unit == "share of samples":
        return f"{100 * float(value):.2f} %"
    return cosine(value) if unit == "cosine" else number(value, 4)


def drop(value: Any, unit: str) -> str:  # noqa: ANN401 - a number as it stands in JSON
    """Return a loss with its sign; shares of samples in percentage points."""
    if value is None:
        return _MISSING
    found = float(value)
    if found == 0:
        return "no drop"
    word = "drop of" if found > 0 else "gain of"
    if unit == "share of samples":
        return f"{word} {number(abs(found) * 100, 2)} points"
    return f"{word} {number(abs(found), 2)}"


def ratio(value: float | None, base: float | None, of: str = "") -> str:
    """Return how many times smaller, or larger, *value* is than *base*, which *of* names."""
    if not value or not base:
        return ""
    factor = base / value
    if 0.97 < factor < 1.03:
        return f"the same as {of}" if of else "the same"
    word, shown = ("smaller", factor) if factor > 1 else ("larger", 1 / factor)
    text = f"{shown:.1f}{_TIMES} {word}"
    return f"{text} than {of}" if of else text


def digest(text: str) -> str:
    """Return a digest cut to what people compare: ``sha256:`` and twelve digits."""
    kind, _, value = text.partition(":")
    return f"{kind}:{value[:12]}…" if len(value) > 12 else text or _MISSING


def elsewhere(passport: Mapping[str, Any]) -> bool:
    """Tell whether a variant for another device was timed on this machine's processor."""
    variant = passport["variant"]
    _, _, device = variant["target"].partition(":")
    return device not in ("", "cpu") and variant["session"].get("device") == "cpu"


FILTERS = {
    "number": number,
    "cosine": cosine,
    "size": size,
    "milliseconds": milliseconds,
    "metric": metric,
    "drop": drop,
    "ratio": ratio,
    "short": digest,
    "elsewhere": elsewhere,
}

__all__ = ["FILTERS"]
