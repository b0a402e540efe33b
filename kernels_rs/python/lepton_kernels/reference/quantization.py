"""Ranges, quantization, packing and casts, said in plain NumPy."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_kernels.reference.clipping import fit_line, range_line, search_scale

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def along(parameter: ArrayLike, ndim: int, axis: int | None) -> NDArray[Any]:
    """Shapes a parameter so that it broadcasts along `axis` of an array of `ndim` dimensions."""
    values = np.asarray(parameter)
    if axis is None or values.ndim == 0:
        return values.reshape(())
    shape = [1] * ndim
    shape[axis] = values.size
    return values.reshape(shape)


def quantize(
    x: NDArray[Any],
    scale: ArrayLike,
    zero_point: ArrayLike,
    limits: tuple[int, int],
    axis: int | None = None,
    *,
    rounding: str = "half_even",
    seed: int = 0,
) -> NDArray[np.int32]:
    """``clip(round(x / scale) + zero_point, *limits)`` in float32; NaN gives the zero point."""
    values = np.asarray(x, np.float32)
    zero = along(zero_point, values.ndim, axis).astype(np.float32)
    with np.errstate(all="ignore"):
        quotient = values / along(scale, values.ndim, axis).astype(np.float32)
        rounded = round_by(quotient, rounding, seed)
    codes = np.clip(np.where(np.isnan(values), 0, rounded) + zero, *limits)
    return codes.astype(np.int32)


def round_by(quotient: NDArray[Any], rounding: str, seed: int) -> NDArray[np.float32]:
    """The integers of float32 quotients, by one of the three rules."""
    if rounding == "half_even":
        return np.asarray(np.rint(quotient), np.float32)
    if rounding == "half_away":
        whole = np.trunc(quotient)
        return np.where(np.abs(quotient - whole) >= 0.5, whole + np.sign(quotient), whole)
    words = philox(seed, quotient.size).reshape(quotient.shape)
    dice = (words >> 8).astype(np.float32) / np.float32(2**24)
    floor = np.floor(quotient)
    return np.asarray(floor + (dice < quotient - floor), np.float32)


def philox(seed: int, size: int) -> NDArray[np.uint32]:
    """The first words of Philox4x32-10; block i has the counter (i, 0) and gives four of them."""
    number = np.arange(-(-size // 4), dtype=np.uint64)
    low = np.uint64(0xFFFFFFFF)
    c = [number & low, number >> np.uint64(32), number * np.uint64(0), number * np.uint64(0)]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        first, second = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c[0], c[1] = (second >> np.uint64(32)) ^ c[1] ^ np.uint64(key[0]), second & low
        c[2], c[3] = (first >> np.uint64(32)) ^ c[3] ^ np.uint64(key[1]), first & low
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(c, axis=-1).reshape(-1)[:size].astype(np.uint32)


def dequantize(
    q: NDArray[Any], scale: ArrayLike, zero_point: ArrayLike, axis: int | None = None
) -> NDArray[np.float32]:
    """``(q - zero_point) * scale`` with the difference exact and the product in float32."""
    difference = np.asarray(q, np.int64) - along(zero_point, np.ndim(q), axis)
    scales = along(scale, np.ndim(q), axis).astype(np.float32)
    with np.errstate(all="ignore"):
        return np.asarray(difference.astype(np.float32) * scales, np.float32)


def minmax(x: NDArray[Any], axis: int | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Smallest and largest value of each channel; NaN spreads, zeros are +0."""
    values = np.asarray(x, np.float32)
    others = tuple(i for i in range(values.ndim) if axis is None or i != axis % values.ndim)
    return values.min(axis=others) + np.float32(0), values.max(axis=others) + np.float32(0)


def absmax(x: NDArray[Any], axis: int | None = None) -> NDArray[Any]:
    """Largest magnitude of each channel."""
    return minmax(np.abs(np.asarray(x, np.float32)), axis)[1]


