"""From a recipe's file to a Q/DQ graph: what every target that reads such graphs does first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_core import recipe as recipes
from lepton_onnx import qdq

if TYPE_CHECKING:
    from onnx import ModelProto


def lower_recipe(
    proto: ModelProto,
    path: str,
    digest: str,
    *,
    integer_ops: tuple[str, ...],
    sparse_dtypes: tuple[str, ...] = ("float32", "int8"),
    unsigned: bool = True,
    dynamic: bool = True,
    float_outputs: bool = True,
) -> tuple[ModelProto, dict[str, Any]]:
    """Write the recipe at *path* into a pivot.

    Unless asked otherwise, activations are uint8 in the file, the recipe's int8 plus 128, and
    weights int8: the pair that the integer kernels of CPUs multiply.

    Args:
        proto: The pivot with its weights in memory; it is not changed.
        path: The recipe.
        digest: Digest of the pivot.
        integer_ops: Operators that the target computes with integers; around others no pairs are
            written.
        sparse_dtypes: dtypes of pruned weights that the target puts together from a mask and
            values before it chooses kernels.
        unsigned: Whether activations are uint8.
        dynamic: As for :func:`lepton_onnx.qdq.lower`.
        float_outputs: As for :func:`lepton_onnx.qdq.lower`.

    Returns:
        The lowered model, and facts for the record: ``recipe`` (digest, scheme, what the CPU
        needs), ``integer_layers``, ``weight_only_layers``, ``block_layers`` (stored in few bits),
        ``pruned_weights``, ``palette_weights``, ``kept_in_fp32``, ``qdq_pairs``.

    Raises:
        OptimizeError: LPT-OPT-001 … 008, the recipe cannot be read or does not fit.
    """
    recipe = recipes.read(path)
    arrays = recipes.load_arrays(recipe, path)
    integers = {n: arrays[t.integers] for n, t in recipe.tensors.items() if t.integers}
    lowered = qdq.lower(
        proto, recipe, digest=digest, integers=integers, arrays=arrays, integer_ops=integer_ops,
        unsigned=unsigned, dynamic=dynamic, float_outputs=float_outputs,
        sparse_dtypes=sparse_dtypes,
    )  # fmt: skip
    facts = {
        "recipe": {
            "digest": recipe.digest,
            "scheme": recipe.scheme,
            "precision": recipe.precision,
            "requires": dict(recipe.requires),
        },
        "integer_layers": dict(lowered.integer_layers),
        "weight_only_layers": lowered.weight_layers,
        "block_layers": lowered.block_layers,
        "pruned_weights": lowered.pruned_weights,
        "palette_weights": lowered.palette_weights,
        "kept_in_fp32": dict(recipe.kept_float),
        "qdq_pairs": lowered.pairs,
    }
    return lowered.model, facts


__all__ = ["lower_recipe"]
