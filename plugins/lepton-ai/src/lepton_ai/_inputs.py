"""What the user hands to a verb: what it is called, and which target it was made for."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_core.errors import UsageError
from lepton_core.types import Model, Variant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.built import Built

ModelLike = str | os.PathLike[str] | Model | Variant
"""A model as every verb takes it: a name, a path, or a result of another verb."""

_FORMS = (
    "a name in the local Hugging Face cache, a directory, model.onnx, model.pt2, "
    "file.py:factory, or a result of another verb"
)


@dataclass(frozen=True, slots=True)
class Input:
    """A model as it was given, before it is read.

    Attributes:
        given: It itself, as :func:`lepton_core.load` takes it.
        name: What its results are called: one path component.
        target: Target string that it was made for; empty if it was made for none.
    """

    given: str | Model | Variant
    name: str
    target: str


def describe(given: ModelLike) -> Input:
    """Return what can be said about a model without reading it.

    Raises:
        UsageError: LPT-AI-001, it is of a type that is no model, or empty; LPT-CLI-005, a
            directory of built things holds several.
    """
    if isinstance(given, Variant):
        inner = describe(given.model) if given.model is not None else None
        return Input(given, inner.name if inner else "model", given.target)
    if isinstance(given, Model):
        return _of_model(given)
    if not isinstance(given, str | os.PathLike):
        raise _no_model(given)
    text = os.fspath(given)
    if not isinstance(text, str) or not text.strip():
        raise _no_model(given)
    built = _built(text)
    if built is not None:
        name = str(built.marker.get("name") or "")
        return Input(text, name or _of_metadata(built.model) or _of_text(text), built.target)
    return Input(text, _of_text(text), "")


def _of_model(model: Model) -> Input:
    built = _built(model.path)
    if built is not None and built.model.digest == model.digest:
        name = str(built.marker.get("name") or "")
        target = built.target
    else:
        name, target = "", ""
    text = f"{model.path}:{model.entry}" if model.entry else model.path
    return Input(
        model,
        name or _of_metadata(model) or _of_text(text),
        target or _of_format(model.format),
    )


def _built(text: str) -> Built | None:
    from lepton_core.built import find_built

    try:
        return find_built(text)
    except (OSError, ValueError):  # no file system takes such a name
        return None


def _of_format(format_id: str) -> str:
    """Return the target whose artifacts have this format, if one has and it is no source."""
    from lepton_core.hooks import default

    registry = default().registry
    sources = {s.id for info in registry.infos().values() for s in info.sources}
    targets = registry.targets().items()
    return next((n for n, i in targets if i.artifact == format_id and format_id not in sources), "")


def _of_metadata(model: Model) -> str:
    """Return the name of the source that an artifact of torch records."""
    source: Mapping[str, object] = model.metadata.get("source") or {}
    name = str(source.get("name") or "")
    if not name and source.get("file"):
        name = f"{source['file']}:{source.get('entry') or ''}"
    return _of_text(name) if name else ""


def _of_text(text: str) -> str:
    """Return ``bert`` for a path, ``org--bert`` for a hub's name, ``net-build`` for a factory."""
    from lepton_core.sources import split_entry

    path, entry = Path(text).expanduser(), None
    if not path.exists():
        file, entry = split_entry(text)
        path = Path(file)
    if entry is None and not path.is_absolute() and not path.exists():  # a hub's name, or nothing
        stem = text.replace("\\", "/").strip("./").replace("/", "--")
    else:
        path = path.absolute()
        stem = path.name if path.is_dir() else path.stem
    return re.sub(r"[^\w.-]+", "-", f"{stem}-{entry}" if entry else stem).strip("-.") or "model"


def _no_model(given: object) -> UsageError:
    kind = f"{type(given).__module__}.{type(given).__qualname__}".removeprefix("builtins.")
    if hasattr(given, "save_pretrained"):
        remedy = "Save it with save_pretrained('directory') and give the directory."
    elif hasattr(given, "state_dict"):
        remedy = "Write a function in a file that returns it with example inputs: net.py:build."
    else:
        remedy = f"Give {_FORMS}."
    said = repr(given) if isinstance(given, str | bytes) else f"an object of {kind}"
    return UsageError(
        "LPT-AI-001", f"{said} is not a model", cause=f"a model is {_FORMS}", remedy=remedy
    )


__all__ = ["Input", "ModelLike", "describe"]
