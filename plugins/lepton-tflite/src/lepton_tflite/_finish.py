"""From the converter's file to the one that is shipped: names, order, notes, the same bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.codec import to_data
from lepton_core.errors import ConversionError
from lepton_tflite._flatbuffer import (
    DTYPES,
    NOTES,
    add_tensor,
    make_operator,
    operator_code,
    operator_name,
    set_notes,
    text,
)
from lepton_tflite._ports import file_dtype
from lepton_tflite._schema import schema

if TYPE_CHECKING:
    from lepton_core.types import Signature

KEY = "serving_default"


def name_ports(model: Any, signature: Signature) -> None:  # noqa: ANN401 - a generated class
    """Give inputs and outputs the names and the order of the pivot.

    Args:
        model: ``ModelT`` as the converter made it, with the ports ``args_0`` … and ``output_0`` ….
        signature: The pivot's.

    Raises:
        ConversionError: LPT-CONV-403, the file has other inputs or outputs.
    """
    graph, port = model.subgraphs[0], model.signatureDefs[0]
    for maps, specs, prefix in (
        (port.inputs, signature.inputs, "args_"),
        (port.outputs, signature.outputs, "output_"),
    ):
        found = {text(m.name): m for m in maps}
        wanted = [f"{prefix}{i}" for i in range(len(specs))]
        if set(found) != set(wanted):
            raise _other_ports(f"It has {', '.join(found)}; {len(specs)} are wanted.")
        ordered = []
        for spec, key in zip(specs, wanted, strict=True):
            entry = found[key]
            entry.name = spec.name.encode()
            ordered.append(entry)
            tensor = graph.tensors[entry.tensorIndex]
            kind = DTYPES.get(tensor.type, "")
            if kind not in (file_dtype(spec.dtype), "int8"):
                raise _other_ports(f"{spec} is {kind} in the file.")
        maps[:] = ordered
    inputs = [m.tensorIndex for m in port.inputs]
    if len(set(inputs)) != len(inputs):
        raise _other_ports("Two inputs share a tensor.")
    graph.inputs = np.asarray([m.tensorIndex for m in port.inputs], np.int32)
    graph.outputs = np.asarray([m.tensorIndex for m in port.outputs], np.int32)
    for maps in (port.inputs, port.outputs):
        for entry in maps:
            graph.tensors[entry.tensorIndex].name = entry.name
    graph.name = b"main"
    port.signatureKey = KEY.encode()


def _other_ports(cause: str) -> ConversionError:
    return ConversionError(
        "LPT-CONV-403",
        "The converter's file has other inputs or outputs than the pivot",
        cause=cause,
        remedy="Report this model as a bug.",
    )


def finish(model: Any, signature: Signature, notes: dict[str, Any]) -> None:  # noqa: ANN401
    """Write the notes, and take out what tells of the converter's run.

    Args:
        model: ``ModelT``; it is changed.
        signature: What sessions take and give.
        notes: What else is written down, JSON types.
    """
    kept = ("min_runtime_version", NOTES)
    model.metadata = [m for m in model.metadata or [] if text(m.name) in kept]
    model.description = b"made by lepton"
    set_notes(model, {**notes, "signature": to_data(signature)})
    _drop_unused_buffers(model)


def _drop_unused_buffers(model: Any) -> None:  # noqa: ANN401 - a generated class
    """Keep the buffers that tensors and metadata use, in their order; the first stays empty."""
    for graph in model.subgraphs:
        _drop_unused_tensors(model, graph)
    used = {0} | {t.buffer for g in model.subgraphs for t in g.tensors}
    used |= {m.buffer for m in model.metadata or []}
    place = {old: new for new, old in enumerate(sorted(used))}
    model.buffers = [model.buffers[old] for old in sorted(used)]
    model.metadataBuffer = None
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = place[tensor.buffer]
    for entry in model.metadata or []:
        entry.buffer = place[entry.buffer]


def _drop_unused_tensors(model: Any, graph: Any) -> None:  # noqa: ANN401 - generated classes
    used = {int(i) for i in (*graph.inputs, *graph.outputs)}
    for operator in graph.operators:
        for indices in (operator.inputs, operator.outputs, operator.intermediates):
            used |= {int(i) for i in (indices if indices is not None else ()) if i >= 0}
    used |= {scales for i in used if (scales := _scales_of(graph.tensors[i])) is not None}
    place = {old: new for new, old in enumerate(sorted(used))}

    def moved(indices: Any) -> Any:  # noqa: ANN401 - an array or None
        if indices is None:
            return None
        return np.asarray([place.get(int(i), -1) for i in indices], np.int32)

    graph.tensors = [graph.tensors[old] for old in sorted(used)]
    for tensor in graph.tensors:
        if (scales := _scales_of(tensor)) is not None:
            tensor.quantization.details.scales = place[scales]
    graph.inputs, graph.outputs = moved(graph.inputs), moved(graph.outputs)
    for operator in graph.operators:
        operator.inputs, operator.outputs = moved(operator.inputs), moved(operator.outputs)
        operator.intermediates = moved(operator.intermediates)
    number = model.subgraphs.index(graph)
    for port in model.signatureDefs or []:
        if port.subgraphIndex == number:
            for entry in (*port.inputs, *port.outputs):
                entry.tensorIndex = place[entry.tensorIndex]


def _scales_of(tensor: Any) -> int | None:  # noqa: ANN401 - a generated class
    """Return the tensor with the scales of a tensor's blocks; ``None`` without blocks."""
    own = tensor.quantization
    blocks = schema.QuantizationDetails.BlockwiseQuantization
    return int(own.details.scales) if own is not None and own.detailsType == blocks else None


