"""Bringing a graph to the pivot's opset."""

from __future__ import annotations

import onnx
from onnx import ModelProto

from lepton_onnx._infer import infer
from lepton_onnx._parked import with_inputs_for_weights
from lepton_onnx._protobuf import DEFAULT_DOMAINS, opset_of, walk_nodes
from lepton_onnx._raised import repair

_SCAN_WITHOUT_BATCH = 9
"""From this opset on Scan has no batch axis; ONNX's converter only changes the number."""


def raise_opset(model: ModelProto, wanted: int) -> tuple[ModelProto, str]:
    """Return *model* at opset *wanted* if that is safe, and a remark on what was done.

    If no operator's definition changed between the two versions the number alone is raised;
    otherwise ONNX's version converter does it, what it leaves undone is repaired
    (:mod:`lepton_onnx._raised`), and the result must pass the checker. A model
    that is newer than *wanted*, or that the converter cannot raise, keeps its opset.

    Args:
        model: A light model (:mod:`lepton_onnx._parked`); it may be changed.
        wanted: Version of ONNX's own operators.
    """
    have = opset_of(model)
    if have == wanted or not have:
        return model, ""
    if have > wanted:
        return model, f"kept at {have}: the model was made for it"
    if not _definitions_differ(model, have, wanted):
        _set_opset(model, wanted)
        return model, f"raised from {have}: no operator used differs"
    if have < _SCAN_WITHOUT_BATCH and any(n.op_type == "Scan" for n in walk_nodes(model)):
        return model, f"kept at {have}: the converter changes what Scan means"
    try:
        raised = onnx.version_converter.convert_version(model, wanted)
        _check_kept(model, raised)
        repair(model, raised)
        onnx.checker.check_model(with_inputs_for_weights(raised), full_check=True)
        infer(raised)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        return model, f"kept at {have}: it cannot be raised to {wanted} ({reason})"
    return raised, f"raised from {have} by onnx {onnx.__version__}"


def _definitions_differ(model: ModelProto, have: int, wanted: int) -> bool:
    for node in walk_nodes(model):
        if node.domain not in DEFAULT_DOMAINS:
            continue
        try:
            old = onnx.defs.get_schema(node.op_type, have, "")
            new = onnx.defs.get_schema(node.op_type, wanted, "")
        except onnx.defs.SchemaError:
            return True
        if old.since_version != new.since_version:
            return True
    return False


def _set_opset(model: ModelProto, version: int) -> None:
    for entry in model.opset_import:
        if entry.domain in DEFAULT_DOMAINS:
            entry.version = version


def _check_kept(before: ModelProto, after: ModelProto) -> None:
    """Make sure that the converter kept the interface and every weight."""
    for field in ("input", "output"):
        old = [v.name for v in getattr(before.graph, field)]
        if old != [v.name for v in getattr(after.graph, field)]:
            msg = f"the converter changed the graph's {field}s"
            raise ValueError(msg)
    lost = {t.name for t in before.graph.initializer} - {t.name for t in after.graph.initializer}
    used = {name for node in walk_nodes(after) for name in node.input}
    if lost & used:
        msg = f"the converter lost the weights {sorted(lost & used)}"
        raise ValueError(msg)
