"""``lepton_optimize``: from a model and samples to a recipe, and to the model that it lowers to."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_compress._build import refuse_quantized
from lepton_compress._gain import gain_of_recipe, with_gain
from lepton_compress._graph import Graph, names_of
from lepton_compress._job import (
    RECIPE,
    Job,
    divisible,
    load,
    lower,
    make,
    rows_to_calibrate,
    size_of,
)
from lepton_compress._options import BLOCK_PRECISIONS, MIXED, Options, read_options
from lepton_compress._plan import without_refused
from lepton_compress._probe import loads_of, with_reasons
from lepton_compress._runtime import AUTO, FASTEST, Scratch, candidates, runtimes_of
from lepton_compress._sparse_options import SPARSE_PRECISIONS, refuse
from lepton_compress._steps import steps_of
from lepton_core import recipe as recipes
from lepton_core.capabilities import Support, scheme_of
from lepton_core.errors import OptimizeError, OptimizeRequestError
from lepton_core.remaining import Remaining, expect
from lepton_core.types import ConvertRequest, Model, OptimizeResult, Target
from lepton_onnx import pivot, qdq
from lepton_onnx.external import digest

if TYPE_CHECKING:
    from lepton_core.context import Context
    from lepton_core.samples import Samples
    from lepton_core.types import OptimizeRequest

PRECISIONS = ("int8", "int16", "auto", MIXED, *BLOCK_PRECISIONS, *SPARSE_PRECISIONS)


def optimize(model: Model, request: OptimizeRequest, context: Context) -> OptimizeResult:
    """Compress a model, and write ``recipe.json`` and the lowered model.

    With samples: static int8. Without: dynamic int8, which needs none. With ``max_drop``, or with
    the precision ``auto``, samples are divided: what is chosen is measured on rows that were not
    calibrated on (:mod:`lepton_compress._choose`). The precisions ``int4`` and ``int8-weight``
    store weights alone as integers, by block (:mod:`lepton_compress._weights`). ``mixed`` chooses
    a precision for each weight (:mod:`lepton_compress._search`), and with the option ``analyse``
    only measures what each would cost (:mod:`lepton_compress._sensitivity`). ``sparse`` and
    ``palette`` keep weights float (:mod:`lepton_compress._sparse`); weights of the integer
    precisions can be pruned as well (:mod:`lepton_compress._pruning`).

    Options: :class:`~lepton_compress._options.Options`.

    Raises:
        OptimizeError: ``LPT-OPT-001`` … ``006`` the recipe given does not fit, ``010`` the model
            is quantized already, ``011`` the precision is not offered, ``012`` nothing can be
            quantized, ``013`` values are not finite, ``014`` the budget cannot be met, ``015`` an
            option, ``016`` the target lowers no recipes, ``030`` … ``034`` a search finds nothing,
            ``037`` a budget, samples or options beside a recipe,
            ``040`` the runtime loads nothing of what is planned.
        SampleError: The samples do not fit the model.
    """
    if request.recipe is None:
        options = _for_target(read_options(request.options, request.precision), request, context)
    else:
        options = _options_beside_recipe(request)
    if request.recipe is None and request.precision not in PRECISIONS:
        raise OptimizeRequestError(
            "LPT-OPT-011",
            f"The engine does not offer the precision {request.precision!r}",
            cause=f"it offers {', '.join(PRECISIONS)}",
            remedy="fp16 and fp32 are built by `lepton convert` and `lepton port`.",
        )
    searches = request.precision == MIXED or bool(options.sparsities)
    if request.max_size is not None and not searches:
        raise OptimizeRequestError(
            "LPT-OPT-036",
            f"The precision {request.precision} takes no --max-size",
            cause="it has one size; only a choice for each weight, or of a sparsity, can be made "
            "to fit",
            remedy="Ask for --precision mixed, or sparse without --sparsity.",
        )
    require_lowering(request.target, context, _scheme(request))
    if options.prunes or (request.recipe and recipes.read(str(request.recipe)).pruned):
        require_lowering(request.target, context, "scheme.sparse")
    _refuse_lowered(model)
    scratch = Path(tempfile.mkdtemp(prefix=".compress-", dir=context.workdir))
    remaining = Remaining(context.reporter)
    try:
        if not options.recipe_only:  # else this is a part of somebody's run
            context = replace(context, reporter=remaining)
        inside = Scratch.of(context, scratch, options.runtime)
        base = to_pivot(model, request, inside)
        job = Job(Graph(pivot.load(base.path)), base, request, options, context, inside)
        if request.recipe:
            return _reproduce(job)
        _check_runtime(options.runtime, context)
        try:
            return _named(_search(job))
        except OptimizeError as error:
            if request.precision != "auto" or error.code not in ("LPT-OPT-012", "LPT-OPT-040"):
                raise
            return _kept_float(job, error)
    finally:
        remaining.close()
        shutil.rmtree(scratch, ignore_errors=True)


def _kept_float(job: Job, error: OptimizeError) -> OptimizeResult:
    """Return the float model, which ``auto`` keeps where nothing of it can be compressed."""
    from lepton_compress._bench import Bench

    cause = f": {error.cause}" if error.cause else ""
    why = f"kept fp32, because {error.message[:1].lower()}{error.message[1:]}{cause}"
    samples = load(job.request.samples, job.base)
    facts: dict[str, Any] = {"verdict": "weak"}
    if samples is not None and not job.options.recipe_only:  # else who asked compares it
        bench = Bench.prepare(job, samples)
        facts = {"verdict": bench.measure_float().verdict, "measured_on": bench.rows}
    return OptimizeResult(lower(job, None), None, why, facts)


def _check_runtime(name: str, context: Context) -> None:
    """Refuse a runtime for forward passes that runs no pivots.

    Raises:
        OptimizeError: ``LPT-OPT-015``.
    """
    assert context.hooks is not None  # noqa: S101 - checked before
    if name in (AUTO, FASTEST):
        return
    known = candidates(context.hooks)
    if name not in known:
        raise refuse(
            f"{name!r} is no runtime for forward passes",
            f"those installed that run a pivot are {', '.join(known)}; auto and fastest choose",
        )


def _for_target(options: Options, request: OptimizeRequest, context: Context) -> Options:
    """Return options with scales as kernels of 4 bits want them, unless given.

    One target of those that share the recipe is enough: the others take such scales as well.
    """
    fits = options.symmetric and options.method != "awq" and request.precision in ("int4", MIXED)
    if options.scales or not fits or context.hooks is None:
        return options
    registry = context.hooks.registry
    ids = (request.target, *(Target.parse(text).id for text in request.shared_with))
    wanted = (registry.target(one).capability("scales.float16").support for one in ids)
    return replace(options, scales="float16") if Support.FULL in wanted else options


def _options_beside_recipe(request: OptimizeRequest) -> Options:
    """Return what of a request the lowering of a recipe heeds, and refuse the rest.

    Raises:
        OptimizeError: ``LPT-OPT-037``.
    """
    fields = ("max_drop", "max_size", "samples")
    said = [name for name in fields if getattr(request, name) is not None]
    given = {name: value for name, value in request.options.items() if value is not None}
    recipe_only = bool(given.pop("recipe_only", False))
    if request.precision and request.precision not in (made := _made_by(str(request.recipe))):
        said.append(f"the precision {request.precision} ({made[0]} is what it makes)")
    said += [f"the option {name}" for name in given]
    if said:
        raise OptimizeError(
            "LPT-OPT-037",
            f"A recipe is given together with {' and '.join(said)}",
            cause="a recipe is lowered as it is; nothing is calibrated, chosen or checked",
            remedy="Leave the recipe out to search; `lepton port` and `lepton verify` measure what "
            "a recipe makes.",
        )
    return Options(recipe_only=recipe_only)


def _made_by(path: str) -> tuple[str, ...]:
    """Return what can be called the precision of a recipe, its full name first."""
    recipe = recipes.read(path)
    name = recipe.precision
    plain = name.removesuffix("-sparse")
    return tuple(
        dict.fromkeys((name, plain, plain.rstrip("12345678") if recipe.palettes else name))
    )


def _refuse_lowered(model: Model) -> None:
    recipe = model.metadata.get("recipe")
    if recipe:
        raise OptimizeError(
            "LPT-OPT-010",
            "The model is quantized already",
            cause=f"{model.path} was lowered from the recipe {recipe.get('digest', '')}",
            remedy="Compress the original float model; rounding twice only adds errors.",
        )


def _scheme(request: OptimizeRequest) -> str:
    """Return the capability that lowering the recipe, or one of the precision, needs."""
    if request.recipe:
        return f"scheme.{recipes.read(str(request.recipe)).scheme}"
    return scheme_of(request.precision)


def require_lowering(target: str, context: Context, scheme: str = "scheme.int8-static") -> None:
    """Refuse a target that does not lower recipes of a scheme.

    Raises:
        OptimizeError: ``LPT-OPT-016``.
    """
    if context.hooks is None:
        msg = "the engine needs a context with hooks"
        raise ValueError(msg)
    info = context.hooks.registry.target(target)
    declared = info.capability(scheme)
    if not declared.support:
        name = scheme.removeprefix("scheme.")
        raise OptimizeError(
            "LPT-OPT-016",
            f"{info.title} lowers no recipes of the scheme {name}",
            cause=declared.note or f"support: {declared.support.value}",
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


def _reproduce(job: Job) -> OptimizeResult:
    """Write the same recipe and lower it; the bytes are those of the first time."""
    source = Path(str(job.request.recipe))
    recipe = recipes.read(source)
    arrays = recipes.load_arrays(recipe, source)
    place = recipes.write(recipe, job.context.workdir / RECIPE, integers=arrays)
    result = lower(job, place)
    facts = {"recipe": {"digest": recipe.digest, "scheme": recipe.scheme}}
    made = OptimizeResult(result, str(place), "lowered from the recipe given", facts)
    return with_gain(job, made, None)


# --- a recipe to find --------------------------------------------------------------------------


def _search(job: Job) -> OptimizeResult:
    refuse_quantized(job.graph)
    samples = load(job.request.samples, job.base)
    warnings = _unknown_names(job)
    if job.options.means == "product":
        job, said = _means(job, samples)
        warnings += said
    job = without_refused(job, sampled=samples is not None)
    expect(job.context.reporter, steps_of(job, samples))
    if job.options.prunes:
        from lepton_compress._pruning import prune_weights

        seen = rows_to_calibrate(job, samples)
        pruning = prune_weights(job.graph, job.options, seen, job.scratch)
        job = replace(job, graph=pruning.graph, pruning=pruning)
        warnings += pruning.warnings
    result = with_gain(job, _searched(job, samples), samples)
    if job.probers:
        result = replace(result, facts={**result.facts, "loads": loads_of(job.probers)})
        every = [one for prober in job.probers for one in prober.refusals]
        warnings += tuple(one.warning for one in every if one.why in job.refused.values())
        result = replace(result, facts=with_reasons(result.facts, job.refused))
    runtimes = runtimes_of(job.scratch)
    if runtimes.owner and job.context.hooks is not None:
        forward = runtimes.facts(job.context.hooks)
        result = replace(result, facts={**result.facts, "forward": forward})
    return replace(result, warnings=(*result.warnings, *warnings))


def _means(job: Job, samples: Samples | None) -> tuple[Job, tuple[str, ...]]:
    """Return a job in whose graph means are products, and a warning where there are none."""
    if samples is None or job.options.scheme not in ("", "static"):
        raise refuse("means=product is of static int8", "it rounds values to ranges seen before")
    model, changed = qdq.means_as_products(job.graph.model, job.options.keep)
    if not changed:
        return job, ("No mean could be computed as a product.",)
    return replace(job, graph=Graph(model)), ()


def _unknown_names(job: Job) -> tuple[str, ...]:
    """Return a warning about names to keep that no operator has, and no weight that is meant."""
    known = set().union(*(names_of(node) for node in job.graph.nodes.values()))
    if job.options.prunes or job.request.precision in SPARSE_PRECISIONS:
        known |= job.graph.weights.keys()
    unknown = [name for name in job.options.keep if name not in known]
    if not unknown:
        return ()
    return (f"Nothing that could be kept is named {', '.join(map(repr, unknown))}.",)


def _searched(job: Job, samples: Samples | None) -> OptimizeResult:
    if job.request.precision in SPARSE_PRECISIONS:
        from lepton_compress._sparse import compress_sparse

        return compress_sparse(job, samples)
    if job.request.precision == MIXED:
        return _mixed(job, samples)
    if job.request.precision in BLOCK_PRECISIONS:
        from lepton_compress._weights import compress_weights

        return compress_weights(job, samples)
    wanted = job.request.max_drop is not None or job.request.precision == "auto"
    static = job.options.scheme in ("", "static")
    if wanted and static and samples is not None and divisible(samples):
        from lepton_compress._choose import choose

        return choose(job, samples)
    recipe, facts, warnings = make(job, samples)
    if job.pruning is not None:
        facts["pruning"] = job.pruning.facts
    if job.request.precision == "auto":
        why, gain = _not_worth(job, recipe, samples)
        if why:
            return OptimizeResult(lower(job, None), None, why, {"verdict": facts["verdict"]})
        facts |= gain
    place = job.write(recipe, job.context.workdir / RECIPE)
    return OptimizeResult(lower(job, place), str(place), facts.pop("why"), facts, warnings)


def _named(result: OptimizeResult) -> OptimizeResult:
    """Name the recipe in the facts as it was written, with what was pruned and its sidecar."""
    if result.recipe is None:
        return result
    written = recipes.read(result.recipe)
    named = {"digest": written.digest, "scheme": written.scheme}
    return replace(result, facts={**result.facts, "recipe": named})


def _not_worth(
    job: Job, recipe: recipes.Recipe, samples: Samples | None
) -> tuple[str, dict[str, Any]]:
    """Return why float is kept where no accuracy is measured; empty if int8 gains something.

    Beside it are facts: the gain by which int8 is kept, if that was measured.
    """
    if job.options.recipe_only:
        return "", {}  # who asked builds the variants, and compares them
    plain, made = size_of(job, None), size_of(job, recipe)
    if made < plain:
        return "", {}
    why = f"kept fp32, because int8 is not smaller: {made} bytes instead of {plain}"
    if job.request.timing_seconds <= 0:
        return why, {}
    gain = gain_of_recipe(job, recipe, samples)
    return ("", {"gain": gain.to_dict()}) if gain.faster else (f"{why}; {gain.time_text}", {})


def _mixed(job: Job, samples: Samples | None) -> OptimizeResult:
    if samples is None:
        raise OptimizeError(
            "LPT-OPT-035",
            "Choosing a precision for each weight needs samples",
            cause="none were given, and what noise does to a model says nothing about real inputs",
            remedy="Give real inputs with --data, or ask for int8-weight or int4, which need none.",
        )
    if job.options.analyse:
        from lepton_compress._sensitivity import analyse

        return analyse(job, samples)
    from lepton_compress._search import search

    return search(job, samples)


__all__ = ["optimize", "require_lowering", "to_pivot"]
