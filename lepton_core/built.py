"""Finding what the user means by a path: a source, or something that lepton has built."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core.errors import StorageError, UsageError
from lepton_core.staging import MARKER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.types import Model

PASSPORT = "passport.json"
BUNDLE = "lepton.bundle"
"""Kind of a bundle, in its marker."""


@dataclass(frozen=True, slots=True)
class Built:
    """Something that lepton has built.

    Attributes:
        model: The artifact where it stands now.
        target: Target string it was built for.
        precision: Its precision.
        passport: Its passport, if it has one.
        place: Path of the passport.
        marker: What the marker beside it says, if it has one.
    """

    model: Model
    target: str
    precision: str
    passport: Mapping[str, Any] | None = None
    place: Path | None = None
    marker: Mapping[str, Any] = field(default_factory=dict)


def find_stored(text: str) -> Model | None:
    """Return a handle on a version of the store if *text* is ``NAME@ALIAS`` or ``NAME@VERSION``.

    Nothing is looked up: the engine that is told of it does so, in its own store.
    """
    if "@" not in text or Path(text).exists() or any(mark in text for mark in ":/\\"):
        return None
    from lepton_core.types import Model

    return Model("deployment", text)


def find_built(text: str | Path) -> Built | None:
    """Return what lepton built at a path, or ``None`` if that is a source.

    Args:
        text: An artifact, its directory, its passport or marker, or the directory of a result.

    Raises:
        UsageError: The directory holds several variants, or what was built is gone.
        LeptonError: The passport beside it cannot be read.
    """
    path = Path(text).expanduser()
    folder = path if path.is_dir() else path.parent
    passport = folder / PASSPORT
    if path.exists() and passport.is_file():
        if path in (folder, passport) or _is_artifact_of(path, folder):
            return _of_passport(passport)
    elif path.exists() and (folder / MARKER).is_file():
        return _of_marker(path, folder)
    return None


def _is_artifact_of(path: Path, folder: Path) -> bool:
    from lepton_core.passport import load_passport

    recorded = load_passport(folder / PASSPORT)["variant"]["path"]
    return Path(recorded).name == path.name


def _of_passport(place: Path) -> Built:
    from lepton_core.passport import load_passport

    passport = load_passport(place)
    variant = passport["variant"]
    beside = place.parent / Path(variant["path"]).name
    path = beside if beside.exists() else Path(variant["path"])
    if not path.exists():
        raise UsageError(
            "LPT-CLI-006",
            f"The variant of {place} is gone",
            cause=f"{variant['path']} does not exist; a variant that was not kept has only its "
            "passport",
            remedy="Build it again with `lepton port`.",
        )
    model = _card_of(place.parent, variant["digest"]) or model_of_passport(passport, path)
    model = model.evolve(path=str(path.resolve()))
    return Built(model, variant["target"], variant["precision"], passport, place)


def model_of_passport(passport: Mapping[str, Any], path: Path) -> Model:
    """Return what a passport says about the variant at *path*, which need not be there."""
    from lepton_core.codec import from_data
    from lepton_core.types import LineageStep, Model

    variant = passport["variant"]
    lineage = tuple(from_data(step, LineageStep) for step in variant["lineage"])
    recipe = lineage[-1].request.get("recipe") if lineage else None
    return Model(
        variant["format"],
        str(path),
        variant.get("entry"),
        digest=variant["digest"],
        lineage=lineage,
        metadata={
            "precision": variant["precision"],
            **({"recipe": {"digest": recipe}} if recipe else {}),
        },
    )


def _card_of(folder: Path, digest: str) -> Model | None:
    """Return what stands in the card beside a variant, if it is about this artifact."""
    if not (folder / MARKER).is_file():
        return None
    data = _read_marker(folder / MARKER).get("model")
    return _model_of(data) if isinstance(data, dict) and data.get("digest") == digest else None


def _model_of(data: dict[str, Any]) -> Model:
    from lepton_core.codec import from_data
    from lepton_core.types import Model

    return from_data(data, Model)


def _only_variant(folder: Path) -> Built:
    places = sorted(folder.glob(f"*/*/{PASSPORT}"))
    whole = [place for place in places if len([*place.parent.iterdir()]) > 2]
    if len(whole) == 1:
        return _of_passport(whole[0])
    names = [str(place.parent) for place in whole]
    raise UsageError(
        "LPT-CLI-005",
        f"{folder} holds {len(names)} variants" if names else f"{folder} holds no kept variant",
        cause=", ".join(names) or None,
        remedy="Name one of them." if names else "`lepton port` says why none was kept.",
        details={"variants": names},
    )


def _read_marker(place: Path) -> dict[str, Any]:
    try:
        data = json.loads(place.read_text(encoding="utf-8"))
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise StorageError(
            "LPT-CLI-008",
            f"{place} is damaged",
            remedy="Build what stands there again.",
        )
    return data


def _of_marker(path: Path, folder: Path) -> Built | None:
    marker = _read_marker(folder / MARKER)
    if marker.get("kind") == "port":
        return _only_variant(folder) if path == folder else None
    if marker.get("kind") == BUNDLE:
        return _of_bundle(folder, marker) if path in (folder, folder / MARKER) else None
    if not isinstance(marker.get("model"), dict):
        return None
    place = folder / marker["model"]["path"]
    if path not in (folder, place, folder / MARKER):
        return None
    model = _model_of({**marker["model"], "path": str(place.resolve())})
    return Built(model, marker.get("target", ""), marker.get("precision", ""), marker=marker)


def _of_bundle(folder: Path, marker: Mapping[str, Any]) -> Built | None:
    """Return what a bundle ships, if its passport went with it."""
    from lepton_core.passport import load_passport

    place, path = folder / "passport" / PASSPORT, folder / str(marker.get("model", ""))
    if not place.is_file() or not path.exists():
        return None
    passport = load_passport(place)
    model = model_of_passport(passport, path.resolve())
    target, precision = str(marker.get("target", "")), passport["variant"]["precision"]
    return Built(model, target, precision, passport, place, marker)


def write_marker(
    stage: Path,
    out: Path,
    model: Model,
    *,
    kind: str,
    target: str,
    precision: str,
    more: Mapping[str, Any] | None = None,
) -> Model:
    """Write beside an artifact what it is, and return the model at its final place.

    Args:
        stage: Where the artifact stands now.
        out: Where it will stand.
        model: The artifact, under *stage*.
        kind: The verb that made it.
        target: Target string.
        precision: Precision.
        more: What else to write; see :func:`.write_card`.
    """
    from lepton_core.artifacts import write_card

    write_card(stage, model, kind=kind, target=target, precision=precision, more=more)
    return model.evolve(path=str(out.absolute() / Path(model.path).relative_to(stage)))


def taken_in(model: Model, stage: Path) -> Model:
    """Return *model* under *stage*; one that stands elsewhere (the unchanged source) is copied."""
    from lepton_core.artifacts import copy_artifact

    return model if Path(model.path).is_relative_to(stage) else copy_artifact(model, stage)


__all__ = ["Built", "find_built", "find_stored", "model_of_passport", "taken_in", "write_marker"]
