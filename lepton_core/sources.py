"""From what the user typed to a :class:`~lepton_core.types.Model`, without opening it.

What lepton has built is recognised by the marker or the passport beside it, which say what it is.
Sources are recognised by what plugins declare (suffix, ``file:name``, a telling file in a
directory), never by trying loaders one after the other.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_core.built import find_built, find_stored
from lepton_core.catalogue import KNOWN
from lepton_core.errors import LeptonError, PluginNotInstalledError, SourceError
from lepton_core.types import Model

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lepton_core.capabilities import SourceFormat
    from lepton_core.registry import Registry


def split_entry(text: str) -> tuple[str, str | None]:
    """Split ``file.py:name`` at its last colon; a Windows drive letter is no entry.

    Returns:
        The path and the entry, ``None`` without one.
    """
    path, colon, entry = text.rpartition(":")
    if colon and len(path) > 1 and entry.isidentifier():
        return path, entry
    return text, None


def resolve(text: str, registry: Registry) -> Model:
    """Return an unread model for what the user named.

    Args:
        text: ``model.onnx``, ``file.py:factory``, ``model.pt2``, a Hugging Face directory, a
            cached name, or what lepton has built: an artifact or its directory.
        registry: Plugins whose declared source formats count.

    Returns:
        A model with format, absolute path and entry. Its digest is empty for a source, which
        :meth:`.Hooks.inspect` reads; what lepton has built comes with what was recorded of it.

    Raises:
        SourceError: There is no such file, or no plugin declares its kind.
        SessionError: LPT-RUN-003, lepton has built it, and it has been changed since.
        UsageError: A directory of built things holds several, or none.
        PluginNotInstalledError: A plugin that is not installed would read it.
    """
    try:
        return _built(text, registry) or _resolve(text, registry)
    except (OSError, ValueError, RuntimeError) as error:  # no file system takes such a name
        raise SourceError(
            "LPT-SRC-001",
            f"There is no model {_shortened(text)!r}",
            cause=str(error),
            remedy="Give model.onnx, file.py:factory, model.pt2, or a Hugging Face directory.",
        ) from error


def _built(text: str, registry: Registry) -> Model | None:
    """Return what lepton has built at a path, if a plugin knows its format."""
    from lepton_core.artifacts import verify_artifact

    built = find_built(text)
    if built is None:
        return None
    infos = registry.infos().values()
    known = {source.id for info in infos for source in info.sources}
    known |= {name for info in infos for edge in info.edges for name in (edge.source, edge.result)}
    if built.model.format not in known:
        return None
    verify_artifact(built.model)
    return built.model


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"


def _resolve(text: str, registry: Registry) -> Model:
    formats = [s for info in registry.infos().values() for s in info.sources]
    if not text.strip():
        raise _missing(text, Path(text))
    name, entry = (text, None) if Path(text).expanduser().exists() else split_entry(text)
    path = Path(name).expanduser()
    if path.exists():
        found = _of_existing(path, entry, formats)
        if found is None:
            raise _unreadable(text, path, entry, formats, registry)
        return Model(found.id, str(path.resolve()), entry)
    hub = next((f for f in formats if f.names), None)
    if hub is not None and _could_be_name(text):
        return Model(hub.id, text)
    raise _missing(text, path)


def _of_existing(
    path: Path, entry: str | None, formats: Iterable[SourceFormat]
) -> SourceFormat | None:
    for candidate in formats:
        if path.is_dir():
            if any((path / name).is_file() for name in candidate.directory_files):
                return candidate
        elif entry is not None:
            if path.suffix.lower() in candidate.entry_suffixes:
                return candidate
        elif path.suffix.lower() in candidate.suffixes:
            return candidate
    return None


def _could_be_name(text: str) -> bool:
    """A hub's name is ``owner/name`` or ``name`` with no suffix that a file would have."""
    return bool(_HUB_NAME.fullmatch(text)) and Path(text).suffix.lower() not in _FILE_SUFFIXES


_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_FILE_SUFFIXES = {".onnx", ".pt2", ".pt", ".pth", ".py", ".tflite", ".xml", ".mlpackage", ".npz"}


def _missing(text: str, path: Path) -> LeptonError:
    folder = path.parent if path.parent.is_dir() else Path()
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    if find_stored(text) is not None:
        return SourceError(
            "LPT-SRC-001",
            f"There is no model {text!r}",
            cause=f"{path} does not exist; a version of the store is no model of this command",
            remedy=f"A program runs it with lepton_core.deployment({text!r}); `lepton deploy "
            f"{text} --kind bundle` writes it into a directory, which every command takes.",
        )
    near = difflib.get_close_matches(path.name, names, n=2, cutoff=0.6)
    hint = f"Did you mean {' or '.join(str(folder / n) for n in near)}? " if near else ""
    return SourceError(
        "LPT-SRC-001",
        f"There is no model {text!r}",
        cause=f"{path} does not exist",
        remedy=f"{hint}Give model.onnx, file.py:factory, model.pt2, or a Hugging Face directory.",
        details={"source": text, "nearest": near},
    )


def _unreadable(
    text: str, path: Path, entry: str | None, formats: list[SourceFormat], registry: Registry
) -> LeptonError:
    if path.suffix == ".py" and entry is None and any(f.entry_suffixes for f in formats):
        return SourceError(
            "LPT-SRC-002",
            f"{text!r} does not say which factory to call",
            remedy=f"Write {text}:NAME, where NAME() returns (module, example_inputs).",
        )
    kind = f"{path.suffix}:" if entry is not None else path.suffix.lower()
    for known in KNOWN.values():
        folder_of = path.is_dir() and any((path / n).is_file() for n in known.suffixes)
        if (kind in known.suffixes or folder_of) and known.id not in registry.records:
            return PluginNotInstalledError(
                "LPT-PLUG-001",
                f"{text!r} is read by the {known.title} plugin, which is not installed",
                remedy=known.remedy,
                details={"plugin": known.id, "pip": known.pip},
            )
    for info in registry.infos().values():
        if entry is None and any(path.suffix.lower() in o.suffixes for o in info.opens):
            return SourceError(
                "LPT-SRC-003",
                f"{text!r} is of the form that {info.title} runs; no model is read back from it",
                cause="What was lowered for a target cannot become a graph again, and what lepton "
                "built has lepton.json beside it.",
                remedy="Name the model that it was made from, or the folder in which lepton built "
                "it; `lepton bisect` looks into a package that stands alone.",
                details={"target": info.id},
            )
    readable = ", ".join(sorted({f.example or f.title for f in formats})) or "nothing"
    pickled = path.suffix.lower() in (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")
    return SourceError(
        "LPT-SRC-003",
        f"No installed plugin reads {text!r}",
        cause="Pickled weights can run any code when loaded, so lepton never loads them."
        if pickled
        else f"what is readable: {readable}",
        remedy="Export the model with torch.export.save (model.pt2), or name the code that makes "
        "it: file.py:factory."
        if pickled
        else "Convert it to one of these, or install the plugin that reads it.",
    )


__all__ = ["resolve", "split_entry"]
