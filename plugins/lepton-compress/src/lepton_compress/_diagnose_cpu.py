"""Which products would saturate on a CPU that adds 16-bit sums: the emulator shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import lepton_kernels as lk
from lepton_compress._calibrate import observation_session, plan, valid_part
from lepton_compress._diagnose import Finding, finding
from lepton_compress._graph import attribute
from lepton_core.environment import cpu_features
from lepton_core.samples import batches
from lepton_onnx import qdq

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray
    from onnx import NodeProto

    from lepton_compress._graph import Graph
    from lepton_core.context import Context
    from lepton_core.recipe import Layer, Recipe
    from lepton_core.samples import Samples

_ROWS = 512
_LARGEST_WIDTH = 65793
_BYTES = 64 << 20


def saturation_findings(
    graph: Graph,
    recipe: Recipe,
    samples: Samples,
    context: Context,
    *,
    features: Collection[str] | None = None,
) -> list[Finding]:
    """Find products whose 16-bit sums of pairs saturate, on a CPU that has nothing wider.

    A batch of rows is multiplied as ``vpmaddubsw`` does it. Convolutions are looked at where they
    have one group.

    Args:
        graph: The graph that the recipe's names belong to.
        recipe: Static int8.
        samples: Rows; the first batch is used.
        context: Opens the session.
        features: Instruction sets of the CPU; those of this one by default.
    """
    there = cpu_features() if features is None else features
    wanted = recipe.requires.get("cpu", {}).get("any", ())
    if not wanted or set(wanted) & set(there):
        return []
    layers = {
        name: layer
        for name, layer in recipe.layers.items()
        if layer.mode == "static" and layer.weight is not None
        and layer.op in ("Conv", "Gemm", "MatMul")
        and attribute(graph.nodes[name], "group", 1) == 1
        and graph.row_bytes(layer.inputs[0]) * 32 <= _BYTES
    }  # fmt: skip
    seen: dict[str, tuple[float, int]] = {}
    for values in _one_batch(graph, {la.inputs[0] for la in layers.values()}, samples, context):
        for name, layer in layers.items():
            if layer.inputs[0] in values:
                array = values[layer.inputs[0]]
                seen[name] = _saturated(graph, recipe, layer, graph.nodes[name], array)
    found = []
    for name in layers:
        share, pairs = seen[name]
        if pairs:
            numbers = {"pairs": pairs, "share": float(f"{share:.3g}")}
            text = (
                f"{name}: {share:.2%} of the sums of two products leave 16 bits, and this CPU has "
                "no instruction that adds them in 32"
            )
            cure = (
                "--option recover=narrow, which the fast kernels sum exactly; without it sessions "
                "take exact kernels, which are slower"
            )
            found.append(finding(graph, "u8s8-saturation", name, numbers, text=text, cure=cure))
    return found


def _one_batch(
    graph: Graph, names: set[str], samples: Samples, context: Context
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield values for the first rows, as many at a time as memory has room for."""
    parts, rows = plan(graph, sorted(names), samples, context.limits.memory_bytes)
    for number, part in enumerate(parts):
        inside = [n for n in part if n not in graph.inputs]
        with observation_session(graph, inside, context, 800 + number, None) as session:
            batch = next(iter(batches(samples, session.signature, rows)))
            found = dict(session.run(batch.inputs)) if inside else {}
            given = {n: batch.inputs[n] for n in part if n in graph.inputs}
            every = {**found, **given}
            yield {n: valid_part(every[n], batch.valid_rows, batch.inputs) for n in part}


def _saturated(
    graph: Graph, recipe: Recipe, layer: Layer, node: NodeProto, values: NDArray[Any]
) -> tuple[float, int]:
    """Return the share and the number of pairs whose sum does not fit 16 bits."""
    source, entry = recipe.tensors[layer.inputs[0]], recipe.tensors[layer.weight or ""]
    weight = np.asarray(graph.array(layer.weight or ""), np.float32)
    codes = qdq.weight_integers(weight, entry)
    array = np.ascontiguousarray(values, np.float32)
    inputs = lk.quantize(array, source.scales[0], source.zero_point + 128, dtype="uint8")
    if layer.op == "Conv":
        places = _places(inputs, node, codes.shape[2:], source.zero_point + 128)
        columns = codes.reshape(len(codes), -1).T
    else:
        places = inputs.reshape(-1, inputs.shape[-1])
        columns = codes.T if attribute(node, "transB", 0) else codes
    if not places.size or places.shape[1] > _LARGEST_WIDTH:
        return 0.0, 0
    chosen = np.linspace(0, len(places) - 1, min(len(places), _ROWS)).astype(np.int64)
    rows = np.ascontiguousarray(places[chosen])
    product = lk.matmul_u8s8(rows, np.ascontiguousarray(columns), saturate16=True)
    total = len(rows) * columns.shape[1] * -(-rows.shape[1] // 2)
    return product.saturated / total, int(product.saturated)


def _places(
    inputs: NDArray[np.uint8], node: NodeProto, kernel: tuple[int, ...], zero: int
) -> NDArray[np.uint8]:
    """Return what a convolution multiplies at each place, ``(places, channels * kernel)``."""
    rank = len(kernel)
    pads = attribute(node, "pads", (0,) * (2 * rank))
    around = [(0, 0), (0, 0), *((pads[i], pads[rank + i]) for i in range(rank))]
    padded = np.pad(inputs, around, constant_values=zero)
    steps = attribute(node, "strides", (1,) * rank)
    apart = attribute(node, "dilations", (1,) * rank)
    spans = tuple((k - 1) * d + 1 for k, d in zip(kernel, apart, strict=True))
    axes = tuple(range(2, 2 + rank))
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=axes)
    windows = windows[(slice(None), slice(None), *(slice(None, None, s) for s in steps))]
    windows = windows[(..., *(slice(None, None, d) for d in apart))]
    moved = np.moveaxis(windows, 1, 1 + rank)
    return moved.reshape(-1, inputs.shape[1] * int(np.prod(kernel)))


__all__ = ["saturation_findings"]
