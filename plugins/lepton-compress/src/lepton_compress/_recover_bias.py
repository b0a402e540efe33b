"""What the rounding of weights and inputs moves the mean outputs of layers by."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

import lepton_kernels as lk
from lepton_compress._channels import observe_channels
from lepton_compress._graph import Graph, attribute
from lepton_compress._scales import plain
from lepton_core.recipe import Correction
from lepton_onnx import qdq

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto

    from lepton_core.context import Context
    from lepton_core.recipe import Layer, Recipe
    from lepton_core.samples import Samples

_WITH_BIAS = ("Conv", "Gemm", "MatMul")
MOST_LAYERS = 64
"""Layers whose biases are corrected one after the other; each needs a run of the graph up to it."""


def correctable(graph: Graph, recipe: Recipe) -> dict[str, Layer]:
    """Return static products whose bias nothing else reads."""
    return {
        name: layer
        for name, layer in recipe.layers.items()
        if layer.op in _WITH_BIAS
        and layer.mode == "static"
        and layer.weight is not None
        and layer.bias is not None
        and graph.only_reader(layer.bias) is not None
    }


def channel_axis(graph: Graph, value: str, op: str) -> int:
    """Return the axis of a product's input or output that runs over channels."""
    return 1 if op.startswith("Conv") else max(len(graph.shapes.get(value, ())) - 1, 0)


def analytic(
    graph: Graph,
    recipe: Recipe,
    means: Mapping[tuple[str, int], NDArray[np.float64]],
    *,
    stored: Graph | None = None,
) -> dict[str, Correction]:
    """Return corrections for what the rounding of each weight alone moves.

    Source: Nagel et al. (2019, arXiv 1906.04721), section 4.2; means are those of samples.

    Args:
        graph: The graph, after rescaling.
        recipe: A recipe in the graph's names.
        means: Mean of each channel, by value and channel axis. A layer whose means are missing or
            not finite has no correction.
        stored: The graph whose weights are rounded, such as pruned ones; *graph* by default.
    """
    found = {}
    for name, layer in correctable(graph, recipe).items():
        weight, source = layer.weight or "", layer.inputs[0]
        place = source, channel_axis(graph, source, layer.op)
        if place not in means or not np.isfinite(means[place]).all():
            continue
        tensor = recipe.tensors[weight]
        values = np.asarray(graph.array(weight), np.float32)
        rounded = np.asarray((stored or graph).array(weight), np.float32)
        codes = qdq.weight_integers(rounded, tensor)
        actual = lk.dequantize(codes, np.asarray(tensor.scale, np.float32), axis=tensor.axis)
        node = graph.nodes[name]
        if node.op_type == "MatMul" or (
            node.op_type == "Gemm" and not attribute(node, "transB", 0)
        ):
            values, actual = values.T, actual.T
        moved = lk.bias_correction(
            np.ascontiguousarray(values),
            np.ascontiguousarray(actual),
            means[place],
            groups=int(attribute(node, "group", 1)),
        )
        found[name] = _entry("analytic", layer, moved)
    return found


def empirical(
    model: ModelProto,
    graph: Graph,
    recipe: Recipe,
    samples: Samples,
    context: Context,
    *,
    threads: int | None = None,
) -> dict[str, Correction]:
    """Return corrections for what the means of outputs really moved by, layer after layer.

    Each layer is measured with the integers and the corrections of all before it. Source: the same
    paper, appendix D.

    Args:
        model: The pivot.
        graph: The pivot after rescaling.
        recipe: A recipe for the pivot, without corrections.
        samples: Rows to measure means on.
        context: Opens sessions.
        threads: Of the sessions.
    """
    layers = correctable(graph, recipe)
    taps = {name: _tap(graph, name, layer) for name, layer in layers.items()}
    axes = {taps[name]: channel_axis(graph, taps[name], layer.op) for name, layer in layers.items()}
    wanted = observe_channels(graph, axes, samples, context, threads=threads)
    found: dict[str, Correction] = {}
    for name, layer in layers.items():
        context.checkpoint()
        corrected = replace(recipe, corrections=found)
        lowered = Graph(
            qdq.lower(model, corrected, digest=recipe.pivot.digest, unsigned=True).model
        )
        tap = taps[name]
        there = (f"{tap}/float", f"{tap}/rescaled", tap)
        actual = next(n for n in there if n in lowered.producer)
        seen = observe_channels(lowered, {actual: axes[tap]}, samples, context, threads=threads)
        found[name] = _entry("empirical", layer, wanted[tap].mean - seen[actual].mean)
    return found


def _tap(graph: Graph, name: str, layer: Layer) -> str:
    """Return the value that a layer yields with its bias and before its activation."""
    for value in layer.fused:
        if layer.bias in graph.producer[value].input:
            return value
    return name


def _entry(by: str, layer: Layer, values: NDArray[np.float64]) -> Correction:
    return Correction(by, layer.bias or "", tuple(plain(v) for v in values))


__all__ = ["MOST_LAYERS", "analytic", "channel_axis", "correctable", "empirical"]
