"""From what the user named to the pivot and the way of lowering it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lepton_core.bisecting._types import Side
from lepton_core.conversion import options_asked
from lepton_core.errors import LeptonError, UsageError
from lepton_core.types import Model, Target

if TYPE_CHECKING:
    from lepton_core.built import Built


def side_of(text: str) -> Side:
    """Return the variant that the user named.

    Raises:
        UsageError: LPT-BIS-001 it is no variant; LPT-BIS-002 what it was lowered from is not
            there; LPT-BIS-003 its recipe is not there.
        StorageError: LPT-ORIG-001, its origin is damaged.
    """
    from lepton_core.origins import find_origin

    built = _found(text)
    if built is None or not built.target:
        raise UsageError(
            "LPT-BIS-001",
            f"{text!r} is no variant that lepton built",
            cause="bisecting lowers again what a variant was lowered from",
            remedy="Name OUT/TARGET/PRECISION of a port result, or the result of `lepton convert` "
            "or `lepton optimize`.",
        )
    origin = find_origin(built.model)
    if origin is None or origin.format != "pivot":
        raise UsageError(
            "LPT-BIS-002",
            f"What {text!r} was lowered from is not a pivot that stands beside it",
            cause=f"its origin is {origin.format}" if origin else "no origin was kept",
            remedy="Port the model again with this version, to a target that is lowered from the "
            "pivot; `lepton targets --json` shows the edges.",
        )
    model = built.model
    precision = str(model.metadata.get("precision") or built.precision)
    return Side(
        text, Target.parse(built.target), precision, origin, recipe_of(text, model),
        model if Path(model.path).exists() else None, options_asked(model),
    )  # fmt: skip


def _found(text: str) -> Built | None:
    """Return what lepton built there; a variant that was not kept, by what its passport says."""
    from lepton_core.built import Built, find_built, model_of_passport
    from lepton_core.passport import load_passport

    try:
        return find_built(text)
    except UsageError as error:
        place = Path(text).expanduser()
        place = place / "passport.json" if place.is_dir() else place.with_name("passport.json")
        if error.code != "LPT-CLI-006" or not place.is_file():
            raise
    passport = load_passport(place)
    variant = passport["variant"]
    model = model_of_passport(passport, place.parent.absolute() / Path(variant["path"]).name)
    return Built(model, variant["target"], variant["precision"], passport, place)


def recipe_of(text: str, model: Model) -> str | None:
    """Return the recipe that a variant was lowered by: beside it, or in the same port result.

    Raises:
        UsageError: LPT-BIS-003.
    """
    from lepton_core import recipe as recipes
    from lepton_core._recipe_step import recipe_beside

    wanted = (model.metadata.get("recipe") or {}).get("digest")
    if not wanted:
        return None
    files = recipe_beside(model)
    if files:
        return files[0]
    for place in sorted(Path(model.path).parents[2].glob("*/*/recipe.json")):
        try:
            if recipes.read(place).digest == wanted:
                return str(place)
        except LeptonError:
            continue
    raise UsageError(
        "LPT-BIS-003",
        f"The recipe of {text!r} is not there",
        cause=f"it was lowered by {wanted}; neither the folder nor the port result around it holds "
        "that",
        remedy="Put recipe.json (and recipe.safetensors) beside the artifact, or build it again "
        "with `lepton optimize`.",
    )


def yardstick_of(side: Side) -> Side:
    """Return the pivot of a variant, run as the yardstick."""
    return Side("pivot", None, "fp32", side.pivot)


def require_same_pivot(first: Side, second: Side) -> None:
    """Refuse variants of different pivots.

    Raises:
        UsageError: LPT-BIS-004.
    """
    if first.pivot.digest != second.pivot.digest:
        raise UsageError(
            "LPT-BIS-004",
            f"{first.name} and {second.name} were lowered from different pivots",
            cause=f"{first.pivot.digest} and {second.pivot.digest}",
            remedy="Port both targets in one run; if one of them needs its own adaptation, compare "
            "each with its pivot: `lepton bisect VARIANT --data SAMPLES`.",
        )


__all__ = ["recipe_of", "require_same_pivot", "side_of", "yardstick_of"]
