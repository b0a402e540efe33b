"""What is computed with integers, and reading a recipe's numbers back from a package."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_coreml._interpreter._compressed import spread
from lepton_coreml._mil._program import Constant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lepton_coreml._mil._program import Operation, Program
    from lepton_onnx.qdq import Blocks, Stored

INTEGER_OPS = (
    "Add", "AveragePool", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "MatMul",
    "MaxPool", "Mul", "Reshape", "Resize", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators around which quantize and dequantize are written. Which of them an Apple processor
computes with integers is its own choice."""

VALUES_NOTE = "lepton.values"
"""Note of the program that lists the pivot's names of quantized values."""

_ROLE = re.compile(r"^(weight|block|scale|palette|sparse)_(\d+)_(\d+)_")


@dataclass
class Names:
    """Names of operations that carry a recipe's numbers.

    Args:
        initializers: Name of the initializer by the name of torch's placeholder.
    """

    initializers: Mapping[str, str]

    def __post_init__(self) -> None:
        self.values: list[str] = []
        self._scales = 0

    def of(self, placeholder: str, role: str, number: int = 0) -> str:
        """Return a name for an operation on the value that an initializer belongs to.

        Args:
            placeholder: Torch's name of the integers, or of the scale.
            role: ``"weight"``, ``"block"``, ``"scale"``, ``"palette"`` or ``"sparse"``.
            number: What else is to be read back: of ``"block"``, the inputs of the product; of
                ``"palette"``, the axis of its groups. Those of ``"scale"`` are counted: values
                that share a scale may all be outputs, which coremltools does not rename.
        """
        if role == "scale":
            number, self._scales = self._scales, self._scales + 1
        value = re.sub(
            r"/(int8|uint8|int32|int4|uint4|scale|zero_point|indices|dense)$", "",
            self.initializers.get(placeholder, placeholder),
        )  # fmt: skip
        if value not in self.values:
            self.values.append(value)
        plain = re.sub(r"[^A-Za-z0-9_]", "_", value)
        return f"{role}_{self.values.index(value)}_{number}_{plain}"

    def note(self) -> str:
        """Return the text of the program's note."""
        return json.dumps(self.values, ensure_ascii=False, separators=(",", ":"))


def named(operation: Operation, role: str, values: Sequence[str]) -> tuple[str, int] | None:
    """Return the value that an operation carries in a role, and what else its name says."""
    match = _ROLE.match(operation.name)
    if match is None or match[1] != role or int(match[2]) >= len(values):
        return None
    return values[int(match[2])], int(match[3])


class Reader:
    """Constants of a program's operations."""

    def __init__(self, program: Program) -> None:
        self.values: list[str] = json.loads(program.metadata.get(VALUES_NOTE, "[]"))
        self.operations = program.block.operations
        self._constants = {
            op.name: op.attributes["val"].value for op in self.operations if op.kind == "const"
        }

    def argument(self, operation: Operation, key: str) -> Any:  # noqa: ANN401 - a constant
        """Return a constant argument, ``None`` if it is left out."""
        if key in operation.attributes:
            return operation.attributes[key].value
        given = operation.inputs.get(key)
        if not given:
            return None
        first = given[0]
        return first.value if isinstance(first, Constant) else self._constants[first.name]


def read_back(program: Program) -> dict[str, Stored]:
    """Return how a package stores values and weights, by value name of the pivot.

    Returns:
        Weights with integers, activations without.
    """
    from lepton_onnx.qdq import Stored

    reader = Reader(program)
    found: dict[str, Stored] = {}
    for operation in reader.operations:
        weight = named(operation, "weight", reader.values)
        if weight is not None:
            found.setdefault(weight[0], _weight(reader, operation))
        value = named(operation, "scale", reader.values)
        if value is not None and operation.kind in ("quantize", "dequantize"):
            scale = np.asarray(reader.argument(operation, "scale"))
            zero = np.asarray(reader.argument(operation, "zero_point"))
            found.setdefault(value[0], Stored(scale, zero, None, None))
    return found


def integers_of(reader: Reader, operation: Operation) -> Any:  # noqa: ANN401 - an array
    """Return the integers of a constant with scales for blocks, also where only some stand there.

    What a mask hides is 0 when it is restored, and so is the integer at the offset.
    """
    if operation.kind != "constexpr_sparse_blockwise_shift_scale":
        return np.asarray(reader.argument(operation, "data"))
    mask = np.asarray(reader.argument(operation, "data_mask")) != 0
    held = np.asarray(reader.argument(operation, "nonzero_data"))
    offset = reader.argument(operation, "offset")
    whole = np.zeros(mask.shape, held.dtype)
    if offset is not None:
        whole[:] = spread(np.asarray(offset), mask.shape)
    whole[mask] = held
    return whole


def _weight(reader: Reader, operation: Operation) -> Stored:
    from lepton_onnx.qdq import Stored

    if operation.kind == "constexpr_affine_dequantize":
        codes = reader.argument(operation, "quantized_data")
        scale = np.asarray(reader.argument(operation, "scale"))
        zero = np.asarray(reader.argument(operation, "zero_point"))
        axis = int(reader.argument(operation, "axis"))
        return Stored(scale, zero, axis if scale.ndim else None, codes)
    codes = integers_of(reader, operation)
    shaped = reader.argument(operation, "scale")
    offset = reader.argument(operation, "offset")
    wide = next((i for i, d in enumerate(shaped.shape) if d > 1), None)
    scale = shaped.reshape(-1) if wide is not None else shaped.reshape(())
    zero = np.zeros(scale.shape, codes.dtype) if offset is None else offset.reshape(scale.shape)
    return Stored(scale, zero, wide, codes)


def read_blocks(program: Program) -> dict[str, Blocks]:
    """Return the weights that have a scale for each block, by value name of the pivot."""
    from lepton_onnx.qdq import Blocks

    reader = Reader(program)
    found = {}
    for operation in reader.operations:
        carried = named(operation, "block", reader.values)
        if carried is None:
            continue
        name, inputs = carried
        data = integers_of(reader, operation)
        scale = np.asarray(reader.argument(operation, "scale"))
        offset = reader.argument(operation, "offset")
        block = data.shape[0] // scale.shape[0]
        codes = np.ascontiguousarray(data[:inputs].T)
        zero = None if offset is None else np.ascontiguousarray(np.asarray(offset).T)
        found[name] = Blocks(codes, np.ascontiguousarray(scale.T), zero, block)
    return found


__all__ = [
    "INTEGER_OPS",
    "VALUES_NOTE",
    "Names",
    "Reader",
    "integers_of",
    "named",
    "read_back",
    "read_blocks",
]
