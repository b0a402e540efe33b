"""The part of the main job that asks the compression engine for a recipe."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core.capabilities import scheme_of
from lepton_core.errors import LeptonError, OptimizeError, UsageError
from lepton_core.recipe import SIDECAR_SUFFIX
from lepton_core.types import OptimizeRequest, OptimizeResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lepton_core._proof import Yardstick
    from lepton_core.context import Context
    from lepton_core.dispatch import Hooks
    from lepton_core.porting import PortOptions
    from lepton_core.types import Model, Target

ENGINE = "compress"
CHOSEN = ("auto", "mixed")
"""Precisions that stand for a choice, which depends on the target and the budget."""

_PRUNING = ("sparsity", "pattern", "prune", "scope")
HEEDED = {
    "sparse": _PRUNING,
    "palette": (*_PRUNING, "palette", "group"),
    "mixed": (*_PRUNING, "palette", "group"),
}
"""Options of the compression engine that precisions of the main job take."""


def _is_said(given: Mapping[str, Any]) -> bool:
    """Tell whether options say how much is pruned; else ``sparse`` searches for it."""
    return given.get("pattern") is not None or given.get("sparsity") not in (None, "auto")


def heeded_by(precision: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the engine's options a precision takes.

    Palettes take those of pruning only if they say how much: none searches for that.
    """
    names = HEEDED.get(precision, ())
    if precision == "palette" and not _is_said(given):
        names = tuple(name for name in names if name not in _PRUNING)
    return {name: value for name, value in given.items() if name in names}


def check_compression(options: PortOptions) -> None:
    """Refuse options of the compression engine that no precision asked for heeds.

    Raises:
        UsageError: ``LPT-USE-014``.
    """
    given = options.compression
    heeded = {name for precision in options.precisions for name in heeded_by(precision, given)}
    odd = [name for name in given if name not in heeded]
    if odd:
        fitting = [precision for precision in HEEDED if odd[0] in heeded_by(precision, given)]
        raise UsageError(
            "LPT-USE-014",
            f"None of the precisions {', '.join(options.precisions)} takes {odd[0]!r}",
            cause=f"{', '.join(fitting)} do" if fitting else "no precision has such an option",
            remedy="Ask for one of them with --precision, or leave the option out.",
        )


