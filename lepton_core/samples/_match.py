"""Check samples against a model's signature, and cast what can be cast without loss of meaning."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.errors import SampleError
from lepton_core.samples._types import Samples, check_rows, chunk_bounds, release_pages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_core.types import Dim, Signature, TensorSpec

    Array = NDArray[Any]


def match(samples: Samples, signature: Signature) -> Samples:
    """Return *samples* with exactly the inputs, dtypes and row shapes that a model asks for.

    Dtypes must be equal or safe to cast: to a wider type of the same kind (``int32`` to
    ``int64``), between float widths and between integer widths where every value fits, and from
    integers and bools to floats. Every cast is noted. Floats never become integers. An input may
    be written with its batch dimension (rows are fed in batches) or without one (row by row).

    Args:
        samples: What was loaded.
        signature: What the model takes.

    Returns:
        Samples in the signature's order, with a note for every cast and ignored array.

    Raises:
        SampleError: ``LPT-DATA-010`` … ``LPT-DATA-018``: empty, names, dtypes, shapes, symbolic
            sizes, NaN or infinity, labels; ``LPT-DATA-023``, the model takes nothing.
    """
    require_inputs(signature)
    samples = check_rows(_labels_as_input(samples, signature))
    notes = _check_names(samples, signature)
    inputs: dict[str, Array] = {}
    sizes: dict[str, tuple[int, str]] = {}
    for spec in signature.inputs:
        array = samples.inputs[spec.name]
        _check_shape(array, spec, sizes)
        _check_finite(array, spec.name, samples)
        inputs[spec.name], note = _cast(array, spec, samples)
        notes += [note] if note else []
    _check_labels(samples)
    return replace(samples, inputs=inputs, notes=(*samples.notes, *notes))


def require_inputs(signature: Signature) -> None:
    """Refuse a model that has no inputs: there is nothing to compare it on.

    Raises:
        SampleError: ``LPT-DATA-023``.
    """
    if not signature.inputs:
        raise SampleError(
            "LPT-DATA-023",
            "The model has no inputs, so there is nothing to run it on",
            cause=f"its outputs are always the same: {', '.join(map(str, signature.outputs))}",
            remedy="Export it with the values that change as inputs.",
        )


def is_batched(array: Array, spec: TensorSpec) -> bool:
    """Return whether *spec* has a batch dimension for the rows of *array*."""
    return array.ndim == len(spec.shape)


def _labels_as_input(samples: Samples, signature: Signature) -> Samples:
    """A model may have an input that is called ``labels``; then those are no labels."""
    wanted = {spec.name for spec in signature.inputs}
    if "labels" in wanted and "labels" not in samples.inputs and samples.labels is not None:
        return replace(samples, inputs={**samples.inputs, "labels": samples.labels}, labels=None)
    return samples


def _check_names(samples: Samples, signature: Signature) -> list[str]:
    wanted = [spec.name for spec in signature.inputs]
    given = list(samples.inputs)
    missing = [name for name in wanted if name not in given]
    extra = [name for name in given if name not in wanted]
    if not missing:
        return [f"array {name!r} was ignored: the model has no such input" for name in extra]
    if len(wanted) == 1 and len(given) == 1:
        message = f"The model's input is called {wanted[0]!r}, the samples' array {given[0]!r}"
        remedy = f"Save the array under the input's name: numpy.savez(file, {_kwarg(wanted[0])})."
    else:
        message = f"The samples have no array for {_quoted(missing)}"
        near = [(n, difflib.get_close_matches(n, extra, n=1)) for n in missing]
        hints = [f"rename {found[0]!r} to {name!r}" for name, found in near if found]
        remedy = f"{'; '.join(hints) or 'Add one array per input, under its name'}."
    raise SampleError(
        "LPT-DATA-012",
        message,
        cause=f"expected {_quoted(wanted)}; given {_quoted(given)}",
        remedy=remedy[0].upper() + remedy[1:],
        details={"expected": wanted, "given": given, "missing": missing},
    )


def _kwarg(name: str) -> str:
    return f"{name}=array" if name.isidentifier() else f"**{{{name!r}: array}}"


def _quoted(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def _check_shape(array: Array, spec: TensorSpec, sizes: dict[str, tuple[int, str]]) -> None:
    row: tuple[int, ...] = array.shape[1:]
    if array.ndim == len(spec.shape):
        expected: tuple[Dim, ...] = spec.shape[1:]
    elif array.ndim == len(spec.shape) + 1:
        expected = spec.shape
    else:
        raise _shape_error(spec, row, "the number of dimensions differs")
    for axis, (size, dim) in enumerate(zip(row, expected, strict=True)):
        if isinstance(dim, int) and dim != size:
            raise _shape_error(spec, row, f"axis {axis} of a row must be {dim}, not {size}")
        if isinstance(dim, str):
            known, name = sizes.setdefault(dim, (size, spec.name))
            if known != size:
                raise SampleError(
                    "LPT-DATA-015",
                    f"Dimension {dim!r} is {known} in input {name!r} but {size} in {spec.name!r}",
                    remedy=f"Both must have the same size along {dim!r}.",
                    details={"dimension": dim, name: known, spec.name: size},
                )


def _shape_error(spec: TensorSpec, row: tuple[int, ...], cause: str) -> SampleError:
    return SampleError(
        "LPT-DATA-014",
        f"Rows of {spec.name!r} have shape {list(row)}, which does not fit {spec}",
        cause=cause,
        remedy=f"Give an array of shape [rows, {_rest(spec)}]" if len(spec.shape) > 1 else
        "Give an array with one value per row.",
        details={"input": spec.name, "row_shape": list(row), "expected": list(spec.shape)},
    )  # fmt: skip


def _rest(spec: TensorSpec) -> str:
    return ", ".join("any" if dim is None else str(dim) for dim in spec.shape[1:])


def _check_finite(array: Array, name: str, samples: Samples) -> None:
    if array.dtype.kind not in "fc":
        return
    first, count = -1, 0
    for start, stop in chunk_bounds(array):
        piece = np.asarray(array[start:stop])
        bad = ~np.isfinite(piece).reshape(stop - start, -1).all(axis=1)
        if bad.any():
            first = start + int(bad.argmax()) if first < 0 else first
            count += int(bad.sum())
        release_pages(array)
    if count:
        row = int(samples.original_rows[first])
        raise SampleError(
            "LPT-DATA-016",
            f"Input {name!r} has NaN or infinite values in {count} of {len(array)} rows, "
            f"first in row {row}",
            cause="no statement about a variant can rest on such rows",
            remedy="Remove or repair these rows.",
            details={"input": name, "first_row": row, "rows": count},
        )


def _cast(array: Array, spec: TensorSpec, samples: Samples) -> tuple[Array, str | None]:
    try:
        wanted = np.dtype(spec.dtype)
    except TypeError:
        raise SampleError(
            "LPT-DATA-013",
            f"Input {spec.name!r} takes {spec.dtype}, which NumPy arrays cannot hold",
            remedy="Convert the model so that its inputs are float32 or another NumPy type.",
        ) from None
    given = array.dtype
    if given == wanted:
        return array, None
    if given.newbyteorder("=") == wanted:
        return array.astype(wanted), None
    if not _castable(given, wanted):
        raise _dtype_error(spec, given)
    _check_range(array, wanted, spec, samples)
    cast = array.astype(wanted)
    _check_overflow(cast, array, spec, samples)
    scaled = " without scaling" if given.kind in "iu" and wanted.kind == "f" else ""
    return cast, f"input {spec.name!r} was cast from {given} to {wanted}{scaled}"


def _castable(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    kinds = (given.kind, wanted.kind)
    if kinds[0] in "biuf" and kinds[1] == "f":
        return True
    return kinds[0] in "biu" and kinds[1] in "iu"


def _dtype_error(spec: TensorSpec, given: np.dtype[Any]) -> SampleError:
    return SampleError(
        "LPT-DATA-013",
        f"Input {spec.name!r} takes {spec.dtype}, the samples hold {given}",
        cause=f"{given} values cannot be cast to {spec.dtype} without changing their meaning",
        remedy=f"Save the array as {spec.dtype}.",
        details={"input": spec.name, "expected": spec.dtype, "given": str(given)},
    )


def _check_range(array: Array, wanted: np.dtype[Any], spec: TensorSpec, samples: Samples) -> None:
    """Refuse integers that the wanted integer type cannot hold."""
    if wanted.kind not in "iu" or np.can_cast(array.dtype, wanted, "safe"):
        return
    low, high = np.iinfo(wanted).min, np.iinfo(wanted).max
    for start, stop in chunk_bounds(array):
        piece = np.asarray(array[start:stop])
        bad = ((piece < low) | (piece > high)).reshape(stop - start, -1).any(axis=1)
        if bad.any():
            row = int(samples.original_rows[start + int(bad.argmax())])
            raise _out_of_range(spec, array.dtype, row)
        release_pages(array)


def _check_overflow(cast: Array, array: Array, spec: TensorSpec, samples: Samples) -> None:
    """Refuse floats that became infinite in a narrower type; the originals were finite."""
    if cast.dtype.kind != "f" or np.can_cast(array.dtype, cast.dtype, "safe"):
        return
    for start, stop in chunk_bounds(cast):
        bad = np.isinf(cast[start:stop]).reshape(stop - start, -1).any(axis=1)
        if bad.any():
            row = int(samples.original_rows[start + int(bad.argmax())])
            raise _out_of_range(spec, array.dtype, row)


def _out_of_range(spec: TensorSpec, given: np.dtype[Any], row: int) -> SampleError:
    return SampleError(
        "LPT-DATA-013",
        f"Input {spec.name!r} takes {spec.dtype}; row {row} of the samples ({given}) does not "
        "fit into it",
        remedy=f"Save values within the range of {spec.dtype}.",
        details={"input": spec.name, "row": row},
    )


def _check_labels(samples: Samples) -> None:
    labels = samples.labels
    if labels is None:
        return
    if labels.dtype.kind not in "biuf":
        raise SampleError(
            "LPT-DATA-018",
            f"The labels are of type {labels.dtype}, not numbers",
            cause=f"the first one is {labels.reshape(-1)[0]!r}",
            remedy="Give class indices as integers, or values to predict as floats.",
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        bad = ~np.isfinite(labels).reshape(len(labels), -1).all(axis=1)
        row = int(samples.original_rows[int(bad.argmax())])
        raise SampleError(
            "LPT-DATA-018",
            f"The labels have NaN or infinite values, first in row {row}",
            remedy="Give a label for every row, or leave 'labels' out.",
        )


__all__ = ["is_batched", "match"]
