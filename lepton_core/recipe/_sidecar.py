"""Arrays that no rule reproduces, in a safetensors file beside the recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core.errors import OptimizeError
from lepton_core.files import digest_bytes, write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from lepton_core.recipe._types import Recipe

SIDECAR_SUFFIX = ".safetensors"


def sidecar_of(path: str | Path) -> Path:
    """Return the place of the sidecar of the recipe at *path*."""
    return Path(path).with_suffix(SIDECAR_SUFFIX)


def _names(recipe: Recipe) -> dict[str, str]:
    return {t.integers: value for value, t in recipe.tensors.items() if t.integers is not None}


def _dtypes(recipe: Recipe) -> dict[str, str]:
    """Return every array that a recipe names, with its dtype."""
    found = dict.fromkeys(_names(recipe), "int8")
    for stored in recipe.stored:
        found |= stored
    return found


def save_integers(recipe: Recipe, path: Path, integers: Mapping[str, np.ndarray]) -> str | None:
    """Write the sidecar that *recipe* asks for; return its digest, ``None`` if there is none.

    Args:
        recipe: The recipe.
        path: Its JSON file.
        integers: Arrays by name in the sidecar.

    Raises:
        OptimizeError: ``LPT-OPT-006`` the integers are not those that the recipe names.
        StorageError: It cannot be written.
    """
    names = _dtypes(recipe)
    if set(names) != set(integers):
        odd = sorted(set(names) ^ set(integers))[0]
        raise _bad(path, f"the recipe and the integers given do not agree about {odd!r}")
    if not names:
        return None
    data = _pack(integers, names)
    write_atomic(sidecar_of(path), data)
    return digest_bytes(data)


def load_integers(recipe: Recipe, path: str | Path) -> dict[str, np.ndarray]:
    """Return the int8 arrays that ``tensors`` of a recipe name, by value name of the pivot.

    Args:
        recipe: The recipe read from *path*.
        path: Its JSON file.

    Raises:
        OptimizeError: ``LPT-OPT-006`` the sidecar is missing, damaged, or not the one meant.
    """
    arrays = load_arrays(recipe, path)
    return {value: arrays[name] for name, value in _names(recipe).items()}


def load_arrays(recipe: Recipe, path: str | Path) -> dict[str, np.ndarray]:
    """Return every array that a recipe names, by its name in the sidecar.

    Args:
        recipe: The recipe read from *path*.
        path: Its JSON file.

    Raises:
        OptimizeError: ``LPT-OPT-006`` the sidecar is missing, damaged, or not the one meant.
    """
    names = _dtypes(recipe)
    if not names:
        return {}
    place = sidecar_of(path)
    try:
        data = place.read_bytes()
        arrays = _unpack(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _bad(place, f"{type(error).__name__}: {error}") from error
    if recipe.sidecar is not None and digest_bytes(data) != recipe.sidecar:
        raise _bad(place, f"its digest is {digest_bytes(data)}; the recipe names {recipe.sidecar}")
    for name, dtype in names.items():
        if name not in arrays or arrays[name].dtype != dtype:
            raise _bad(place, f"it has no {dtype} array {json.dumps(name)}")
    return {name: arrays[name] for name in names}


# The safetensors format for three dtypes: the length of a JSON header as 8 bytes, little end first,
# the header, padded with spaces to a multiple of 8, and the arrays' bytes one after another; those
# of float32 come first, so that they are aligned.

_FORMATS = {"int8": "I8", "uint8": "U8", "float32": "F32"}


def _pack(arrays: Mapping[str, np.ndarray], dtypes: Mapping[str, str]) -> bytes:
    import numpy as np

    header, parts, end = {}, [], 0
    for name in sorted(arrays, key=lambda name: (dtypes[name] != "float32", name)):
        kind = np.dtype(dtypes[name]).newbyteorder("<")
        array = np.ascontiguousarray(arrays[name], kind)
        offsets = [end, end + array.nbytes]
        header[name] = {
            "dtype": _FORMATS[dtypes[name]],
            "shape": list(array.shape),
            "data_offsets": offsets,
        }
        parts.append(array.tobytes())
        end = offsets[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def _unpack(data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file whose dtypes a recipe uses.

    Raises:
        ValueError: The header is not one, or an array leaves the file or has another size.
    """
    import numpy as np

    start = 8 + int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8:start])
    arrays = {}
    kinds = {code: np.dtype(name).newbyteorder("<") for name, code in _FORMATS.items()}
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] not in kinds:
            continue
        first, last = (start + int(offset) for offset in entry["data_offsets"])
        if not start <= first <= last <= len(data):
            msg = f"the array {name!r} leaves the file"
            raise ValueError(msg)
        kind = kinds[entry["dtype"]]
        arrays[name] = np.frombuffer(data[first:last], kind).reshape(entry["shape"])
    return arrays


def _bad(path: Path, cause: str) -> OptimizeError:
    return OptimizeError(
        "LPT-OPT-006",
        f"The integers beside the recipe cannot be used: {path}",
        cause=cause,
        remedy="Keep the recipe and its .safetensors file together, or write the recipe again.",
    )


__all__ = ["SIDECAR_SUFFIX", "load_arrays", "load_integers", "save_integers", "sidecar_of"]
