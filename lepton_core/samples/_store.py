"""Write samples as ``.npy`` files and map them again, so that they cross a process by path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.format import open_memmap

from lepton_core.errors import SampleError
from lepton_core.files import disk_errors, reserve, write_atomic
from lepton_core.samples._files import map_npy
from lepton_core.samples._types import Samples, chunk_bounds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

INDEX = "samples.json"


def save(samples: Samples, directory: str | Path, *, rows: NDArray[np.int64] | None = None) -> Path:
    """Write samples into *directory*, as one uncompressed ``.npy`` file per array.

    Files are numbered; names stand in ``samples.json``, which is written last, so a name may hold
    any character and a half-written directory is not taken for a whole one. Memory-mapped arrays
    are copied piece by piece.

    Args:
        samples: What to write.
        directory: Where; is made if it does not exist.
        rows: Positions to write, ``int64[n]``; all by default. Avoids the copy that
            ``samples.rows`` would make in memory.

    Returns:
        The directory.

    Raises:
        StorageError: The disk is full or the place may not be written.
    """
    directory = Path(directory)
    index: dict[str, Any] = {
        "schema": 1,
        "origin": samples.origin,
        "source": samples.source,
        "notes": list(samples.notes),
        "inputs": {},
        "labels": None,
    }
    original = samples.original_rows
    with disk_errors(f"samples in {directory}"):
        directory.mkdir(parents=True, exist_ok=True)
        for number, (name, array) in enumerate(samples.inputs.items()):
            index["inputs"][name] = f"input-{number:03d}.npy"
            _write(directory / index["inputs"][name], array, rows)
        if samples.labels is not None:
            index["labels"] = "labels.npy"
            _write(directory / "labels.npy", samples.labels, rows)
        _write(directory / "rows.npy", original, rows)
    write_atomic(directory / INDEX, json.dumps(index, indent=1))
    return directory


def _write(path: Path, array: Array, rows: NDArray[np.int64] | None) -> None:
    n = len(array) if rows is None else len(rows)
    if array.size == 0 or n == 0:
        np.save(path, np.asarray(array if rows is None else array[rows]))
        return
    target = open_memmap(path, "w+", array.dtype, (n, *array.shape[1:]))
    reserve(path)
    for start, stop in chunk_bounds(target):
        target[start:stop] = array[start:stop] if rows is None else array[rows[start:stop]]
    target.flush()


def load_saved(directory: str | Path) -> Samples:
    """Map samples that :func:`save` has written; nothing is read until it is used.

    Raises:
        SampleError: ``LPT-DATA-003`` the directory is not one that :func:`save` has finished.
    """
    directory = Path(directory)
    try:
        index = json.loads((directory / INDEX).read_text(encoding="utf-8"))
        inputs = {name: map_npy(directory / file, file) for name, file in index["inputs"].items()}
        labels = None if index["labels"] is None else map_npy(directory / index["labels"], "labels")
        return Samples(
            inputs,
            labels,
            index["origin"],
            index["source"],
            tuple(index["notes"]),
            np.asarray(map_npy(directory / "rows.npy", "rows")),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SampleError(
            "LPT-DATA-003",
            f"{directory} does not hold saved samples",
            cause=f"{type(error).__name__}: {error}",
            remedy="Prepare the samples again.",
        ) from error


__all__ = ["load_saved", "save"]
