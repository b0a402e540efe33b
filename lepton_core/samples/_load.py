"""Load samples from an ``.npz`` file, a folder of ``.npy`` files, a callable, or arrays."""

from __future__ import annotations

import difflib
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.errors import SampleError
from lepton_core.samples._callable import call_samples
from lepton_core.samples._files import map_npy, read_npz
from lepton_core.samples._types import Samples, check_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Array = NDArray[Any]

LABELS = "labels"
"""Name of the array (or file) that holds the labels."""

_FORMS = "an .npz file, a folder of .npy files, or file.py:callable"


def load_samples(text: str | os.PathLike[str], *, cwd: str | Path | None = None) -> Samples:
    """Load samples from what the user wrote.

    ``.npz`` archives hold arrays by input name; a folder holds ``<input name>.npy`` files; a
    callable returns a mapping of arrays, a pair ``(mapping, labels)``, or an iterable of
    mappings, one per sample (each also as a pair with its label). Labels are optional, under the
    name ``labels``. Pickled arrays are never read. Uncompressed members and ``.npy`` files are
    memory-mapped.

    Args:
        text: ``"data.npz"``, ``"folder"`` or ``"file.py:callable"``.
        cwd: Directory that relative paths start from; the current one by default.

    Returns:
        Samples with the same number of rows in every array.

    Raises:
        SampleError: ``LPT-DATA-001`` … ``LPT-DATA-011``, ``LPT-DATA-017``: not found, of no
            known kind, unreadable, pickled, too large, empty, or of unequal lengths.
    """
    written = os.fspath(text)
    base = Path(cwd) if cwd is not None else Path.cwd()
    file, colon, name = written.rpartition(":")
    if colon and file.lower().endswith(".py"):
        script = _existing(base, file, written)
        inputs, labels = call_samples(script, name, written)
        return check_rows(Samples(inputs, labels, "callable", written))
    path = _existing(base, written, written)
    if path.is_dir():
        inputs = _read_folder(path, written)
        return check_rows(_with_labels(inputs, "folder", written))
    if path.suffix.lower() == ".npz" or zipfile.is_zipfile(path):
        return check_rows(_with_labels(read_npz(path, written), "npz", written))
    raise _unknown_kind(path, written)


def from_arrays(arrays: Mapping[str, Any]) -> Samples:
    """Return samples that a program has at hand.

    Args:
        arrays: One array per input by name, ``N`` rows first, and maybe ``labels``; whatever
            :func:`numpy.asarray` takes.

    Raises:
        SampleError: ``LPT-DATA-010``, ``LPT-DATA-011``, ``LPT-DATA-017``: empty, or of unequal
            lengths; ``LPT-DATA-022``: one is no array of numbers.
    """
    found: dict[str, Array] = {}
    for name, value in arrays.items():
        try:
            array = np.asarray(value)
            problem = f"it holds {array.dtype}" if array.dtype.hasobject else ""
        except (ValueError, TypeError) as error:  # rows of unequal lengths
            problem = str(error)
        if problem:
            raise SampleError(
                "LPT-DATA-022",
                f"The sample array {str(name)!r} is no array of numbers",
                cause=problem,
                remedy="Give one array per input with equal rows; pad sequences to one length.",
            )
        found[str(name)] = array
    return check_rows(_with_labels(found, "arrays", ""))


def _existing(base: Path, file: str, written: str) -> Path:
    path = (base / Path(file).expanduser()).absolute()
    if path.exists():
        return path
    near: list[str] = []
    if path.parent.is_dir():
        names = [entry.name for entry in path.parent.iterdir()]
        near = difflib.get_close_matches(path.name, names, n=3)
    raise SampleError(
        "LPT-DATA-001",
        f"Samples {written!r} were not found",
        cause=f"no file or folder at {path}",
        remedy=f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Give {_FORMS}.",
        details={"path": str(path), "nearest": near},
    )


def _unknown_kind(path: Path, written: str) -> SampleError:
    remedy = f"Give {_FORMS}."
    if path.suffix == ".py":
        remedy = f"Name the callable in it: {written}:NAME."
    elif path.suffix == ".npy":
        remedy = "Put it into a folder as <input name>.npy and give the folder, or save an .npz."
    return SampleError(
        "LPT-DATA-002",
        f"{written!r} is not a kind of samples that can be read",
        cause=f"{path.suffix or 'a file without suffix'} is neither {_FORMS}",
        remedy=remedy,
    )


def _with_labels(arrays: dict[str, Array], origin: Any, written: str) -> Samples:  # noqa: ANN401
    labels = arrays.pop(LABELS, None)
    return Samples(arrays, labels, origin, written)


def _read_folder(path: Path, written: str) -> dict[str, Array]:
    files = sorted(p for p in path.glob("*.npy") if not p.name.startswith("."))
    if not files:
        held = sorted(entry.name for entry in path.iterdir())[:5]
        raise SampleError(
            "LPT-DATA-006",
            f"The folder {written!r} holds no .npy file",
            cause=f"it holds {', '.join(held)}" if held else "it is empty",
            remedy="Save one <input name>.npy per input in it, and optionally labels.npy.",
        )
    return {file.stem: map_npy(file, f"{written}/{file.name}") for file in files}


__all__ = ["LABELS", "from_arrays", "load_samples"]
