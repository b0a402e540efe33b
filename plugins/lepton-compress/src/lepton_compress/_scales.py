"""From ranges and weights to the entries of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import lepton_kernels as lk
from lepton_compress._select import SAME_SCALE, equal_scales, is_fixed, is_optional, weight_axis
from lepton_core.recipe import Layer, Tensor
from lepton_onnx.qdq import weight_scales

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from lepton_compress._calibrate import Range
    from lepton_compress._graph import Graph

FIXED_SCALE, FIXED_ZERO_POINT = 1.0 / 256.0, -128
FIXED_WIDE_SCALE = 1.0 / 32768.0
"""Of softmax and logistic outputs, which lie in 0..1."""

LARGEST_BIAS = 2**30


def affine(low: float, high: float) -> tuple[float, int]:
    """Return scale and zero point of int8 for a range, asymmetric, per tensor.

    The rule is that of :func:`lepton_kernels.scale_from_minmax`: the range is widened to hold zero,
    so that zero is exact. A range so narrow that its scale were no normal float32 counts as empty,
    and has the scale 1.
    """
    lowest, highest = min(np.float32(low), np.float32(0)), max(np.float32(high), np.float32(0))
    scale, zero = lk.scale_from_minmax(lowest, highest, "int8")
    if scale <= np.finfo(np.float32).tiny:
        scale, zero = lk.scale_from_minmax(0.0, 0.0, "int8")
    return plain(scale), int(zero)


def symmetric(low: float, high: float) -> float:
    """Return the scale of int16 for a range: absmax / 32767 in float32, 1 for an empty range."""
    scale = np.float32(max(abs(float(low)), abs(float(high))) / 32767.0)
    return plain(scale if scale >= np.finfo(np.float32).tiny else np.float32(1))


def plain(value: np.floating | NDArray[np.float32] | float) -> float:
    """Return the shortest decimal that float32 reads as *value*."""
    return float(str(np.float32(value)))


def observed_values(graph: Graph, layers: Mapping[str, Layer]) -> list[str]:
    """Return the values whose range must be known, in topological order.

    Values that have the scale of another one because they are moved from it, and values whose
    scale is fixed, need not be observed.
    """
    moved = {layer.output for layer in layers.values() if layer.op in SAME_SCALE}
    groups = equal_scales(dict(layers))
    wanted = {v for v in groups if v not in moved and not is_fixed(graph, v)}
    order = [*graph.inputs, *(n for node in graph.nodes.values() for n in node.output)]
    return [v for v in order if v in wanted]


def activations(
    graph: Graph,
    layers: Mapping[str, Layer],
    ranges: Mapping[str, Range],
    estimator: str,
    *,
    wide: bool = False,
) -> dict[str, Tensor]:
    """Return an entry for each value that integer operators read or yield.

    *wide* ones have 16 bits and the whole range that was seen: nothing is gained by clipping it.
    """
    known = dict(layers)
    groups = equal_scales(known)
    members: dict[str, list[str]] = {}
    for value, root in groups.items():
        members.setdefault(root, []).append(value)
    optional = {layer.output for layer in layers.values() if is_optional(layer, known)}
    entries: dict[str, Tensor] = {}
    for root, values in members.items():
        fixed = any(is_fixed(graph, v) for v in values)
        found = [ranges[v] for v in values if v in ranges]
        if fixed and wide:
            scale, zero, how = FIXED_WIDE_SCALE, 0, "fixed"
        elif fixed:
            scale, zero, how = FIXED_SCALE, FIXED_ZERO_POINT, "fixed"
        elif wide:
            low = min((r.low for r in found), default=0.0)
            high = max((r.high for r in found), default=0.0)
            scale, zero, how = symmetric(low, high), 0, "minmax"
        else:
            low = min((r.chosen_low for r in found), default=0.0)
            high = max((r.chosen_high for r in found), default=0.0)
            (scale, zero), how = affine(low, high), estimator
        for value in values:
            seen = ranges.get(value)
            entries[value] = Tensor(
                "activation",
                scale,
                zero,
                "int16" if wide else "int8",
                observed=None if seen is None else (plain(seen.low), plain(seen.high)),
                estimator=how,
                same_as=None if value == root else root,
                optional=value in optional,
            )
    return entries


def weights(
    graph: Graph, layers: Mapping[str, Layer], entries: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return an entry for each weight of integer operators.

    Where a bias would not fit int32 at input scale * weight scale (a channel of tiny weights with
    a large bias), the channel's scale is raised until it does.
    """
    found: dict[str, Tensor] = {}
    for name, layer in layers.items():
        if layer.weight is None:
            continue
        axis = 1 if layer.op == "Gather" else weight_axis(graph, graph.nodes[name])
        values = graph.array(layer.weight)
        scale = weight_scales(values, axis)
        narrow = layer.mode == "static" and entries[layer.inputs[0]].dtype == "int8"
        if narrow and layer.bias is not None:
            source = np.float64(np.float32(entries[layer.inputs[0]].scales[0]))
            scale = _room_for_bias(scale, graph.array(layer.bias), source)
        if layer.weight in found:
            scale = np.maximum(scale, np.asarray(found[layer.weight].scale, np.float32))
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
        found[layer.weight] = Tensor(
            "weight",
            plain(scale) if scale.ndim == 0 else tuple(plain(s) for s in scale),
            axis=axis,
            observed=(plain(low), plain(high)),
            estimator="absmax",
        )
    return found


def _room_for_bias(
    scale: NDArray[np.float32], bias: NDArray[np.float32], source: np.float64
) -> NDArray[np.float32]:
    needed = np.abs(bias.astype(np.float64)).reshape(-1) / (source * LARGEST_BIAS)
    if scale.ndim == 0:
        needed = needed.max(initial=0.0)
    return np.maximum(scale, needed.astype(np.float32))


def same_axis(graph: Graph, layers: Iterable[tuple[str, Layer]]) -> dict[str, str]:
    """Return layers that read a weight along another axis than an earlier layer does."""
    axes: dict[str, int | None] = {}
    odd = {}
    for name, layer in layers:
        if layer.weight is None:
            continue
        axis = 1 if layer.op == "Gather" else weight_axis(graph, graph.nodes[name])
        if axes.setdefault(layer.weight, axis) != axis:
            odd[name] = f"an earlier operator reads {layer.weight!r} along another axis"
    return odd


__all__ = [
    "FIXED_SCALE", "FIXED_ZERO_POINT", "activations", "affine", "observed_values", "plain",
    "same_axis", "weights",
]  # fmt: skip
