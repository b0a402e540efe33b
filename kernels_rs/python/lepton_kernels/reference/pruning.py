"""Masks, norms and integer products, said in plain NumPy."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def prune_masks(arrays: Sequence[NDArray[Any]], sparsity: float) -> list[NDArray[np.bool_]]:
    """What stays when the smallest magnitudes go, by a stable sort of all values."""
    flat = np.concatenate([np.abs(np.asarray(a, np.float32)).ravel() for a in arrays])
    keep = flat.size - round(Fraction(repr(float(sparsity))) * flat.size)
    mask = np.zeros(flat.size, np.bool_)
    mask[np.argsort(-flat, kind="stable")[:keep]] = True
    ends = np.cumsum([np.size(a) for a in arrays])[:-1]
    parts = zip(np.split(mask, ends), arrays, strict=True)
    return [part.reshape(np.shape(a)) for part, a in parts]


def magnitude_threshold(arrays: Sequence[NDArray[Any]], sparsity: float) -> tuple[float, int]:
    """The smallest magnitude that stays, and how many that equal it do; else infinity and 0."""
    masks = prune_masks(arrays, sparsity)
    parts = [np.abs(np.asarray(a, np.float32))[m] for a, m in zip(arrays, masks, strict=True)]
    kept = np.concatenate(parts)
    if not kept.size:
        return float("inf"), 0
    return float(kept.min()), int(np.count_nonzero(kept == kept.min()))


def nm_mask(x: NDArray[Any], n: int, m: int) -> NDArray[np.bool_]:
    """The `n` largest magnitudes of every `m`, of equal ones the first."""
    groups = np.abs(np.asarray(x, np.float32)).reshape(-1, m)
    order = np.argsort(-groups, axis=1, kind="stable")
    mask = np.zeros(groups.shape, np.bool_)
    np.put_along_axis(mask, order[:, :n], values=True, axis=1)
    return mask.reshape(np.shape(x))


def block_mask(
    x: NDArray[Any], sparsity: float, block: tuple[int, int], order: int = 2
) -> NDArray[np.bool_]:
    """The blocks of largest norm, in float32; a block at the end may be smaller."""
    values = np.abs(np.asarray(x, np.float32).astype(np.float64))
    rows, columns = (-(-n // side) for n, side in zip(values.shape, block, strict=True))
    norms = np.zeros((rows, columns), np.float32)
    mask = np.zeros(values.shape, np.bool_)

    def part(i: int, j: int) -> tuple[slice, slice]:
        return (
            slice(i * block[0], (i + 1) * block[0]),
            slice(j * block[1], (j + 1) * block[1]),
        )

    with np.errstate(all="ignore"):
        for i, j in np.ndindex(rows, columns):
            inside = values[part(i, j)]
            norms[i, j] = inside.sum() if order == 1 else np.sqrt((inside * inside).sum())
    for i, j in np.argwhere(prune_masks([norms], sparsity)[0]):
        mask[part(i, j)] = True
    return mask


def channel_norms(x: NDArray[Any], axis: int | None, order: int) -> NDArray[np.float64]:
    """L1 or L2 norms in float64."""
    values = np.abs(np.asarray(x, np.float32).astype(np.float64))
    others = tuple(i for i in range(values.ndim) if axis is None or i != axis % values.ndim)
    with np.errstate(all="ignore"):
        sums = np.sum(values if order == 1 else values * values, axis=others)
        return np.asarray(sums if order == 1 else np.sqrt(sums), np.float64)


def wanda_scores(weight: NDArray[Any], input_norms: NDArray[Any]) -> NDArray[np.float32]:
    """``|weight| * norm`` of the input, in float32."""
    with np.errstate(all="ignore"):
        norms = np.asarray(input_norms).astype(np.float32)
        return np.asarray(np.abs(np.asarray(weight, np.float32)) * norms, np.float32)


def matmul_u8s8(
    a: NDArray[np.uint8], b: NDArray[np.int8], *, saturate16: bool
) -> tuple[NDArray[np.int32], int]:
    """Sums of pairs of products, cut to 16 bits if asked, and the pairs beyond 16 bits."""
    k = a.shape[1] + a.shape[1] % 2
    left = np.zeros((a.shape[0], k), np.int64)
    right = np.zeros((k, b.shape[1]), np.int64)
    left[:, : a.shape[1]], right[: b.shape[0]] = a, b
    products = left[:, :, None] * right[None]
    pairs = products[:, ::2] + products[:, 1::2]
    cut = np.clip(pairs, -32768, 32767)
    values = (cut if saturate16 else pairs).sum(axis=1)
    return values.astype(np.int32), int(np.count_nonzero(cut != pairs))
