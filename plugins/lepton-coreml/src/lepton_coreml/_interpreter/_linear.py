"""Products and convolutions, with sums in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lepton_coreml._interpreter._registry import operator

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = NDArray[Any]
_CHUNK_BYTES = 64 << 20
"""Memory that the unrolled windows of a convolution may take at once."""


@operator("linear")
def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Return x weightᵀ + bias."""
    product = np.matmul(x, np.asarray(weight).T)
    return product if bias is None else product + bias


@operator("matmul")
def matmul(
    x: Array,
    y: Array,
    transpose_x: Array = np.False_,
    transpose_y: Array = np.False_,
) -> Array:
    """Return the matrix product over the last two axes; others broadcast."""
    left = np.swapaxes(x, -1, -2) if transpose_x else x
    right = np.swapaxes(y, -1, -2) if transpose_y else y
    return np.matmul(left, right)


@operator("einsum")
def einsum(values: Sequence[Array], equation: str) -> Array:
    """Return the sum of products that an equation names."""
    return np.einsum(equation, *values, optimize=True)


def pads_of(
    pad_type: str,
    pad: Array | None,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
) -> list[tuple[int, int]]:
    """Return padding before and after each spatial axis.

    Args:
        pad_type: ``"valid"`` (none), ``"same"`` or ``"same_lower"`` (so that the output is the
            input over the stride, the odd one after or before), ``"custom"``.
        pad: With ``"custom"``: two numbers for each axis.
        sizes: Sizes of the input.
        kernel: Sizes of the window, dilation included.
        strides: Steps of the window.
    """
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        given = [0] * 2 * len(sizes) if pad is None else [int(p) for p in np.ravel(pad)]
        return list(zip(given[::2], given[1::2], strict=True))
    if pad_type not in ("same", "same_lower"):
        msg = f"the padding {pad_type!r} is unknown"
        raise ValueError(msg)
    result = []
    for size, width, stride in zip(sizes, kernel, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + width - size, 0)
        small, large = total // 2, total - total // 2
        result.append((small, large) if pad_type == "same" else (large, small))
    return result


def _ints(values: Array | None, count: int) -> list[int]:
    return [1] * count if values is None else [int(v) for v in np.ravel(values)]


@operator("conv")
def conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    dilations: Array | None = None,
    groups: Array = np.int32(1),
) -> Array:
    """Convolve ``(N, C, *D)`` with ``(M, C / groups, *K)`` in one to three dimensions."""
    spatial = x.ndim - 2
    steps, spread = _ints(strides, spatial), _ints(dilations, spatial)
    kernel = weight.shape[2:]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, spread, strict=True)]
    around = pads_of(pad_type, pad, x.shape[2:], reach, steps)
    padded = np.pad(x, [(0, 0), (0, 0), *around]) if any(map(any, around)) else x
    count = int(groups)
    if padded.shape[1] != weight.shape[1] * count or weight.shape[0] % count:
        msg = f"{padded.shape[1]} channels do not fit weights {weight.shape} in {count} groups"
        raise ValueError(msg)
    result = (
        _depthwise(padded, weight, steps, spread)
        if weight.shape[1] == 1 and count > 1
        else _windows_product(padded, weight, steps, spread, reach, count)
    )
    return result if bias is None else result + np.reshape(bias, (-1, *[1] * spatial))


