"""Arrays of the model's types to those of the file and back: 32 bits for 64, int8 for float."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_core.errors import SessionError


def numbers_of(details: dict[str, Any]) -> tuple[np.float32, int] | None:
    """Return scale and zero point of a port, from the runtime's details; ``None`` without."""
    own = details["quantization_parameters"]
    if not len(own["scales"]):
        return None
    return np.float32(own["scales"][0]), int(own["zero_points"][0])


def into_file(name: str, array: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """Return an array in the file's own type: integers exactly, floats on the port's grid.

    Raises:
        SessionError: LPT-RUN-405, a number needs more bits than the file has; 414, a float on
            its way to integers is NaN or infinite.
    """
    wanted = np.dtype(details["dtype"])
    if array.dtype == wanted:
        return array
    if array.dtype.kind == "f" and wanted.kind == "i" and (numbers := numbers_of(details)):
        _refuse_not_finite(name, array, wanted)
        limits = np.iinfo(wanted)
        grid = np.rint(array / numbers[0]) + numbers[1]
        return np.asarray(np.clip(grid, limits.min, limits.max).astype(wanted))
    if wanted.kind in "iu" and array.size:
        _check_range(name, array, wanted)
    with np.errstate(over="ignore"):
        given = array.astype(wanted)
    beyond = np.isinf(given) & np.isfinite(array) if wanted.kind == array.dtype.kind == "f" else ()
    if np.any(beyond):
        raise _beyond(name, array[beyond].flat[0], array, wanted)
    return given


def _refuse_not_finite(name: str, array: np.ndarray, wanted: np.dtype[Any]) -> None:
    if np.isfinite(array).all():
        return
    raise SessionError(
        "LPT-RUN-414",
        f"Input {name!r} holds NaN or an infinity, and the file takes {wanted.name}",
        cause="Integers have no such values; the model would run on a number that is not there.",
        remedy="Pass finite values, or run a file whose border is float.",
    )


def _check_range(name: str, array: np.ndarray, wanted: np.dtype[Any]) -> None:
    limits = np.iinfo(wanted)
    low, high = int(array.min()), int(array.max())
    if low < limits.min or high > limits.max:
        raise _beyond(name, low if low < limits.min else high, array, wanted)


def _beyond(name: str, value: float, array: np.ndarray, wanted: np.dtype[Any]) -> SessionError:
    return SessionError(
        "LPT-RUN-405",
        f"Input {name!r} holds {value}, which does not fit into {wanted.name}",
        cause=f"The file computes {array.dtype.name} with {8 * wanted.itemsize} bits.",
        remedy="Map such values into that range before the model.",
    )


def out_of_file(array: np.ndarray, details: dict[str, Any], dtype: str) -> np.ndarray:
    """Return an output in the type that the signature states."""
    if array.dtype.kind == "i" and np.dtype(dtype).kind == "f":
        numbers = numbers_of(details)
        if numbers is not None:
            return (array.astype(np.float32) - numbers[1]) * numbers[0]
    return array.astype(dtype, copy=False)


__all__ = ["into_file", "numbers_of", "out_of_file"]
