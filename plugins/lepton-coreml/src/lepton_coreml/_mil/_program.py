"""A program as it stands in a package: features, operations, constants."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_coreml._mil._types import NAMES, PACKED, STORED, decode, numpy_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

Dim = int | None
ARRAY_TYPES = {65568: "fp32", 65600: "fp64", 131104: "int32", 65552: "fp16", 131080: "int8"}
"""Element types of a model's inputs and outputs by number in the file."""


@dataclass(frozen=True, slots=True)
class TypeSpec:
    """Type of a value: MIL's name of the element type, and dimensions (``None``: open)."""

    dtype: str
    shape: tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class Name:
    """An argument that is another operation's output."""

    name: str


@dataclass(frozen=True, slots=True)
class Blob:
    """Where a constant's bytes stand.

    Attributes:
        file: Name as the program writes it.
        offset: Place of the blob's header.
    """

    file: str
    offset: int


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant value with its type.

    Attributes:
        type: Its type.
        value: An array, a text, or a list of these.
        blob: Where it stands in the file of weights, if it does not stand in the program.
    """

    type: TypeSpec
    value: Any
    blob: Blob | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        kind: MIL's name of the operator (``"conv"``).
        inputs: Arguments by parameter; several for a parameter that takes a list.
        outputs: Names and types of what it makes.
        attributes: Constants that belong to it; of ``const`` the ``val``.
        blocks: Nested blocks (control flow).
    """

    kind: str
    inputs: Mapping[str, tuple[Name | Constant, ...]]
    outputs: tuple[tuple[str, TypeSpec], ...]
    attributes: Mapping[str, Constant]
    blocks: tuple[Block, ...] = ()

    @property
    def name(self) -> str:
        """Name of the first output, which names the operation as well."""
        return self.outputs[0][0] if self.outputs else self.kind


