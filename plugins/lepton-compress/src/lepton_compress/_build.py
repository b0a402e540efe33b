"""Building a recipe: static int8 from samples, dynamic or weight-only int8 without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_compress import __version__
from lepton_compress._calibrate import observe
from lepton_compress._scales import activations, observed_values, same_axis, weights
from lepton_compress._select import NOT_FLOAT32, Selection, select
from lepton_core.errors import OptimizeError
from lepton_core.recipe import Calibration, Layer, PivotId, Recipe
from lepton_onnx.qdq import is_quantized

if TYPE_CHECKING:
    from collections.abc import Collection

    from lepton_compress._calibrate import Range
    from lepton_compress._graph import Graph
    from lepton_core.context import Context
    from lepton_core.samples import Samples

REQUIRES = {
    "cpu": {
        "any": ["avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"],
        "why": "without them x86 sums products of uint8 and int8 in 16 bits, which may saturate; "
        "runtimes then need their slower exact kernels",
    }
}
"""What exact integers need of a CPU."""

_SMALLEST_TABLE = 1024
"""Embedding tables of fewer values are not worth an integer form."""


def refuse_quantized(graph: Graph) -> None:
    """Refuse a model that holds quantized operators already.

    Raises:
        OptimizeError: ``LPT-OPT-010``.
    """
    found = is_quantized(graph.model)
    if found:
        raise OptimizeError(
            "LPT-OPT-010",
            "The model is quantized already",
            cause=f"it holds {found}",
            remedy="Compress the original float model; rounding twice only adds errors.",
        )


def static_recipe(
    graph: Graph,
    digest: str,
    opset: int,
    samples: Samples,
    context: Context,
    *,
    estimator: str = "minmax",
    keep: Collection[str] = (),
    threads: int | None = None,
    ranges: dict[str, Range] | None = None,
    wide: bool = False,
) -> tuple[Recipe, dict[str, Range]]:
    """Calibrate and return a recipe for static int8, and the ranges that were seen.

    Args:
        graph: The pivot.
        digest: Its digest.
        opset: Its opset.
        samples: Rows to calibrate on.
        context: Opens the session.
        estimator: Range estimator.
        keep: Names of values, nodes or operator types that stay float.
        threads: Threads of the session.
        ranges: Ranges that are known already, of :func:`all_values`; nothing is run then.
        wide: Activations of 16 bits; weights have 8 as ever.

    Raises:
        OptimizeError: ``LPT-OPT-012`` nothing can be quantized, ``LPT-OPT-013`` values are not
            finite.
    """
    chosen = choose_layers(graph, keep)
    if ranges is None:
        names = observed_values(graph, chosen.layers)
        ranges = observe(graph, names, samples, context, estimator, threads=threads)
    entries = activations(graph, chosen.layers, ranges, estimator, wide=wide)
    entries |= weights(graph, chosen.layers, entries)
    recipe = Recipe(
        PivotId(digest, opset),
        "int16-static" if wide else "int8-static",
        in_order(graph, entries),
        chosen.layers,
        chosen.kept_float,
        {} if wide else REQUIRES,
        Calibration(len(samples), samples.digest, estimator, samples.origin),
        written_by=f"lepton-compress {__version__}",
    )
    return recipe, ranges


def unsampled_recipe(
    graph: Graph, digest: str, opset: int, *, dynamic: bool = True, keep: Collection[str] = ()
) -> Recipe:
    """Return a recipe that needs no samples: dynamic int8, or int8 weights alone.

    Matrix products get their input's scale at run time; convolutions and embedding tables keep
    integer weights and compute in float.

    Raises:
        OptimizeError: ``LPT-OPT-012`` nothing can be quantized.
    """
    found = select(graph, keep)
    layers = {n: layer for n, layer in found.layers.items() if layer.weight is not None}
    layers = {n: _without_samples(graph, n, layer, dynamic) for n, layer in layers.items()}
    reasons = {n: "there are no samples to calibrate on" for n in found.layers if n not in layers}
    for name, table in tables(graph, keep).items():
        layers[name] = table
    chosen = _without_odd(graph, Selection(layers, {**found.kept_float, **reasons}))
    require_layers(chosen, graph)
    entries = weights(graph, chosen.layers, {})
    return Recipe(
        PivotId(digest, opset),
        "int8-dynamic" if dynamic else "int8-weight-only",
        in_order(graph, entries),
        chosen.layers,
        chosen.kept_float,
        REQUIRES if dynamic else {},
        written_by=f"lepton-compress {__version__}",
        notes=("No samples: nothing was calibrated.",),
    )


def _without_samples(graph: Graph, name: str, layer: Layer, dynamic: bool) -> Layer:
    output = graph.nodes[name].output[0]
    mode = "dynamic" if dynamic and layer.op in ("Gemm", "MatMul") else "weight"
    inputs = layer.inputs if mode == "dynamic" else ()
    return Layer(layer.op, output, inputs, layer.weight, mode=mode)


def tables(graph: Graph, keep: Collection[str]) -> dict[str, Layer]:
    """Return lookups in large float tables whose rows are kept as integers."""
    found = {}
    for name, node in graph.nodes.items():
        if node.op_type != "Gather" or {name, node.name, "Gather"} & set(keep):
            continue
        table = node.input[0]
        shape = graph.shapes.get(table, ())
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        if table not in graph.weights or not graph.is_float(table) or len(shape) != 2 or axis:
            continue
        if (shape[0] or 0) * (shape[1] or 0) >= _SMALLEST_TABLE:
            found[name] = Layer("Gather", name, (), table, mode="weight")
    return found


def choose_layers(graph: Graph, keep: Collection[str] = ()) -> Selection:
    """Return the operators that compute with integers in static int8.

    Raises:
        OptimizeError: ``LPT-OPT-012`` there are none.
    """
    kept = set(keep)
    odd: dict[str, str] = {}
    while True:
        chosen = select(graph, kept)
        found = same_axis(graph, chosen.layers.items())
        if not found:
            break
        odd |= found
        kept |= set(found)
    reasons = {name: odd.get(name, reason) for name, reason in chosen.kept_float.items()}
    result = Selection(chosen.layers, reasons)
    require_layers(result, graph)
    return result


def all_values(graph: Graph, layers: Collection[Layer]) -> list[str]:
    """Return every value that integer operators read or yield, in topological order."""
    wanted = {name for layer in layers for name in (*layer.inputs, layer.output)}
    order = [*graph.inputs, *(n for node in graph.nodes.values() for n in node.output)]
    return [name for name in order if name in wanted]


def _without_odd(graph: Graph, chosen: Selection) -> Selection:
    odd = same_axis(graph, chosen.layers.items())
    layers = {n: chosen.layers[n] for n in graph.nodes if n in chosen.layers and n not in odd}
    kept = {**chosen.kept_float, **odd}
    return Selection(layers, {n: kept[n] for n in graph.nodes if n in kept and n not in layers})


def require_layers(chosen: Selection, graph: Graph) -> None:
    """Refuse a model in which no layer with a weight can be quantized.

    Raises:
        OptimizeError: ``LPT-OPT-012``.
    """
    if any(layer.weight is not None for layer in chosen.layers.values()):
        return
    reasons = list(dict.fromkeys(chosen.kept_float.values()))[:5]
    raise OptimizeError(
        "LPT-OPT-012",
        "Nothing in the model can be quantized",
        cause=f"no product with a constant weight among {len(graph.nodes)} operators can be"
        + (f": {'; '.join(reasons)}" if reasons else ""),
        remedy="Export it again with float32 weights."
        if NOT_FLOAT32 in reasons
        else "Convert it to fp16 (`lepton port`, `lepton convert`), which needs no such operators.",
    )


def in_order(graph: Graph, entries: dict[str, Any]) -> dict[str, Any]:
    """Order entries as values are produced, each weight before the operator that reads it."""
    order: dict[str, None] = dict.fromkeys(graph.inputs)
    for node in graph.nodes.values():
        order.update(dict.fromkeys((*node.input, *node.output)))
    return {name: entries[name] for name in order if name in entries}


__all__ = [
    "REQUIRES",
    "all_values",
    "choose_layers",
    "in_order",
    "refuse_quantized",
    "require_layers",
    "static_recipe",
    "tables",
    "unsampled_recipe",
]