class RecipeStep:
    """Recipes of one run: a pivot is calibrated once, however many targets lower the recipe.

    Args:
        hooks: Calls the engine.
        options: What was asked for.
    """

    def __init__(self, hooks: Hooks, options: PortOptions) -> None:
        self._hooks = hooks
        self._options = options
        self._made: dict[tuple[str, ...], OptimizeResult] = {}
        self._lock = threading.Lock()

    def applies(self, target: str, precision: str) -> bool:
        """Tell whether a target gets to a precision through a recipe.

        That is so if none of its own conversions offers the precision, it lowers recipes, and the
        engine offers it.

        Raises:
            PluginNotInstalledError: It would, but the engine is not installed.
        """
        info = self._hooks.registry.target(target)
        own = {
            offered
            for other in self._hooks.registry.infos().values()
            for edge in other.edges
            if edge.result == info.artifact
            for offered in edge.precisions
        }
        if precision in own or not info.capability(scheme_of(precision)).support:
            return False
        compressed = precision in (*CHOSEN, *HEEDED) or precision.startswith("int")
        if not compressed:
            return False
        engine = self._hooks.registry.info(self._hooks.engine_owner("optimize", ENGINE))
        return bool(engine.capability(f"precision.{precision}").support)

    def make(
        self,
        model: Model,
        target: Target,
        precision: str,
        yardstick: Yardstick,
        context: Context,
        *,
        sharing: Sequence[Target],
    ) -> OptimizeResult:
        """Return the recipe for a pivot, calibrated on the rows set aside for that.

        The held-out rows are used for nothing but to say how much of the calibrated ranges they
        reach.

        Args:
            model: The pivot.
            target: Who wants it. A choice (``auto``, ``mixed``, a sparsity that is searched) is
                made for that one alone; any other recipe is shared.
            precision: The precision.
            yardstick: Rows to calibrate on.
            context: Where to write.
            sharing: All that lower this pivot at the precision, in the order asked for. What has
                to be measured on a runtime is measured on the first.
        """
        chosen = self._is_chosen(precision)
        targets = [target] if chosen else list(dict.fromkeys(sharing)) or [target]
        key = (model.digest, precision, *([str(target)] if chosen else []))
        with self._lock:
            if key not in self._made:
                request = self._request(targets, precision, yardstick, context)
                self._made[key] = self._hooks.optimize(model, request, context)
            return self._made[key]

    def make_fitting(
        self, model: Model, target: Target, precision: str, yardstick: Yardstick, context: Context
    ) -> OptimizeResult | None:
        """Return a recipe for a target that refuses the one made for all, of what it does load.

        Targets that take seconds to answer are not asked what they load as long as they lower
        what they get.

        Returns:
            A recipe that keeps float what the target refuses; None if it was asked before, if
            memory is limited, or if it refuses nothing or everything.
        """
        quick = bool(self._hooks.registry.target(target.id).capability("loads.quick").support)
        if quick or self._options.limits.memory_bytes is not None:
            return None
        request = self._request([target], precision, yardstick, context, ask="all")
        try:
            made = self._hooks.optimize(model, request, context)
        except OptimizeError:
            return None  # what the target said before tells more
        refused = (made.facts.get("loads") or {}).get("refused")
        return made if made.recipe and refused else None

    def _is_chosen(self, precision: str) -> bool:
        """Tell whether what is made depends on the target and the budget."""
        searched = precision == "sparse" and not _is_said(self._options.compression)
        return precision in CHOSEN or searched

    def _request(
        self,
        targets: Sequence[Target],
        precision: str,
        yardstick: Yardstick,
        context: Context,
        *,
        ask: str = "quick",
    ) -> OptimizeRequest:
        from lepton_core.samples import save

        options: dict[str, Any] = {"recipe_only": True, "threads": self._options.threads}
        # Asking brings the runtimes into the engine's process, which a limit may have no room for.
        options["ask"] = ask if self._options.limits.memory_bytes is None else "no"
        options["metric"] = self._options.metric
        options |= heeded_by(precision, self._options.compression)
        samples = None
        if yardstick.calibration is not None:
            samples = str(save(yardstick.calibration, context.workdir / "calibration"))
            options["held_out"] = str(yardstick.folder)
            if precision in ("int8", "int16") and self._options.max_drop is not None:
                options["recover"] = "auto"
        return OptimizeRequest(
            targets[0].id,
            ENGINE,
            precision,
            self._options.max_drop if self._is_chosen(precision) else None,
            samples,
            options=options,
            device=targets[0].device,
            shared_with=tuple(str(target) for target in targets[1:]),
        )


def losses(facts: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return for people why a compressed model loses, and what gave back how much of it.

    Args:
        facts: What the engine found out: ``diagnosis`` (a list of mechanisms with ``mechanism``,
            ``text``, ``module``, ``place``, ``cure``, ``gave_back``) and ``recovery``
            (``text``), if it did.
    """
    found = []
    for one in facts.get("diagnosis") or ():
        back = one.get("gave_back") or {}
        cure = f"cured by {back['method']}" if back else f"cure: {one['cure']}"
        parts = [f"module {one['module']}" if one.get("module") else "", one.get("place", "")]
        where = f" ({', '.join(filter(None, parts))})" if any(parts) else ""
        found.append(f"{one['mechanism']}: {one['text']}{where}; {cure}")
    return found, list((facts.get("recovery") or {}).get("text") or ())


def keep_recipe(recipe: str, folder: Path) -> None:
    """Copy a recipe, and its sidecar if it has one, beside the artifact that it made.

    They are named ``recipe.json`` and ``recipe.safetensors`` there, and so found again.
    """
    for file in (Path(recipe), Path(recipe).with_suffix(SIDECAR_SUFFIX)):
        if file.is_file():
            shutil.copyfile(file, folder / f"recipe{file.suffix}")


def recipe_beside(artifact: Model) -> tuple[str, ...]:
    """Return the recipe that stands beside this artifact and made it, and its sidecar."""
    from lepton_core import recipe as recipes

    made_by = artifact.metadata.get("recipe")
    place = Path(artifact.path).parent / "recipe.json"
    try:
        same = made_by is not None and recipes.read(place).digest == made_by["digest"]
    except (LeptonError, OSError, KeyError, TypeError):
        return ()
    files = (place, place.with_suffix(recipes.SIDECAR_SUFFIX))
    return tuple(str(file) for file in files if file.is_file()) if same else ()


__all__ = [
    "HEEDED",
    "RecipeStep",
    "check_compression",
    "heeded_by",
    "keep_recipe",
    "losses",
    "recipe_beside",
]
