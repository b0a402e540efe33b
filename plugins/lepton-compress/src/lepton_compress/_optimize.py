"""``lepton_optimize``: from a model and samples to a recipe, and to the model that it lowers to."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_compress import __version__
from lepton_compress._build import refuse_quantized, static_recipe, unsampled_recipe
from lepton_compress._coverage import coverage
from lepton_compress._graph import Graph
from lepton_compress._options import Options, read_options
from lepton_core import recipe as recipes
from lepton_core.errors import OptimizeError
from lepton_core.samples import is_constant, load_samples, load_saved, match
from lepton_core.types import ConvertRequest, Model, OptimizeResult
from lepton_onnx import pivot
from lepton_onnx.external import digest

if TYPE_CHECKING:
    from lepton_core.context import Context
    from lepton_core.recipe import Recipe
    from lepton_core.samples import Samples
    from lepton_core.types import OptimizeRequest

RECIPE = "recipe.json"
PRECISIONS = ("int8", "auto")


def optimize(model: Model, request: OptimizeRequest, context: Context) -> OptimizeResult:
    """Compress a model, and write ``recipe.json`` and the lowered model.

    With samples: static int8. Without: dynamic int8, which needs none. With ``max_drop``, or with
    the precision ``auto``, samples are divided: what is chosen is measured on rows that were not
    calibrated on (:mod:`lepton_compress._choose`).

    Options: :class:`~lepton_compress._options.Options`.

    Raises:
        OptimizeError: ``LPT-OPT-001`` … ``006`` the recipe given does not fit, ``010`` the model
            is quantized already, ``011`` the precision is not offered, ``012`` nothing can be
            quantized, ``013`` values are not finite, ``014`` the budget cannot be met, ``015`` an
            option, ``016`` the target lowers no recipes.
        SampleError: The samples do not fit the model.
    """
    options = read_options(request.options)
    if request.precision not in PRECISIONS:
        raise OptimizeError(
            "LPT-OPT-011",
            f"The engine does not offer the precision {request.precision!r}",
            cause=f"it offers {' and '.join(PRECISIONS)}",
            remedy="fp16 and fp32 are built by `lepton convert` and `lepton port`.",
        )
    require_lowering(request.target, context)
    scratch = Path(tempfile.mkdtemp(prefix=".compress-", dir=context.workdir))
    try:
        inside = replace(context, workdir=scratch)
        base = to_pivot(model, request, inside)
        if request.recipe:
            return _reproduce(base, request, context, options)
        return _search(base, request, context, inside, options)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def require_lowering(target: str, context: Context) -> None:
    """Refuse a target that does not lower recipes.

    Raises:
        OptimizeError: ``LPT-OPT-016``.
    """
    if context.hooks is None:
        msg = "the engine needs a context with hooks"
        raise ValueError(msg)
    info = context.hooks.registry.target(target)
    declared = info.capability("scheme.int8-static")
    if not declared.support:
        raise OptimizeError(
            "LPT-OPT-016",
            f"{info.title} lowers no recipes; support: {declared.support.value}",
            cause=declared.note or None,
            remedy="Choose a target that does; `lepton targets` shows the precisions.",
        )


def to_pivot(model: Model, request: OptimizeRequest, context: Context) -> Model:
    """Return the pivot of a model, converting it if it is none."""
    if model.format == "pivot":
        return model.evolve(digest=model.digest or digest(model.path))
    folder = context.workdir / "pivot"
    folder.mkdir()
    asked = ConvertRequest(request.target, to_format="pivot")
    assert context.hooks is not None  # noqa: S101 - checked before
    return context.hooks.convert(model, asked, replace(context, workdir=folder)).model


# --- a recipe that is there --------------------------------------------------------------------


def _reproduce(
    base: Model, request: OptimizeRequest, context: Context, options: Options
) -> OptimizeResult:
    """Write the same recipe and lower it; the bytes are those of the first time."""
    source = Path(str(request.recipe))
    recipe = recipes.read(source)
    integers = recipes.load_integers(recipe, source)
    named = {recipe.tensors[name].integers or "": codes for name, codes in integers.items()}
    place = recipes.write(recipe, context.workdir / RECIPE, integers=named)
    result = lower(base, place, request, context, options)
    facts = {"recipe": {"digest": recipe.digest, "scheme": recipe.scheme}}
    return OptimizeResult(result, str(place), "lowered from the recipe given", facts)


def lower(
    base: Model, place: Path, request: OptimizeRequest, context: Context, options: Options
) -> Model:
    """Let the target lower the recipe at *place*; the pivot itself if only a recipe is wanted."""
    if options.recipe_only:
        return base
    assert context.hooks is not None  # noqa: S101 - checked before
    return context.hooks.convert(
        base, ConvertRequest(request.target, recipe=str(place)), context
    ).model


# --- a recipe to find --------------------------------------------------------------------------


def _search(
    base: Model, request: OptimizeRequest, context: Context, inside: Context, options: Options
) -> OptimizeResult:
    graph = Graph(pivot.load(base.path))
    refuse_quantized(graph)
    samples = load(request.samples, base)
    measured = samples is not None and (
        request.max_drop is not None or request.precision == "auto"
    )
    if measured and samples is not None and len(samples) > 2:
        from lepton_compress._choose import choose

        return choose(graph, base, samples, request, context, inside, options)
    recipe, facts, warnings = make(graph, base, samples, inside, options)
    place = recipes.write(recipe, context.workdir / RECIPE)
    result = lower(base, place, request, context, options)
    return OptimizeResult(result, str(place), facts.pop("why"), facts, warnings)


def load(path: str | None, base: Model) -> Samples | None:
    """Return the samples at *path* fitted to the pivot, mapped where they can be."""
    if path is None:
        return None
    saved = Path(path) / "samples.json"
    found = load_saved(path) if saved.is_file() else load_samples(path)
    signature = base.signature or pivot.signature(base.path)
    return match(found, signature)


def make(
    graph: Graph, base: Model, samples: Samples | None, context: Context, options: Options
) -> tuple[Recipe, dict[str, Any], tuple[str, ...]]:
    """Build the recipe that the options ask for.

    Returns:
        The recipe; facts with ``why``, ``verdict`` (``"weak"`` where nothing was measured) and
        ``coverage`` if held-out samples were given; warnings.
    """
    opset = int(base.metadata.get("opset") or pivot.graph_facts(graph.model)["opset"])
    scheme = options.scheme or ("static" if samples is not None else "dynamic")
    if scheme == "static" and samples is None:
        raise OptimizeError(
            "LPT-OPT-017",
            "Static int8 needs samples to calibrate on",
            cause="none were given, and ranges of noise say nothing about real inputs",
            remedy="Give real inputs with --data, or choose --option scheme=dynamic.",
        )
    if scheme != "static" or samples is None:
        return _unsampled(graph, base, opset, scheme, options, samples)
    recipe, ranges = static_recipe(
        graph, base.digest, opset, samples, context,
        estimator=options.estimator, keep=options.keep, threads=options.threads,
    )  # fmt: skip
    facts: dict[str, Any] = {
        "why": f"static int8, calibrated on {len(samples)} samples ({options.estimator})",
        "recipe": {"digest": recipe.digest, "scheme": recipe.scheme},
        "integer_layers": len(recipe.layers),
        "kept_float": len(recipe.kept_float),
        "verdict": "unmeasured",
        "engine": f"lepton-compress {__version__}",
    }
    warnings = []
    if is_constant(samples) or samples.distinct == 1:
        facts["verdict"] = "weak"
        warnings.append(
            "All calibration samples are equal: the ranges cover one input only; verdict weak."
        )
    if options.held_out is not None:
        held_out = load_saved(options.held_out)
        share = coverage(graph, ranges, held_out, context, options.threads)
        facts["coverage"] = share
    return recipe, facts, tuple(warnings)


def _unsampled(
    graph: Graph,
    base: Model,
    opset: int,
    scheme: str,
    options: Options,
    samples: Samples | None,
) -> tuple[Recipe, dict[str, Any], tuple[str, ...]]:
    recipe = unsampled_recipe(
        graph, base.digest, opset, dynamic=scheme == "dynamic", keep=options.keep
    )
    facts: dict[str, Any] = {
        "why": f"{scheme} int8: nothing was calibrated",
        "recipe": {"digest": recipe.digest, "scheme": recipe.scheme},
        "layers": len(recipe.layers),
        "verdict": "weak" if samples is None else "unmeasured",
        "engine": f"lepton-compress {__version__}",
    }
    if samples is not None:
        return recipe, facts, ()
    warning = "No samples: nothing was calibrated or measured; verdict weak."
    return recipe, facts, (warning,)


__all__ = ["load", "lower", "make", "optimize", "to_pivot"]
