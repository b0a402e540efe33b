"""Weights in few bits, block by block: what a recipe says about one of them, and its checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

METHODS = ("rtn", "mse", "awq", "gptq")
"""How integers are found: by the range of a block, by its least squared error, after rescaling
inputs (AWQ), or one input after the other (GPTQ)."""

SMALLEST_BLOCK = 16
LARGEST_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class BlockWeight:
    """How one weight of a product is stored in few bits; the product itself computes in float.

    Consecutive inputs of one output share a scale. Real = scale * (integer - zero point).
    Integers and scales of the methods ``rtn``, ``mse`` and ``awq`` follow from the pivot's weight
    by rule (``quantize_blocks`` of the kernels); others stand in the sidecar.

    Attributes:
        bits: 2 to 8.
        block: Consecutive inputs that share a scale, a power of two of at least 16. The last block
            of an output may have fewer.
        axis: Axis of the weight that runs over inputs, along which blocks lie.
        symmetric: Integers ``-2**(bits-1)..2**(bits-1)-1`` with zero point 0 and a scale that may
            be negative; otherwise ``0..2**bits-1`` with a zero point for each block.
        method: One of :data:`METHODS`.
        integers: Name in the sidecar of integers that no rule reproduces, in the weight's shape,
            int8 (uint8 if not symmetric).
        scale: Name there of their float32 scales, ``(outputs, blocks)``.
        zero_point: Name there of their uint8 zero points, of the same shape.
        input_scale: Name there of float32 factors ``(inputs,)``: the weight is multiplied by them
            before it is rounded, and the product's input divided by them.
    """

    bits: int
    block: int
    axis: int
    symmetric: bool = True
    method: str = "mse"
    integers: str | None = None
    scale: str | None = None
    zero_point: str | None = None
    input_scale: str | None = None

    @property
    def scheme(self) -> str:
        """The kernels' name of the rule for scales."""
        return "signed_max" if self.symmetric else "asymmetric"

    @property
    def clip(self) -> str:
        """The kernels' name of the search for a range; ``"range"`` takes that of the block."""
        return "range" if self.method == "rtn" else "mse"

    @property
    def stored(self) -> dict[str, str]:
        """Names in the sidecar, with the dtype that each array must have."""
        integers = "int8" if self.symmetric else "uint8"
        named = (
            (self.integers, integers),
            (self.scale, "float32"),
            (self.zero_point, "uint8"),
            (self.input_scale, "float32"),
        )
        return {name: dtype for name, dtype in named if name is not None}

    def problem(self) -> str:
        """Return what is wrong with the entry in itself, or nothing."""
        kept = self.integers is not None
        power = self.block > 0 and self.block & (self.block - 1) == 0
        checks = (
            (not 2 <= self.bits <= 8, f"bits is {self.bits}; accepted are 2 to 8"),
            (
                not (power and SMALLEST_BLOCK <= self.block <= LARGEST_BLOCK),
                f"block is {self.block}; accepted are powers of two from {SMALLEST_BLOCK} to "
                f"{LARGEST_BLOCK}",
            ),
            (self.axis not in (0, 1), f"axis is {self.axis}; a product's weight has 0 and 1"),
            (
                self.method not in METHODS,
                f"method {self.method!r} is none of {', '.join(METHODS)}",
            ),
            (
                self.method == "gptq" and not kept,
                "no rule reproduces gptq; name its integers in the sidecar",
            ),
            (
                (self.method == "awq") != (self.input_scale is not None),
                "awq and input_scale need each other",
            ),
            (kept != (self.scale is not None), "integers and scale need each other"),
            (
                (kept and not self.symmetric) != (self.zero_point is not None),
                "integers that are not symmetric have a zero_point in the sidecar, others none",
            ),
        )
        return next((problem for wrong, problem in checks if wrong), "")

    def shape_problem(self, shape: Sequence[int] | None) -> str:
        """Return why a weight of *shape* cannot have this entry, or nothing."""
        if shape is None:
            return "the pivot computes it"
        if len(shape) != 2:
            return f"the weight has the shape {list(shape)}; blocks need two axes"
        return ""


__all__ = ["LARGEST_BLOCK", "METHODS", "SMALLEST_BLOCK", "BlockWeight"]
