"""Freezing: from any ONNX model to the pivot."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import ModelProto, TensorProto

from lepton_core.errors import ConversionError
from lepton_onnx import _hints
from lepton_onnx._cleanup import clean, replace_items
from lepton_onnx._infer import infer
from lepton_onnx._load import read
from lepton_onnx._naming import assign_names
from lepton_onnx._opset import raise_opset
from lepton_onnx._parked import Parked, inline_functions, park, with_inputs_for_weights
from lepton_onnx._protobuf import (
    DEFAULT_DOMAINS,
    dtype_name,
    elements,
    opset_of,
    storage_bytes,
    walk_graphs,
    walk_nodes,
)
from lepton_onnx._signature import signature
from lepton_onnx._strip import strip
from lepton_onnx._write import EXTERNAL_ABOVE, write

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.types import Signature

PIVOT_OPSET = 21
"""Opset of the pivot unless the model needs another."""

_PIVOT_IR = 10
_FLOATS = ("float16", "float32", "float64", "bfloat16")


@dataclass(frozen=True, slots=True)
class FreezeFacts:
    """What freezing found and decided.

    Attributes:
        path: The file written.
        signature: Its named inputs and outputs.
        opset: Version of ONNX's operators, read back from the file.
        source_opset: The version before.
        opset_note: Why it is what it is; empty if nothing was done.
        domains: Other operator domains with their versions.
        ir_version: IR version of the file.
        producer: Who made the source, as it said itself.
        nodes: Number of nodes, nested ones included.
        parameters: Number of trained values.
        weights: Values stored per dtype.
        weights_bytes: Their size.
        external_files: Names of the data files beside the file; they belong together.
        renamed: How many values of the outermost graph got another name.
        names: Old to new name of those.
        removed: How often each cleanup applied.
        locations: Node name to the user's source line (``"net.py:31 in forward"``).
    """

    path: str
    signature: Signature
    opset: int
    source_opset: int
    opset_note: str
    domains: Mapping[str, int]
    ir_version: int
    producer: str
    nodes: int
    parameters: int
    weights: Mapping[str, int]
    weights_bytes: int
    external_files: tuple[str, ...] = ()
    renamed: int = 0
    names: Mapping[str, str] = field(default_factory=dict)
    removed: Mapping[str, int] = field(default_factory=dict)
    locations: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON types, without path, signature and the map of old names."""
        facts = asdict(self)
        for key in ("path", "signature", "names"):
            del facts[key]
        facts["external_files"] = list(self.external_files)
        return facts


def freeze(
    model: ModelProto | str | Path,
    out_path: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    opset: int = PIVOT_OPSET,
    external_above: int = EXTERNAL_ABOVE,
) -> FreezeFacts:
    """Write *model* as a pivot: deterministic, named, checked, free of volatile metadata.

    Inputs and outputs keep their names. Values keep names that mean something and get derived
    ones otherwise (:mod:`lepton_onnx.names`). Freezing a pivot again yields the same bytes.
    Weights stand in one ``.data`` file beside *out_path* when they are large; its SHA-256 stands
    in the model's metadata, so that the digest of the ``.onnx`` file covers both.

    Args:
        model: A model or the path of one; it is not changed.
        out_path: File to write; its directory must exist.
        metadata: Key-value pairs to keep in the file's metadata.
        opset: Version of ONNX's operators to bring the graph to, if it can be.
        external_above: Size of weights in bytes from which on they stand in a second file.

    Returns:
        What was found and decided.

    Raises:
        SourceError: The model cannot be read or is not valid (LPT-SRC-2xx).
        ConversionError: LPT-CONV-201, the frozen graph does not pass ONNX's checker.
        StorageError: The file cannot be written.
    """
    path = None if isinstance(model, ModelProto) else Path(model)
    source = read(model)
    parked = park(source, path)
    producer = f"{source.producer_name} {source.producer_version}".strip()
    _drop_overridable_inputs(parked.model)
    parked.model = inline_functions(parked.model)
    hints = _hints.collect(parked.model.graph)
    parked.model, note = raise_opset(parked.model, opset)
    strip(parked.model, metadata or {})
    removed = clean(parked)
    names = assign_names(parked, hints)
    parked.model = infer(parked.model)
    _set_versions(parked.model)
    _check(parked.model, path)
    written = write(parked, Path(out_path), external_above)
    changed = {old: new for old, new in names.items() if old != new}
    return FreezeFacts(
        path=str(out_path),
        signature=signature(parked.model),
        opset_note=note,
        source_opset=opset_of(source),
        producer=producer,
        external_files=written,
        renamed=len(changed),
        names=changed,
        removed=removed,
        locations=_locations(parked.model, names, hints),
        **graph_facts(parked.model),
    )


