"""Reads a pivot into nodes and constants, and refuses what has no translation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from lepton_core.errors import ConversionError
from lepton_torch._bridge._narrow import NAMES, STANDS_IN, Narrow, bits_of, widened
from lepton_torch._bridge._registry import OPERATORS, Node
from lepton_torch._bridge._values import DTYPES, Known
from lepton_torch._bridge.catalogue import EXPANDED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lepton_core.types import Signature, TensorSpec

OLDEST, NEWEST = 13, 24
"""Versions of ONNX's operators that the translations follow."""

_OWN = ("", "ai.onnx")
_EXPANDED = frozenset(EXPANDED.split())
_REASONS = {
    **dict.fromkeys(("If", "Loop", "Scan"), "control flow: which nodes run depends on values"),
    **dict.fromkeys(
        ("SequenceMap", "SequenceInsert", "SequenceAt", "SequenceErase", "SequenceEmpty",
         "SequenceConstruct", "SequenceLength", "SplitToSequence", "ConcatFromSequence"),
        "it works on sequences, and torch programs take and give tensors",
    ),
    **dict.fromkeys(
        ("StringConcat", "StringSplit", "StringNormalizer", "RegexFullMatch", "TfIdfVectorizer"),
        "it works on strings, which torch has not",
    ),
    **dict.fromkeys(
        ("Optional", "OptionalHasElement", "OptionalGetElement"),
        "it works on optional values, and torch programs take and give tensors",
    ),
}  # fmt: skip


@dataclass
class Graph:
    """A pivot, ready to be walked.

    Attributes:
        nodes: In topological order; only those that an output needs.
        constants: By name: initializers, and what ``Constant`` nodes hold.
        signature: Inputs and outputs.
        opset: Version of ONNX's operators.
        notes: What the user should know about the translation.
    """

    nodes: list[Node]
    constants: dict[str, Known]
    signature: Signature
    opset: int
    notes: list[str] = field(default_factory=list)


def read_graph(model: onnx.ModelProto) -> Graph:
    """Turn a model with all its weights into a :class:`Graph`.

    Raises:
        ConversionError: LPT-CONV-111 (an operator without a translation), 113 (the opset), 114
            (a value that is no tensor, or of a type that torch has not).
    """
    import lepton_torch._bridge.operators  # noqa: F401 - fills the table
    from lepton_onnx.operators import place
    from lepton_onnx.pivot import signature

    opset = max((o.version for o in model.opset_import if o.domain in _OWN), default=0)
    _refuse_operators(model, opset)  # the inliner takes no other domains
    model = _expanded(model, opset)
    _refuse_operators(model, opset)
    constants = {t.name: _constant(t, t.name) for t in model.graph.initializer}
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise _refused_value(name, "it is sparse", "Store it as a dense tensor.")
    contract, notes = _in_bytes(signature(model))
    types = {str(d).removeprefix("torch.").replace("float8_", "float8") for d in DTYPES.values()}
    for spec in (*contract.inputs, *contract.outputs):
        if spec.dtype not in types:
            raise _refused_value(spec.name, f"it is of type {spec.dtype}", "")
    nodes = []
    narrow = Narrow(model.graph)
    for proto in model.graph.node:
        node = _typed(_node(proto, opset, place(proto)), narrow.made_by(proto))
        if node.operator == "Constant":
            constants[node.outputs[0]] = _literal(proto, node.outputs[0])
        else:
            nodes.append(node)
    wanted = [spec.name for spec in contract.outputs]
    return Graph(live(nodes, wanted), constants, contract, opset, notes)


