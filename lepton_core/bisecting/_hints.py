"""What may be the cause of one value's error, where the numbers show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import lepton_kernels as lk
    from lepton_core.recipe import Recipe

HALF_LARGEST = 65504.0
"""Largest finite float16."""

_BEYOND = 1.05
"""A range counts as exceeded from this multiple of its end on."""


def hint_for(
    value: str,
    found: lk.ErrorMetrics,
    largest: float,
    precision: str,
    recipe: Recipe | None,
    *,
    exact: bool = True,
) -> str:
    """Return what may be the cause, in words; empty if the numbers show none.

    Args:
        value: Name of the value.
        found: Its errors.
        largest: Its largest magnitude on the first side.
        precision: Precision of the second side.
        recipe: Its recipe, if it has one.
        exact: Whether its runtime says that it sums products of 8-bit integers exactly.
    """
    more = found.nan_actual + found.inf_actual - found.nan_reference - found.inf_reference
    if more > 0:
        text = f"{more} values are NaN or infinite on the second side only"
        if precision in ("fp16", "bf16") or largest > HALF_LARGEST:
            text += f"; the first side reaches {largest:.4g}, float16 ends at {HALF_LARGEST:g}"
        return text
    return "" if recipe is None else _of_recipe(value, largest, recipe, exact)


def _of_recipe(value: str, largest: float, recipe: Recipe, exact: bool) -> str:
    parts = []
    entry = recipe.tensors.get(value)
    if entry is not None and entry.kind == "activation" and value not in recipe.rescaled:
        most = max(128 + entry.zero_point, 127 - entry.zero_point)
        end = entry.scales[0] * (32767 if entry.dtype == "int16" else most)
        if largest > _BEYOND * end:
            parts.append(f"magnitudes up to {largest:.4g} are clipped at {end:.4g}")
    layer = next((la for la in recipe.layers.values() if la.output == value), None)
    if layer is not None:
        block = recipe.blocks.get(layer.weight or "")
        if block is not None:
            parts.append(f"its weight has {block.bits} bits in blocks of {block.block}")
        elif layer.mode == "static" and layer.weight is not None:
            missing = [] if exact else _missing(recipe)
            if missing:
                parts.append(
                    "sums of int8 products saturate in 16 bits, as this CPU has neither "
                    f"{missing[0]} nor its like"
                )
    return "; ".join(parts)


def _missing(recipe: Recipe) -> list[str]:
    """Return what a recipe needs one of for exact integers, if this CPU has none of it."""
    from lepton_core.environment import cpu_features

    wanted = list(recipe.requires.get("cpu", {}).get("any", ()))
    return [] if set(wanted) & set(cpu_features()) else wanted


__all__ = ["HALF_LARGEST", "hint_for"]
