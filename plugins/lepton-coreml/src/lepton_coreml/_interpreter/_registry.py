"""The table of operators.

A function takes the operator's parameters by MIL's names (a float16 tensor as float32, so that
the arithmetic is float32 and the result is rounded once), and returns one array, or a tuple.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

OPERATORS: dict[str, Any] = {}
"""Functions by MIL's name; filled when the modules of the families are imported."""

FAMILIES: dict[str, str] = {}
"""Name of the family by operator."""


def operator(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function under MIL's names."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            if name in OPERATORS:
                msg = f"{name} is registered twice"
                raise ValueError(msg)
            OPERATORS[name] = function
            FAMILIES[name] = function.__module__.rpartition(".")[2].lstrip("_")
        return function

    return register


__all__ = ["FAMILIES", "OPERATORS", "operator"]
