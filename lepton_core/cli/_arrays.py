"""Arrays in and out: sample files for engines, outputs for the user. Imports numpy."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.files import named_place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.samples import Samples


def write_npz(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write arrays by any name (``numpy.savez`` reserves some), whole or not at all.

    Raises:
        StorageError: The disk is full or the place may not be written.
    """
    with named_place(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream, zipfile.ZipFile(stream, "w") as archive:
                for name, array in arrays.items():
                    plain = array.astype(str) if array.dtype.kind == "O" else array
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, plain, allow_pickle=False)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def save_samples(samples: Samples, path: Path) -> str:
    """Write samples as one ``.npz`` with the labels under ``labels``; returns the path."""
    arrays = dict(samples.inputs)
    if samples.labels is not None:
        arrays["labels"] = samples.labels
    write_npz(path, arrays)
    return str(path)


def summary(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return dtype, shape, and for numbers the range, the mean, and how many are not finite."""
    facts: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    if array.dtype.kind not in "biuf" or not array.size:
        return facts
    values = array.astype(np.float64, copy=False)
    finite = np.isfinite(values)
    facts["not_finite"] = int(array.size - np.count_nonzero(finite))
    if finite.any():
        known = values[finite]
        facts |= {"min": float(known.min()), "max": float(known.max()), "mean": float(known.mean())}
    return facts


__all__ = ["save_samples", "summary", "write_npz"]
