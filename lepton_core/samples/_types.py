"""The value that all sample functions share, and what can be read off it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lepton_core.errors import SampleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]

Origin = Literal["npz", "folder", "callable", "arrays", "random"]
"""Where samples came from; ``"random"`` is never proof of anything."""

CHUNK_BYTES = 16 << 20
"""Memory-mapped arrays are walked in pieces of about this size."""


@dataclass(frozen=True)
class Samples:
    """Rows of inputs, and their labels if there are any.

    Attributes:
        inputs: Array by input name, ``N`` rows first; possibly memory-mapped and read-only.
        labels: ``N`` labels, or ``None``.
        origin: Where they came from.
        source: The text that they were loaded from, as the user wrote it.
        notes: What was decided on the way (casts, ignored arrays), for the user to read.
        row_numbers: Row of the original source for each row here, ``int64[N]``; ``None`` while
            no row has been left out.
    """

    inputs: Mapping[str, Array]
    labels: Array | None = None
    origin: Origin = "npz"
    source: str = ""
    notes: tuple[str, ...] = ()
    row_numbers: NDArray[np.int64] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """Return the number of rows."""
        for array in self.inputs.values():
            return len(array)
        return 0

    def rows(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Samples:
        """Return the rows at *indices*, copied, in that order.

        Args:
            indices: Positions between 0 and ``len(self) - 1``.

        Raises:
            IndexError: A position is out of range.
        """
        at = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            inputs={name: array[at] for name, array in self.inputs.items()},
            labels=None if self.labels is None else self.labels[at],
            row_numbers=self.original_rows[at],
        )

    @property
    def original_rows(self) -> NDArray[np.int64]:
        """Row of the original source for each row, ``int64[N]``."""
        if self.row_numbers is None:
            return np.arange(len(self), dtype=np.int64)
        return self.row_numbers

    @cached_property
    def digest(self) -> str:
        """``"sha256:<hex>"`` over names, dtypes, shapes and values of inputs and labels.

        The order of names and the memory layout do not matter; where the samples came from does
        not either. The empty string if there are no arrays at all.
        """
        total = hashlib.sha256()
        arrays = dict(self.inputs) if self.labels is None else {**self.inputs, "": self.labels}
        for name in sorted(arrays):
            array = arrays[name]
            dtype = array.dtype.newbyteorder("<")
            head = f"{len(name)}:{name}:{dtype.str}:{array.shape}\n"
            total.update(head.encode())
            for start, stop in chunk_bounds(array):
                total.update(np.ascontiguousarray(array[start:stop], dtype=dtype).data)
                release_pages(array)
        return f"sha256:{total.hexdigest()}"

    @cached_property
    def row_keys(self) -> tuple[bytes, ...]:
        """A 128-bit BLAKE2b hash of each row's inputs; equal rows have equal keys."""
        hashes = [hashlib.blake2b(digest_size=16) for _ in range(len(self))]
        for name in sorted(self.inputs):
            array = self.inputs[name]
            for start, stop in chunk_bounds(array):
                piece = np.ascontiguousarray(array[start:stop])
                for offset in range(stop - start):
                    hashes[start + offset].update(piece[offset : offset + 1].data)
                release_pages(array)
        return tuple(each.digest() for each in hashes)

    @cached_property
    def distinct(self) -> int:
        """How many rows differ from each other in their inputs."""
        return len(set(self.row_keys))


def chunk_bounds(array: Array, target_bytes: int = CHUNK_BYTES) -> Iterator[tuple[int, int]]:
    """Yield ``(start, stop)`` row ranges that cover *array* in pieces of about *target_bytes*."""
    if len(array) == 0:
        return
    step = max(1, target_bytes * len(array) // max(1, array.nbytes))
    for start in range(0, len(array), step):
        yield start, min(start + step, len(array))


def release_pages(array: Array) -> None:
    """Let the system drop the pages of a mapped array that were read.

    They would count as this process's memory, as if the whole file were in it, until memory runs
    short; they are read again where they are needed. Nothing happens to other arrays.
    """
    import mmap

    mapped = getattr(array, "_mmap", None)
    if (
        isinstance(mapped, mmap.mmap)
        and hasattr(mmap, "MADV_DONTNEED")
        and not array.flags.writeable
    ):
        mapped.madvise(mmap.MADV_DONTNEED)


def is_constant(samples: Samples) -> bool:
    """Return whether all rows are the same, so that nothing is learned from more than one.

    A single row is not called constant; it is too few.
    """
    return len(samples) > 1 and all(_rows_equal(array) for array in samples.inputs.values())


def _rows_equal(array: Array) -> bool:
    first = array[:1]
    for start, stop in chunk_bounds(array):
        equal = bool((array[start:stop] == first).all())
        release_pages(array)
        if not equal:
            return False
    return True


def check_rows(samples: Samples) -> Samples:
    """Return *samples* if every array has the same, positive number of rows.

    Raises:
        SampleError: ``LPT-DATA-010`` nothing in it, ``LPT-DATA-011`` unequal numbers of rows,
            ``LPT-DATA-017`` another number of labels.
    """
    where = samples.source or "the samples"
    counts: dict[str, int] = {}
    for name, array in samples.inputs.items():
        if array.ndim == 0:
            raise SampleError(
                "LPT-DATA-011",
                f"Array {name!r} in {where} is a single number, not rows of samples",
                remedy="Give every array one row per sample along its first axis.",
            )
        counts[name] = len(array)
    if not counts or max(counts.values()) == 0:
        raise SampleError(
            "LPT-DATA-010",
            f"There are no samples in {where}",
            cause="no arrays" if not counts else f"arrays {_list(counts)} have 0 rows",
            remedy="Give at least one row; 30 or more distinct ones are needed for a verdict.",
        )
    if len(set(counts.values())) > 1:
        raise SampleError(
            "LPT-DATA-011",
            f"The arrays in {where} have different numbers of rows",
            cause=", ".join(f"{name}: {count}" for name, count in counts.items()),
            remedy="Row i of every array must belong to the same sample.",
            details={"rows": counts},
        )
    _check_label_count(samples, where)
    return samples


def _check_label_count(samples: Samples, where: str) -> None:
    labels = samples.labels
    if labels is None:
        return
    if labels.ndim == 0 or len(labels) != len(samples):
        given = "a single number" if labels.ndim == 0 else str(len(labels))
        raise SampleError(
            "LPT-DATA-017",
            f"There are {len(samples)} samples but {given} labels in {where}",
            remedy="Give one label per row, in the order of the rows, or leave 'labels' out.",
            details={"samples": len(samples), "labels": list(labels.shape)},
        )


def _list(names: Mapping[str, int]) -> str:
    return ", ".join(map(repr, names))
