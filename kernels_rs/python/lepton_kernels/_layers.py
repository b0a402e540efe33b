"""Rescaling of channels between layers, and corrections, before weights are quantized."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lepton_kernels import _native
from lepton_kernels._arguments import (
    check_count,
    check_finite,
    check_real,
    check_threads,
    output_array,
    real_array,
)
from lepton_kernels._blocks import SchemeName, dequantize_blocks, quantize_blocks
from lepton_kernels._range import absmax
from lepton_kernels.errors import KernelError, KernelTypeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


class AwqScales(NamedTuple):
    """The outcome of `awq_scales`.

    Attributes:
        scale: float32 of shape ``(inputs,)``: multiply the weights of an input by it, and divide
            the input (or the layer before) by it.
        ratio: The exponent of the mean magnitudes of the inputs that was chosen; 0 leaves the
            weights as they are.
        error: The relative output error at this ratio.
        error_unscaled: The relative output error at ratio 0.
    """

    scale: NDArray[np.float32]
    ratio: float
    error: float
    error_unscaled: float


def _float32(name: str, values: ArrayLike, ndim: int | None = None) -> NDArray[np.float32]:
    array = np.asarray(values)
    if array.dtype.name not in ("float32", "float16", "bfloat16"):
        raise KernelTypeError(
            f"{name} has dtype {array.dtype}; accepted: float32, float16, bfloat16"
        )
    if ndim is not None and array.ndim != ndim:
        raise KernelError(f"{name} has shape {array.shape}; it must have {ndim} dimensions")
    return np.asarray(array, np.float32)


def output_error(
    weight: ArrayLike, actual: ArrayLike, x: ArrayLike, *, threads: int | None = None
) -> float:
    """How much other weights change the outputs of a linear layer: ``|x (W - A)^T| / |x W^T|``.

    Args:
        weight: float32, float16 or bfloat16 weights W of shape ``(outputs, inputs)``, finite.
        actual: The weights A in their place, of the same shape, finite.
        x: Inputs of shape ``(..., inputs)``, finite.
        threads: The largest number of threads; None uses all that the process may use. The result
            does not depend on it.

    Returns:
        The ratio of the Frobenius norms; 0 if nothing changes, infinite if only the outputs of W
        are 0 or those of W - A leave float32.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: The shapes do not fit, a value is NaN or infinite, or the outputs of W leave
            float32.
    """
    first, second = _float32("weight", weight, 2), _float32("actual", actual, 2)
    if first.shape != second.shape:
        raise KernelError(f"weight has shape {first.shape} and actual {second.shape}")
    samples = _samples(x, first.shape[1])
    for name, values in (("weight", first), ("actual", second), ("x", samples)):
        check_finite(name, values)
    return _output_error(first, second, samples, check_threads(threads))


def _output_error(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    samples: NDArray[np.float32],
    count: int | None,
) -> float:
    """As `output_error`, of values that have been checked."""
    with np.errstate(over="ignore", invalid="ignore"):
        lost = first - second
    error = math.fsum(_native.product_norms(lost, samples, count))
    if error == 0:
        return 0.0
    signal = math.fsum(_native.product_norms(first, samples, count))
    if not math.isfinite(signal):
        raise KernelError("the outputs of weight leave float32; scale weight or x down first")
    return math.sqrt(error / signal) if signal and math.isfinite(error) else math.inf


def _samples(x: ArrayLike, inputs: int) -> NDArray[np.float32]:
    values = _float32("x", x)
    if values.ndim == 0 or values.shape[-1] != inputs:
        raise KernelError(f"x has shape {values.shape}; its last axis must be {inputs} long")
    return values.reshape(math.prod(values.shape[:-1]), inputs)


def awq_scales(
    weight: ArrayLike,
    x: ArrayLike,
    block_size: int | None = 128,
    *,
    bits: int = 4,
    scheme: SchemeName = "asymmetric",
    steps: int = 20,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> AwqScales:
    """Looks for scales of inputs that protect the weights of large inputs (AWQ).

    ``s = m^r / sqrt(max(m^r) min(m^r))`` with m the mean magnitude of each input, at least 1e-4 of
    the largest; of the ratios r = 0, 1/steps, ... (steps - 1)/steps the one whose weights
    ``quantize(W s) / s`` change the outputs for `x` least. Lin et al., "AWQ: activation-aware
    weight quantization for LLM compression and acceleration" (2023, arXiv 2306.00978).

    Args:
        weight: float32, float16 or bfloat16 weights of shape ``(outputs, inputs)``.
        x: Inputs of shape ``(..., inputs)``; some hundred samples are enough.
        block_size: As it will be quantized; None for one scale per output.
        bits: 2 to 8.
        scheme: The rule for scales, as for `quantize_blocks`.
        steps: Ratios tried, at least 1.
        out: A C-contiguous float32 array of shape ``(inputs,)``, which is filled and returned as
            the scales.
        threads: The largest number of threads; None uses all that the process may use. The result
            does not depend on it.

    Returns:
        Scales, the ratio chosen, and relative output errors.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: The shapes, numbers or `out` do not fit, or there is no sample.
    """
    given = np.asarray(weight), np.asarray(x)
    weights = _float32("weight", given[0], 2)
    samples = _samples(given[1], weights.shape[1])
    chosen = output_array(out, weights.shape[1:], "float32", *given)
    if not samples.size:
        raise KernelError("x holds no sample; give at least one")
    size = weights.shape[1] if block_size is None else block_size
    magnitude = np.mean(np.abs(samples.astype(np.float64)), axis=0)
    if not (np.isfinite(magnitude).all() and magnitude.max() > 0):
        raise KernelError("x holds NaN or infinite values, or nothing but zeros")
    magnitude = np.maximum(magnitude / magnitude.max(), 1e-4)
    found: list[tuple[float, float, NDArray[np.float32]]] = []
    total = check_count("steps", steps, 1)
    for i in range(total):
        scale = magnitude ** (i / total)
        scale = (scale / math.sqrt(scale.max() * scale.min())).astype(np.float32)
        with np.errstate(over="ignore"):  # what leaves float32 is refused as infinite
            scaled = weights * scale
        coded = quantize_blocks(scaled, size, bits=bits, scheme=scheme, threads=threads)
        back = dequantize_blocks(coded.codes, coded.scale, coded.zero_point, size, threads=threads)
        error = _output_error(weights, back / scale, samples, check_threads(threads))
        found.append((error, i / total, scale))
    # Of equal errors the smallest ratio.
    error, ratio, scale = min(found, key=lambda entry: entry[0])
    chosen[...] = scale
    return AwqScales(chosen, ratio, error, found[0][0])


def smoothquant_scales(
    input_absmax: ArrayLike,
    weights: ArrayLike | Sequence[ArrayLike],
    *,
    alpha: float = 0.5,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Scales that move the difficulty of large inputs into the weights (SmoothQuant).

    ``s_j = max|x_j|^alpha / max|w_j|^(1 - alpha)``: divide input j by it and multiply the weights
    of input j by it. Inputs or weights that are all 0 have the scale 1. Xiao et al., "SmoothQuant:
    accurate and efficient post-training quantization for large language models" (2022,
    arXiv 2211.10438).

    Args:
        input_absmax: The largest magnitude of every input over the samples, of shape
            ``(inputs,)``, finite.
        weights: Weights of shape ``(outputs, inputs)``, or a list of those of all layers that
            read these inputs.
        alpha: 0 to 1, the share that moves.
        out: A C-contiguous float32 array of the result's shape, which is filled and returned.

    Returns:
        float32 scales of shape ``(inputs,)``, at least the smallest normal number.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: A shape, `alpha` or `out` does not fit, or a value is NaN or infinite.
    """
    alpha = check_real("alpha", alpha)
    if not 0 <= alpha <= 1:
        raise KernelError(f"alpha is {alpha}; accepted are 0 to 1")
    inputs = np.asarray(input_absmax)
    largest = np.abs(real_array("input_absmax", inputs))
    given = list(weights) if isinstance(weights, (list, tuple)) else [weights]
    layers = [np.asarray(layer) for layer in given]
    if not layers:
        raise KernelError("weights is empty; give at least one layer")
    tops = [absmax(_float32("weights", layer, 2), axis=1) for layer in layers]
    for top in tops:
        if top.shape != largest.shape:
            raise KernelError(
                f"input_absmax has shape {largest.shape}, but the weights have {top.size} inputs"
            )
    weight = np.max(tops, axis=0).astype(np.float64)
    if not (np.isfinite(largest).all() and np.isfinite(weight).all()):
        raise KernelError("a magnitude is NaN or infinite; repair the values first")
    result = output_array(out, largest.shape, "float32", inputs, *layers)
    return _fill_ratio(result, largest, weight, (alpha, 1 - alpha))


