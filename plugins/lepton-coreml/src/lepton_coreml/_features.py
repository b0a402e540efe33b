"""Between a signature and a package's inputs and outputs: names, types, bounds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.codec import from_data, to_data
from lepton_core.errors import SessionError
from lepton_core.types import Signature, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lepton_coreml._mil._program import Feature, Program

    Array = NDArray[Any]

SIGNATURE_NOTE = "lepton.signature"
"""Note of the program that holds the signature as JSON."""

_PASSED = {
    "float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "uint16", "bool",
}  # fmt: skip
ARRAYS = {
    "fp32": np.float32, "fp16": np.float16, "int32": np.int32, "fp64": np.float64, "int8": np.int8
}  # fmt: skip
"""NumPy's types of a model's inputs and outputs by MIL's name."""

_SYSTEMS = {6: (15, 12), 7: (16, 13), 8: (17, 14), 9: (18, 15)}


def systems(program: Program) -> tuple[int, int]:
    """Return the least iOS and macOS that read a program, by the version of its file format."""
    return _SYSTEMS.get(program.version, max(_SYSTEMS.values()))


def unsupported(signature: Signature | None) -> tuple[TensorSpec, ...]:
    """Return inputs and outputs that Core ML's arrays cannot hold."""
    if signature is None:
        return ()
    return tuple(s for s in (*signature.inputs, *signature.outputs) if s.dtype not in _PASSED)


def signature_note(signature: Signature) -> str:
    """Return the text of the program's note."""
    return json.dumps(to_data(signature), sort_keys=True, separators=(",", ":"))


def recorded_signature(program: Program) -> Signature:
    """Return the signature that lepton recorded; else what the package itself declares.

    Outputs of others' packages often have no shape in the description: it is the program's then.

    Raises:
        ValueError: What was recorded is no signature.
    """
    text = program.metadata.get(SIGNATURE_NOTE)
    if text is not None:
        try:
            return from_data(json.loads(text), Signature)
        except Exception as error:
            msg = f"the note {SIGNATURE_NOTE} holds no signature: {error}"
            raise ValueError(msg) from error
    made: dict[str, Sequence[object]] = {
        name: t.shape for op in program.block.operations for name, t in op.outputs
    }
    made |= {f.name: f.shape for f in program.inputs}
    return Signature(
        tuple(_spec(f, f.shape) for f in program.inputs),
        tuple(_spec(f, f.shape or made.get(f.name, ())) for f in program.outputs),
    )


def _spec(feature: Feature, shape: Sequence[object]) -> TensorSpec:
    dims = tuple(d if isinstance(d, int) else f"{feature.name}_{i}" for i, d in enumerate(shape))
    return TensorSpec(feature.name, np.dtype(ARRAYS[feature.dtype]).name, dims)


def to_feature(spec: TensorSpec, feature: Feature, array: Array) -> Array:
    """Return an input as the package takes it.

    Raises:
        SessionError: LPT-RUN-507 (a number beyond what the package's type holds), 508 (a size
            beyond the bounds).
    """
    shape = array.shape or (1,)
    for axis, (have, bound) in enumerate(zip(shape, feature.shape, strict=False)):
        low, high = (bound, bound) if isinstance(bound, int) else bound
        if have < low or (high >= 0 and have > high):
            raise SessionError(
                "LPT-RUN-508",
                f"Axis {axis} of {spec.name!r} is {have}; this package takes {low} to {high}",
                remedy="Fill it up to that size and drop what comes out for the rest, or convert "
                "the model static."
                if have < low
                else "Run fewer rows at a time, or convert with another bound: the options "
                "max_batch and max_size.",
            )
    kind: Any = np.dtype(ARRAYS[feature.dtype])
    if kind.kind == "i" and array.dtype.kind in "iu" and array.dtype != kind and array.size:
        limits = np.iinfo(kind)
        if array.min() < limits.min or array.max() > limits.max:
            raise _too_large(spec, array, kind)
    with np.errstate(over="ignore"):
        given = array.astype(kind, copy=False)
    narrower = kind.kind == array.dtype.kind == "f" and kind.itemsize < array.dtype.itemsize
    if narrower and bool(np.any(np.isinf(given) & np.isfinite(array))):
        raise _too_large(spec, array[np.isfinite(array)], kind)
    return np.ascontiguousarray(given.reshape(shape))


def _too_large(spec: TensorSpec, array: Array, kind: np.dtype[Any]) -> SessionError:
    return SessionError(
        "LPT-RUN-507",
        f"{spec.name!r} holds numbers beyond {kind}, which this package takes",
        cause=f"They reach from {array.min()} to {array.max()}.",
        remedy="Pass smaller numbers.",
    )


def from_feature(spec: TensorSpec, array: Array) -> Array:
    """Return an output as the signature states it."""
    shaped = array.reshape(()) if not spec.shape and array.size == 1 else array
    return np.array(shaped.astype(spec.dtype, copy=False))


def named(program: Program, signature: Signature) -> Mapping[str, Feature]:
    """Return the package's features by the signature's names, in its order."""
    pairs = (
        *zip(signature.inputs, program.inputs, strict=True),
        *zip(signature.outputs, program.outputs, strict=True),
    )
    return {spec.name: feature for spec, feature in pairs}


__all__ = [
    "ARRAYS",
    "SIGNATURE_NOTE",
    "from_feature",
    "named",
    "recorded_signature",
    "signature_note",
    "systems",
    "to_feature",
    "unsupported",
]
