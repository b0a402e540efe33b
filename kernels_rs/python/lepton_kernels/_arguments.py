"""Checks and conversions that every kernel's arguments share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_kernels.errors import KernelError, KernelTypeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def normalise_axis(axis: int | None, ndim: int) -> int | None:
    """The axis counted from the front, or None for the whole tensor."""
    if axis is None:
        return None
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise KernelTypeError(f"axis must be an integer or None, got {type(axis).__name__}")
    if not -ndim <= axis < ndim:
        raise KernelError(f"axis {axis} is out of range for an array of {ndim} dimensions")
    return int(axis) % ndim


def check_count(name: str, value: int, least: int) -> int:
    """An integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise KernelTypeError(f"{name} must be an integer, got {type(value).__name__}")
    if not least <= value < 2**31:
        raise KernelError(f"{name} must be at least {least} and below 2^31, got {value}")
    return int(value)


def check_seed(seed: int) -> int:
    """An integer of 64 bits without a sign."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise KernelTypeError(f"seed must be an integer, got {type(seed).__name__}")
    if not 0 <= seed < 2**64:
        raise KernelError(f"seed must be at least 0 and below 2^64, got {seed}")
    return int(seed)


def check_real(name: str, value: float) -> float:
    """A real number, as Python's float."""
    try:
        if isinstance(value, str):
            raise TypeError
        return float(value)
    except (TypeError, ValueError) as error:
        raise KernelTypeError(f"{name} must be a real number, got {value!r}") from error


def check_percentile(percentile: float) -> float:
    """A share of values in percent."""
    share = check_real("percentile", percentile)
    if not 0 < share <= 100:
        raise KernelError(f"percentile is {share}; accepted are numbers above 0 up to 100")
    return share


def check_finite_channels(values: NDArray[np.floating]) -> None:
    """Refuses what was found of channels that hold NaN or infinities."""
    bad = ~np.isfinite(values)
    if bad.any():
        raise KernelError(
            f"{np.count_nonzero(bad)} of {bad.size} channels hold NaN or infinite values (the "
            f"first has index {np.flatnonzero(bad)[0]}), for which no scale exists; repair the "
            "values first"
        )


def real_array(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Real numbers of any type, as float64."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise KernelTypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    return array.astype(np.float64, copy=False)


def check_finite(name: str, values: NDArray[Any]) -> None:
    """Refuses NaN and infinities."""
    bad = ~np.isfinite(values)
    if bad.any():
        raise KernelError(
            f"{name} holds {np.count_nonzero(bad)} NaN or infinite values of {values.size}; repair "
            "them first"
        )


def check_same_kind(one: object, other: object) -> None:
    """Refuses to merge an accumulator or observer with something else."""
    if not isinstance(other, type(one)):
        raise KernelTypeError(
            f"{type(one).__name__} merges with its own kind, got {type(other).__name__}"
        )


def check_threads(threads: int | None) -> int | None:
    """A thread count that the native code accepts."""
    return None if threads is None else check_count("threads", threads, 1)


def scale_parameter(scale: ArrayLike, channels: int | None) -> NDArray[np.float32]:
    """The scale as one float32 per channel (`channels` is None for a whole tensor)."""
    values = np.asarray(scale)
    if values.dtype.kind not in "fiu" and values.dtype.name != "bfloat16":
        raise KernelTypeError(f"scale must be real numbers, got dtype {values.dtype}")
    if values.dtype != np.float32 or not values.flags.c_contiguous:
        with np.errstate(over="ignore", under="ignore"):
            # A scale that leaves float32's range becomes 0 or infinite and is refused as such.
            values = np.asarray(values, dtype=np.float32, order="C")
    return _one_per_channel(values, channels, "scale", scalar_for_all=False)


def zero_point_parameter(zero_point: ArrayLike, channels: int | None) -> NDArray[np.int64]:
    """The zero point as one int64 per channel; a scalar stands for all channels."""
    values = np.asarray(zero_point)
    if values.dtype.kind not in "iu":
        raise KernelTypeError(f"zero_point must be integers, got dtype {values.dtype}")
    if values.dtype == np.uint64 and values.size and values.max() > np.iinfo(np.int64).max:
        raise KernelError(f"zero_point {values.max()} is beyond every integer type here")
    values = np.asarray(values, dtype=np.int64, order="C")
    return _one_per_channel(values, channels, "zero_point", scalar_for_all=True)


def _one_per_channel(
    values: NDArray[Any], channels: int | None, name: str, *, scalar_for_all: bool
) -> NDArray[Any]:
    if channels is None:
        if values.size != 1:
            raise KernelError(
                f"{name} has shape {values.shape}; without axis it must be a single value"
            )
        return values.reshape(1)
    if scalar_for_all and values.ndim == 0:
        return np.full(channels, values)
    if values.shape != (channels,):
        raise KernelError(
            f"{name} has shape {values.shape}; along this axis it must have shape ({channels},)"
        )
    return values


def check_out(out: NDArray[Any] | None) -> None:
    """Refuses an `out` that is not an array (its details are checked by the native code)."""
    if out is not None and not isinstance(out, np.ndarray):
        raise KernelTypeError(f"out must be a NumPy array, got {type(out).__name__}")


def check_dtype(out: NDArray[Any], dtype: str) -> None:
    """Refuses an `out` of another type (int8 and uint8 look alike to the native limits)."""
    if out.dtype != np.dtype(dtype):
        raise KernelError(f"out has dtype {out.dtype}, needed is {np.dtype(dtype)}")


def output_array(
    out: NDArray[Any] | None, shape: tuple[int, ...], dtype: str, *others: NDArray[Any]
) -> NDArray[Any]:
    """The array for a result: `out`, if it fits, or a new one.

    Args:
        out: What the caller gave.
        shape: The shape of the result.
        dtype: Its type.
        others: Arguments that are read while `out` is written.

    Raises:
        KernelTypeError: `out` is not an array.
        KernelError: It has another type or shape, is not C-contiguous or aligned, cannot be written
            to, or may share memory with one of `others`.
    """
    check_out(out)
    if out is None:
        return np.empty(shape, dtype)
    check_dtype(out, dtype)
    if out.shape != shape:
        raise KernelError(f"out has shape {out.shape}, needed is {shape}")
    if not out.flags.c_contiguous:
        raise KernelError(
            f"out cannot be used: it is not C-contiguous (strides {out.strides}); accepted are "
            "C-contiguous arrays"
        )
    if not out.flags.aligned:
        raise KernelError("out cannot be used: it is not aligned; accepted are aligned arrays")
    if not out.flags.writeable:
        raise KernelError("out cannot be used: it is read-only; accepted are writable arrays")
    if any(np.may_share_memory(out, other) for other in others):
        raise KernelError(
            "out cannot be used: it shares memory with another argument; accepted are arrays with "
            "memory of their own"
        )
    return out