def _fill_ratio(
    out: NDArray[np.float32],
    upper: NDArray[np.float64],
    lower: NDArray[np.float64],
    powers: tuple[float, float],
) -> NDArray[np.float32]:
    """``upper^p / lower^q`` as float32; 1 where one of the two is 0."""
    dead = (upper == 0) | (lower == 0)
    scale = np.where(dead, 1, upper) ** powers[0] / np.where(dead, 1, lower) ** powers[1]
    limits = np.finfo(np.float32)
    np.clip(scale, limits.tiny, limits.max, out=out, casting="same_kind")
    return out


def equalization_scales(
    first: ArrayLike,
    second: ArrayLike,
    *,
    first_axis: int = 0,
    second_axis: int = 1,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Scales that give the channels between two layers equal ranges in both (DFQ).

    ``s_i = sqrt(r1_i / r2_i)`` with r the largest magnitude of the weights of channel i in the
    first and the second layer: divide the weights and the bias of output i of the first layer by
    it, and multiply the weights of input i of the second layer by it. It needs an activation with
    ``f(s x) = s f(x)`` between them, such as a ReLU. Channels that are all 0 on a side have the
    scale 1. Nagel et al., "Data-free quantization through weight equalization and bias correction"
    (2019, arXiv 1906.04721), equation 11.

    Args:
        first: float32, float16 or bfloat16 weights of the first layer.
        second: Weights of the second layer.
        first_axis: The axis of the outputs of the first layer.
        second_axis: The axis of the inputs of the second layer.
        out: A C-contiguous float32 array of the result's shape, which is filled and returned.

    Returns:
        float32 scales of shape ``(channels,)``, within the normal numbers.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: The numbers of channels differ, a value is NaN or infinite, or `out` does not
            fit.
    """
    layers = np.asarray(first), np.asarray(second)
    upper = absmax(layers[0], axis=first_axis).astype(np.float64)
    lower = absmax(layers[1], axis=second_axis).astype(np.float64)
    if upper.shape != lower.shape:
        raise KernelError(
            f"the first layer has {upper.size} outputs and the second {lower.size} inputs; "
            "they must agree"
        )
    if not (np.isfinite(upper).all() and np.isfinite(lower).all()):
        raise KernelError("a weight is NaN or infinite; repair the values first")
    result = output_array(out, upper.shape, "float32", *layers)
    return _fill_ratio(result, upper, lower, (0.5, 0.5))


def bias_correction(
    weight: ArrayLike,
    actual: ArrayLike,
    input_mean: ArrayLike,
    *,
    groups: int = 1,
    out: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """What to add to the bias so that the mean output stays as it was (DFQ).

    ``(W - A) E[x]`` for each output; the mean of an input counts for all places of a convolution's
    kernel. Nagel et al., "Data-free quantization through weight equalization and bias correction"
    (2019, arXiv 1906.04721), section 4.2.

    Args:
        weight: float32, float16 or bfloat16 weights W of shape ``(outputs, inputs / groups, ...)``.
        actual: The weights A in their place, of the same shape.
        input_mean: The mean of every input over the samples, of shape ``(inputs,)``. All three are
            finite.
        groups: Groups of a convolution, which divide inputs and outputs.
        out: A C-contiguous float64 array of the result's shape, which is filled and returned.

    Returns:
        float64 of shape ``(outputs,)``.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: The shapes, `groups` or `out` do not fit, or a value is NaN or infinite.
    """
    given = [np.asarray(array) for array in (weight, actual, input_mean)]
    first, second = _float32("weight", given[0]), _float32("actual", given[1])
    mean = real_array("input_mean", given[2])
    count = check_count("groups", groups, 1)
    if first.shape != second.shape or first.ndim < 2:
        raise KernelError(
            f"weight has shape {first.shape} and actual {second.shape}; needed are equal shapes "
            "(outputs, inputs, ...)"
        )
    if mean.shape != (first.shape[1] * count,) or len(first) % count:
        raise KernelError(
            f"input_mean has shape {mean.shape} and groups is {count}; for weights of shape "
            f"{first.shape} needed are ({first.shape[1] * count},) and a divisor of {len(first)}"
        )
    for name, values in (("weight", first), ("actual", second), ("input_mean", mean)):
        check_finite(name, values)
    lost = first.astype(np.float64) - second.astype(np.float64)
    by_input = lost.sum(axis=tuple(range(2, lost.ndim)))
    means = np.repeat(mean.reshape(count, -1), len(first) // count, axis=0)
    result = output_array(out, (len(first),), "float64", *given)
    return np.sum(by_input * means, axis=1, out=result)