def float_ports(model: Any, signature: Signature) -> int:  # noqa: ANN401 - a generated class
    """Put QUANTIZE behind integer inputs and DEQUANTIZE before integer outputs that are float.

    Returns:
        How many were put in.
    """
    graph, port = model.subgraphs[0], model.signatureDefs[0]
    count = 0
    for maps, specs, number in (
        (port.inputs, signature.inputs, schema.BuiltinOperator.QUANTIZE),
        (port.outputs, signature.outputs, schema.BuiltinOperator.DEQUANTIZE),
    ):
        incoming = maps is port.inputs
        for entry, spec in zip(maps, specs, strict=True):
            inner = int(entry.tensorIndex)
            tensor = graph.tensors[inner]
            if file_dtype(spec.dtype) != "float32" or DTYPES.get(tensor.type) != "int8":
                continue
            outer = add_tensor(graph, spec.name, "float32", tensor.shape, tensor.shapeSignature)
            tensor.name = f"{spec.name}/int8".encode()
            code = operator_code(model, number)
            ends = ([outer], [inner]) if incoming else ([inner], [outer])
            place = 0 if incoming else len(graph.operators)
            graph.operators.insert(place, make_operator(code, *ends))
            entry.tensorIndex = outer
            count += 1
    graph.inputs = np.asarray([m.tensorIndex for m in port.inputs], np.int32)
    graph.outputs = np.asarray([m.tensorIndex for m in port.outputs], np.int32)
    return count


def integer_ports(model: Any) -> None:  # noqa: ANN401 - a generated class
    """Move ports of floats to the int8 behind QUANTIZE and before DEQUANTIZE, where that can be.

    An input stays float where anything but one QUANTIZE takes it. A DEQUANTIZE stays where other
    operators read its floats as well.
    """
    graph, port = model.subgraphs[0], model.signatureDefs[0]
    # Outputs go first: an input that is handed on as an output is free once that has moved.
    for entries, name in ((port.outputs, "DEQUANTIZE"), (port.inputs, "QUANTIZE")):
        for operator in list(graph.operators):
            if operator_name(model.operatorCodes[operator.opcodeIndex]) != name:
                continue
            outer, inner = int(operator.inputs[0]), int(operator.outputs[0])
            if entries is port.outputs:
                outer, inner = inner, outer
            ports = [entry for entry in entries if entry.tensorIndex == outer]
            readers = sum(outer in other.inputs for other in graph.operators)
            readers += sum(m.tensorIndex == outer for m in port.outputs)
            incoming = entries is port.inputs
            if not ports or DTYPES.get(graph.tensors[inner].type) != "int8":
                continue
            if incoming and readers != 1:
                continue
            for entry in ports:
                entry.tensorIndex = inner
            if incoming or readers == len(ports):
                graph.operators = [other for other in graph.operators if other is not operator]
    graph.inputs = np.asarray([m.tensorIndex for m in port.inputs], np.int32)
    graph.outputs = np.asarray([m.tensorIndex for m in port.outputs], np.int32)


def port_types(model: Any, signature: Signature) -> tuple[dict[str, dict[str, Any]], list[str]]:  # noqa: ANN401
    """Tell the float ports of the signature that the file has as int8 from those that stay float.

    Returns:
        ``scale`` and ``zero_point`` of the first by name, and the names of the others. The value
        of an integer is ``(integer - zero_point) * scale``.
    """
    graph, port = model.subgraphs[0], model.signatureDefs[0]
    sides = zip((*port.inputs, *port.outputs), (*signature.inputs, *signature.outputs), strict=True)
    integers: dict[str, dict[str, Any]] = {}
    floats = []
    for entry, spec in sides:
        tensor = graph.tensors[entry.tensorIndex]
        if file_dtype(spec.dtype) == "float32" and DTYPES.get(tensor.type) == "int8":
            own = tensor.quantization
            zero = int(own.zeroPoint[0]) if own.zeroPoint is not None else 0
            integers[spec.name] = {"scale": float(own.scale[0]), "zero_point": zero}
        elif file_dtype(spec.dtype) == "float32":
            floats.append(spec.name)
    return integers, floats


__all__ = [
    "KEY",
    "finish",
    "float_ports",
    "integer_ports",
    "name_ports",
    "port_types",
]
