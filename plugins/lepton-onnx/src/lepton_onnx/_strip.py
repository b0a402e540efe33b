"""Removing what changes from one export to the next: producers, paths, times, stack traces."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lepton_onnx._protobuf import walk_graphs, walk_nodes, walk_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto

EXTERNAL_KEY = "lepton.external_data"
"""Metadata key that holds the digest of the data file."""

_PATH = re.compile(r"(^|[\s\"'=(])(/[\w.\-]+){2,}|[A-Za-z]:\\")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}")
_VOLATILE_KEYS = re.compile(r"(pkg\.|namespace|date$|time$|timestamp|created|author_path)")


def strip(model: ModelProto, metadata: Mapping[str, str]) -> None:
    """Strip *model* in place; its own metadata stays unless it holds paths or times.

    Args:
        model: The model.
        metadata: Pairs to keep besides; they win over the model's own.
    """
    kept = {p.key: p.value for p in model.metadata_props if not _is_volatile(p.key, p.value)}
    kept.update(metadata)
    del model.metadata_props[:]
    for key in sorted(kept):
        model.metadata_props.add(key=key, value=kept[key])
    model.producer_name = "lepton"
    for name in ("producer_version", "doc_string", "training_info", "configuration"):
        if name in model.DESCRIPTOR.fields_by_name:
            model.ClearField(name)
    for graph in walk_graphs(model.graph):
        graph.ClearField("doc_string")
        graph.ClearField("metadata_props")
        graph.ClearField("quantization_annotation")
        for value in (*graph.input, *graph.output, *graph.value_info):
            value.ClearField("doc_string")
            value.ClearField("metadata_props")
    model.graph.name = "pivot"
    for node in walk_nodes(model):
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
        ordered = sorted(node.attribute, key=lambda a: a.name)
        copies = [type(a).FromString(a.SerializeToString(deterministic=True)) for a in ordered]
        del node.attribute[:]
        node.attribute.extend(copies)
    for tensor in walk_tensors(model):
        tensor.ClearField("doc_string")
        tensor.ClearField("metadata_props")


def _is_volatile(key: str, value: str) -> bool:
    if not isinstance(key, str) or not isinstance(value, str):
        return True  # not valid UTF-8
    if key == EXTERNAL_KEY or _VOLATILE_KEYS.match(key):
        return True
    return bool(_PATH.search(value) or _TIME.search(value))
