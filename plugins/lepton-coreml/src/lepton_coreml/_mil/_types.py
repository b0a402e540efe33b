"""Types of values in an ML Program, and numbers of less than a byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES = {
    1: "bool", 2: "string", 10: "fp16", 11: "fp32", 12: "fp64", 13: "bf16", 21: "int8",
    22: "int16", 23: "int32", 24: "int64", 25: "int4", 31: "uint8", 32: "uint16", 33: "uint32",
    34: "uint64", 35: "uint4", 36: "uint2", 37: "uint1", 38: "uint6", 39: "uint3",
    40: "fp8e4m3fn", 41: "fp8e5m2",
}  # fmt: skip
"""MIL's names of element types by number in the file."""

STORED = {
    "bool": np.dtype(np.bool_), "fp16": np.dtype("<f2"), "fp32": np.dtype("<f4"),
    "fp64": np.dtype("<f8"), "int8": np.dtype(np.int8), "int16": np.dtype("<i2"),
    "int32": np.dtype("<i4"), "int64": np.dtype("<i8"), "uint8": np.dtype(np.uint8),
    "uint16": np.dtype("<u2"), "uint32": np.dtype("<u4"), "uint64": np.dtype("<u8"),
}  # fmt: skip
"""NumPy's dtype of types of whole bytes."""

PACKED = {"uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6, "int4": 4}
"""Bits of the types that share bytes."""

IN_BLOB = {
    1: "fp16", 2: "fp32", 3: "uint8", 4: "int8", 5: "bf16", 6: "int16", 7: "uint16", 8: "int4",
    9: "uint1", 10: "uint2", 11: "uint4", 12: "uint3", 13: "uint6", 14: "int32", 15: "uint32",
    16: "fp8e4m3fn", 17: "fp8e5m2",
}  # fmt: skip
"""Names of element types by their number in a file of weights, which counts differently."""


def numpy_of(name: str) -> np.dtype[Any]:
    """Return the dtype in which the values of an element type are held in memory.

    Raises:
        KeyError: NumPy has none (bfloat16, float8, strings).
    """
    if name in PACKED:
        return np.dtype(np.int8 if name == "int4" else np.uint8)
    return STORED[name].newbyteorder("=")


def byte_count(name: str, count: int) -> int:
    """Return the bytes that *count* values take in a file."""
    if name in PACKED:
        return -(-count * PACKED[name] // 8)
    return count * STORED[name].itemsize


def decode(data: bytes | memoryview, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return stored bytes as an array; numbers of less than a byte start at the lowest bit.

    Raises:
        KeyError: The type has no counterpart in NumPy.
        ValueError: There are too few or too many bytes.
    """
    count = int(np.prod(shape, dtype=np.int64))
    if len(data) != byte_count(name, count):
        msg = f"{len(data)} bytes instead of {byte_count(name, count)} for {name}{list(shape)}"
        raise ValueError(msg)
    if name in PACKED:
        return unpack(np.frombuffer(data, np.uint8), name, count).reshape(shape)
    stored = STORED[name]
    return np.frombuffer(data, stored).astype(stored.newbyteorder("="), copy=False).reshape(shape)


def unpack(packed: NDArray[np.uint8], name: str, count: int) -> NDArray[Any]:
    """Return *count* numbers of 1 to 6 bits from bytes, lowest bits first."""
    width = PACKED[name]
    bits = np.unpackbits(packed, bitorder="little")[: count * width].reshape(count, width)
    values = bits @ (1 << np.arange(width, dtype=np.uint8))
    if name == "int4":
        return ((values.astype(np.int8) ^ 8) - 8).astype(np.int8)
    return values.astype(np.uint8)


__all__ = ["IN_BLOB", "NAMES", "PACKED", "STORED", "byte_count", "decode", "numpy_of", "unpack"]
