"""What layers do to channels: products, convolutions, normalisation, attention."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.fx import Node

from lepton_torch._pruning._trace import Axes, Axis, Tracer, arguments, nothing, rule


@rule("linear")
def linear(tracer: Tracer, node: Node) -> Axes:
    """Join the last axis with the weight's inputs; its outputs come out."""
    given = arguments(node)
    x, weight, bias = given["input"], given["weight"], given.get("bias")
    inputs, outputs = tracer.axes(x), tracer.axes(weight)
    tracer.join(inputs[-1], outputs[1])
    tracer.reads(x, -1, weight, 1)
    made = outputs[0]
    if isinstance(bias, Node):
        made = tracer.join(made, tracer.axes(bias)[0])
    tracer.makes(weight, outputs[0])
    tracer.cost(
        *list(zip(tracer.shape(x), inputs, strict=True)), (tracer.shape(weight)[0], outputs[0])
    )
    return (*inputs[:-1], made)


@rule("conv1d", "conv2d", "conv3d", "convolution")
def convolution(tracer: Tracer, node: Node) -> Any:  # noqa: ANN401 - axes or NotImplemented
    """Join inputs and outputs with the weight's axes, in groups where there are some."""
    given = arguments(node)
    x, weight, groups = given["input"], given["weight"], given["groups"]
    if tracer.axes(x) and len(tracer.shape(x)) != len(tracer.shape(weight)):
        return NotImplemented  # without a batch
    if given.get("transposed"):
        return _transposed(tracer, node)
    _pin_window(tracer, x)
    inputs, kernel = tracer.axes(x)[1], tracer.axes(weight)
    if groups == 1:
        tracer.join(inputs, kernel[1])
        tracer.reads(x, 1, weight, 1)
        made = kernel[0]
    else:
        made = _grouped(tracer, x, weight, (kernel[0], kernel[1]), groups)
    if isinstance(given.get("bias"), Node):
        made = tracer.join(made, tracer.axes(given["bias"])[0])
    tracer.makes(weight, kernel[0])
    return _convolved(tracer, node, (x, weight), made, tracer.shape(node))


def _pin_window(tracer: Tracer, x: Node) -> None:
    for axis in tracer.axes(x)[2:]:
        tracer.pin(axis, f"{tracer.where()} slides over it")


def _convolved(
    tracer: Tracer, node: Node, read: tuple[Node, Node], made: Axis, places: tuple[int, ...]
) -> Axes:
    x, weight = read
    batch = tracer.axes(x)[0]
    factors = zip(tracer.shape(weight), tracer.axes(weight), strict=True)
    tracer.cost((places[0], batch), *[(n, None) for n in places[2:]], *factors)
    return (batch, made, *[None for _ in tracer.shape(node)[2:]])


