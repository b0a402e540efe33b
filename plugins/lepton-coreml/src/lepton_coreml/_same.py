"""Whether a package stores the integers, scales and zero points of its recipe, and its palettes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lepton_core.errors import ConversionError
from lepton_coreml._integers import read_back, read_blocks
from lepton_coreml._same_small import compare_small, folded, halves_of
from lepton_coreml._small import Small
from lepton_onnx import qdq

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto

    from lepton_core.recipe import Recipe
    from lepton_coreml._mil._program import Program

_S = TypeVar("_S", qdq.Stored, qdq.Blocks)


@dataclass(frozen=True, slots=True)
class Numbers:
    """What the lowered graph stores, by value name of the pivot.

    Attributes:
        stored: Values and weights with one scale, or one for each channel.
        blocks: Weights with a scale for each block.
        small: Palettes and pruned weights.
    """

    stored: Mapping[str, qdq.Stored]
    blocks: Mapping[str, qdq.Blocks]
    small: Small = field(default_factory=Small)

    @classmethod
    def of(cls, lowered: ModelProto) -> Numbers:
        """Read them from a graph that :func:`lepton_onnx.lowering.lower_recipe` wrote."""
        return cls(qdq.read_back(lowered), qdq.read_blocks(lowered))


def check_numbers(program: Program, wanted: Numbers, recipe: Recipe) -> dict[str, Any]:
    """Compare a package with the graph it was made from, and with the recipe.

    Args:
        program: The package's program.
        wanted: The numbers of the lowered graph.
        recipe: The recipe.

    Returns:
        For the record: ``weights`` (integers compared), ``values`` (pairs of scale and zero point
        compared), ``equal``, and ``not_stored``, the recipe's values whose scale and zero point the
        package has nowhere. One that has another value's numbers, as behind a MaxPool, may share
        them. In a float16 program ``rounded``, weights whose scales, tables or values are the
        recipe's in float16, bit by bit. Where weights are pruned or share a few values,
        ``palettes`` and ``masks`` (compared), and ``folded``, weights stored whole that
        coremltools computed with.

    Raises:
        ConversionError: LPT-CONV-511, a number differs, or a weight is not stored as integers.
    """
    stored, blocks, rounded = _as_recorded(program, wanted, recipe)
    integers = {n: s.integers for n, s in wanted.stored.items() if s.integers is not None}
    # What the lowered graph leaves float is no integer in the package either.
    weights = {n: t for n, t in recipe.tensors.items() if t.kind != "weight" or n in integers}
    problems = [
        *qdq.compare(replace(recipe, tensors=weights), stored, integers),
        *(
            f"{name}: other numbers than the ONNX file's"
            for name, one in stored.items()
            if name in wanted.stored and not _same(one, wanted.stored[name])
        ),
        *qdq.compare_blocks(wanted.blocks, blocks),
        *compare_small(program, wanted.small),
    ]
    if problems:
        raise ConversionError(
            "LPT-CONV-511",
            "The package does not store the numbers of the recipe",
            cause="; ".join(dict.fromkeys(problems))[:600],
            remedy="Report this model and its recipe as a bug.",
            details={"differences": len(problems)},
        )
    held = sum(s.integers is not None for s in stored.values()) + len(blocks)
    values = sum(s.integers is None for s in stored.values())
    gone = [
        name
        for name, one in wanted.stored.items()
        if name in recipe.tensors
        and name not in stored
        and not any(_scaled_alike(one, other) for other in stored.values())
    ]
    small = wanted.small
    record: dict[str, Any] = {
        "weights": held, "values": values, "equal": True, "not_stored": sorted(gone),
    }  # fmt: skip
    if small.facts:
        masks = len(small.masks) + len(small.integer_masks)
        record |= {"palettes": len(small.palettes), "masks": masks}
        record["folded"] = folded(program, small)
    if rounded:
        record["rounded"] = sorted(rounded)
    return record


def _as_recorded(
    program: Program, wanted: Numbers, recipe: Recipe
) -> tuple[dict[str, qdq.Stored], dict[str, qdq.Blocks], set[str]]:
    """Return what a package stores, and the weights that it has in float16.

    Scales are in the shape that the graph gives them, and as the recipe has them where the
    package's are these in float16. Equal constants are stored once, and are found for each name.
    """
    as_read = {n: _shaped(s, wanted.stored.get(n)) for n, s in read_back(program).items()}
    many_read = {n: _pointed(b, wanted.blocks.get(n)) for n, b in read_blocks(program).items()}
    stored = {n: _widened(s, wanted.stored.get(n)) for n, s in as_read.items()}
    blocks = {n: _widened(b, wanted.blocks.get(n)) for n, b in many_read.items()}
    for name, other in wanted.stored.items():
        if name in stored or other.integers is None or name not in recipe.tensors:
            continue
        alike = (_widened(s, other) for s in as_read.values())
        twin = next((s for s in alike if _same(s, other)), None)
        if twin is not None:
            stored[name] = twin
    for name, many in wanted.blocks.items():
        held = (_widened(b, many) for b in many_read.values())
        twins = [b for b in held if not qdq.compare_blocks({"": many}, {"": b})]
        if name not in blocks and twins:
            blocks[name] = twins[0]
    rounded = {n for n, s in as_read.items() if s.scale.dtype == np.float16}
    rounded |= {n for n, b in many_read.items() if b.scale.dtype == np.float16}
    return stored, blocks, rounded | halves_of(program)


def _widened(found: _S, wanted: _S | None) -> _S:
    """Return scales as the recipe has them where the package's are these in float16."""
    if wanted is None or found.scale.dtype != np.float16:
        return found
    same = np.asarray(wanted.scale).astype(np.float16).tobytes() == found.scale.tobytes()
    return replace(found, scale=wanted.scale if same else found.scale.astype(np.float32))


def _shaped(found: qdq.Stored, wanted: qdq.Stored | None) -> qdq.Stored:
    """Return one scale in the shape that the graph gives it: MIL has ``()`` for one channel."""
    if wanted is None or found.scale.size != 1 or wanted.scale.size != 1:
        return found
    shape = wanted.scale.shape
    return replace(
        found, scale=found.scale.reshape(shape), zero_point=found.zero_point.reshape(shape)
    )


def _pointed(found: qdq.Blocks, wanted: qdq.Blocks | None) -> qdq.Blocks:
    """Return zeros where the package leaves them out because all of them are 0."""
    if found.zero_point is not None or wanted is None or wanted.zero_point is None:
        return found
    return replace(found, zero_point=np.zeros_like(wanted.zero_point))


def _same(one: qdq.Stored, other: qdq.Stored) -> bool:
    if one.integers is None or other.integers is None:
        return one.integers is other.integers and _scaled_alike(one, other)
    return _scaled_alike(one, other) and np.array_equal(one.integers, other.integers)


def _scaled_alike(one: qdq.Stored, other: qdq.Stored) -> bool:
    return one.scale.tobytes() == other.scale.tobytes() and bool(
        (np.asarray(one.zero_point) == np.asarray(other.zero_point)).all()
    )


__all__ = ["Numbers", "check_numbers"]