def _expanded(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Replace operators that have a body of others in ONNX's definition by that body.

    Raises:
        ConversionError: LPT-CONV-111, the body of one is not to be had.
    """
    from onnx.inliner import inline_selected_functions

    left = _with_bodies(model)
    while left:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        del copy.opset_import[:]  # the inliner knows ONNX's domain by its short name alone
        copy.opset_import.extend(o for o in model.opset_import if o.domain not in _OWN)
        copy.opset_import.append(onnx.helper.make_opsetid("", opset))
        typed = {v.name for v in (*copy.graph.input, *copy.graph.value_info)}
        copy.graph.value_info.extend(  # it looks for the type of a constant there, too
            onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims))
            for t in copy.graph.initializer
            if t.name not in typed
        )
        for node in _with_bodies(copy):  # bodies refer to attributes, not to defaults
            node.domain = ""
            node.attribute.extend(_defaults(node, opset))
        wanted = [("", name) for name in sorted(_EXPANDED)]
        model = inline_selected_functions(copy, wanted, inline_schema_functions=True)
        before, left = left, _with_bodies(model)
        if [n.output for n in left] == [n.output for n in before]:
            raise _refused_operators([(left[0], "ONNX's body for it cannot be put in its place")])
    return model


def _with_bodies(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [n for n in model.graph.node if n.domain in _OWN and n.op_type in _EXPANDED]


def _defaults(node: onnx.NodeProto, opset: int) -> list[AttributeProto]:
    """Return the attributes that a node leaves to their defaults."""
    given = {a.name for a in node.attribute}
    known = onnx.defs.get_schema(node.op_type, opset, "").attributes.values()
    return [a.default_value for a in known if a.default_value.name and a.name not in given]


def _in_bytes(contract: Signature) -> tuple[Signature, list[str]]:
    """Let inputs and outputs of a narrow type stand in a wider one; tell which do."""
    wider = {name: str(STANDS_IN[kind]).removeprefix("torch.") for name, kind in NAMES.items()}
    notes: list[str] = []

    def told(spec: TensorSpec) -> TensorSpec:
        stands = wider.get(spec.dtype, "").replace("float8_", "float8")
        if not stands:
            return spec
        notes.append(f"{spec.name!r} of type {spec.dtype} stands in {stands}.")
        return replace(spec, dtype=stands)

    inputs = tuple(told(spec) for spec in contract.inputs)
    outputs = tuple(told(spec) for spec in contract.outputs)
    return replace(contract, inputs=inputs, outputs=outputs), notes


def _typed(node: Node, kind: int) -> Node:
    """Write the narrow type that a node makes into it, where an input's type tells it."""
    if node.operator == "CastLike" and kind:
        return replace(node, operator="Cast", attributes={**node.attributes, "to": kind},
                       inputs=node.inputs[:1])  # fmt: skip
    if node.operator == "QuantizeLinear" and kind:
        return replace(node, attributes={**node.attributes, "output_dtype": kind})
    return node


def live(nodes: list[Node], wanted: Iterable[str]) -> list[Node]:
    """Return the nodes that the wanted values need, in the order given."""
    needed = set(wanted)
    kept = []
    for node in reversed(nodes):
        if needed & set(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def _refuse_operators(model: onnx.ModelProto, opset: int) -> None:
    gaps = [gap for node in model.graph.node if (gap := _gap(node, opset))]
    if gaps:
        raise _refused_operators(gaps)


def _refused_operators(gaps: list[tuple[onnx.NodeProto, str]]) -> ConversionError:
    from lepton_onnx.operators import place, qualified_name

    node, cause = gaps[0]
    names = list(dict.fromkeys(qualified_name(n) for n, _ in gaps))
    listed = list(dict.fromkeys(f"{qualified_name(n)} ({place(n)})" for n, _ in gaps))
    more = f"; in all: {', '.join(listed[:8])}" if len(listed) > 1 else ""
    return ConversionError(
        "LPT-CONV-111",
        f"{qualified_name(node)} at {place(node)} has no translation to torch",
        cause=f"{cause}{more}.",
        remedy="Export the model without it; docs/reference/bridge.md lists the operators that "
        "are covered.",
        details={"operators": names, "where": place(node)},
    )


def _gap(node: onnx.NodeProto, opset: int) -> tuple[onnx.NodeProto, str] | None:
    """Return the node with the reason why it cannot be translated, if that is so."""
    if node.domain not in _OWN:
        return node, f"the domain {node.domain!r} is not ONNX's own"
    if node.op_type in _REASONS:
        return node, _REASONS[node.op_type]
    if node.op_type in _EXPANDED:
        return None if _schema(node, opset) else (node, f"opset {opset} has no such operator")
    if node.op_type not in OPERATORS and node.op_type != "Constant":
        return node, "the bridge does not know the operator"
    return _version_gap(node, opset)


def _version_gap(node: onnx.NodeProto, opset: int) -> tuple[onnx.NodeProto, str] | None:
    """Tell whether the operator means something else in *opset* than in 13 to 24."""
    if OLDEST <= opset <= NEWEST:
        return None
    own = _schema(node, opset)
    near = _schema(node, OLDEST if opset < OLDEST else NEWEST)
    if own is None:
        return node, f"opset {opset} has no such operator"
    if near is not None and own.since_version == near.since_version:
        return None
    if near is not None and opset > NEWEST and _form(own) == _form(near):
        return None  # later definitions that only take more types
    reads = f"the bridge reads opset {OLDEST} to {NEWEST}"
    return node, f"opset {own.since_version} defines it differently; {reads}"


def _schema(node: onnx.NodeProto, opset: int) -> onnx.defs.OpSchema | None:
    """Return ONNX's definition of an operator in an opset; ``None`` if it has none."""
    try:
        return onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def _form(schema: onnx.defs.OpSchema) -> tuple[object, ...]:
    attributes = {
        name: (attribute.type, attribute.default_value.SerializeToString())
        for name, attribute in schema.attributes.items()
    }
    return attributes, [i.name for i in schema.inputs], [o.name for o in schema.outputs]


def _refused_value(name: str, cause: str, remedy: str) -> ConversionError:
    return ConversionError(
        "LPT-CONV-114",
        f"The value {name!r} has no counterpart in torch",
        cause=f"{cause}.",
        remedy=remedy or "Move the part of the graph that needs it out of the model.",
    )


def _constant(tensor: TensorProto, name: str) -> Known:
    if tensor.data_type in STANDS_IN:
        array = widened(numpy_helper.to_array(tensor), tensor.data_type)
        return Known(array, STANDS_IN[tensor.data_type], name, bits=bits_of(tensor.data_type))
    if tensor.data_type not in DTYPES:
        kind = TensorProto.DataType.Name(tensor.data_type).lower()
        raise _refused_value(name, f"it is of type {kind}", "")
    return Known(numpy_helper.to_array(tensor), DTYPES[tensor.data_type], name)


def _literal(proto: onnx.NodeProto, name: str) -> Known:
    """Return what a ``Constant`` node holds."""
    attribute = proto.attribute[0]
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return _constant(value, name)
    if attribute.name in ("value_int", "value_ints"):
        return Known(np.asarray(value, dtype=np.int64), DTYPES[TensorProto.INT64], name)
    if attribute.name in ("value_float", "value_floats"):
        return Known(np.asarray(value, dtype=np.float32), DTYPES[TensorProto.FLOAT], name)
    raise _refused_value(name, f"it is given as {attribute.name}", "")


def _node(proto: onnx.NodeProto, opset: int, place: str) -> Node:
    attributes = {a.name: _attribute(a) for a in proto.attribute}
    inputs, outputs = list(proto.input), list(proto.output)
    while outputs and not outputs[-1]:
        outputs.pop()
    return Node(proto.op_type, tuple(inputs), tuple(outputs), attributes, opset, place)


def _attribute(attribute: AttributeProto) -> Any:  # noqa: ANN401 - any attribute type
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if attribute.type == AttributeProto.STRINGS:
        return [text.decode() for text in value]
    if attribute.type == AttributeProto.TENSOR:
        return _constant(value, attribute.name)
    return list(value) if isinstance(value, list | tuple) else value