@dataclass(frozen=True, slots=True)
class Block:
    """Operations in order, and the values that come out."""

    inputs: tuple[str, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Feature:
    """An input or output of the model.

    Attributes:
        name: Its name.
        dtype: ``"fp32"``, ``"fp16"``, ``"int32"``, ….
        shape: Sizes, or lower and upper bounds (an upper bound of -1 is open); empty for outputs
            whose shape follows from the inputs.
    """

    name: str
    dtype: str
    shape: tuple[int | tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Program:
    """A package's program.

    Attributes:
        version: Core ML's version of the file format (8 for iOS 17, 9 for iOS 18).
        opset: Operators' version (``"CoreML8"``).
        inputs: What it takes.
        outputs: What it gives.
        block: What it does.
        metadata: The package's own notes.
    """

    version: int
    opset: str
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    block: Block
    metadata: Mapping[str, str] = field(default_factory=dict)

    def constants(self) -> Iterator[tuple[str, Constant]]:
        """Yield name and value of every constant, and of every constant of another operation."""
        for operation in self.block.operations:
            if operation.kind == "const":
                yield operation.name, operation.attributes["val"]
                continue
            for own in (operation.inputs, {k: (v,) for k, v in operation.attributes.items()}):
                for parameter, values in own.items():
                    for value in values:
                        if isinstance(value, Constant) and parameter != "name":
                            yield f"{operation.name}.{parameter}", value


def read_program(model: Any, blob: Callable[[Blob, TypeSpec], NDArray[Any]]) -> Program:  # noqa: ANN401
    """Turn the messages of a model into a program.

    Args:
        model: The message ``Model``.
        blob: Reads a constant from the file of weights.

    Raises:
        ValueError: It holds no program, several functions or specialisations, values that are
            not what their types say, or an output that nothing makes.
    """
    functions = model.mlProgram.functions
    if not model.HasField("mlProgram") or not functions:
        msg = "it holds no ML Program"
        raise ValueError(msg)
    if set(functions) != {"main"}:
        msg = f"it has the functions {', '.join(sorted(functions))}; one named main is read"
        raise ValueError(msg)
    function = functions["main"]
    if function.opset not in function.blocks:
        msg = f"its function has no block for its own opset {function.opset!r}"
        raise ValueError(msg)
    described = model.description
    program = Program(
        model.specificationVersion,
        function.opset,
        tuple(_feature(f) for f in described.input),
        tuple(_feature(f) for f in described.output),
        _block(function.blocks[function.opset], blob),
        dict(described.metadata.userDefined),
    )
    block = program.block
    made = {n for op in block.operations for n, _ in op.outputs}
    made |= {*block.inputs, *(v.name for v in function.inputs)}
    missing = [n for n in block.outputs if n not in made]
    missing += [f.name for f in program.outputs if f.name not in block.outputs]
    if missing:
        msg = f"nothing makes the output {missing[0]!r}"
        raise ValueError(msg)
    return program


def _feature(message: Any) -> Feature:  # noqa: ANN401 - protobuf
    kind = message.type
    if not kind.HasField("multiArrayType"):
        msg = f"{message.name!r} is no array"
        raise ValueError(msg)
    array = kind.multiArrayType
    if array.dataType not in ARRAY_TYPES:
        msg = f"{message.name!r} is of the unknown type {array.dataType}"
        raise ValueError(msg)
    shape: tuple[int | tuple[int, int], ...] = tuple(array.shape)
    if array.HasField("shapeRange"):
        ranges = [(r.lowerBound, r.upperBound) for r in array.shapeRange.sizeRanges]
        shape = tuple(low if low == high else (low, high) for low, high in ranges)
    elif array.HasField("enumeratedShapes"):
        listed = list(zip(*(s.shape for s in array.enumeratedShapes.shapes), strict=True))
        shape = tuple(d[0] if len(set(d)) == 1 else (min(d), max(d)) for d in listed)
    return Feature(message.name, ARRAY_TYPES[array.dataType], shape)


def _block(message: Any, blob: Any) -> Block:  # noqa: ANN401 - protobuf
    return Block(
        tuple(v.name for v in message.inputs),
        tuple(_operation(op, blob) for op in message.operations),
        tuple(message.outputs),
    )


def _operation(message: Any, blob: Any) -> Operation:  # noqa: ANN401 - protobuf
    inputs = {
        parameter: tuple(
            Name(b.name) if b.WhichOneof("kind") == "name" else _constant(b.value, blob)
            for b in argument.arguments
        )
        for parameter, argument in message.inputs.items()
    }
    if message.type == "const" and ("val" not in message.attributes or not message.outputs):
        msg = "a constant has no value or no name"
        raise ValueError(msg)
    return Operation(
        message.type,
        inputs,
        tuple((v.name, _type(v.type)) for v in message.outputs),
        {key: _constant(value, blob) for key, value in message.attributes.items()},
        tuple(_block(b, blob) for b in message.blocks),
    )


def _type(message: Any) -> TypeSpec:  # noqa: ANN401 - protobuf
    which = message.WhichOneof("kind")
    if which != "tensorType":
        return TypeSpec(str(which).removesuffix("Type"), ())
    tensor = message.tensorType
    dims = tuple(
        int(d.constant.size) if d.WhichOneof("kind") == "constant" else None
        for d in tensor.dimensions
    )
    if tensor.dataType not in NAMES:
        msg = f"the element type {tensor.dataType} is unknown"
        raise ValueError(msg)
    return TypeSpec(NAMES[tensor.dataType], dims)


def _constant(message: Any, blob: Any) -> Constant:  # noqa: ANN401 - protobuf
    spec = _type(message.type)
    if message.WhichOneof("kind") == "blobFileValue":
        place = Blob(message.blobFileValue.fileName, message.blobFileValue.offset)
        return Constant(spec, blob(place, spec), place)
    immediate = message.immediateValue
    which = immediate.WhichOneof("kind")
    if which == "tensor":
        return Constant(spec, _tensor(immediate.tensor, spec))
    if which in ("tuple", "list"):
        return Constant(spec, [_constant(v, blob).value for v in getattr(immediate, which).values])
    msg = f"a constant of kind {which} is not known"
    raise ValueError(msg)


def _tensor(message: Any, spec: TypeSpec) -> Any:  # noqa: ANN401 - an array or a text
    which = message.WhichOneof("kind")
    shape = tuple(int(d) for d in spec.shape if d is not None)
    if which is None:
        return np.zeros(shape, numpy_of(spec.dtype))
    held = getattr(message, which).values
    if which == "strings":
        return list(held) if shape else held[0]
    if which != "bytes":
        array = np.array(held, dtype=numpy_of(spec.dtype))
        return array.reshape(shape)
    count = int(np.prod(shape, dtype=np.int64))
    if spec.dtype in PACKED and len(held) == count > 1:
        # Written value by value rather than packed; both are seen. One value is read alike.
        return np.frombuffer(held, STORED["int8" if spec.dtype == "int4" else "uint8"]).reshape(
            shape
        )
    return decode(held, spec.dtype, shape)


__all__ = [
    "Blob",
    "Block",
    "Constant",
    "Feature",
    "Name",
    "Operation",
    "Program",
    "TypeSpec",
    "read_program",
]
