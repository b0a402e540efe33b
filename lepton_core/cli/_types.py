"""Kinds of option values: lists, sizes, durations, shapes, options of a plugin."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import click

from lepton_core.capabilities import BY_RECIPE, PRECISIONS
from lepton_core.errors import UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    _ParamType = click.ParamType[Any]  # generic in stubs only
else:
    _ParamType = click.ParamType

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b?)\s*$", re.IGNORECASE)
_TIME = re.compile(r"^\s*(?:(\d+)h)?\s*(?:(\d+)m(?:in)?)?\s*(?:(\d+(?:\.\d+)?)s?)?\s*$", re.I)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class SizeType(_ParamType):
    """A size of memory in bytes: ``512M``, ``4G``, ``1.5GiB``; units are powers of 1024."""

    name = "size"

    def convert(
        self,
        value: Any,  # noqa: ANN401 - click passes what it has
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int:
        """Return the bytes.

        Raises:
            UsageError: The text is no size.
        """
        if isinstance(value, int):
            return value
        found = _SIZE.match(value)
        size = 0
        if found:
            size = int(float(found[1]) * 1024 ** _POWERS[found[2].lower()])
        if size <= 0:
            raise UsageError(
                "LPT-USE-104",
                f"{value!r} is not a size of memory",
                remedy="Write a number and a unit, such as 512M, 4G or 1.5GiB.",
            )
        return size


class ShareOrSizeType(_ParamType):
    """A share of something (``0.3``, ``30%``) or a size in bytes (``150K``, ``1.5MiB``)."""

    name = "size"

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Return a share of at most 1, or bytes.

        Raises:
            UsageError: The text is neither.
        """
        if isinstance(value, int | float):
            return float(value)
        try:
            share = float(value[:-1]) / 100 if value.endswith("%") else float(value)
        except ValueError:
            return float(SIZE.convert(value, param, ctx))
        if 0 < share <= 1:
            return share
        if not 0 < share < math.inf or value.endswith("%"):
            raise UsageError(
                "LPT-USE-111",
                f"{value!r} is neither a share nor a size",
                remedy="Write a share of the uncompressed size above 0 and up to 1, such as 0.3 or "
                "30%, or bytes, such as 150K or 2M.",
            )
        return float(SIZE.convert(value, param, ctx))


class DurationType(_ParamType):
    """A duration in seconds: ``90``, ``90s``, ``15m``, ``1h30m``; more than 0 unless told so."""

    name = "duration"

    def __init__(self, *, zero: bool = False) -> None:
        self.zero = zero

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Return the seconds.

        Raises:
            UsageError: The text is no duration.
        """
        if isinstance(value, int | float):
            return float(value)
        found = _TIME.match(value)
        seconds = 0.0
        if found:
            seconds = 3600 * int(found[1] or 0) + 60 * int(found[2] or 0) + float(found[3] or 0)
        if seconds <= 0 and not (self.zero and found and found[0].strip()):
            raise UsageError(
                "LPT-USE-105",
                f"{value!r} is not a duration",
                remedy="Write seconds or units, such as 90, 90s, 15m or 1h30m.",
            )
        return seconds


class FiniteType(_ParamType):
    """A finite number, at least 0 unless told otherwise."""

    name = "number"

    def __init__(self, minimum: float | None = 0.0) -> None:
        self.minimum = minimum

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Return the number.

        Raises:
            UsageError: The text is no finite number, or too small.
        """
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or (self.minimum is not None and number < self.minimum):
            least = "" if self.minimum is None else f" of at least {self.minimum:g}"
            name = param.opts[-1] if param else "the option"
            raise UsageError(
                "LPT-USE-106",
                f"{value!r} is not a number that {name} takes",
                remedy=f"Give a finite number{least}.",
            )
        return number


class TargetType(_ParamType):
    """Target names, completed in the shell from what is installed and known."""

    name = "target"

    def __init__(self, *, several: bool = False) -> None:
        self.several = several

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete the last name of a comma-separated list."""
        from click.shell_completion import CompletionItem

        from lepton_core.catalogue import KNOWN
        from lepton_core.registry import Registry

        head, comma, last = incomplete.rpartition(",") if self.several else ("", "", incomplete)
        records = Registry(environ={}).records.values()
        names = {r.id for r in records if r.kind == "target"}
        names |= {k.id for k in KNOWN.values() if k.kind == "target"}
        return [CompletionItem(f"{head}{comma}{n}") for n in sorted(names) if n.startswith(last)]


class NamesType(_ParamType):
    """Names that the shell completes; any other text is taken too, and judged by who reads it.

    Args:
        names: What is offered. Lists of names are given here, and not by importing who has them:
            completion runs at every key press.
        several: Whether it is a comma-separated list, of which the last one is completed.
    """

    name = "text"

    def __init__(self, names: tuple[str, ...], *, several: bool = False) -> None:
        self.names = names
        self.several = several

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete what is not in the list yet."""
        from click.shell_completion import CompletionItem

        head, comma, last = incomplete.rpartition(",") if self.several else ("", "", incomplete)
        left = [name for name in self.names if name not in head.split(",")]
        return [CompletionItem(f"{head}{comma}{n}") for n in left if n.startswith(last)]


