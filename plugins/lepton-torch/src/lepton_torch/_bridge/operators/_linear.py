"""Matrix products and convolutions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from lepton_torch._bridge._registry import Operator, operator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_torch._bridge._registry import Node

_CONVOLUTIONS: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.conv1d,
    2: functional.conv2d,
    3: functional.conv3d,
}
_TRANSPOSED: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


@operator("MatMul")
def matmul(_node: Node, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Multiply matrices, batched as NumPy does."""
    return torch.matmul(a, b)


@operator("Gemm")
def gemm(
    node: Node, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute alpha·A·B + beta·C, each of A and B transposed if asked."""
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    a = a.mT if node.get("transA", 0) else a
    if c is not None and c.ndim == 1 and alpha == beta == 1.0 and a.is_floating_point():
        weight = b if node.get("transB", 0) else b.mT
        if c.shape[0] == weight.shape[0]:
            return functional.linear(a, weight, c)
    product = torch.matmul(a, b.mT if node.get("transB", 0) else b)
    if alpha != 1.0:
        product = product * alpha
    if c is None:
        return product
    return product + (c * beta if beta != 1.0 else c)


@operator("Einsum")
def einsum(node: Node, *parts: torch.Tensor) -> torch.Tensor:
    """Sum products by Einstein's notation."""
    return torch.einsum(node.get("equation").replace(" ", ""), *parts)


def same_pads(
    node: Node, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:  # fmt: skip
    """Return the padding that the node asks for: begins, then ends."""
    mode = node.get("auto_pad", "NOTSET")
    rank = len(kernel)
    if mode == "NOTSET":
        return list(node.get("pads") or [0] * (2 * rank))
    if mode == "VALID":
        return [0] * (2 * rank)
    begins, ends = [], []
    for size, length, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        steps = -(-size // stride)
        total = max((steps - 1) * stride + dilation * (length - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return begins + ends


def padded(x: torch.Tensor, pads: Sequence[int], fill: float = 0.0) -> torch.Tensor:
    """Pad the last axes by begins and ends, each in the order of the axes."""
    half = len(pads) // 2
    flat: list[int] = []
    for begin, end in zip(reversed(pads[:half]), reversed(pads[half:]), strict=True):
        flat += [begin, end]
    return functional.pad(x, flat, value=fill) if any(p != 0 for p in pads) else x


def geometry(node: Node, rank: int) -> tuple[list[int], list[int]]:
    """Return strides and dilations."""
    return list(node.get("strides") or [1] * rank), list(node.get("dilations") or [1] * rank)


@operator("Conv")
def conv(
    node: Node, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Convolve in one, two or three dimensions."""
    rank = x.ndim - 2
    if rank not in _CONVOLUTIONS:
        node.refuse(f"it works on {rank} dimensions")
    strides, dilations = geometry(node, rank)
    pads = same_pads(node, x.shape[2:], weight.shape[2:], strides, dilations)
    if pads[:rank] == pads[rank:]:
        even = pads[:rank]
    else:
        x, even = padded(x, pads), [0] * rank
    return _CONVOLUTIONS[rank](x, weight, bias, strides, even, dilations, node.get("group", 1))


@operator("ConvTranspose")
def conv_transpose(
    node: Node, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Convolve the other way: without padding, then cut as the pads ask."""
    rank = x.ndim - 2
    if rank not in _TRANSPOSED:
        node.refuse(f"it works on {rank} dimensions")
    strides, dilations = geometry(node, rank)
    extra = list(node.get("output_padding") or [0] * rank)
    pads = _transposed_pads(node, x, weight, strides, dilations, extra)
    even = pads[:rank] == pads[rank:] and not any(extra)
    if even or (
        pads[:rank] == pads[rank:]
        and all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
    ):
        return _TRANSPOSED[rank](
            x, weight, bias, strides, pads[:rank], extra, node.get("group", 1), dilations
        )
    return _whole_then_cut(node, x, weight, bias, pads)


def _whole_then_cut(
    node: Node, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None,
    pads: Sequence[int],
) -> torch.Tensor:  # fmt: skip
    rank = x.ndim - 2
    strides, dilations = geometry(node, rank)
    extra = list(node.get("output_padding") or [0] * rank)
    cut = [-p for p in pads[:rank]] + [e - p for e, p in zip(extra, pads[rank:], strict=True)]
    later = bias if any(c > 0 for c in cut) else None  # what is added at the end has the bias, too
    whole = _TRANSPOSED[rank](
        x, weight, None if later is not None else bias, strides, [0] * rank, [0] * rank,
        node.get("group", 1), dilations,
    )  # fmt: skip
    result = padded(whole, cut)
    return result if later is None else result + later.reshape(-1, *[1] * rank)


def _cut_conv_transpose(
    node: Node, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    rank = x.ndim - 2
    strides, dilations = geometry(node, rank)
    extra = list(node.get("output_padding") or [0] * rank)
    if rank in _TRANSPOSED and any(s > 1 for s in strides):
        pads = _transposed_pads(node, x, weight, strides, dilations, extra)
        total = [begin + end for begin, end in zip(pads[:rank], pads[rank:], strict=True)]
        multiple = [k - s for k, s in zip(weight.shape[2:], strides, strict=True)]
        if any(extra) or (total != multiple and any(pads)):
            return _whole_then_cut(node, x, weight, bias, pads)
    return conv_transpose(node, x, weight, bias)


CUT_CONV_TRANSPOSE = Operator("ConvTranspose", _cut_conv_transpose, (), (), "linear")
"""ConvTranspose for converters that know two paddings alone: none, and the one by which the result
is as large as the stride times the input. Any other is cut off what comes without padding."""


def _cut_output_padding(
    node: Node, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    rank = x.ndim - 2
    extra = list(node.get("output_padding") or [0] * rank)
    if rank in _TRANSPOSED and any(extra):
        strides, dilations = geometry(node, rank)
        pads = _transposed_pads(node, x, weight, strides, dilations, extra)
        if rank == 3 or not any(pads):
            return _whole_then_cut(node, x, weight, bias, pads)
    return conv_transpose(node, x, weight, bias)


CUT_OUTPUT_PADDING = Operator("ConvTranspose", _cut_output_padding, (), (), "linear")
"""ConvTranspose for converters that pad outputs in one and two dimensions alone, and only where
something is cut off as well."""


def _transposed_pads(
    node: Node, x: torch.Tensor, weight: torch.Tensor, strides: list[int], dilations: list[int],
    extra: list[int],
) -> list[int]:  # fmt: skip
    wanted = node.get("output_shape")
    mode = node.get("auto_pad", "NOTSET")
    rank = len(strides)
    if wanted is None and not mode.startswith("SAME"):
        return list(node.get("pads") or [0] * (2 * rank)) if mode == "NOTSET" else [0] * 2 * rank
    begins, ends = [], []
    for i in range(rank):
        size = x.shape[2 + i]
        goal = wanted[-rank:][i] if wanted is not None else size * strides[i]
        reach = dilations[i] * (weight.shape[2 + i] - 1) + 1
        total = strides[i] * (size - 1) + extra[i] + reach - goal
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return begins + ends


@operator("Det")
def det(_node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return the determinant of matrices."""
    return torch.linalg.det(x)


@operator("Col2Im", known=(1, 2))
def col2im(node: Node, x: torch.Tensor, image, block) -> torch.Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Add up columns of blocks into an image, in any number of dimensions."""
    shape, kernel = image.ints(), block.ints()
    rank = len(shape)
    strides, dilations = geometry(node, rank)
    pads = list(node.get("pads") or [0] * (2 * rank))
    batch, channels = x.shape[0], x.shape[1] // math.prod(kernel)
    # A transposed convolution by unit blocks puts every column at its place and adds.
    count = math.prod(kernel)
    weight = torch.eye(count, dtype=x.dtype).reshape(count, 1, *kernel)
    steps = [
        (s + pads[i] + pads[rank + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i, s in enumerate(shape)
    ]
    if rank not in _TRANSPOSED:
        node.refuse(f"it works on {rank} dimensions")
    columns = x.reshape(batch * channels, count, *steps)
    full = _TRANSPOSED[rank](columns, weight, None, strides, 0, 0, 1, dilations)
    goal = [s + pads[i] + pads[rank + i] for i, s in enumerate(shape)]
    ends = [
        g - f - pads[rank + i] for i, (g, f) in enumerate(zip(goal, full.shape[2:], strict=True))
    ]
    return padded(full, [-p for p in pads[:rank]] + ends).reshape(batch, channels, *shape)
