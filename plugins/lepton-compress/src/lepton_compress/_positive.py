"""Integers of blocks under scales above 0, of which all integers are used.

The rule ``signed_max`` of the kernels maps the value of largest magnitude to the integer that has
no counterpart, -8 of 4 bits, by a scale that is negative where this value is positive; some
runtimes take no such scale. The rule ``absmax`` leaves that integer out everywhere. Here it serves
blocks whose largest magnitude is negative, about half of them, so that half of what ``absmax``
loses is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import lepton_kernels as lk
from lepton_onnx.qdq import Blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DAMP = 0.01
"""Share of the mean of the hessian's diagonal that GPTQ adds to it."""


def round_blocks(rows: NDArray[np.float32], block: int, bits: int, clip: str) -> Blocks:
    """Return the better of ``signed_max``, where its scale is above 0, and ``absmax``, by block.

    Args:
        rows: The weight, ``(outputs, inputs)``.
        block: Consecutive inputs that share a scale.
        bits: 2 to 8.
        clip: ``"range"`` or ``"mse"``, as for ``quantize_blocks``.
    """
    signed, plain = (
        lk.quantize_blocks(rows, block, bits=bits, scheme=scheme, clip=clip)  # type: ignore[arg-type]
        for scheme in ("signed_max", "absmax")
    )
    errors = (_errors(rows, Blocks.of(found, block)) for found in (signed, plain))
    better = (signed.scale > 0) & np.less_equal(*errors)
    inputs = np.repeat(better, block, axis=1)[:, : rows.shape[1]]
    codes = np.where(inputs, signed.codes, plain.codes)
    return Blocks(codes, np.where(better, signed.scale, plain.scale), None, block)


def _errors(rows: NDArray[np.float32], found: Blocks) -> NDArray[np.float64]:
    """Return the squared error of each block, ``(outputs, blocks)``."""
    off = np.square(rows.astype(np.float64) - found.values())
    return np.add.reduceat(off, np.arange(0, rows.shape[1], found.block), axis=1)


def round_gptq(
    rows: NDArray[np.float32], hessian: NDArray[np.float64], block: int, bits: int
) -> Blocks:
    """Return what GPTQ makes of a weight under scales above 0.

    Once with the scales of ``absmax`` of least squared error, which clips the largest values, and
    once with scales of the whole range over all integers; each output gets the one of less error,
    which is that of fewer bits and long blocks for the former.

    Args:
        rows: The weight, ``(outputs, inputs)``.
        hessian: Mean of ``x x^T``, ``(inputs, inputs)``.
        block: Consecutive inputs that share a scale.
        bits: 2 to 8.

    Raises:
        KernelError: The hessian is not positive definite, or a value is not finite.
    """
    plain = Blocks.of(
        lk.gptq(rows, hessian, block, bits=bits, scheme="absmax", clip="mse", act_order=True), block
    )
    full = _full_range(rows, hessian, block, bits)
    errors = []
    for found in (full, plain):
        lost = rows.astype(np.float64) - found.values()
        errors.append(np.einsum("ij,ij->i", lost @ hessian, lost))
    better = np.less_equal(*errors)[:, None]
    codes = np.where(better, full.codes, plain.codes)
    return Blocks(codes, np.where(better, full.scale, plain.scale), None, block)


def _full_range(
    rows: NDArray[np.float32], hessian: NDArray[np.float64], block: int, bits: int
) -> Blocks:
    """Return what GPTQ makes of scales ``max(-min / half, max / (half - 1))``.

    With ``half = 2 ** (bits - 1)``. The kernel has no such rule, but ``signed_max`` gives it to a
    block that holds ``-half`` times that scale. So each block gets one input more, which is always
    0: the hessian knows nothing of it, and no other input makes up for it.
    """
    count = rows.shape[1]
    starts = np.arange(0, count, block)
    half = np.float32(2 ** (bits - 1))
    low = np.minimum.reduceat(rows, starts, axis=1)
    high = np.maximum.reduceat(rows, starts, axis=1)
    ends = np.minimum(low, -high * (half / (half - 1)))
    after = np.minimum(starts + block, count)
    wide = np.insert(rows, after, ends, axis=1)
    own = np.delete(np.arange(wide.shape[1]), after + np.arange(len(starts)))
    known = np.zeros((wide.shape[1], wide.shape[1]), hessian.dtype)
    known[np.ix_(own, own)] = hessian
    found = lk.gptq(
        wide, known, block + 1, bits=bits, scheme="signed_max", act_order=True,
        damp=_DAMP * wide.shape[1] / count,  # the mean that it is a share of has more zeros
    )  # fmt: skip
    return Blocks(np.ascontiguousarray(found.codes[:, own]), found.scale, None, block)


__all__ = ["round_blocks", "round_gptq"]
