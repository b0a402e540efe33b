"""Models without their weights: light copies that ONNX's own passes can handle at any size.

ONNX's shape inference, version converter, inliner and checker work on one serialised message,
which protobuf limits to 2 GiB. None of them reads large weights, so a light copy stands in: each
large initializer is a stub that names where its values are, and gets them back when written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnx import ModelProto, TensorProto, helper, inliner

from lepton_core.errors import SourceError
from lepton_onnx._external import Slice, fill, locate
from lepton_onnx._protobuf import DEFAULT_DOMAINS, raw_bytes, storage_bytes, walk_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PARKED_ABOVE = 4096
"""Initializers of more bytes than this are parked; shapes and axes are far smaller."""

_PREFIX = "parked:"
_MVN_AXES = (0, 2, 3)


@dataclass
class Parked:
    """A light model and where its large weights are.

    Attributes:
        model: The model; large initializers hold dims and dtype only.
        store: By stub location: the tensor itself, or its place in a file.
    """

    model: ModelProto
    store: dict[str, TensorProto | Slice] = field(default_factory=dict)

    def park(self, tensor: TensorProto, values: TensorProto | Slice) -> TensorProto:
        """Return a stub for *tensor* whose *values* are kept aside."""
        location = f"{_PREFIX}{len(self.store)}"
        self.store[location] = values
        stub = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        stub.data_location = TensorProto.EXTERNAL
        stub.external_data.add(key="location", value=location)
        return stub

    def values(self, stub: TensorProto) -> TensorProto | Slice | None:
        """Return what :meth:`park` kept for *stub*; ``None`` if it is no stub."""
        if stub.data_location != TensorProto.EXTERNAL or not stub.external_data:
            return None
        return self.store[stub.external_data[0].value]

    def chunks(self, stub: TensorProto) -> Iterator[bytes]:
        """Yield a tensor's raw data in pieces, whether it is parked or not."""
        values = self.values(stub)
        if isinstance(values, Slice):
            yield from values.chunks()
        else:
            yield raw_bytes(stub if values is None else values)

    def restore(self, tensor: TensorProto) -> None:
        """Give *tensor* its values back, in place."""
        if self.values(tensor) is not None:
            fill(tensor, b"".join(self.chunks(tensor)))


def park(model: ModelProto, path: Path | None = None) -> Parked:
    """Make a light copy of *model*; neither the model nor its files are changed.

    Args:
        model: A model, with or without its external data in memory.
        path: Where it was read from; needed if external data is not in memory.

    Raises:
        SourceError: LPT-SRC-208 … 210 (external data), 211 (a tensor's size is not its dims').
    """
    light = ModelProto()
    _copy_fields(model, light, leave_out="graph")
    _copy_fields(model.graph, light.graph, leave_out="initializer")
    parked = Parked(light)
    for tensor in model.graph.initializer:
        light.graph.initializer.append(_park_one(parked, tensor, path))
    for tensor in walk_tensors(light):
        if tensor.data_location == TensorProto.EXTERNAL and not _is_stub(tensor):
            fill(tensor, _locate(tensor, path).read())
    _state_defaults(light)
    return parked


def _state_defaults(model: ModelProto) -> None:
    """Write down the axes that MeanVarianceNormalization has if it names none.

    ONNX's body for it refers to the attribute, and its checker finds none there.
    """
    for node in model.graph.node:
        found = node.op_type == "MeanVarianceNormalization" and node.domain in DEFAULT_DOMAINS
        if found and not any(a.name == "axes" for a in node.attribute):
            node.attribute.append(helper.make_attribute("axes", _MVN_AXES))


def _is_stub(tensor: TensorProto) -> bool:
    return any(e.value.startswith(_PREFIX) for e in tensor.external_data)


def _copy_fields(source: object, result: object, leave_out: str) -> None:
    for descriptor, value in source.ListFields():  # type: ignore[attr-defined]
        if descriptor.name == leave_out:
            continue
        if hasattr(value, "MergeFrom"):
            getattr(result, descriptor.name).MergeFrom(value)
        else:
            setattr(result, descriptor.name, value)


def _park_one(parked: Parked, tensor: TensorProto, path: Path | None) -> TensorProto:
    large = storage_bytes(tensor) > PARKED_ABOVE
    if tensor.data_location == TensorProto.EXTERNAL:
        place = _locate(tensor, path)
        if large:
            return parked.park(tensor, place)
        small = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        small.raw_data = place.read()
        return small
    if tensor.HasField("raw_data") and len(tensor.raw_data) != storage_bytes(tensor):
        raise SourceError(
            "LPT-SRC-211",
            f"Weight {tensor.name!r} is damaged",
            cause=f"Its shape {list(tensor.dims)} needs {storage_bytes(tensor):,} bytes; it has "
            f"{len(tensor.raw_data):,}.",
            remedy="Copy or download the file again, or export the model again.",
        )
    return parked.park(tensor, tensor) if large else tensor


def _locate(tensor: TensorProto, path: Path | None) -> Slice:
    if path is None:
        raise SourceError(
            "LPT-SRC-209",
            f"The external data of {tensor.name!r} is not in memory and its file is not known",
            remedy="Pass the path of the model instead, or load it with its external data.",
        )
    return locate(tensor, path)


def with_inputs_for_weights(light: ModelProto) -> ModelProto:
    """Return a copy of a light model in which every stub is a graph input instead.

    That is what a checker accepts that wants to see a weight's values.
    """
    copy = ModelProto()
    copy.CopyFrom(light)
    stubs = [t for t in copy.graph.initializer if _is_stub(t)]
    listed = {v.name for v in copy.graph.input}
    kept = [t for t in copy.graph.initializer if not _is_stub(t)]
    for stub in stubs:
        if stub.name not in listed:
            value = helper.make_tensor_value_info(stub.name, stub.data_type, list(stub.dims))
            copy.graph.input.append(value)
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    return copy


def inline_functions(light: ModelProto) -> ModelProto:
    """Return a light model in which every call of a local function is its body."""
    return inliner.inline_local_functions(light) if light.functions else light
