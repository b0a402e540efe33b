"""The .tflite file as data: reading it without a runtime, changing it, writing it.

What lepton adds stands in the metadata entry ``lepton``, JSON: the signature with its symbolic
dimensions and 64-bit types, which the format cannot express, and how the file was made.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.errors import ConversionError
from lepton_tflite._schema import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = "model.tflite"
IDENTIFIER = b"TFL3"
NOTES = "lepton"

DTYPES: dict[int, str] = {
    schema.TensorType.FLOAT32: "float32",
    schema.TensorType.FLOAT16: "float16",
    schema.TensorType.FLOAT64: "float64",
    schema.TensorType.BFLOAT16: "bfloat16",
    schema.TensorType.INT4: "int4",
    schema.TensorType.INT8: "int8",
    schema.TensorType.INT16: "int16",
    schema.TensorType.INT32: "int32",
    schema.TensorType.INT64: "int64",
    schema.TensorType.UINT8: "uint8",
    schema.TensorType.UINT16: "uint16",
    schema.TensorType.UINT32: "uint32",
    schema.TensorType.UINT64: "uint64",
    schema.TensorType.BOOL: "bool",
    schema.TensorType.STRING: "string",
    schema.TensorType.COMPLEX64: "complex64",
    schema.TensorType.COMPLEX128: "complex128",
    schema.TensorType.RESOURCE: "resource",
    schema.TensorType.VARIANT: "variant",
}
"""Names of element types by the format's number; NumPy's where NumPy has them."""

TYPES = {name: number for number, name in DTYPES.items()}

OPERATORS: dict[int, str] = {
    number: name
    for name, number in vars(schema.BuiltinOperator).items()
    if isinstance(number, int) and not name.startswith("_")
}
"""Names of builtin operators by number."""

MALFORMED = (struct.error, IndexError, TypeError, ValueError, AttributeError, UnicodeDecodeError)
"""What reading a damaged file raises here; the runtime's own verifier finds the rest."""


def is_tflite(data: bytes | memoryview) -> bool:
    """Tell whether bytes carry the format's identifier."""
    return len(data) >= 8 and bytes(data[4:8]) == IDENTIFIER


def unpack(data: bytes) -> Any:  # noqa: ANN401 - a generated class
    """Return a file as objects that can be changed (``ModelT``)."""
    return schema.ModelT.InitFromPackedBuf(data)


def pack(model: Any) -> bytes:  # noqa: ANN401 - a generated class
    """Return the bytes of a model.

    Raises:
        ConversionError: LPT-CONV-416, it is too large for one flatbuffer.
    """
    from flatbuffers import builder

    made = builder.Builder(1024)
    try:
        made.Finish(model.Pack(made), IDENTIFIER)
    except builder.BuilderSizeError as error:
        raise ConversionError(
            "LPT-CONV-416",
            "The model does not fit into a .tflite file, which has 2 GiB at most",
            cause=str(error),
            remedy="Store it in fewer bits (--precision fp16 or int8), or choose another target.",
        ) from error
    return bytes(made.Output())


def text(value: Any) -> str:  # noqa: ANN401 - bytes, str or None
    """Return a name as the generated classes hold it."""
    return value.decode() if isinstance(value, bytes) else (value or "")


def operator_name(code: Any) -> str:  # noqa: ANN401 - a generated class
    """Return the name of an operator code; a custom one's own name."""
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM:
        return text(code.customCode)
    return OPERATORS.get(number, f"operator {number}")


def array_of(model: Any, tensor: Any) -> np.ndarray | None:  # noqa: ANN401 - generated classes
    """Return a constant tensor's values, or ``None`` for a tensor without.

    Values of four bits come unpacked, as int8.
    """
    data = model.buffers[tensor.buffer].data
    if tensor.buffer == 0 or data is None or len(data) == 0:
        return None
    raw = np.asarray(data, np.uint8)
    name = DTYPES.get(tensor.type, "")
    shape = tuple(tensor.shape if tensor.shape is not None else ())
    if name == "int4":
        nibbles = np.stack([raw & 15, raw >> 4], -1).reshape(-1).astype(np.int8)
        values = np.where(nibbles > 7, nibbles - 16, nibbles).astype(np.int8)
        return values[: int(np.prod(shape, dtype=np.int64))].reshape(shape)
    return raw.view(np.dtype(name)).reshape(shape)