def split_list(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the parts of repeated and comma-separated values, each once, in order."""
    parts = (part.strip() for value in values for part in value.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))


def pairs(values: tuple[str, ...], name: str) -> dict[str, Any]:
    """Return ``key=value`` options as a mapping; values are JSON if they parse, else text.

    Raises:
        UsageError: A value has no ``=``, or a key comes twice.
    """
    import json

    found: dict[str, Any] = {}
    for text in values:
        key, sign, value = text.partition("=")
        key = key.strip()
        if not sign or not key or key in found:
            raise UsageError(
                "LPT-USE-107",
                f"{text!r} is not a setting that {name} takes"
                if key not in found
                else f"{name} sets {key!r} twice",
                remedy=f"Write {name} KEY=VALUE, once per key.",
            )
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


def target_pairs(values: tuple[str, ...], name: str) -> dict[str, dict[str, Any]]:
    """Return ``target.key=value`` options by target, which may have a device and a precision.

    Raises:
        UsageError: A value names no target, has no ``=``, or a key comes twice.
    """
    found: dict[str, dict[str, Any]] = {}
    for path, value in pairs(values, name).items():
        target, dot, key = path.rpartition(".")  # devices have dots, as openvino:gpu.1 has
        if not (target and dot and key):
            raise UsageError(
                "LPT-USE-107",
                f"{path!r} is not a setting that {name} takes here",
                cause="a port has several targets, and it says for none of them",
                remedy=f"Write {name} TARGET.KEY=VALUE, such as tflite.layout=nhwc, or "
                "TARGET/PRECISION.KEY=VALUE for one precision.",
            )
        found.setdefault(target, {})[key] = value
    return found


_RANGE = re.compile(r"^\s*(\d+)\s*\.\.\s*(\d+)\s*$")


def shapes(values: tuple[str, ...]) -> tuple[dict[str, int], dict[str, tuple[int, int]]]:
    """Return sizes and bounds by symbolic dimension from ``batch=1,length=16..128``.

    Raises:
        UsageError: A size is no positive whole number, or bounds are not in order.
    """
    fixed: dict[str, int] = {}
    bounds: dict[str, tuple[int, int]] = {}
    for key, size in pairs(split_list(values), "--shape").items():
        found = _RANGE.match(size) if isinstance(size, str) else None
        if found and 1 <= int(found[1]) <= int(found[2]):
            bounds[key] = (int(found[1]), int(found[2]))
        elif isinstance(size, int) and not isinstance(size, bool) and size >= 1:
            fixed[key] = size
        else:
            raise UsageError(
                "LPT-USE-107",
                f"'{key}={size}' is not a size of a dimension",
                remedy="Write --shape NAME=SIZE or --shape NAME=FROM..TO with whole numbers of "
                "at least 1.",
            )
    return fixed, bounds


METRICS = ("top1", "top5", "agreement", "cosine", "rel_l2", "max_abs", "mae")
"""Names of :data:`lepton_core.metrics.METRICS`, without numpy."""
SIZE = SizeType()
DURATION = DurationType()
SHARE_OR_SIZE = ShareOrSizeType()
SEED = click.IntRange(0, 2**32 - 1)  # as lepton_core.context says, which is imported later
METRIC = NamesType(METRICS)
PRECISION = NamesType(PRECISIONS)
PRECISION_LIST = NamesType(PRECISIONS, several=True)
COMPRESSED = NamesType((*BY_RECIPE, "auto"))

__all__ = [
    "COMPRESSED",
    "DURATION",
    "METRIC",
    "METRICS",
    "PRECISION",
    "PRECISION_LIST",
    "SEED",
    "SHARE_OR_SIZE",
    "SIZE",
    "DurationType",
    "FiniteType",
    "NamesType",
    "ShareOrSizeType",
    "SizeType",
    "TargetType",
    "pairs",
    "shapes",
    "split_list",
    "target_pairs",
]