def _windows_product(
    x: Array,
    weight: Array,
    strides: list[int],
    dilations: list[int],
    reach: list[int],
    groups: int,
) -> Array:
    axes = tuple(range(2, x.ndim))
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=axes)
    view = view[(slice(None), slice(None), *(slice(None, None, s) for s in strides))]
    view = view[(..., *(slice(None, None, d) for d in dilations))]
    spatial = view.shape[2 : x.ndim]
    rows, channels = x.shape[0], x.shape[1] // groups
    inner = channels * int(np.prod(weight.shape[2:], dtype=np.int64))
    outs = weight.shape[0] // groups
    flat = weight.reshape(groups, outs, inner).transpose(0, 2, 1).astype(np.float32, copy=False)
    places = int(np.prod(spatial, dtype=np.int64))
    result = np.empty((rows, weight.shape[0], *spatial), np.float32)
    step = max(1, _CHUNK_BYTES // max(1, 4 * x.shape[1] * inner // channels * places))
    for start in range(0, rows, step):
        part = view[start : start + step]
        split = part.reshape(part.shape[0], groups, channels, *part.shape[2:])
        # (rows, groups, places, channels, kernel): the product then runs over the last two.
        places_at = tuple(range(3, 3 + len(spatial)))
        kernel_at = tuple(range(3 + len(spatial), split.ndim))
        moved = split.transpose(0, 1, *places_at, 2, *kernel_at)
        columns = moved.reshape(part.shape[0], groups, places, inner)
        product = np.matmul(columns, flat)
        shaped = product.reshape(part.shape[0], groups, *spatial, outs)
        back = np.moveaxis(shaped, -1, 2)
        result[start : start + step] = back.reshape(part.shape[0], groups * outs, *spatial)
    return result


def _depthwise(x: Array, weight: Array, strides: list[int], dilations: list[int]) -> Array:
    """Return one product for each place of the kernel, summed: no windows are unrolled."""
    groups = x.shape[1]
    times = weight.shape[0] // groups
    kernel = weight.shape[2:]
    spatial = [
        (size - (k - 1) * d - 1) // s + 1
        for size, k, d, s in zip(x.shape[2:], kernel, dilations, strides, strict=True)
    ]
    spread = np.repeat(x, times, axis=1) if times > 1 else x
    result = np.zeros((x.shape[0], weight.shape[0], *spatial), np.float32)
    for place in np.ndindex(*kernel):
        window = tuple(
            slice(p * d, p * d + (n - 1) * s + 1, s)
            for p, d, n, s in zip(place, dilations, spatial, strides, strict=True)
        )
        factors = weight[(slice(None), 0, *place)].reshape(-1, *[1] * len(kernel))
        result += spread[(slice(None), slice(None), *window)] * factors
    return result


@operator("conv_transpose")
def conv_transpose(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    pad: Array | None = None,
    output_shape: Array | None = None,
    pad_type: str = "valid",
    strides: Array | None = None,
    dilations: Array | None = None,
    groups: Array = np.int32(1),
) -> Array:
    """Spread ``(N, C, *D)`` over ``(C, M / groups, *K)``, the transpose of a convolution."""
    spatial = x.ndim - 2
    steps, spread = _ints(strides, spatial), _ints(dilations, spatial)
    kernel, count = weight.shape[2:], int(groups)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, spread, strict=True)]
    full = [(n - 1) * s + r for n, s, r in zip(x.shape[2:], steps, reach, strict=True)]
    around = _transposed_pads(pad_type, pad, full, [n * s for n, s in zip(
        x.shape[2:], steps, strict=True)])  # fmt: skip
    outs = weight.shape[1]
    grown = np.zeros((x.shape[0], outs * count, *full), np.float32)
    left = x.reshape(x.shape[0], count, x.shape[1] // count, -1)
    right = weight.reshape(count, x.shape[1] // count, outs, *kernel)
    for place in np.ndindex(*kernel):
        factors = right[(slice(None), slice(None), slice(None), *place)].transpose(0, 2, 1)
        part = np.matmul(factors, left).reshape(x.shape[0], outs * count, *x.shape[2:])
        window = tuple(
            slice(p * d, p * d + (n - 1) * s + 1, s)
            for p, d, n, s in zip(place, spread, x.shape[2:], steps, strict=True)
        )
        grown[(slice(None), slice(None), *window)] += part
    wanted = (
        [int(n) for n in np.ravel(output_shape)][-spatial:]
        if output_shape is not None
        else [f - a - b for f, (a, b) in zip(full, around, strict=True)]
    )
    result = grown
    for axis, ((before, _), size) in enumerate(zip(around, wanted, strict=True), start=2):
        missing = max(0, before + size - result.shape[axis])
        if missing:
            result = np.pad(result, [(0, missing if i == axis else 0) for i in range(result.ndim)])
        result = np.take(result, np.arange(before, before + size), axis=axis)
    return result if bias is None else result + np.reshape(bias, (-1, *[1] * spatial))


def _transposed_pads(
    pad_type: str, pad: Array | None, full: list[int], same: list[int]
) -> list[tuple[int, int]]:
    if pad_type in ("valid", "custom"):
        return pads_of(pad_type, pad, full, full, [1] * len(full))
    totals = [max(f - s, 0) for f, s in zip(full, same, strict=True)]
    halves = [(t // 2, t - t // 2) for t in totals]
    return halves if pad_type == "same" else [(b, a) for a, b in halves]


__all__ = ["linear", "matmul", "pads_of"]
