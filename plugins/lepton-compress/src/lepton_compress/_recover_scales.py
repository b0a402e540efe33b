"""By how much channels are rescaled: equalization, smoothing, balanced outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import lepton_kernels as lk
from lepton_core.recipe import Rescaled
from lepton_core.recipe._recovery import LARGEST_EXPONENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from lepton_compress._channels import Channels
    from lepton_compress._graph import Graph
    from lepton_compress._recover_sites import Site

STEPS, WIDE_STEPS = 255, 65534
"""Steps of a range in 8 and in 16 bits."""

SWEEPS = 20
ALPHAS = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of the spread of inputs that are tried to be moved into the weights."""

WORTH = 0.8
"""Channels are rescaled if the noise that is expected falls below this share of what it was."""


def equalize(graph: Graph, sites: Sequence[Site]) -> dict[str, Rescaled]:
    """Give channels between two products equal ranges of weights in both.

    Pairs are treated in turn until no factor changes, as a weight may belong to two pairs. Source:
    Nagel et al. (2019, arXiv 1906.04721), section 4.1; factors are rounded to powers of two.

    Args:
        graph: The pivot.
        sites: Where; only those between two products are used.
    """
    pairs = [site for site in sites if site.product and site.multiplied]
    names = {name for site in pairs for name in (*site.divided, *site.multiplied)}
    arrays = {name: np.array(graph.array(name), np.float32) for name in names}
    total = {site.value: np.zeros(site.channels, np.int64) for site in pairs}
    for _ in range(SWEEPS):
        changed = False
        for site in pairs:
            first = rows(arrays[site.product], site.divided[site.product], site.channels)
            second = _readers(arrays, site)
            step = _exponents(lk.equalization_scales(first, second, first_axis=0, second_axis=0))
            if step.any():
                changed = True
                total[site.value] += step
                _apply(arrays, site, step)
        if not changed:
            break
    return _entries("equalize", pairs, total)


def smooth(
    graph: Graph, sites: Sequence[Site], channels: Mapping[str, Channels], *, steps: int = STEPS
) -> tuple[dict[str, Rescaled], dict[str, float]]:
    """Move part of the spread of inputs into the weights that read them.

    The share is the one of least expected noise at the outputs of the products (see
    :func:`noise`). Source: Xiao et al. (2022, arXiv 2211.10438); factors are rounded to powers of
    two and need no operator where a norm or a product before can take them.

    Args:
        graph: The graph, with the weights that its values belong to.
        sites: Where.
        channels: What their values look like.
        steps: Steps that the range of a value has.

    Returns:
        Entries, and the share of the noise that is expected to be left, by value.
    """
    found: dict[str, NDArray[np.int64]] = {}
    left: dict[str, float] = {}
    used = []
    for site in sites:
        if site.value not in channels or not site.multiplied:
            continue
        seen = channels[site.value].grouped(site.channels)
        arrays = {name: np.asarray(graph.array(name), np.float32) for name in site.multiplied}
        exponents, share = _best_share(arrays, site, seen, steps)
        if share < WORTH:
            found[site.value], left[site.value] = exponents, share
            used.append(site)
    return _entries("smooth", used, found), left


def balance(
    sites: Sequence[Site], channels: Mapping[str, Channels]
) -> tuple[dict[str, Rescaled], dict[str, float]]:
    """Give the channels of outputs that only float operators read one range.

    Returns:
        Entries, and by value the share of the levels that the channel in the middle had before.
    """
    found: dict[str, NDArray[np.int64]] = {}
    before: dict[str, float] = {}
    used = []
    for site in sites:
        if site.value not in channels:
            continue
        peaks = channels[site.value].grouped(site.channels).absmax
        share = spread(peaks)
        if share >= WORTH / 4:
            continue
        found[site.value] = _exponents(np.where(peaks > 0, peaks / peaks.max(), 1.0))
        before[site.value] = share
        used.append(site)
    return _entries("balance", used, found), before


def spread(peaks: NDArray[np.floating]) -> float:
    """Return the median of the channels' largest magnitudes over the largest; 1 if all are 0."""
    alive = peaks[peaks > 0]
    return float(np.median(alive) / alive.max()) if alive.size else 1.0


def noise(
    weights: Iterable[NDArray[np.floating]], step: float, power: NDArray[np.floating]
) -> float:
    """Return the noise power that rounding is expected to add to the outputs of products.

    Inputs are rounded with the same step, weights with one of ``absmax / 127`` for each output;
    errors are taken as uniform and independent.

    Args:
        weights: float32 of shape ``(outputs, channels, places)``, or ``(channels, 1, places)``
            where each output has an input of its own.
        step: What one integer of the inputs stands for.
        power: Mean square of each input channel.
    """
    total = 0.0
    for weight in weights:
        wide = weight.astype(np.float64)
        steps = np.abs(wide).max((1, 2), initial=0.0) / 127.0
        reads = wide.any(2)
        used = reads[:, 0] * power if wide.shape[1] == 1 else reads @ power
        used = used * weight.shape[2]
        total += float(step**2 * (wide**2).sum() + (steps**2 * used).sum()) / 12.0
    return total


