"""Means as products: AveragePool as a depthwise Conv, so that no result is a tie.

A mean of k integers of one scale is often half-way between two integers, and runtimes round that
in different ways. As a product, the mean has a scale of its own, and its weights are less than 1/k
by one part in 4096, so that what would be a tie is clearly below it for any runtime.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from lepton_core.recipe import MEAN

if TYPE_CHECKING:
    from collections.abc import Collection

    from lepton_core.recipe import Recipe

LESS = 2.0**-12
"""By this share weights are less than 1/k: 0.06 units at 255 of them, and 1e-4 at the first tie,
where float32 is wrong by 1e-7."""

_KEPT = ("strides", "pads", "dilations", "auto_pad")


def means_as_products(
    model: ModelProto, keep: Collection[str] = ()
) -> tuple[ModelProto, tuple[str, ...]]:
    """Return a copy in which AveragePool and GlobalAveragePool are depthwise Conv, where they can.

    They can where they average float32, the number of channels is known, and every window has as
    many values: without rounding sizes up, and with padding only if that counts as zeros.

    Args:
        model: A pivot with its weights in memory; it is not changed.
        keep: Names of values, nodes or operator types that stay as they are.

    Returns:
        The copy, and the outputs of the operators that were changed. Their weights are called
        ``OUTPUT/mean``.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    kept = set(keep)
    found = [n for n in copy.graph.node if not kept & {n.name, n.op_type, *n.output}]
    return copy, _write(copy, {node.output[0] for node in found})


def write_means(model: ModelProto, recipe: Recipe) -> None:
    """Change the operators that a recipe computes as products, in place.

    Those whose weights a recipe rescales are products as well, be they float.
    """
    named = {layer.weight for layer in recipe.layers.values() if layer.weight is not None}
    named.update(n for one in recipe.rescaled.values() for n in (*one.divided, *one.multiplied))
    wanted = {name.removesuffix(MEAN) for name in named if name.endswith(MEAN)}
    if wanted:
        _write(model, wanted)


def _write(model: ModelProto, wanted: Collection[str]) -> tuple[str, ...]:
    graph = model.graph
    shapes: dict[str, list[int]] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.elem_type == TensorProto.FLOAT and kind.HasField("shape"):
            shapes[value.name] = [d.dim_value for d in kind.shape.dim]  # 0 where it is not known
    taken = {t.name for t in graph.initializer} | {n for node in graph.node for n in node.output}
    changed = []
    for node in graph.node:
        name = node.output[0]
        if name not in wanted:
            continue
        window = _window(node, shapes.get(node.input[0], []) if node.input else [])
        if window is None or f"{name}{MEAN}" in taken:
            continue
        channels = shapes[node.input[0]][1]
        values = np.full((channels, 1, *window), (1 - LESS) / math.prod(window), np.float32)
        graph.initializer.append(numpy_helper.from_array(values, f"{name}{MEAN}"))
        kept = [a for a in node.attribute if a.name in _KEPT]
        conv = helper.make_node(
            "Conv", [node.input[0], f"{name}{MEAN}"], [name], name=node.name,
            kernel_shape=window, group=channels,
        )  # fmt: skip
        conv.attribute.extend(kept)
        node.CopyFrom(conv)
        changed.append(name)
    return tuple(changed)


def _window(node: NodeProto, shape: list[int]) -> list[int] | None:
    """Return the sizes that a node averages over, ``None`` where it is no product."""
    if len(shape) < 3 or not shape[1]:
        return None
    if node.op_type == "GlobalAveragePool":
        return shape[2:] if all(shape[2:]) and math.prod(shape[2:]) > 1 else None
    if node.op_type != "AveragePool":
        return None
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    fits = (
        not given.get("ceil_mode", 0)
        and given.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
        and (not any(given.get("pads", ())) or given.get("count_include_pad", 0))
        and math.prod(given["kernel_shape"]) > 1
    )
    return list(given["kernel_shape"]) if fits else None


__all__ = ["LESS", "means_as_products", "write_means"]
