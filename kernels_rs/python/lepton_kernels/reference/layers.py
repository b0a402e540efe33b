"""GPTQ and its kin, said in plain NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_kernels.reference.clipping import search_scale
from lepton_kernels.reference.quantization import (
    absmax,
    block_scale,
    dequantize_blocks,
    quantize_blocks,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def cholesky(a: NDArray[np.float64]) -> NDArray[np.float64]:
    """The lower factor, column by column, so that every element is one sum in order."""
    left = np.array(a, np.float64)
    for k in range(len(left)):
        left[k, k] = np.sqrt(left[k, k])
        left[k + 1 :, k] /= left[k, k]
        left[k + 1 :, k + 1 :] -= np.outer(left[k + 1 :, k], left[k + 1 :, k])
    return np.tril(left)


def gram(x: NDArray[Any]) -> NDArray[np.float64]:
    """The sum of ``x x^T``: float32 within 256 samples, float64 beyond."""
    values = np.asarray(x, np.float32)
    total = np.zeros((values.shape[1],) * 2, np.float64)
    for start in range(0, len(values), 256):
        part = np.zeros(total.shape, np.float32)
        for sample in values[start : start + 256]:
            part += np.outer(sample, sample)
        total += part
    return total


def gptq(
    weight: NDArray[Any],
    hessian: NDArray[Any],
    size: int,
    bits: int,
    scheme: str,
    *,
    clip: str = "range",
    act_order: bool = False,
    damp: float = 0.01,
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
    """Integers, scales and zero points, one column after the other."""
    w = np.asarray(weight, np.float32)
    n = w.shape[1]
    diagonal = np.diag(hessian).astype(np.float64)
    order = np.argsort(-diagonal, kind="stable") if act_order else np.arange(n)
    h = np.array(hessian, np.float64)[np.ix_(order, order)]
    h[np.diag_indices(n)] += damp * diagonal.mean()
    # H = R R^T with R upper triangular: the factor of the matrix read backwards.
    r = cholesky(h[::-1, ::-1])[::-1, ::-1].astype(np.float32)

    sums, lost = np.zeros(w.shape, np.float32), np.zeros(w.shape, np.float32)
    codes = np.zeros(w.shape, np.int32)
    scale = np.zeros((len(w), -(-n // size)), np.float32)
    zero = np.zeros(scale.shape, np.int32)

    def set_scale(group: int, block: NDArray[np.float32]) -> tuple[int, int]:
        s, z, limits = block_scale(block, bits, scheme)
        if clip == "mse":
            s, z = search_scale(block, s, z, limits, scheme)
        scale[:, group], zero[:, group] = s, z
        return limits

    limits = (0, 0)
    for group in range(scale.shape[1]):
        limits = set_scale(group, w[:, group * size : (group + 1) * size])
    for j, column in enumerate(order):
        group = column // size
        if not act_order and j % size == 0:
            end = min(j + size, n)
            moved = np.zeros((len(w), end - j), np.float32)
            rest = sums[:, j:end].copy()
            for i in range(j, end if j else 0):
                moved[:, i - j] = rest[:, i - j] / r[i, i]
                rest[:, i - j + 1 :] -= moved[:, i - j, None] * r[i, i + 1 : end]
            set_scale(group, w[:, j:end] + moved)
        s, z = scale[:, group], zero[:, group]
        target = w[:, column] + sums[:, j] / r[j, j]
        code = np.clip(np.rint(target / s), limits[0] - z, limits[1] - z).astype(np.float32)
        codes[:, column] = code + z
        lost[:, j] = w[:, column] - code * s
        sums[:, j + 1 :] += lost[:, j, None] * r[j, j + 1 :]
    return codes, scale, zero


def output_error(weight: NDArray[Any], actual: NDArray[Any], x: NDArray[Any]) -> float:
    """The relative error at the outputs, in float64."""
    w, a, samples = (np.asarray(array, np.float64) for array in (weight, actual, x))
    samples = samples.reshape(-1, w.shape[1])
    error = np.linalg.norm(samples @ (w - a).T)
    with np.errstate(divide="ignore"):
        return float(error / np.linalg.norm(samples @ w.T)) if error else 0.0


def awq_scales(
    weight: NDArray[Any], x: NDArray[Any], size: int, bits: int, *, scheme: str, steps: int
) -> tuple[list[NDArray[np.float32]], list[float]]:
    """The scales of every ratio, and their relative output errors."""
    w, samples = np.asarray(weight, np.float32), np.asarray(x, np.float64)
    magnitude = np.abs(samples.reshape(-1, w.shape[1])).mean(axis=0)
    magnitude = np.maximum(magnitude / magnitude.max(), 1e-4)
    scales, errors = [], []
    for step in range(steps):
        scale = magnitude ** (step / steps)
        scales.append((scale / np.sqrt(scale.max() * scale.min())).astype(np.float32))
        coded = quantize_blocks(w * scales[-1], size, bits, scheme)
        errors.append(output_error(w, dequantize_blocks(*coded, size) / scales[-1], samples))
    return scales, errors


def smoothquant_scales(
    input_absmax: NDArray[Any], weights: Sequence[NDArray[Any]], alpha: float
) -> NDArray[np.float32]:
    """``max|x|^alpha / max|w|^(1 - alpha)`` by input."""
    largest = np.max([absmax(weight, 1) for weight in weights], axis=0)
    return _ratio(np.abs(input_absmax), largest, alpha)


def equalization_scales(
    first: NDArray[Any], second: NDArray[Any], first_axis: int = 0, second_axis: int = 1
) -> NDArray[np.float32]:
    """``sqrt(max|w1| / max|w2|)`` by channel."""
    return _ratio(absmax(first, first_axis), absmax(second, second_axis), 0.5)


def _ratio(upper: NDArray[Any], lower: NDArray[Any], alpha: float) -> NDArray[np.float32]:
    scales = np.ones(np.shape(upper), np.float32)
    # Python's floats: beside one of float32 a larger number would overflow as it is compared.
    least, most = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    for i, (a, b) in enumerate(zip(upper.tolist(), lower.tolist(), strict=True)):
        if a and b:
            scales[i] = min(max(a**alpha / b ** (1 - alpha), least), most)
    return scales


def bias_correction(
    weight: NDArray[Any], actual: NDArray[Any], input_mean: NDArray[Any], groups: int = 1
) -> NDArray[np.float64]:
    """``(W - A) mean(x)``, output by output; each sees the inputs of its group."""
    lost = np.asarray(weight, np.float64) - np.asarray(actual, np.float64)
    outputs, inputs = lost.shape[:2]
    moved = np.zeros(outputs)
    for i in range(outputs):
        start = i // (outputs // groups) * inputs
        means = np.asarray(input_mean, np.float64)[start : start + inputs]
        moved[i] = sum(float(m * lost[i, j].sum()) for j, m in enumerate(means))
    return moved