def rows(array: NDArray[np.float32], axis: int, channels: int) -> NDArray[np.float32]:
    """Return a weight as ``(channels, rest)``; consecutive entries of *axis* share a channel."""
    return np.ascontiguousarray(np.moveaxis(array, axis, 0).reshape(channels, -1))


def merged(one: Mapping[str, Rescaled], other: Mapping[str, Rescaled]) -> dict[str, Rescaled]:
    """Return entries that do what *one* and then *other* does; what cancels is left out."""
    result = dict(one)
    for value, entry in other.items():
        before = result.get(value)
        if before is not None:
            sums = tuple(a + b for a, b in zip(before.exponents, entry.exponents, strict=True))
            by = "+".join(dict.fromkeys((*before.by.split("+"), *entry.by.split("+"))))
            entry = Rescaled(by, entry.axis, sums, entry.divided, entry.multiplied)  # noqa: PLW2901
        result[value] = entry
    return {value: entry for value, entry in result.items() if any(entry.exponents)}


# --- one site ----------------------------------------------------------------------------------


def _readers(arrays: Mapping[str, NDArray[np.float32]], site: Site) -> NDArray[np.float32]:
    parts = [rows(arrays[name], axis, site.channels) for name, axis in site.multiplied.items()]
    return np.concatenate(parts, axis=1)


def _apply(arrays: dict[str, NDArray[np.float32]], site: Site, step: NDArray[np.int64]) -> None:
    for sign, axes in ((-1, site.divided), (1, site.multiplied)):
        for name, axis in axes.items():
            array = arrays[name]
            each = np.repeat(step * sign, array.shape[axis] // site.channels)
            shape = [1] * array.ndim
            shape[axis] = -1
            arrays[name] = np.ldexp(array, each.reshape(shape)).astype(np.float32)


def _exponents(scales: NDArray[np.floating]) -> NDArray[np.int64]:
    found = np.rint(np.log2(np.maximum(np.asarray(scales, np.float64), 2.0**-LARGEST_EXPONENT)))
    return np.clip(found, -LARGEST_EXPONENT, LARGEST_EXPONENT).astype(np.int64)


def _best_share(
    arrays: Mapping[str, NDArray[np.float32]], site: Site, seen: Channels, steps: int
) -> tuple[NDArray[np.int64], float]:
    """Return exponents of least expected noise, and the share of the noise that they leave."""
    readers = _readers(arrays, site)
    shaped = [_by_output(arrays[n], axis, site.channels) for n, axis in site.multiplied.items()]
    best, least = np.zeros(site.channels, np.int64), _expected(shaped, seen, 0, steps)
    plain = least
    for alpha in ALPHAS:
        scales = lk.smoothquant_scales(
            seen.absmax.astype(np.float32), np.ascontiguousarray(readers.T), alpha=alpha
        )
        exponents = _exponents(scales)
        exponents -= int(np.rint(np.median(exponents)))
        found = _expected(shaped, seen, exponents, steps)
        if found < least * 0.999:
            best, least = exponents, found
    return best, least / plain if plain > 0 else 1.0


def _by_output(array: NDArray[np.float32], axis: int, channels: int) -> NDArray[np.float32]:
    """Return a weight as ``(outputs, channels, places)``; of a depthwise one, 1 channel each."""
    if axis == 0 and array.ndim > 2 and array.shape[1] == 1:
        return array.reshape(channels, 1, -1)
    front = np.moveaxis(array, axis, 0)
    inputs = front.reshape(channels, front.shape[0] // channels, front.shape[1], -1)
    return np.ascontiguousarray(inputs.transpose(2, 0, 1, 3)).reshape(front.shape[1], channels, -1)


def _expected(
    shaped: Sequence[NDArray[np.float32]],
    seen: Channels,
    exponents: NDArray[np.int64] | int,
    steps: int,
) -> float:
    factors = np.ldexp(1.0, np.broadcast_to(np.asarray(exponents, np.int32), seen.low.shape))
    inputs = seen.times(1.0 / factors)
    low, high = min(float(inputs.low.min()), 0.0), max(float(inputs.high.max()), 0.0)
    scaled = (w * (factors[:, None, None] if w.shape[1] == 1 else factors[:, None]) for w in shaped)
    return noise(scaled, (high - low) / steps, inputs.power)


def _entries(
    by: str, sites: Sequence[Site], exponents: Mapping[str, NDArray[np.int64]]
) -> dict[str, Rescaled]:
    return {
        site.value: Rescaled(
            by,
            site.axis,
            tuple(int(e) for e in exponents[site.value]),
            dict(site.divided),
            dict(site.multiplied),
        )
        for site in sites
        if exponents[site.value].any()
    }


__all__ = ["balance", "equalize", "merged", "noise", "rows", "smooth", "spread"]