def scale_symmetric(x: NDArray[Any], high: int, axis: int | None = None) -> NDArray[Any]:
    """``absmax / high``, at least the smallest normal float32; 1 where everything is 0."""
    return scale_from_absmax(absmax(x, axis), high)


def scale_from_absmax(magnitude: NDArray[Any], high: int) -> NDArray[Any]:
    """The same for magnitudes that are known."""
    magnitude = np.asarray(magnitude, np.float32)
    scale = np.maximum(magnitude / np.float32(high), np.finfo(np.float32).tiny)
    return np.where(magnitude == 0, np.float32(1), scale)


def scale_percentile(
    x: NDArray[Any], percentile: float, high: int, axis: int | None = None
) -> NDArray[Any]:
    """The same rule for an order statistic of each channel, found by sorting its magnitudes."""
    values = np.abs(np.asarray(x, np.float32))
    front = values[None] if axis is None else np.moveaxis(values, axis, 0)
    rows = np.sort(front.reshape(len(front), -1), axis=-1)
    rank = max(1, math.ceil(Fraction(repr(float(percentile))) * rows.shape[1] / 100))
    scale = scale_from_absmax(rows[:, rank - 1], high)
    return scale.reshape(()) if axis is None else scale


def scale_mse(
    x: NDArray[Any], bits: int, scheme: str, axis: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Scales and zero points of every channel as one block, by the search for the least error."""
    values = np.asarray(x, np.float32)
    front = values[None] if axis is None else np.moveaxis(values, axis, 0)
    rows = front.reshape(len(front), -1)
    _, scale, zero = quantize_blocks(rows, rows.shape[1], bits, scheme, "mse")
    shape = () if axis is None else (len(front),)
    return scale.reshape(shape), zero.reshape(shape)


def quantize_blocks(
    x: NDArray[Any],
    size: int,
    bits: int,
    scheme: str,
    clip: str = "range",
    *,
    rounding: str = "half_even",
    seed: int = 0,
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
    """Integers, scales and zero points of blocks along the last axis."""
    values = np.asarray(x, np.float32)
    quotients, places, scales, zeros = np.zeros(values.shape, np.float32), [], [], []
    limits = (0, 0)
    for start in range(0, values.shape[-1], size):
        block = values[..., start : start + size]
        scale, zero, limits = block_scale(block, bits, scheme)
        if clip == "mse":
            scale, zero = search_scale(block, scale, zero, limits, scheme)
        quotients[..., start : start + size] = block / scale[..., None]
        places.append(np.broadcast_to(zero[..., None], block.shape))
        scales.append(scale)
        zeros.append(zero)
    if not scales:
        shape = (*values.shape[:-1], 0)
        return np.zeros(values.shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape, int)
    codes = np.clip(round_by(quotients, rounding, seed) + np.concatenate(places, -1), *limits)
    return codes.astype(np.int32), np.stack(scales, -1), np.stack(zeros, -1)


def quantize_blocks_float_zero(
    x: NDArray[Any], size: int, bits: int, clip: str = "range"
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Integers, scales and float zero points of blocks along the last axis."""
    values, top = np.asarray(x, np.float32), 2**bits - 1
    codes = np.zeros(values.shape, np.int32)
    count = -(-values.shape[-1] // size)
    scales = np.zeros((*values.shape[:-1], count), np.float32)
    zeros = np.zeros(scales.shape, np.float32)
    for i in range(count):
        block = values[..., i * size : (i + 1) * size]
        scale, zero = range_line(block, top)
        if clip == "mse":
            rows = zip(block.reshape(-1, block.shape[-1]), scale.ravel(), zero.ravel(), strict=True)
            found = np.array([fit_line(*row, top) for row in rows], np.float32)
            scale, zero = (
                found.reshape(*scale.shape, 2)[..., 0],
                found.reshape(*zero.shape, 2)[..., 1],
            )
        rounded = np.rint(np.clip(block / scale[..., None] + zero[..., None], 0, top))
        codes[..., i * size : (i + 1) * size] = rounded
        scales[..., i], zeros[..., i] = scale, zero
    return codes, scales, zeros


def dequantize_blocks(
    codes: NDArray[Any], scale: NDArray[Any], zero_point: NDArray[Any], size: int
) -> NDArray[np.float32]:
    """``(code - zero_point) * scale`` of the block, the difference exact or of float32."""
    n = codes.shape[-1]
    scales, zeros = (np.repeat(part, size, -1)[..., :n] for part in (scale, zero_point))
    with np.errstate(all="ignore"):
        if zeros.dtype == np.float32:
            return np.asarray((codes.astype(np.float32) - zeros) * scales, np.float32)
        difference = codes.astype(np.int64) - zeros.astype(np.int64)
        return np.asarray(difference.astype(np.float32) * scales, np.float32)


def block_scale(
    block: NDArray[np.float32], bits: int, scheme: str
) -> tuple[NDArray[np.float32], NDArray[np.int32], tuple[int, int]]:
    """Scales and zero points of the ranges along the last axis, and the limits of the integers."""
    half, tiny = 1 << (bits - 1), np.finfo(np.float32).tiny
    low, high = block.min(axis=-1), block.max(axis=-1)
    zero = np.zeros(low.shape, np.int32)
    if scheme == "signed_max":
        extreme = np.where(high > -low, high, low)
        scale = extreme / np.float32(-half)
        scale = np.copysign(np.maximum(np.abs(scale), tiny), scale)
        return np.where(extreme == 0, np.float32(1), scale), zero, (-half, half - 1)
    if scheme == "absmax":
        scale = scale_symmetric(block.reshape(-1, block.shape[-1]), half - 1, 0)
        return scale.reshape(low.shape), zero, (1 - half, half - 1)
    low, high, top = np.minimum(low, 0), np.maximum(high, 0), 2 * half - 1
    width = high.astype(np.float64) - low
    scale = np.maximum((width / top).astype(np.float32), tiny)
    scale = np.where(width == 0, np.float32(1), scale)
    return scale, np.minimum(np.rint(-low / scale), top).astype(np.int32), (0, top)


def pack_int4(codes: NDArray[Any], offset: int = 0) -> NDArray[np.uint8]:
    """Two 4-bit integers to a byte along the last axis, the first low."""
    nibbles = (codes.astype(np.int32) + offset) & 15
    even = np.pad(nibbles, [(0, 0)] * (codes.ndim - 1) + [(0, codes.shape[-1] % 2)])
    return np.asarray(even[..., ::2] | even[..., 1::2] << 4, np.uint8)


def unpack_int4(
    packed: NDArray[np.uint8], length: int, *, signed: bool, offset: int = 0
) -> NDArray[np.int32]:
    """The integers of `pack_int4`, `length` of them in a row."""
    nibbles = np.stack([packed & 15, packed >> 4], axis=-1).astype(np.int32)
    row = nibbles.reshape(*packed.shape[:-1], 2 * packed.shape[-1])
    codes = (row[..., :length] - offset) & 15
    return np.where(codes > 7, codes - 16, codes) if signed else codes


def cast_float16(x: NDArray[Any], *, saturate: bool = False) -> tuple[NDArray[Any], int, int]:
    """float16 values, overflows and underflows."""
    values = np.asarray(x, np.float32)
    with np.errstate(all="ignore"):
        half = values.astype(np.float16)
    over = np.isinf(half) & np.isfinite(values)
    under = (half == 0) & (values != 0)
    if saturate:
        half = np.where(over, np.copysign(np.finfo(np.float16).max, half), half)
    return half, int(np.count_nonzero(over)), int(np.count_nonzero(under))


def cast_bfloat16(x: NDArray[Any], *, saturate: bool = False) -> tuple[NDArray[Any], int, int]:
    """The bits of bfloat16 values, overflows and underflows.

    A bfloat16 is the upper half of a float32: adding just under half a unit, or exactly half if
    the upper half is odd, rounds to nearest even when the lower half is cut off.
    """
    values = np.ascontiguousarray(x, np.float32).reshape(np.shape(x))
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    rounded = np.where(np.isnan(values), (bits >> 16) | 0x40, rounded)
    over = ((rounded & 0x7FFF) == 0x7F80) & np.isfinite(values)
    under = ((rounded & 0x7FFF) == 0) & (values != 0)
    if saturate:
        rounded = np.where(over, rounded - 1, rounded)
    return rounded.astype(np.uint16), int(np.count_nonzero(over)), int(np.count_nonzero(under))


def fake_quantize(
    x: NDArray[Any],
    scale: ArrayLike,
    zero_point: ArrayLike,
    limits: tuple[int, int],
    axis: int | None = None,
    *,
    rounding: str = "half_even",
    seed: int = 0,
) -> NDArray[np.float32]:
    """The values that the integers of `quantize` stand for."""
    codes = quantize(x, scale, zero_point, limits, axis, rounding=rounding, seed=seed)
    return dequantize(codes, scale, zero_point, axis)


def float8_values(exponent_bits: int, *, infinities: bool) -> NDArray[np.float64]:
    """The finite values of an 8-bit float that are not negative, by code."""
    mantissa_bits = 7 - exponent_bits
    bias = 2 ** (exponent_bits - 1) - 1
    codes = np.arange(128)
    exponent, mantissa = codes >> mantissa_bits, codes & (2**mantissa_bits - 1)
    lead = np.where(exponent > 0, 2**mantissa_bits, 0)
    values = np.ldexp(lead + mantissa, np.maximum(exponent, 1) - bias - mantissa_bits)
    return np.asarray(values[: 128 - 2**mantissa_bits if infinities else 127], np.float64)


def cast_float8(
    x: NDArray[Any], exponent_bits: int, *, saturate: bool = False
) -> tuple[NDArray[np.uint8], int, int]:
    """The bits of E4M3FN (4) or E5M2 (5), overflows and underflows, by looking for the nearest."""
    infinities = exponent_bits == 5
    values = np.asarray(x, np.float32)
    size = np.abs(values.astype(np.float64))
    finite = float8_values(exponent_bits, infinities=infinities)
    beyond = 2 * finite[-1] - finite[-2]
    table = np.append(finite, beyond)
    middle = (table[1:] + table[:-1]) / 2
    code = np.searchsorted(middle, np.where(np.isnan(size), 0, size))
    tie = (code < middle.size) & (middle[np.minimum(code, middle.size - 1)] == size)
    code = np.where(tie & (code % 2 == 1), code + 1, code)
    over = (code >= finite.size) & np.isfinite(size)
    under = (code == 0) & (size > 0)
    top = finite.size - 1
    code = np.minimum(code, top + (0 if saturate else 1))
    payload = (np.ascontiguousarray(values).reshape(values.shape).view(np.uint32) >> 21) & 3
    code = np.where(np.isnan(values), (0x7E | payload) if infinities else 0x7F, code)
    bits = code.astype(np.uint8) | (np.signbit(values).astype(np.uint8) << 7)
    lost = int(np.count_nonzero(over)), int(np.count_nonzero(under))
    return np.asarray(bits, np.uint8), *lost


def quantize_bias(
    bias: NDArray[Any], scale_x: float, scale_w: NDArray[Any]
) -> tuple[list[int], list[float], int]:
    """Integers, scales and the number of saturated values, one by one in Python's floats."""
    scales = [float(np.float32(float(np.float32(scale_x)) * float(s))) for s in scale_w]
    exact = [round(float(b) / s) for b, s in zip(bias, scales, strict=True)]
    codes = [min(max(q, -(2**31)), 2**31 - 1) for q in exact]
    return codes, scales, sum(a != b for a, b in zip(codes, exact, strict=True))