def set_array(model: Any, tensor: Any, values: np.ndarray) -> None:  # noqa: ANN401
    """Give a tensor a buffer of its own with these values; its type and shape follow.

    Its name and its quantization stay.
    """
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1
    tensor.type = TYPES[values.dtype.name]
    tensor.shape = np.asarray(values.shape, np.int32)
    tensor.shapeSignature = None


def set_packed(model: Any, tensor: Any, data: np.ndarray) -> None:  # noqa: ANN401
    """Give a tensor a buffer of its own with these bytes; its type and shape stay."""
    buffer = schema.BufferT()
    buffer.data = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1


def add_tensor(graph: Any, name: str, dtype: str, shape: Any, signature: Any = None) -> int:  # noqa: ANN401
    """Append a tensor without values; returns its index."""
    tensor = schema.TensorT()
    tensor.name = name.encode()
    tensor.type = TYPES[dtype]
    tensor.shape = np.asarray(shape, np.int32)
    tensor.shapeSignature = signature
    tensor.buffer = 0
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def operator_code(model: Any, number: int, version: int = 1) -> int:  # noqa: ANN401
    """Return the index of a builtin operator's code, appended where the model lacks it."""
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == number:
            code.version = max(code.version, version)
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = number
    code.deprecatedBuiltinCode = min(number, 127)
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def make_operator(code: int, inputs: list[int], outputs: list[int]) -> Any:  # noqa: ANN401
    """Return an operator without options."""
    operator = schema.OperatorT()
    operator.opcodeIndex = code
    operator.inputs = np.asarray(inputs, np.int32)
    operator.outputs = np.asarray(outputs, np.int32)
    return operator


def set_notes(model: Any, notes: dict[str, Any]) -> None:  # noqa: ANN401 - a generated class
    """Write lepton's metadata, in the place of what was there."""
    kept = [m for m in model.metadata or [] if text(m.name) != NOTES]
    buffer = schema.BufferT()
    content = json.dumps(notes, sort_keys=True, separators=(",", ":")).encode()
    buffer.data = np.frombuffer(content, np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name = NOTES.encode()
    entry.buffer = len(model.buffers) - 1
    model.metadata = [*kept, entry]


def read_notes(root: Any) -> dict[str, Any]:  # noqa: ANN401 - a generated class
    """Return lepton's metadata of a file that is read in place; empty if it has none."""
    for number in range(root.MetadataLength()):
        entry = root.Metadata(number)
        if text(entry.Name()) == NOTES:
            found = json.loads(root.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
            return found if isinstance(found, dict) else {}
    return {}


def root_of(data: bytes) -> Any:  # noqa: ANN401 - a generated class
    """Return a file's root, read in place."""
    return schema.Model.GetRootAs(data, 0)


def tensors_of(graph: Any) -> Iterator[Any]:  # noqa: ANN401 - generated classes
    """Yield the tensors of a subgraph that is read in place."""
    return (graph.Tensors(i) for i in range(graph.TensorsLength()))


def stored_values(root: Any) -> dict[str, int]:  # noqa: ANN401 - a generated class
    """Return the number of constant values by element type, of a file that is read in place."""
    counts: dict[str, int] = {}
    for number in range(root.SubgraphsLength()):
        for tensor in tensors_of(root.Subgraphs(number)):
            if tensor.Buffer() == 0 or not root.Buffers(tensor.Buffer()).DataLength():
                continue
            name = DTYPES.get(tensor.Type(), "unknown")
            elements = 1
            for i in range(tensor.ShapeLength()):
                elements *= int(tensor.Shape(i))
            counts[name] = counts.get(name, 0) + elements
    return dict(sorted(counts.items()))
