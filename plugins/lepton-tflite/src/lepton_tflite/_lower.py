"""From a recipe to what is converted, and to what the file has to hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_core import recipe as recipes
from lepton_core.errors import UnsupportedOperationError
from lepton_onnx.lowering import lower_recipe
from lepton_tflite._integers import INTEGER_OPS

if TYPE_CHECKING:
    from onnx import ModelProto

    from lepton_core.recipe import Recipe

SCHEMES = ("int8-static",)
LIMIT = 0.05
"""Largest relative L2 difference between integer kernels and the Q/DQ graph: roundings of
requantization, one unit here and there."""


def lower(proto: ModelProto, path: str, digest: str) -> tuple[ModelProto, Recipe, dict[str, Any]]:
    """Write a recipe into a pivot, as the converter takes it.

    Returns:
        The Q/DQ graph, the recipe, and facts for the record.

    Raises:
        UnsupportedOperationError: LPT-CONV-412, a scheme that is not lowered here.
        OptimizeError: LPT-OPT-001 … 008, the recipe cannot be read or does not fit.
    """
    recipe = recipes.read(path)
    if recipe.scheme not in SCHEMES:
        raise UnsupportedOperationError(
            "LPT-CONV-412",
            f"tflite does not lower recipes of the scheme {recipe.scheme}",
            cause=f"It lowers {', '.join(SCHEMES)}.",
            remedy="Optimize for int8, or choose another target.",
        )
    lowered, facts = lower_recipe(
        proto, path, digest, integer_ops=INTEGER_OPS,
        unsigned=False, dynamic=False, float_outputs=False,
    )  # fmt: skip
    return lowered, recipe, facts


__all__ = ["LIMIT", "SCHEMES", "lower"]
