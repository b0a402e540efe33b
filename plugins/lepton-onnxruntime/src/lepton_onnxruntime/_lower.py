"""Lowering a recipe for ONNX Runtime's CPU kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_core import recipe as recipes
from lepton_onnx import qdq

if TYPE_CHECKING:
    from onnx import ModelProto

INTEGER_OPS = (
    "Add", "AveragePool", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "MatMul",
    "MaxPool", "Mul", "Reshape", "Resize", "Sigmoid", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators whose Q/DQ groups ONNX Runtime turns into integer kernels on a CPU."""


def lower_recipe(proto: ModelProto, path: str, digest: str) -> tuple[ModelProto, dict[str, Any]]:
    """Write the recipe at *path* into a pivot.

    Activations are uint8 in the file, the recipe's int8 plus 128: on x86 the kernels multiply
    uint8 by int8, and ONNX Runtime's own change from int8 skips values with several readers, which
    then stay float.

    Args:
        proto: The pivot with its weights in memory; it is not changed.
        path: The recipe.
        digest: Digest of the pivot.

    Returns:
        The lowered model, and facts for the record.

    Raises:
        OptimizeError: LPT-OPT-001 … 008.
    """
    recipe = recipes.read(path)
    integers = recipes.load_integers(recipe, path)
    lowered = qdq.lower(
        proto, recipe, digest=digest, integers=integers, integer_ops=INTEGER_OPS, unsigned=True
    )
    facts = {
        "recipe": {
            "digest": recipe.digest,
            "scheme": recipe.scheme,
            "requires": dict(recipe.requires),
        },
        "integer_layers": dict(lowered.integer_layers),
        "weight_only_layers": lowered.weight_layers,
        "kept_in_fp32": dict(recipe.kept_float),
        "qdq_pairs": lowered.pairs,
    }
    return lowered.model, facts


__all__ = ["INTEGER_OPS", "lower_recipe"]
