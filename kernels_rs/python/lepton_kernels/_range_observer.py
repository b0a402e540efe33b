"""The range of values that come in batches, per tensor or per channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_kernels._arguments import check_same_kind, normalise_axis
from lepton_kernels._range import minmax
from lepton_kernels.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from numpy.typing import ArrayLike, NDArray


class RangeObserver:
    """The smallest and the largest finite value of all batches.

    Batches, and observers of other threads or processes, add up in any order to the same. Memory
    does not grow with the number of values.

    Attributes:
        axis: The channel axis, or None for one range of whole tensors.
        count: Values seen.
        nan: NaN among them, which are left out of the range.
        infinite: Infinities among them, which are left out too.
    """

    __slots__ = ("_high", "_low", "axis", "count", "infinite", "nan")

    def __init__(self, axis: int | None = None) -> None:
        """Starts without values.

        Args:
            axis: The channel axis, which may count from the end; None for whole tensors.
        """
        self.axis = axis
        self.count = self.nan = self.infinite = 0
        self._low: NDArray[np.float32] | None = None
        self._high: NDArray[np.float32] | None = None

    def update(self, x: ArrayLike, *, threads: int | None = None) -> Self:
        """Adds a batch.

        Args:
            x: float32, float16 or bfloat16 values of any shape and strides, with as many channels
                as before.
            threads: The largest number of threads; None uses all that the process may use.

        Returns:
            This observer.

        Raises:
            KernelTypeError: The dtype is not supported.
            KernelError: The axis or the number of channels does not fit.
        """
        values = np.asarray(x)
        axis = normalise_axis(self.axis, values.ndim)
        if values.size == 0:
            return self
        low, high = minmax(values, axis=axis, threads=threads)
        nan = infinite = 0
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            low, high, nan, infinite = _finite_minmax(values, axis)
        self._widen(low, high)
        self.count += values.size
        self.nan += nan
        self.infinite += infinite
        return self

    def _widen(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        if self._low is None or self._high is None:
            self._low, self._high = low.copy(), high.copy()
            return
        if low.shape != self._low.shape:
            raise KernelError(
                f"the ranges of {low.shape} channels do not fit those of {self._low.shape} seen "
                "before; use one observer for each number of channels"
            )
        self._low = np.minimum(self._low, low)
        self._high = np.maximum(self._high, high)

    def merge(self, other: RangeObserver) -> Self:
        """Adds what another observer has seen.

        Args:
            other: The other observer, of the same axis, which does not change.

        Returns:
            This observer.

        Raises:
            KernelTypeError: It is something else.
            KernelError: The axis or the number of channels differs.
        """
        check_same_kind(self, other)
        if other.axis != self.axis:
            raise KernelError(f"axes {self.axis} and {other.axis} differ; only equal ones merge")
        if other._low is not None and other._high is not None:
            self._widen(other._low, other._high)
        self.count += other.count
        self.nan += other.nan
        self.infinite += other.infinite
        return self

    def result(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The smallest and the largest finite value.

        Returns:
            Two float32 arrays of shape ``(channels,)``, or ``()`` without `axis`; a zero is +0.

        Raises:
            KernelError: Nothing has been added, or a channel has no finite value.
        """
        if self._low is None or self._high is None:
            raise KernelError("no values have been observed; call update first")
        empty = np.atleast_1d(self._low > self._high)
        if empty.any():
            raise KernelError(
                f"{np.count_nonzero(empty)} of {empty.size} channels have no finite value (the "
                f"first is {int(empty.argmax())}), so that they have no range; {self.nan} NaN and "
                f"{self.infinite} infinities were seen"
            )
        return self._low.copy(), self._high.copy()

    def to_dict(self) -> dict[str, Any]:
        """The state as plain data, fit for JSON."""
        limits = {"low": self._low, "high": self._high}
        return {
            "axis": self.axis,
            "count": self.count,
            "nan": self.nan,
            "infinite": self.infinite,
            "channels": self._low is not None and self._low.ndim > 0,
        } | {name: _plain(values) for name, values in limits.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The observer that `to_dict` described.

        Args:
            data: What `to_dict` returned.

        Returns:
            A new observer.

        Raises:
            KernelError: An entry is missing or unknown, or the limits differ in length.
        """
        names = {"axis", "count", "nan", "infinite", "channels", "low", "high"}
        if set(data) != names:
            raise KernelError(f"expected the entries {sorted(names)}, got {sorted(data)}")
        observer = cls(data["axis"])
        for name in ("count", "nan", "infinite"):
            setattr(observer, name, int(data[name]))
        if data["low"] is not None:
            low, high = (_limits(data[name], name) for name in ("low", "high"))
            if low.shape != high.shape or (low.size != 1 and not data["channels"]):
                raise KernelError(f"low has {low.size} entries and high has {high.size}")
            shape = low.shape if data["channels"] else ()
            observer._low, observer._high = low.reshape(shape), high.reshape(shape)
        return observer


def _plain(values: NDArray[np.float32] | None) -> list[float | None] | None:
    if values is None:
        return None
    # A channel without finite values has infinite limits, which JSON cannot say.
    return [float(v) if np.isfinite(v) else None for v in np.atleast_1d(values)]


def _limits(values: list[float | None], name: str) -> NDArray[np.float32]:
    nothing = np.inf if name == "low" else -np.inf
    return np.array([nothing if v is None else v for v in values], np.float32)


def _finite_minmax(
    values: NDArray[Any], axis: int | None
) -> tuple[NDArray[np.float32], NDArray[np.float32], int, int]:
    """The range of the finite values, (inf, -inf) where there are none, and the other counts."""
    wide = values.astype(np.float32)
    others = tuple(i for i in range(wide.ndim) if axis is None or i != axis)
    finite = np.isfinite(wide)
    nan = int(np.count_nonzero(np.isnan(wide)))
    low = np.min(wide, axis=others, where=finite, initial=np.inf) + np.float32(0)
    high = np.max(wide, axis=others, where=finite, initial=-np.inf) + np.float32(0)
    infinite = wide.size - int(np.count_nonzero(finite)) - nan
    return np.asarray(low, np.float32), np.asarray(high, np.float32), nan, infinite
