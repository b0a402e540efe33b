"""Options of an engine's verb: a mapping from the caller becomes a checked dataclass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lepton_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")


def read_options(options: Mapping[str, Any], kind: type[T]) -> T:
    """Return the options of a request as a *kind*.

    Args:
        options: What the caller gave; paths may be :class:`~pathlib.Path`.
        kind: A dataclass with a default for every field.

    Raises:
        UsageError: LPT-DEP-005, one is not known or of a wrong type.
    """
    import msgspec

    known = set(getattr(kind, "__dataclass_fields__", ()))
    try:
        if strange := sorted(set(options) - known):
            raise ValueError(f"not known: {', '.join(strange)}")
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}
        return msgspec.convert(plain, kind)
    except (ValueError, msgspec.ValidationError) as error:
        raise UsageError(
            "LPT-DEP-005",
            "The embedded engine does not take these options",
            cause=str(error),
            remedy=f"It takes: {', '.join(sorted(known))}.",
        ) from error


__all__ = ["read_options"]
