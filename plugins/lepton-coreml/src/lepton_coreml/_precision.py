"""In which precision a program stores and computes, read from the program."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_coreml._mil._program import Name
from lepton_coreml._prove import stored_arrays

if TYPE_CHECKING:
    from lepton_coreml._mil._program import Operation, Program

_FLOATS = ("fp32", "fp16")
_MOVES = frozenset(
    {
        "const", "cast", "reshape", "transpose", "expand_dims", "squeeze", "concat", "stack",
        "split", "slice_by_index", "slice_by_size", "shape", "gather", "gather_nd", "tile", "pad",
        "identity", "fill", "range_1d", "gather_along_axis", "select", "quantize", "dequantize",
    }
)  # fmt: skip
"""Operators that move values, compute shapes, or only change how values are written."""


_MASKS = frozenset({"mask", "indices_mask", "data_mask"})
_INDICES = frozenset({"indices", "indices_nonzero_data"})


def storage(program: Program) -> dict[str, Any]:
    """Return ``storage_precision``, and ``stored`` elements by type.

    Indices count as ``palette4`` and the like; their tables, and masks of pruned weights, do not
    count.
    """
    counts: Counter[str] = Counter()
    counts.update(_palettes(program))
    parts = _parts(program)
    for name, array, kind in stored_arrays(program):
        if name not in parts:
            counts[kind] += array.size
    small = {k: v for k, v in counts.items() if k not in _FLOATS}
    main = "fp32"
    if small:
        width = max(small, key=lambda k: (small[k], k))
        main = width.removeprefix("u")
    elif counts:
        main = max(counts, key=lambda k: (counts[k], k))
    return {"storage_precision": main, "stored": dict(sorted(counts.items()))}


def _compressed(program: Program) -> list[tuple[Operation, dict[str, str]]]:
    """Return operations that restore a constant, with names of their own constants by parameter."""
    found = []
    for operation in program.block.operations:
        if operation.kind.startswith("constexpr_"):
            names = {key: f"{operation.name}.{key}" for key in operation.attributes}
            for key, given in operation.inputs.items():
                one = given[0]
                names[key] = one.name if isinstance(one, Name) else f"{operation.name}.{key}"
            found.append((operation, names))
    return found


def _parts(program: Program) -> set[str]:
    """Return names of constants that are indices, tables or masks."""
    keys = _MASKS | _INDICES | {"lut"}
    return {names[key] for _, names in _compressed(program) for key in names if key in keys}


def _palettes(program: Program) -> Counter[str]:
    """Return how many indices there are, by ``palette1`` to ``palette8``."""
    constants = dict(program.constants())
    counts: Counter[str] = Counter()
    for operation, names in _compressed(program):
        if not operation.kind.startswith("constexpr_lut_"):
            continue
        lut = constants[names["lut"]].value
        packed = lut.ndim == 1  # the form of iOS 16: bytes that hold several
        bits = int(np.log2(lut.size if packed else lut.shape[-2]))
        held = constants[names["indices" if "indices" in names else "indices_nonzero_data"]].value
        size = np.prod(constants[names["shape"]].value, dtype=np.int64) if packed else held.size
        counts[f"palette{bits}"] += int(size)
    return counts


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
