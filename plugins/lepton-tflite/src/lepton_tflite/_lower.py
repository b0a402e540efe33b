"""From a recipe to what is converted, and to what the file has to hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_core import recipe as recipes
from lepton_core.errors import UnsupportedOperationError
from lepton_onnx.lowering import lower_recipe
from lepton_tflite._integers import INTEGER_OPS
from lepton_tflite._weights import Weight, take_weights

if TYPE_CHECKING:
    from onnx import ModelProto

    from lepton_core.recipe import Recipe

SCHEMES = ("int8-static", "int8-dynamic", "int8-weight-only", "int4-weight-only", "mixed")
LIMIT = 0.05
"""Largest relative L2 difference between integer kernels and the graph that they are made from:
roundings of requantization, one unit here and there, or of inputs at run time."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """A recipe as the converter takes it.

    Attributes:
        proto: The Q/DQ graph; weights whose operators take floats are inputs behind its own.
        recipe: The recipe.
        weights: These weights.
        integer: Whether any operator takes integers.
        facts: For the record.
    """

    proto: ModelProto
    recipe: Recipe
    weights: tuple[Weight, ...]
    integer: bool
    facts: dict[str, Any]


def lower(proto: ModelProto, path: str, digest: str) -> Lowered:
    """Write a recipe into a pivot, as the converter takes it.

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
            remedy="Optimize for int8, int8-weight, int4 or mixed, or choose another target.",
        )
    lowered, facts = lower_recipe(
        proto, path, digest, integer_ops=INTEGER_OPS,
        unsigned=False, dynamic=False, float_outputs=False,
    )  # fmt: skip
    weights = tuple(take_weights(lowered, recipe))
    return Lowered(lowered, recipe, weights, bool(facts["integer_layers"]), facts)


__all__ = ["LIMIT", "SCHEMES", "Lowered", "lower"]
