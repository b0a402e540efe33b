"""Names of element types: NumPy's, OpenVINO's, and those of precisions."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.types import Signature, TensorSpec

NUMPY_NAMES = {
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
    "bf16": "bfloat16",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "boolean": "bool",
}
"""OpenVINO's names of element types to NumPy's."""

_PASSABLE = frozenset(NUMPY_NAMES.values()) - {"bfloat16"}

_PRECISIONS = {
    "f16": "fp16",
    "f32": "fp32",
    "f64": "fp64",
    "bf16": "bf16",
    "i8": "int8",
    "u8": "int8",
    "i4": "int4",
    "u4": "int4",
    "u2": "int2",
    "nf4": "nf4",
}


def numpy_name(element_type: Any) -> str:  # noqa: ANN401 - a class of the runtime
    """Return NumPy's name of an OpenVINO type, or OpenVINO's own where NumPy has none."""
    name = str(element_type.get_type_name())
    return NUMPY_NAMES.get(name, name)


def unsupported(signature: Signature | None) -> list[TensorSpec]:
    """Return the inputs and outputs that are no arrays of a NumPy dtype."""
    if signature is None:
        return []
    return [s for s in (*signature.inputs, *signature.outputs) if s.dtype not in _PASSABLE]


def precision_of(element_type: str) -> str | None:
    """Return the precision that an element type stands for; ``None`` for indices and flags."""
    return _PRECISIONS.get(element_type.lower())


def storage_facts(stored: Mapping[str, int]) -> dict[str, Any]:
    """Return what a session and an artifact record about how values are stored.

    Args:
        stored: Number of constant values by OpenVINO's name of the element type.
    """
    totals: Counter[str] = Counter()
    for name, count in stored.items():
        precision = precision_of(name)
        if precision is not None:
            totals[precision] += count
    main = max(totals, key=lambda key: (totals[key], key), default="none")
    values = {NUMPY_NAMES.get(name, name): count for name, count in sorted(stored.items())}
    return {"storage_precision": main, "stored_values": values}


__all__ = ["NUMPY_NAMES", "numpy_name", "precision_of", "storage_facts", "unsupported"]
