"""In which precision a program stores and computes, read from the program."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from lepton_coreml._prove import stored_arrays

if TYPE_CHECKING:
    from lepton_coreml._mil._program import Program

_FLOATS = ("fp32", "fp16")
_MOVES = frozenset(
    {
        "const", "cast", "reshape", "transpose", "expand_dims", "squeeze", "concat", "stack",
        "split", "slice_by_index", "slice_by_size", "shape", "gather", "gather_nd", "tile", "pad",
        "identity", "fill", "range_1d", "gather_along_axis", "select", "quantize", "dequantize",
    }
)  # fmt: skip
"""Operators that move values, compute shapes, or only change how values are written."""


def storage(program: Program) -> dict[str, Any]:
    """Return ``storage_precision``, and ``stored`` elements by type."""
    counts: Counter[str] = Counter()
    for _, array, kind in stored_arrays(program):
        counts[kind] += array.size
    small = {k: v for k, v in counts.items() if k not in _FLOATS}
    main = "fp32"
    if small:
        width = max(small, key=lambda k: (small[k], k))
        main = width.removeprefix("u")
    elif counts:
        main = max(counts, key=lambda k: (counts[k], k))
    return {"storage_precision": main, "stored": dict(sorted(counts.items()))}


def execution_sentence(program: Program, *, on_device: bool) -> str:
    """Say in words what precision most operations declare."""
    counts: Counter[str] = Counter()
    for operation in program.block.operations:
        if operation.kind in _MOVES or operation.kind.startswith("constexpr_"):
            continue
        if operation.outputs and operation.outputs[0][1].dtype in _FLOATS:
            counts[operation.outputs[0][1].dtype] += 1
    total = sum(counts.values())
    if not total:
        return "none (no operation computes with floats)"
    main = max(counts, key=lambda k: (counts[k], k))
    how = "the device chooses" if on_device else "float32 arithmetic, each result rounded to it"
    return f"{main} ({counts[main]} of {total} operations; {how})"


__all__ = ["execution_sentence", "storage"]
