"""Reading and writing recipes: strict, in a stable order, with one line per tensor or layer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core import codec
from lepton_core.errors import LeptonError, OptimizeError
from lepton_core.files import write_atomic
from lepton_core.recipe._check import validate
from lepton_core.recipe._types import RULES, SCHEMA, Recipe, Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

_ORDER = (
    "schema", "rules", "written_by", "pivot", "scheme", "requires", "calibration", "sidecar",
    "notes", "pruned", "rescaled", "corrections", "tensors", "palettes", "blocks", "layers",
    "kept_float",
)  # fmt: skip
_BY_NAME = (
    "pruned", "rescaled", "corrections", "tensors", "palettes", "blocks", "layers", "kept_float",
)  # fmt: skip
_IF_ANY = ("pruned", "rescaled", "corrections", "palettes", "blocks")
_ALWAYS = {"kind", "scale", "zero_point", "dtype", "estimator", "rounding", "op", "output", "mode"}


def dumps(recipe: Recipe) -> str:
    """Return a recipe as JSON text: the same text for the same recipe, one line per entry."""
    data = codec.to_data(recipe)
    parts = []
    for key in _ORDER:
        if key in _IF_ANY and not data[key]:
            continue  # the text of a recipe without them is that of an earlier schema
        if key in _BY_NAME:
            inner = ",\n".join(f"  {_line(k)}: {_line(_short(v))}" for k, v in data[key].items())
            text = f"{{\n{inner}\n }}" if inner else "{}"
        elif key == "notes":
            inner = ",\n".join(f"  {_line(note)}" for note in data[key])
            text = f"[\n{inner}\n ]" if inner else "[]"
        elif key == "calibration" and data[key] is not None and not data[key]["runtime"]:
            text = _line({k: v for k, v in data[key].items() if k != "runtime"})
        else:
            text = _line(data[key])
        parts.append(f" {_line(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _line(value: Any) -> str:  # noqa: ANN401 - JSON
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _short(entry: Any) -> Any:  # noqa: ANN401 - JSON
    """Leave out fields that say nothing."""
    if not isinstance(entry, dict):
        return entry
    if "block" in entry:
        return {k: v for k, v in entry.items() if v is not None}
    return {k: v for k, v in entry.items() if k in _ALWAYS or not _says_nothing(v)}


def _says_nothing(value: Any) -> bool:  # noqa: ANN401 - JSON
    return value is None or value is False or value in ([], ())


def loads(text: str, name: str = "the recipe") -> Recipe:
    """Read a recipe from JSON text and check that it makes sense in itself.

    Raises:
        OptimizeError: ``LPT-OPT-001`` it is no recipe, ``LPT-OPT-002`` of a later version,
            ``LPT-OPT-005`` an entry contradicts the rules.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise _unreadable(name, str(error)) from error
    if not isinstance(data, dict) or "schema" not in data:
        raise _unreadable(name, "it is not a JSON object with the key 'schema'")
    for key, newest in (("schema", SCHEMA), ("rules", RULES)):
        version = data.get(key, newest)
        if not isinstance(version, int) or isinstance(version, bool) or version > newest:
            raise OptimizeError(
                "LPT-OPT-002",
                f"{name} has {key} {version!r}; this version of lepton knows up to {newest}",
                remedy="Upgrade lepton-core, or write the recipe again.",
            )
    unknown = sorted(set(data) - set(_ORDER))
    if unknown:
        raise _unreadable(name, f"it has the unknown key {unknown[0]!r}")
    _refuse_unknown_fields(data, name)
    try:
        recipe = codec.from_data(data, Recipe)
    except LeptonError as error:
        raise _unreadable(name, error.cause or error.message) from error
    validate(recipe, name)
    return recipe


def _refuse_unknown_fields(data: Mapping[str, Any], name: str) -> None:
    """A misspelt field would be ignored silently otherwise."""
    from dataclasses import fields

    from lepton_core.recipe._blocks import BlockWeight
    from lepton_core.recipe._recovery import Correction, Rescaled
    from lepton_core.recipe._sparse import PalettizedWeight, PrunedWeight
    from lepton_core.recipe._types import Layer

    kinds = {
        "pruned": PrunedWeight,
        "palettes": PalettizedWeight,
        "rescaled": Rescaled,
        "corrections": Correction,
        "tensors": Tensor,
        "blocks": BlockWeight,
        "layers": Layer,
    }
    for key, cls in kinds.items():
        known = {f.name for f in fields(cls)}
        entries = data.get(key)
        for value, entry in entries.items() if isinstance(entries, dict) else ():
            extra = sorted(set(entry) - known) if isinstance(entry, dict) else []
            if extra:
                cause = f"{key}[{value!r}] has the unknown field {extra[0]!r}; known are "
                raise _unreadable(name, cause + ", ".join(sorted(known)))


def _unreadable(name: str, cause: str) -> OptimizeError:
    return OptimizeError(
        "LPT-OPT-001",
        f"{name} is not a recipe",
        cause=cause,
        remedy="docs/reference/recipe.md describes the file; `lepton optimize` writes one.",
    )


def read(path: str | Path) -> Recipe:
    """Read a recipe from a file.

    Raises:
        OptimizeError: ``LPT-OPT-001`` it cannot be read or is no recipe; as :func:`loads`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(str(path), str(error)) from error
    return loads(text, str(path))


def write(
    recipe: Recipe, path: str | Path, *, integers: Mapping[str, np.ndarray] | None = None
) -> Path:
    """Write a recipe, and its sidecar first if it has one.

    Args:
        recipe: What to write.
        path: The JSON file; the sidecar stands beside it with the suffix ``.safetensors``.
        integers: Arrays of the entries that name some in the sidecar, by that name: int8 integers
            of ``tensors``; int8 or uint8 integers, float32 scales, uint8 zero points and float32
            input scales of ``blocks``; uint8 masks of ``pruned``; uint8 indices and float32 tables
            of ``palettes``.

    Returns:
        The path.

    Raises:
        OptimizeError: ``LPT-OPT-005`` it contradicts the rules, ``LPT-OPT-006`` integers are
            missing or not asked for.
        StorageError: It cannot be written.
    """
    from lepton_core.recipe._sidecar import save_integers

    path = Path(path)
    validate(recipe, str(path))
    sidecar = save_integers(recipe, path, integers or {})
    write_atomic(path, dumps(replace(recipe, sidecar=sidecar)))
    return path


__all__ = ["dumps", "loads", "read", "write"]
