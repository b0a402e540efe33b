"""What would be compressed, before anything is calibrated, and without what is not loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lepton_compress._build import choose_layers, unsampled_recipe
from lepton_compress._options import BLOCK_PRECISIONS, MIXED
from lepton_compress._probe import Prober, nothing_left
from lepton_compress._probe_float import planned_floats
from lepton_compress._probe_graph import Planned
from lepton_compress._products import choose_products
from lepton_compress._search_forms import BLOCK_BITS, INT8, PALETTE
from lepton_compress._select import is_optional
from lepton_compress._sparse_options import SPARSE_PRECISIONS
from lepton_core.errors import OptimizeError, PlanError, PluginError
from lepton_core.recipe import Layer
from lepton_core.types import Target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_compress._job import Job
    from lepton_compress._products import Product
    from lepton_compress._search_forms import Form
    from lepton_compress._search_space import Space


def without_refused(job: Job, *, sampled: bool) -> Job:
    """Ask the target's runtime for every operator that is planned; what it refuses stays float.

    Args:
        job: The request.
        sampled: Whether there are samples.

    Returns:
        The job, with who asked, and refused layers kept float, or whole where their weights are to
        be pruned or palettized. Nobody is asked, unless told so, where the caller lowers the recipe
        itself. Where several targets share the recipe each is asked; one that would leave nothing
        to compress is passed over, for it is no reason to leave the others without a recipe: it
        says so when it lowers the recipe.

    Raises:
        OptimizeError: ``LPT-OPT-040``, nothing is left to compress.
    """
    precision, asks = job.request.precision, job.options.ask
    sharing = [Target.parse(text) for text in job.request.shared_with]
    targets = list(dict.fromkeys((Target(job.request.target, job.request.device), *sharing)))
    asked = [target for target in targets if _is_asked(job, target)]
    if not asked:
        return job
    probers = tuple(Prober(job, target, named=len(targets) > 1) for target in asked)
    job = replace(job, probers=probers)
    if precision == MIXED:
        return _without_moves(job, probers[0])
    failed: list[OptimizeError] = []
    left = list(probers)
    while left:
        before = job.options.keep
        for prober in list(left):
            try:
                job = _without(job, prober, sampled=sampled)
            except OptimizeError as error:
                if error.code != "LPT-OPT-040":
                    raise
                failed.append(error)
                left.remove(prober)
            except (PluginError, PlanError):
                if not asks:
                    raise
                left.remove(prober)  # it says so itself when it lowers the recipe
        if job.options.keep == before or len(left) < 2:
            break
    if len(failed) == len(targets):
        raise failed[0]
    return job


def _is_asked(job: Job, target: Target) -> bool:
    """Tell whether a target is asked, which takes seconds where a converter is slow to import."""
    hooks, how = job.context.hooks, job.options.ask or ("no" if job.options.recipe_only else "all")
    assert hooks is not None  # noqa: S101 - checked by the engine
    quick = bool(hooks.registry.target(target.id).capability("loads.quick").support)
    return how == "all" or (how == "quick" and quick)


def _without(job: Job, prober: Prober, *, sampled: bool) -> Job:
    """Keep what one runtime refuses float.

    Raises:
        OptimizeError: ``LPT-OPT-040``.
    """
    try:
        while refused := prober.ask(wanted := planned(job, sampled=sampled)):
            reasons = {name: one.why for one in refused for name in one.names}
            if job.request.precision in SPARSE_PRECISIONS:  # others may read the same weight
                weights = {p.name: str(p.layer.weight) for p in wanted}
                reasons = {weights[name]: why for name, why in reasons.items()}
            keep = tuple(dict.fromkeys((*job.options.keep, *reasons)))
            options = replace(job.options, keep=keep)
            job = replace(job, options=options, refused={**job.refused, **reasons})
    except OptimizeError as error:
        if error.code == "LPT-OPT-012" and prober.refusals:
            raise nothing_left(prober.refusals) from error
        raise
    return job


def planned(job: Job, *, sampled: bool) -> list[Planned]:
    """Return the operators that a recipe of the precision asked for would hold.

    Raises:
        OptimizeError: ``LPT-OPT-012``, there are none.
    """
    graph, options = job.graph, job.options
    if job.request.precision in SPARSE_PRECISIONS:
        return planned_floats(graph, job.request.precision, options)
    if job.request.precision in BLOCK_PRECISIONS:
        chosen = choose_products(graph, options)
        blocks = [of_product(one) for one in chosen.products]
        return blocks + [Planned(name, one) for name, one in chosen.tables.items()]
    wide = job.request.precision == "int16"
    scheme = options.scheme or ("static" if sampled or wide else "dynamic")
    if scheme == "static":
        return of_static(choose_layers(graph, options.keep).layers, wide=wide)
    recipe = unsampled_recipe(
        graph, job.base.digest, job.opset, dynamic=scheme == "dynamic", keep=options.keep
    )
    return [Planned(name, layer) for name, layer in recipe.layers.items()]


def of_product(product: Product) -> Planned:
    """Return a product whose weight is stored by block."""
    return Planned(product.name, product.layer, product=product)


def of_static(layers: Mapping[str, Layer], *, wide: bool = False) -> list[Planned]:
    """Return operators with static scales."""
    known = dict(layers)
    return [Planned(name, layer, wide, is_optional(layer, known)) for name, layer in known.items()]


def _without_moves(job: Job, prober: Prober) -> Job:
    """Keep refused operators without weights float in a mixture; weights have other choices."""
    try:
        layers = choose_layers(job.graph, job.options.keep).layers
    except OptimizeError as error:
        if error.code != "LPT-OPT-012":
            raise
        return job
    every = of_static(layers)
    refused = prober.ask([one for one in every if one.layer.weight is None], every)
    reasons = {name: one.why for one in refused for name in one.names}
    options = replace(job.options, keep=(*job.options.keep, *reasons))
    return replace(job, options=options, refused=reasons)


def leave_out_refused(space: Space) -> None:
    """Take from a search's units the precisions that the runtime does not load for them.

    Raises:
        OptimizeError: ``LPT-OPT-040``, nothing is left to choose.
    """
    if not space.job.probers:
        return
    prober = space.job.probers[0]
    for form, every in space.alike():
        names = [name for name in every if name in space.units]
        if form.level is not None or form.base == PALETTE or not names:
            continue  # zeros change no operator, and palettes are float
        refused = prober.ask(_as_form(space, form, names))
        layers = {name: one for one in refused for name in one.names}
        units = [u for u in names if layers.keys() & space.units[u].layers]
        if units:
            why = nothing_left(refused)
            space.leave_out(form.name, units, why.cause or str(why))
            for pruned in [f for f in space.forms.values() if f.level and f.base == form.base]:
                space.take(pruned.name, units)
            space.require_units(why)


def _as_form(space: Space, form: Form, names: list[str]) -> list[Planned]:
    """Return the operators of units as a form would have them, by the pivot's own names."""
    graph = space.job.graph
    layers = [name for unit in names for name in space.units[unit].layers]
    if form.base == INT8:
        chosen = choose_layers(graph, space.job.options.keep).layers
        return [p for p in of_static(chosen) if p.name in layers]
    nodes = {name: graph.nodes[name] for name in layers}
    if names[0] in space.products:
        found = {n: space.products[n] for n in layers}
        bits = BLOCK_BITS[form.base]
        return [
            of_product(replace(found[n], source=node.input[0], bits=bits))
            for n, node in nodes.items()
        ]
    at = {name: node.op_type != "Gather" for name, node in nodes.items()}
    return [
        Planned(n, Layer(node.op_type, n, (), node.input[at[n]], mode="weight"))
        for n, node in nodes.items()
    ]


__all__ = ["leave_out_refused", "of_product", "of_static", "planned", "without_refused"]