def _grouped(tracer: Tracer, x: Node, weight: Node, kernel: tuple[Axis, Axis], groups: int) -> Axis:
    """Remove whole groups, or the same channels of every group."""
    inputs = tracer.axes(x)[1]
    if inputs is None or kernel[0] is None:
        tracer.pin(kernel[0], f"{tracer.where()} has groups of inputs that stay")
        tracer.pin(inputs, f"{tracer.where()} has groups of outputs that stay")
        return None
    own_in, own_out = inputs.reshape(groups, -1), kernel[0].reshape(groups, -1)
    ways = ["groups"] if own_in.shape[1] == 1 else ["groups", "within"]
    if groups < own_in.shape[1]:
        ways.reverse()
    if ways[tracer.choose(len(ways))] == "groups":
        ins, outs = tracer.classes.join_rows(own_in), tracer.classes.join_rows(own_out)
        tracer.join(ins, outs)
        tracer.pin(kernel[1], "it is the inside of a group")
        tracer.chosen(ins)
        each = own_in.shape[1]
        tracer.set_argument(6, "groups", lambda cut: cut.count(inputs) // each)
        return np.repeat(ins, own_out.shape[1])
    ins, outs = tracer.classes.join_rows(own_in.T), tracer.classes.join_rows(own_out.T)
    tracer.join(ins, kernel[1])
    tracer.reads(x, 1, weight, None)
    tracer.chosen(ins)
    tracer.chosen(outs)
    return np.tile(outs, groups)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _transposed(tracer: Tracer, node: Node) -> Any:  # noqa: ANN401
    """Join inputs with the weight's first axis, outputs with its second."""
    given = arguments(node)
    x, weight = given["input"], given["weight"]
    if given["groups"] != 1 or len(tracer.shape(x)) != len(tracer.shape(weight)):
        return NotImplemented
    _pin_window(tracer, x)
    kernel = tracer.axes(weight)
    tracer.join(tracer.axes(x)[1], kernel[0])
    tracer.reads(x, 1, weight, 0)
    made = kernel[1]
    if isinstance(given.get("bias"), Node):
        made = tracer.join(made, tracer.axes(given["bias"])[0])
    tracer.makes(weight, kernel[1])
    return _convolved(tracer, node, (x, weight), made, tracer.shape(x))


def _per_channel(tracer: Tracer, x: Node, axis: int, weights: list[Any]) -> Axes:
    """Join vectors that hold one value per channel with an axis."""
    found = list(tracer.axes(x))
    for weight in weights:
        if isinstance(weight, Node):
            found[axis] = tracer.join(found[axis], tracer.axes(weight)[0])
    return tuple(found)


@rule("batch_norm", "_native_batch_norm_legit_no_training", "instance_norm")
def batch_norm(tracer: Tracer, node: Node) -> Any:  # noqa: ANN401
    """Each channel is normalised on its own."""
    given = arguments(node)
    names = ("weight", "bias", "running_mean", "running_var")
    axes = _per_channel(tracer, given["input"], 1, [given[name] for name in names])
    if isinstance(tracer.structure.shapes[node], tuple) and not isinstance(
        tracer.structure.shapes[node][0], tuple
    ):
        return axes
    return [axes, *nothing(list(tracer.structure.shapes[node][1:]))]


@rule("layer_norm", "rms_norm")
def layer_norm(tracer: Tracer, node: Node) -> Axes:
    """What is measured together stays: removing one would change the others."""
    given = arguments(node)
    x = given["input"]
    count = len(given["normalized_shape"])
    why = f"{tracer.where()} measures all of it together"
    for axis in tracer.axes(x)[-count:]:
        tracer.pin(axis, why)
    for weight in (given.get("weight"), given.get("bias")):
        if isinstance(weight, Node):
            for axis in tracer.axes(weight):
                tracer.pin(axis, why)
    return (*tracer.axes(x)[:-count], *[None] * count)


@rule("group_norm")
def group_norm(tracer: Tracer, node: Node) -> Axes:
    """Whole groups can go, as each is measured on its own."""
    given = arguments(node)
    x, groups = given["input"], given["num_groups"]
    axes = list(_per_channel(tracer, x, 1, [given.get("weight"), given.get("bias")]))
    ids = axes[1]
    if ids is not None:
        each = len(ids) // groups
        axes[1] = np.repeat(tracer.classes.join_rows(ids.reshape(groups, each)), each)
        tracer.set_argument(1, "num_groups", lambda cut: cut.count(ids) // each)
    return tuple(axes)


@rule("prelu")
def prelu(tracer: Tracer, node: Node) -> Axes:
    """One slope for all, or one per channel."""
    x, weight = node.args[:2]
    if tracer.shape(weight)[0] == 1:  # type: ignore[arg-type]
        return tracer.axes(x)
    return _per_channel(tracer, x, 1, [weight])  # type: ignore[arg-type]


@rule("embedding")
def embedding(tracer: Tracer, node: Node) -> Axes:
    """Rows are looked up, so they stay; their width comes out."""
    weight, indices = node.args[:2]
    rows, width = tracer.axes(weight)
    tracer.pin(rows, "every row of the table can be looked up")
    tracer.makes(weight, width)
    return (*tracer.axes(indices), width)


@rule("matmul", "bmm", "mm")
def matmul(tracer: Tracer, node: Node) -> Any:  # noqa: ANN401
    """Join what is added up; axes of the batch meet index by index."""
    left, right = node.args[:2]
    a, b = tracer.axes(left), tracer.axes(right)
    if len(a) < 2 or len(b) < 2:
        return NotImplemented
    tracer.join(a[-1], b[-2])
    tracer.reads(left, -1, right, len(b) - 2)  # type: ignore[arg-type]
    if len(b) == 2:
        tracer.makes(right, b[1])
    batch = broadcast(tracer, [left, right], drop=2)
    sizes = tracer.shape(node)[:-2]
    n, k = tracer.shape(left)[-2:]  # type: ignore[arg-type]
    m = tracer.shape(right)[-1]  # type: ignore[arg-type]
    tracer.cost(*zip(sizes, batch, strict=True), (n, a[-2]), (k, a[-1]), (m, b[-1]))
    return (*batch, a[-2], b[-1])


@rule("addmm")
def addmm(tracer: Tracer, node: Node) -> Axes:
    """A product of matrices and a bias."""
    bias, left, right = node.args[:3]
    a, b = tracer.axes(left), tracer.axes(right)
    tracer.join(a[1], b[0])
    tracer.reads(left, 1, right, 0)  # type: ignore[arg-type]
    tracer.makes(right, b[1])
    n, k = tracer.shape(left)  # type: ignore[arg-type]
    tracer.cost((n, a[0]), (k, a[1]), (tracer.shape(right)[1], b[1]))  # type: ignore[arg-type]
    made = tracer.axes(bias)
    last = b[1] if tracer.shape(bias)[-1] == 1 else tracer.join(b[1], made[-1])  # type: ignore[arg-type]
    return (a[0], last)


@rule("einsum")
def einsum(tracer: Tracer, node: Node) -> Any:  # noqa: ANN401
    """Axes of one letter meet index by index."""
    equation, operands = node.args[0], node.args[1]
    text = str(equation).replace(" ", "")
    if "..." in text or "->" not in text:
        return NotImplemented
    left, _, right = text.partition("->")
    found: dict[str, Axis] = {}
    sizes: dict[str, int] = {}
    for letters, operand in zip(left.split(","), operands, strict=True):  # type: ignore[arg-type]
        if len(set(letters)) != len(letters):
            return NotImplemented  # a diagonal
        for letter, axis, size in zip(
            letters, tracer.axes(operand), tracer.shape(operand), strict=True
        ):
            found[letter] = tracer.join(found[letter], axis) if letter in found else axis
            sizes[letter] = size
    summed = set(found) - set(right)
    for letter in summed:  # one operand alone is a plain sum, not a product with a weight
        if sum(letter in part for part in left.split(",")) < 2:
            tracer.pin(found[letter], f"{tracer.where()} adds it up")
    if len(operands) > 1:  # type: ignore[arg-type]
        tracer.cost(*[(sizes[letter], found[letter]) for letter in found])
    return tuple(found[letter] for letter in right)


@rule("scaled_dot_product_attention")
def attention(tracer: Tracer, node: Node) -> Any:  # noqa: ANN401
    """Heads can go; so can the width of values, but not that of queries and keys."""
    given = arguments(node)
    query, key, value, mask = (given[n] for n in ("query", "key", "value", "attn_mask"))
    q, k, v = (tracer.axes(n) for n in (query, key, value))
    if len(q) != len(k) or len(q) != len(v) or len(q) < 3:
        return NotImplemented
    why = "the scale of attention depends on it"
    tracer.pin(q[-1], why)
    tracer.pin(k[-1], why)
    length = "attention runs over it"
    for axis in (q[-2], k[-2], v[-2]):
        tracer.pin(axis, length)
    kv = [tracer.join(a, b) for a, b in zip(k[:-2], v[:-2], strict=True)]
    if given.get("enable_gqa") and tracer.shape(query)[-3] != tracer.shape(key)[-3]:
        times = tracer.shape(query)[-3] // tracer.shape(key)[-3]
        kv[-1] = None if kv[-1] is None else np.repeat(kv[-1], times)
    batch = [tracer.join(a, b) for a, b in zip(q[:-2], kv, strict=True)]
    if isinstance(mask, Node):
        held, sizes = tracer.axes(mask), tracer.shape(mask)
        for axis in held[-2:]:
            tracer.pin(axis, length)
        for back in range(3, len(held) + 1):
            if sizes[-back] != 1:
                batch[-back + 2] = tracer.join(batch[-back + 2], held[-back])
    rows = list(zip(tracer.shape(query)[:-2], batch, strict=True))
    lengths = [(tracer.shape(query)[-2], None), (tracer.shape(key)[-2], None)]
    tracer.cost(*rows, *lengths, (tracer.shape(query)[-1], None))
    tracer.cost(*rows, *lengths, (tracer.shape(value)[-1], v[-1]))
    return (*batch, None, v[-1])


def broadcast(tracer: Tracer, operands: list[Any], drop: int = 0) -> Axes:
    """Join the axes of operands that are broadcast together; return those of the result."""
    kept = [(tracer.axes(n), tracer.shape(n)) for n in operands if isinstance(n, Node)]
    kept = [(a[: len(a) - drop], s[: len(s) - drop]) for a, s in kept]
    rank = max(len(s) for _, s in kept)
    found: list[Axis] = []
    for position in range(rank):
        here: list[tuple[Axis, int]] = []
        for axes, shape in kept:
            at = position - rank + len(shape)
            if at >= 0:
                here.append((axes[at], shape[at]))
        wide = [axis for axis, size in here if size != 1] or [axis for axis, _ in here]
        made = wide[0]
        for other in wide[1:]:
            made = tracer.join(made, other)
        found.append(made)
    return tuple(found)


__all__ = ["broadcast"]
