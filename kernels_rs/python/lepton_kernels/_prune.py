"""Which weights to keep: masks of exact counts, and the scores that they follow."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lepton_kernels import _native
from lepton_kernels._arguments import (
    check_count,
    check_real,
    check_threads,
    normalise_axis,
    output_array,
    real_array,
)
from lepton_kernels.errors import KernelError, KernelTypeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


def _kept(size: int, sparsity: float) -> int:
    """How many of `size` values stay; the product is exact, half a value goes to even."""
    sparsity = check_real("sparsity", sparsity)
    if not 0 <= sparsity <= 1:
        raise KernelError(f"sparsity is {sparsity}; accepted are 0 to 1")
    return size - round(Fraction(repr(sparsity)) * size)


def magnitude_threshold(
    x: ArrayLike | Sequence[ArrayLike], sparsity: float, *, threads: int | None = None
) -> tuple[float, int]:
    """The smallest magnitude that stays when the smallest share of all values goes.

    Args:
        x: float32, float16 or bfloat16 values of any shape and strides; a list or tuple of arrays
            counts as one tensor.
        sparsity: The share of values that go, 0 to 1; their number is ``sparsity * size``, exact
            for the decimal number that `sparsity` prints as, and half to even.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        The magnitude, and how many values that equal it stay. If nothing stays, infinity and 0.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: `sparsity` is out of range, or a value is NaN.
    """
    arrays = [np.asarray(part) for part in x] if isinstance(x, (list, tuple)) else [np.asarray(x)]
    keep = _kept(sum(part.size for part in arrays), sparsity)
    return _native.magnitude_cut(arrays, keep, check_threads(threads))


def prune_mask(
    x: ArrayLike,
    sparsity: float,
    *,
    axis: int | None = None,
    out: NDArray[np.bool_] | None = None,
    threads: int | None = None,
) -> NDArray[np.bool_]:
    """Marks the values of largest magnitude, exactly as many as asked.

    Of equal magnitudes those of lowest (C order) index stay.

    Args:
        x: float32, float16 or bfloat16 values (weights, or scores such as those of
            `wanda_scores`) of any shape and strides.
        sparsity: The share of values that go, 0 to 1, see `magnitude_threshold`.
        axis: None ranks all values together; an axis ranks each of its channels for itself.
        out: A C-contiguous bool array of the shape of `x`, which is filled and returned.
        threads: The largest number of threads; None uses all that the process may use. The result
            does not depend on it.

    Returns:
        bool, C-contiguous, of the shape of `x`: True for what stays.

    Raises:
        KernelTypeError: The dtype is not supported.
        KernelError: `sparsity` is out of range, a value is NaN, or `axis` or `out` does not fit.
    """
    values = np.asarray(x)
    axis = normalise_axis(axis, values.ndim)
    mask = output_array(out, values.shape, "bool", values)
    if axis is None:
        _cut([values], [mask], sparsity, threads)
        return mask
    channels, masks = np.moveaxis(values, axis, 0), np.moveaxis(mask, axis, 0)
    for i in range(values.shape[axis]):
        channel, kept = channels[i, ...], masks[i, ...]
        if kept.flags.c_contiguous:
            _cut([channel], [kept], sparsity, threads)
        else:
            kept[...] = prune_mask(channel, sparsity, threads=threads)
    return mask


def prune_masks(
    arrays: Sequence[ArrayLike],
    sparsity: float,
    *,
    out: Sequence[NDArray[np.bool_]] | None = None,
    threads: int | None = None,
) -> list[NDArray[np.bool_]]:
    """Marks the values of largest magnitude of several arrays together (global pruning).

    Of equal magnitudes those of the first arrays stay, and in an array those of lowest index.

    Args:
        arrays: float32, float16 or bfloat16 arrays.
        sparsity: The share of all values that go, 0 to 1, see `magnitude_threshold`.
        out: A C-contiguous bool array of the shape of each array, which are filled and returned.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        One mask for each array, True for what stays.

    Raises:
        KernelTypeError: A dtype is not supported, or `arrays` or `out` is no sequence.
        KernelError: `sparsity` is out of range, a value is NaN (its index counts through all
            arrays), or `out` does not fit.
    """
    values = [np.asarray(part) for part in _each("arrays", arrays)]
    given = [None] * len(values) if out is None else _each("out", out)
    if len(given) != len(values):
        raise KernelError(f"out has {len(given)} arrays, needed are {len(values)}")
    masks: list[NDArray[np.bool_]] = []
    for part, mask in zip(values, given, strict=True):
        others = [] if mask is None else [*values, *masks]
        masks.append(output_array(mask, part.shape, "bool", *others))
    _cut(values, masks, sparsity, threads)
    return masks


def _each(name: str, arrays: Sequence[Any]) -> list[Any]:
    try:
        return list(arrays)
    except TypeError as error:
        given = type(arrays).__name__
        raise KernelTypeError(f"{name} must be a sequence of arrays, got {given}") from error


def _cut(
    values: Sequence[NDArray[Any]],
    masks: Sequence[NDArray[np.bool_]],
    sparsity: float,
    threads: int | None,
) -> None:
    count = check_threads(threads)
    keep = _kept(sum(part.size for part in values), sparsity)
    _native.magnitude_masks(list(values), keep, [mask.view(np.uint8) for mask in masks], count)


def nm_mask(
    x: ArrayLike,
    n: int = 2,
    m: int = 4,
    *,
    out: NDArray[np.bool_] | None = None,
    threads: int | None = None,
) -> NDArray[np.bool_]:
    """Marks the `n` largest magnitudes of every `m` consecutive values along the last axis.

    Of equal magnitudes the first stay.

    Args:
        x: float32, float16 or bfloat16 values of any shape and strides. For weights whose input
            channels lie along another axis, pass ``np.moveaxis(x, axis, -1)``.
        n: Values of a group that stay, 0 to `m`.
        m: Values in a group, 1 to 64; it divides the last axis.
        out: A C-contiguous bool array of the shape of `x`, which is filled and returned.
        threads: The largest number of threads; None uses all that the process may use.

    Returns:
        bool, C-contiguous, of the shape of `x`: True for what stays.

    Raises:
        KernelTypeError: The dtype is not supported.
        KernelError: `n` or `m` does not fit, a value is NaN, or `out` does not fit.
    """
    values = np.asarray(x)
    if values.ndim == 0:
        raise KernelError("x has no dimension; groups need at least one")
    mask = output_array(out, values.shape, "bool", values)
    kept, group = check_count("n", n, 0), check_count("m", m, 1)
    _native.nm_mask(values, kept, group, mask.view(np.uint8), check_threads(threads))
    return mask


def block_mask(
    x: ArrayLike,
    sparsity: float,
    block: tuple[int, int] = (4, 1),
    *,
    order: Literal[1, 2] = 2,
    out: NDArray[np.bool_] | None = None,
    threads: int | None = None,
) -> NDArray[np.bool_]:
    """Marks the blocks of a matrix of largest norm, exactly as many blocks as asked.

    Norms are rounded to float32 and ranked; of equal ones the blocks of lowest (C order) index
    stay. Blocks at the end of an axis that `block` does not divide count as if filled up with
    zeros.

    Args:
        x: float32, float16 or bfloat16 weights of shape ``(outputs, inputs)``, any strides.
        sparsity: The share of blocks that go, 0 to 1, see `magnitude_threshold`.
        block: Rows and columns of a block.
        order: 1 ranks by the sum of magnitudes, 2 by the root of the sum of squares.
        out: A C-contiguous bool array of the shape of `x`, which is filled and returned.
        threads: The largest number of threads; None uses all that the process may use. The result
            does not depend on it.

    Returns:
        bool, C-contiguous, of the shape of `x`: True for what stays.

    Raises:
        KernelTypeError: The dtype is not supported.
        KernelError: A number or `out` does not fit, or a value is NaN (the first block with one is
            named).
    """
    values = np.asarray(x)
    if values.ndim != 2:
        raise KernelError(f"x has shape {values.shape}; blocks need (outputs, inputs)")
    if not isinstance(block, tuple) or len(block) != 2:
        raise KernelTypeError(f"block must be a tuple of rows and columns, got {block!r}")
    if order not in (1, 2):
        raise KernelError(f"order is {order}; accepted: 1, 2")
    # A block beyond the matrix is one that ends with it.
    height, width = (
        min(check_count("block", side, 1), max(n, 1))
        for side, n in zip(block, values.shape, strict=True)
    )
    mask = output_array(out, values.shape, "bool", values)
    blocks = [-(-n // side) for n, side in zip(values.shape, (height, width), strict=True)]
    norms = _norms_buffer(mask, blocks)
    _native.block_norms(values, height, width, order == 2, norms, check_threads(threads))
    kept = prune_mask(norms, sparsity, threads=threads)
    wide = kept if width == 1 else np.repeat(kept, width, axis=1)[:, : values.shape[1]]
    # Whole blocks at once; the rows of a last one may be fewer.
    whole = len(mask) // height
    tall = mask[: whole * height].reshape(whole, height, values.shape[1])
    tall[...] = wide[:whole, np.newaxis]
    mask[whole * height :] = wide[whole:]
    return mask


def _norms_buffer(mask: NDArray[np.bool_], blocks: list[int]) -> NDArray[np.float32]:
    """Room for float32 norms: in the memory of the mask, which is written after they are ranked."""
    wanted = 4 * math.prod(blocks)
    if wanted > mask.size or mask.ctypes.data % 4:
        return np.empty(blocks, np.float32)
    return mask.reshape(-1)[:wanted].view(np.float32).reshape(blocks)


def channel_norms(
    x: ArrayLike,
    *,
    axis: int | None = None,
    order: Literal[1, 2] = 2,
    out: NDArray[np.float64] | None = None,
    threads: int | None = None,
) -> NDArray[np.float64]:
    """The L1 or L2 norm of the tensor or of each channel, with float64 sums.

    Args:
        x: float32, float16 or bfloat16 values of any shape and strides.
        axis: The channel axis, which is kept; None takes the whole tensor.
        order: 1 for the sum of magnitudes, 2 for the root of the sum of squares.
        out: A C-contiguous float64 array of the result's shape, which is filled and returned.
        threads: The largest number of threads; None uses all that the process may use. The result
            does not depend on it.

    Returns:
        float64 of shape ``(channels,)``, or ``()`` without `axis`; 0 for a channel without values,
        NaN and infinities spread.

    Raises:
        KernelTypeError: The dtype is not supported.
        KernelError: `axis`, `order` or `out` does not fit.
    """
    values = np.asarray(x)
    axis = normalise_axis(axis, values.ndim)
    if order not in (1, 2):
        raise KernelError(f"order is {order}; accepted: 1, 2")
    shape = () if axis is None else (values.shape[axis],)
    norms = output_array(out, shape, "float64", values)
    sums = _native.power_sums(values, axis, order == 2, check_threads(threads))
    norms[...] = np.reshape(np.sqrt(sums) if order == 2 else sums, shape)
    return norms


def wanda_scores(
    weight: ArrayLike, input_norms: ArrayLike, *, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Scores of weights by their effect on the output: ``|weight| * ||input||`` in float32.

    Pass them to `nm_mask`, or to ``prune_mask(scores, sparsity, axis=0)``, which ranks within each
    output channel.

    Args:
        weight: float32, float16 or bfloat16 weights of shape ``(outputs, inputs)``.
        input_norms: The L2 norm of every input over the calibration samples, of shape
            ``(inputs,)``; used as float32.
        out: A C-contiguous float32 array of the shape of `weight`, which is filled and returned.

    Returns:
        float32 scores of the shape of `weight`; NaN where either side is.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: A shape or `out` does not fit.
    """
    weights, norms = np.asarray(weight), np.asarray(input_norms)
    with np.errstate(over="ignore"):
        factors = real_array("input_norms", norms).astype(np.float32)
    if weights.dtype.name not in ("float32", "float16", "bfloat16"):
        raise KernelTypeError(
            f"dtype {weights.dtype} is not supported here; accepted: float32, float16, bfloat16"
        )
    if weights.ndim != 2 or norms.shape != weights.shape[1:]:
        raise KernelError(
            f"weight has shape {weights.shape} and input_norms {norms.shape}; needed are "
            "(outputs, inputs) and (inputs,)"
        )
    scores = output_array(out, weights.shape, "float32", weights, norms)
    np.abs(weights.astype(np.float32, copy=False), out=scores)
    with np.errstate(all="ignore"):
        np.multiply(scores, factors, out=scores)
    return scores
