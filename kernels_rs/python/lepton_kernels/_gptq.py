"""GPTQ: rounding that lets later weights make up for the errors of earlier ones."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lepton_kernels import _native
from lepton_kernels._arguments import (
    check_count,
    check_same_kind,
    check_threads,
    output_array,
)
from lepton_kernels._blocks import (
    BlockQuantized,
    SchemeName,
    check_choice,
    check_scheme,
)
from lepton_kernels.errors import KernelError, KernelTypeError

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import ArrayLike, NDArray

_ASYMMETRY = 1e-4
"""What opposite elements may differ by, relative to the roots of their diagonal elements."""

_ROWS = 64
"""Rows that are compared with their columns at once."""


class HessianAccumulator:
    """The mean of ``x x^T`` over samples that come in batches: what `gptq` knows of the inputs.

    Memory is ``8 * inputs ** 2`` bytes, whatever the number of samples. The same batches in the
    same order give the same bits, whatever the number of threads; an accumulator can be pickled.

    Args:
        inputs: The number of inputs of the layer.

    Attributes:
        total: float64 sums of shape ``(inputs, inputs)``, of which the upper triangle is filled.
        count: Samples seen.

    Raises:
        KernelTypeError: `inputs` is not an integer.
        KernelError: `inputs` is below 1.
    """

    def __init__(self, inputs: int) -> None:
        n = check_count("inputs", inputs, 1)
        self.total = np.zeros((n, n), np.float64)
        self.count = 0

    def update(self, x: ArrayLike, *, threads: int | None = None) -> Self:
        """Adds a batch.

        Products are added up in float32 over 256 samples, and in float64 beyond.

        Args:
            x: float32, float16 or bfloat16 values of shape ``(..., inputs)``, any strides.
            threads: The largest number of threads; None uses all that the process may use.

        Returns:
            This accumulator.

        Raises:
            KernelTypeError: The dtype is not supported.
            KernelError: The last axis is not `inputs` long.
        """
        values = np.asarray(x)
        if values.ndim == 0 or values.shape[-1] != len(self.total):
            raise KernelError(
                f"x has shape {values.shape}; its last axis must be {len(self.total)} long"
            )
        rows = values.reshape(-1, len(self.total))
        _native.add_gram(rows, self.total, check_threads(threads))
        self.count += len(rows)
        return self

    def merge(self, other: HessianAccumulator) -> Self:
        """Adds what another accumulator has seen, for example in another process.

        Args:
            other: The other accumulator, of as many inputs, which does not change.

        Returns:
            This accumulator.

        Raises:
            KernelTypeError: It is something else.
            KernelError: The numbers of inputs differ.
        """
        check_same_kind(self, other)
        if other.total.shape != self.total.shape:
            raise KernelError(
                f"the accumulators have {len(self.total)} and {len(other.total)} inputs; "
                "they must agree"
            )
        self.total += other.total
        self.count += other.count
        return self

    def result(self) -> NDArray[np.float64]:
        """The mean over all samples.

        Returns:
            A symmetric float64 matrix of shape ``(inputs, inputs)``.

        Raises:
            KernelError: There was no sample.
        """
        if not self.count:
            raise KernelError("no sample has been added; call update first")
        upper = np.triu(self.total) / self.count
        return np.asarray(upper + np.triu(upper, 1).T)


def gptq(
    weight: ArrayLike,
    hessian: ArrayLike,
    block_size: int | None = 128,
    *,
    bits: int = 4,
    scheme: SchemeName = "signed_max",
    clip: Literal["range", "mse"] = "range",
    act_order: bool = False,
    damp: float = 0.01,
    out: NDArray[Any] | None = None,
    threads: int | None = None,
) -> BlockQuantized:
    """Quantizes the weights of a linear layer so that its outputs change little (GPTQ).

    Columns (inputs) are rounded one after the other, and those that follow make up for what was
    lost so far, as far as the inputs are correlated. Frantar et al., "GPTQ: accurate post-training
    quantization for generative pre-trained transformers" (2022, arXiv 2210.17323); see the
    definition page for the formula, which needs a Cholesky factor but no inverse.

    Args:
        weight: float32, float16 or bfloat16 weights of shape ``(outputs, inputs)``, any strides,
            finite.
        hessian: A symmetric float32 or float64 matrix of shape ``(inputs, inputs)``: the mean of
            ``x x^T`` from `HessianAccumulator`, or any multiple of it. Opposite elements may
            differ by what rounding costs, ``1e-4 * sqrt(|H_ii H_jj|)``.
        block_size: Consecutive inputs that share a scale; None gives one scale per output.
        bits: 2 to 8.
        scheme: The rule for scales, as for `quantize_blocks`.
        clip: "range", or "mse" for scales of least squared error, as for `quantize_blocks`.
        act_order: Round the inputs of largest mean square first. Scales then follow from the
            weights as given, so that blocks stay consecutive; otherwise they follow from the
            weights as corrected up to the block.
        damp: This share of the mean of the diagonal is added to the diagonal; above 0 it also
            gives inputs that are always 0 a place.
        out: A C-contiguous array like `codes` of the result, which is filled and returned in it.
        threads: The largest number of threads; None uses all that the process may use. The result
            does not depend on it.

    Returns:
        Integers, scales and zero points as of `quantize_blocks`; `dequantize_blocks`, `pack_int4`
        and `pack_bits` take them from here.

    Raises:
        KernelTypeError: A dtype is not supported.
        KernelError: A shape, number or `out` does not fit, a value is NaN or infinite, or the
            hessian is not symmetric, or not positive definite even with `damp`.
    """
    values, matrix = np.asarray(weight), np.asarray(hessian)
    if values.ndim != 2:
        raise KernelError(f"weight has shape {values.shape}; needed are (outputs, inputs)")
    check_scheme(scheme)
    check_choice("clip", clip, ("range", "mse"))
    outputs, inputs = values.shape
    size = max(inputs, 1) if block_size is None else check_count("block_size", block_size, 1)
    size = min(size, max(inputs, 1))
    factor, order = _factor(matrix, inputs, damp=damp, act_order=act_order, threads=threads)
    dtype = "uint8" if scheme == "asymmetric" else "int8"
    codes = output_array(out, values.shape, dtype, values, matrix)
    scale = np.empty((outputs, -(-inputs // size)), np.float32)
    zero = np.empty(scale.shape, np.uint8)
    _native.gptq(
        values,
        factor,
        order,
        act_order,
        check_count("bits", bits, 2),
        size,
        scheme,
        clip == "mse",
        codes.view(np.uint8),
        scale,
        zero,
        check_threads(threads),
    )
    return BlockQuantized(codes, scale, zero if scheme == "asymmetric" else None)


def _factor(
    matrix: NDArray[Any], inputs: int, *, damp: float, act_order: bool, threads: int | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The factor of the damped hessian in the reverse of the order of rounding, and the order."""
    if matrix.dtype not in (np.float32, np.float64):
        raise KernelTypeError(f"hessian has dtype {matrix.dtype}; accepted: float32, float64")
    if matrix.shape != (inputs, inputs):
        raise KernelError(f"hessian has shape {matrix.shape}, needed is {(inputs, inputs)}")
    if not (isinstance(damp, Real) and 0 <= damp < np.inf):
        raise KernelError(f"damp is {damp!r}; accepted are finite numbers of at least 0")
    if not np.isfinite(matrix).all():
        raise KernelError("hessian holds NaN or infinite values; check the samples")
    diagonal = matrix.diagonal().astype(np.float64)
    _check_symmetric(matrix, np.sqrt(np.abs(diagonal)))
    order = np.argsort(-diagonal, kind="stable") if act_order else np.arange(inputs)
    back = order[::-1]
    reversed_ = matrix[np.ix_(back, back)] if act_order else matrix[::-1, ::-1]
    factor = np.array(reversed_, np.float64, order="C")
    if inputs:
        factor[np.diag_indices(inputs)] += float(damp) * diagonal.mean()
        _native.cholesky(factor, check_threads(threads))
    return factor.reshape(-1), order.astype(np.int64)


def _check_symmetric(matrix: NDArray[Any], root: NDArray[np.float64]) -> None:
    """Refuses opposite elements that differ by more than rounding.

    `root` is that of the diagonal: no element of ``x x^T`` is larger than the product of two roots,
    so that a triangle alone is seen.
    """
    for start in range(0, len(matrix), _ROWS):  # no second matrix in memory
        rows = slice(start, start + _ROWS)
        apart = np.abs(matrix[rows] - matrix[:, rows].T)
        bad = apart > _ASYMMETRY * root[rows, None] * root
        if bad.any():
            i, j = np.argwhere(bad)[0]
            raise KernelError(
                f"hessian is not symmetric: element ({start + i}, {j}) is "
                f"{matrix[start + i, j]} and ({j}, {start + i}) is {matrix[j, start + i]}; pass "
                "both triangles"
            )
