"""Values that are known while a graph is translated: constants and sizes of inputs.

Shapes are computed in ONNX by ordinary operators (Shape, Gather, Concat, …). Translated to tensors
they would hide the sizes from ``torch.export``, so they are carried as NumPy arrays of Python
integers and ``torch.SymInt`` and turned into a tensor only where a tensor is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

DTYPES: dict[int, torch.dtype] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.uint16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    12: torch.uint32,
    13: torch.uint64,
    14: torch.complex64,
    15: torch.complex128,
    16: torch.bfloat16,
    17: torch.float8_e4m3fn,
    18: torch.float8_e4m3fnuz,
    19: torch.float8_e5m2,
    20: torch.float8_e5m2fnuz,
}
"""Torch's dtype by ONNX's element type; types of less than a byte have none."""

_FOREIGN = {
    np.dtype(ml_dtypes.bfloat16): (torch.bfloat16, np.int16),
    np.dtype(ml_dtypes.float8_e4m3fn): (torch.float8_e4m3fn, np.uint8),
    np.dtype(ml_dtypes.float8_e4m3fnuz): (torch.float8_e4m3fnuz, np.uint8),
    np.dtype(ml_dtypes.float8_e5m2): (torch.float8_e5m2, np.uint8),
    np.dtype(ml_dtypes.float8_e5m2fnuz): (torch.float8_e5m2fnuz, np.uint8),
}
"""NumPy extension types: torch's dtype, and the plain type of the same width."""


@dataclass(frozen=True, eq=False)
class Known:
    """An array whose elements are known at translation.

    Attributes:
        values: NumPy array; of dtype object where it may hold ``torch.SymInt``.
        dtype: What ONNX says that it is.
        name: Name of the constant in the graph; empty for computed values.
        bits: 4 or 2 for a type of less than a byte, which stands in a wider one here; else 0.
    """

    values: np.ndarray
    dtype: torch.dtype
    name: str = ""
    bits: int = 0

    def list(self) -> list[Any]:
        """Return the elements in C order as Python numbers (or symbolic sizes)."""
        flat = self.values.reshape(-1)
        if self.values.dtype.kind not in "biufcO":
            flat = flat.astype(np.float64)
        return list(flat.tolist())

    def item(self) -> Any:  # noqa: ANN401 - a number or a symbolic size
        """Return the only element."""
        (value,) = self.list()
        return value

    def ints(self) -> list[int]:
        """Return the elements as integers; symbolic sizes stay as they are."""
        return [v if isinstance(v, torch.SymInt) else int(v) for v in self.list()]

    @property
    def weight(self) -> bool:
        """Whether it is more than one real number, as weights are."""
        return self.dtype.is_floating_point and self.values.size > 1

    @property
    def symbolic(self) -> bool:
        """Whether an element depends on the size of an input."""
        kinds = (torch.SymInt, torch.SymFloat, torch.SymBool)
        return self.values.dtype == object and any(isinstance(v, kinds) for v in self.list())

    def tensor(self) -> torch.Tensor:
        """Return the elements as a tensor of the same shape."""
        if not self.symbolic:
            if self.values.dtype == object:
                plain = torch.tensor(self.list(), dtype=self.dtype)
                return plain.reshape(self.values.shape)
            return to_torch(self.values).to(self.dtype)
        parts = [torch.scalar_tensor(v, dtype=self.dtype) for v in self.list()]
        return torch.stack(parts).reshape(self.values.shape)


Value = torch.Tensor | Known


def sizes(values: Iterable[Any], shape: tuple[int, ...] | None = None) -> Known:
    """Return int64 values that may be symbolic, as a vector or in the given shape."""
    items = list(values)
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return Known(array if shape is None else array.reshape(shape), torch.int64)


def to_torch(array: np.ndarray) -> torch.Tensor:
    """Return a tensor with an array's values, sharing its memory where that may be written.

    Args:
        array: Of a type that torch has; bfloat16 and float8 as ``ml_dtypes``.

    Raises:
        TypeError: Torch has no such type.
    """
    array = np.require(array, requirements=("C", "W", "A"))
    if array.dtype in _FOREIGN:
        dtype, plain = _FOREIGN[array.dtype]
        return torch.from_numpy(array.view(plain)).view(dtype)
    return torch.from_numpy(array)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor's values, of an ``ml_dtypes`` type where NumPy has none of its own."""
    tensor = tensor.detach().cpu()
    for own, (dtype, plain) in _FOREIGN.items():
        if tensor.dtype == dtype:
            raw = torch.int16 if plain is np.int16 else torch.uint8
            return tensor.contiguous().view(raw).numpy().view(own)
    return tensor.numpy()