def graph_facts(model: ModelProto) -> dict[str, Any]:
    """Return opset, domains, IR version, node and weight counts of a model, as JSON types."""
    weights: dict[str, int] = {}
    size = parameters = 0
    packed = _packed(model)
    for graph in walk_graphs(model.graph):
        for tensor in graph.initializer:
            kind, per_byte = packed.get(tensor.name, (dtype_name(tensor.data_type), 1))
            weights[kind] = weights.get(kind, 0) + elements(tensor) * per_byte
            size += storage_bytes(tensor)
            parameters += elements(tensor) if kind in _FLOATS and len(tensor.dims) else 0
    return {
        "opset": opset_of(model),
        "domains": {
            o.domain: o.version for o in model.opset_import if o.domain not in DEFAULT_DOMAINS
        },
        "ir_version": model.ir_version,
        "nodes": sum(1 for _ in walk_nodes(model)),
        "parameters": parameters,
        "weights": dict(sorted(weights.items())),
        "weights_bytes": size,
    }


def _packed(model: ModelProto) -> dict[str, tuple[str, int]]:
    """Return integers that MatMulNBits packs into bytes: their type, and how many a byte holds."""
    found = {}
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            bits = next((a.i for a in node.attribute if a.name == "bits"), 4)
            for name in (node.input[1], *node.input[3:4]):
                if name and 8 % bits == 0:
                    found[name] = (f"uint{bits}", 8 // bits)
    return found


def _drop_overridable_inputs(model: ModelProto) -> None:
    """Take weights out of the inputs, where IR version 3 and older list them."""
    weights = {t.name for t in model.graph.initializer}
    inputs = [v for v in model.graph.input if v.name not in weights]
    replace_items(model.graph.input, inputs)
    model.ir_version = max(model.ir_version, 4)


def _set_versions(model: ModelProto) -> None:
    used = {"" if n.domain in DEFAULT_DOMAINS else n.domain for n in walk_nodes(model)} | {""}
    versions = {
        "" if o.domain in DEFAULT_DOMAINS else o.domain: o.version for o in model.opset_import
    }
    del model.opset_import[:]
    for domain in sorted(used & versions.keys()):
        model.opset_import.add(domain=domain, version=versions[domain])
    needed = onnx.helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    newest_type = max((t.data_type for t in model.graph.initializer), default=0)
    if newest_type > TensorProto.INT4:
        needed = max(needed, model.ir_version)
    model.ir_version = max(needed, _PIVOT_IR)


def _check(model: ModelProto, path: Path | None) -> None:
    try:
        onnx.checker.check_model(with_inputs_for_weights(model), full_check=True)
    except Exception as error:
        raise ConversionError(
            "LPT-CONV-201",
            f"{path or 'The model'} cannot be frozen: the graph does not pass ONNX's checker",
            cause=" ".join(str(error).split())[:800],
            remedy="Export the model again with a current exporter; the cause names the node.",
        ) from error


def _locations(
    model: ModelProto, names: Mapping[str, str], hints: Mapping[str, _hints.Hint]
) -> dict[str, str]:
    where = {names.get(old, old): hint.where for old, hint in hints.items() if hint.where}
    return {n.name: where[n.output[0]] for n in model.graph.node if n.output[0] in where}


def load_parked(path: Path) -> Parked:
    """Return a light copy of the model at *path*."""
    return park(read(path), path)
