"""Weights alone in few bits, by block: the precisions int4 and int8-weight."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from onnx import ModelProto, numpy_helper

from lepton_compress import __version__
from lepton_compress._build import in_order
from lepton_compress._graph import Graph
from lepton_compress._inputs import observe_inputs
from lepton_compress._job import RECIPE, UNSAMPLED, Job, divisible, lower, unchecked_budget
from lepton_compress._products import Chosen, Product, choose_products, groups
from lepton_compress._rounding import Rounded, round_group
from lepton_compress._scales import weights as table_entries
from lepton_core.errors import OptimizeError
from lepton_core.recipe import Calibration, PivotId, Recipe
from lepton_core.types import OptimizeResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from lepton_core.samples import Samples

_SAMPLED = ("awq", "gptq")


@dataclass(frozen=True, slots=True)
class Compressed:
    """A recipe with what its sidecar holds, and what was found out on the way.

    Attributes:
        recipe: The recipe.
        arrays: Arrays of its sidecar, by name.
        method: How integers were found.
        errors: Relative error of each product's outputs that its weight alone causes.
    """

    recipe: Recipe
    arrays: Mapping[str, NDArray[np.generic]]
    method: str
    errors: Mapping[str, float]


def compress_weights(job: Job, samples: Samples | None) -> OptimizeResult:
    """Store weights in few bits, and lower the recipe.

    With samples by GPTQ, without by least squared error of each block. With ``max_drop`` the
    samples are divided, and layers get more bits until the budget holds
    (:mod:`lepton_compress._choose_weights`).

    Raises:
        OptimizeError: ``LPT-OPT-012`` there is no weight to store so, ``013`` values are not
            finite, ``014`` the budget cannot be met, ``017`` the method needs samples.
    """
    if job.request.max_drop is not None and samples is not None and divisible(samples):
        from lepton_compress._choose_weights import choose_weights

        return choose_weights(job, samples)
    made = build(job, samples, choose_products(job.graph, job.options))
    place = job.write(made.recipe, job.context.workdir / RECIPE, made.arrays)
    facts = facts_of(job, made, "weak" if samples is None else "unmeasured")
    why = facts.pop("why")
    warnings = [] if samples is not None else [UNSAMPLED]
    warnings += unchecked_budget(job, samples)
    return OptimizeResult(lower(job, place), str(place), why, facts, tuple(warnings))


def facts_of(job: Job, made: Compressed, verdict: str) -> dict[str, Any]:
    """Return what the record says about a recipe."""
    recipe, options = made.recipe, job.options
    worst = max(made.errors.items(), key=lambda item: item[1], default=None)
    found = {
        "why": f"{job.request.precision}: weights of {options.bits} bits in blocks of "
        f"{options.block}, by {made.method}",
        "recipe": {"digest": recipe.digest, "scheme": recipe.scheme},
        "method": made.method,
        "layers": len(recipe.layers),
        "kept_float": len(recipe.kept_float),
        "verdict": verdict,
        "engine": f"lepton-compress {__version__}",
    }
    if job.pruning is not None:
        found["pruning"] = job.pruning.facts
    if worst is not None:
        found["largest_layer_error"] = {"weight": worst[0], "relative": worst[1]}
    return found


def build(job: Job, samples: Samples | None, chosen: Chosen) -> Compressed:
    """Round the weights of the chosen products and return the recipe.

    With samples, products are walked in order, and each sees inputs as the products before it, in
    few bits already, make them.
    """
    by_rule = samples is None or job.pruning is not None  # gptq would move zeros
    method = job.options.method or ("mse" if by_rule else "gptq")
    if method in _SAMPLED and samples is None:
        raise OptimizeError(
            "LPT-OPT-017",
            f"The method {method} needs samples",
            cause="none were given, and noise says nothing about real inputs",
            remedy="Give real inputs with --data, or choose --option method=mse.",
        )
    rounded = Rounded()
    if samples is not None and method in _SAMPLED:
        _walk(job, samples, chosen.products, method, rounded)
    else:
        for group in groups(chosen.products):
            round_group(job.graph, group, job.options, rounded, method=method)
    return Compressed(
        _recipe(job, samples, chosen, method, rounded), rounded.arrays, method, rounded.errors
    )


def _walk(
    job: Job, samples: Samples, products: tuple[Product, ...], method: str, rounded: Rounded
) -> None:
    copy = ModelProto()
    copy.CopyFrom(job.graph.model)
    graph = Graph(copy)
    parts = groups(products)
    bar = job.context.reporter.task(f"round {len(products)} weights by {method}", len(parts))
    for number, group in enumerate(parts):
        width = job.graph.array(group[0].weight).shape[group[0].axis]
        inputs = observe_inputs(
            graph, group[0].source, width, samples, job.scratch, number=number,
            threads=job.options.threads,
        )  # fmt: skip
        round_group(job.graph, group, job.options, rounded, method=method, inputs=inputs)
        for product in group:
            values = rounded.weights(job.graph, product.weight)
            graph.weights[product.weight].CopyFrom(numpy_helper.from_array(values, product.weight))
        bar.advance()
    bar.finish()


def _recipe(
    job: Job, samples: Samples | None, chosen: Chosen, method: str, rounded: Rounded
) -> Recipe:
    layers = {p.name: p.layer for p in chosen.products} | chosen.tables
    used = samples is not None and method in _SAMPLED
    calibration = None
    if samples is not None and used:
        calibration = Calibration(len(samples), samples.digest, method, samples.origin)
    notes = () if used else ("No samples were used: integers follow from the weights alone.",)
    ends = sorted({p.bits for p in chosen.products} - {job.options.bits})
    if ends:
        notes += (f"The first and the last matrix have {ends[0]} bits.",)
    if job.options.scales == "float16":
        notes += ("Scales are above 0, and float16 holds them.",)
    return Recipe(
        PivotId(job.base.digest, job.opset),
        "int4-weight-only" if job.request.precision == "int4" else "int8-weight-only",
        in_order(job.graph, table_entries(job.graph, chosen.tables, {})),
        {n: layers[n] for n in job.graph.nodes if n in layers},
        chosen.kept_float,
        calibration=calibration,
        written_by=f"lepton-compress {__version__}",
        notes=(*notes, *rounded.notes),
        blocks=in_order(job.graph, rounded.entries),
    )


def raised(chosen: Chosen, weights: set[str], bits: int) -> Chosen:
    """Return the decision with at least *bits* bits for some weights."""
    products = tuple(
        replace(p, bits=max(bits, p.bits)) if p.weight in weights else p for p in chosen.products
    )
    return replace(chosen, products=products)


__all__ = ["Compressed", "build", "compress_weights", "facts_of", "raised"]
