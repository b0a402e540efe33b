"""Lowering a recipe to the Q/DQ graph that OpenVINO turns into integer kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_core import recipe as recipes
from lepton_onnx import qdq

if TYPE_CHECKING:
    from onnx import ModelProto

INTEGER_OPS = (
    "Add", "AveragePool", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "MatMul",
    "MaxPool", "Mul", "Reshape", "Resize", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators that OpenVINO's low-precision transformations compute with integers on a CPU."""


def lower_recipe(proto: ModelProto, path: str, digest: str) -> tuple[ModelProto, dict[str, Any]]:
    """Write the recipe at *path* into a pivot.

    Activations are uint8 in the file, the recipe's int8 plus 128, and weights int8: the pair that
    OpenVINO's CPU kernels multiply.

    Args:
        proto: The pivot with its weights in memory; it is not changed.
        path: The recipe.
        digest: Digest of the pivot.

    Returns:
        The lowered model, and facts for the record.

    Raises:
        OptimizeError: LPT-OPT-001 … 008, the recipe cannot be read or does not fit.
    """
    recipe = recipes.read(path)
    integers = recipes.load_integers(recipe, path)
    lowered = qdq.lower(
        proto, recipe, digest=digest, integers=integers, integer_ops=INTEGER_OPS, unsigned=True
    )
    found = {
        "digest": recipe.digest,
        "scheme": recipe.scheme,
        "requires": dict(recipe.requires),
    }
    facts = {
        "recipe": found,
        "integer_layers": dict(lowered.integer_layers),
        "weight_only_layers": lowered.weight_layers,
        "kept_in_fp32": dict(recipe.kept_float),
        "qdq_pairs": lowered.pairs,
    }
    return lowered.model, facts


__all__ = ["INTEGER_OPS", "lower_recipe"]
