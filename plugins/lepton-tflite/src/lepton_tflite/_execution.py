"""In which precision a file computes, and what the XNNPACK delegate takes over.

LiteRT's kernels are chosen by the types of their operands, so the file tells: int8 activations
mean integer kernels, int8 weights with float activations the hybrid kernels that quantize their
input at run time, and DEQUANTIZE before an operator that it computes in float.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_core.execution import ExecutedNode, ExecutionMap
from lepton_tflite._flatbuffer import DTYPES, operator_name, text
from lepton_tflite._schema import schema

if TYPE_CHECKING:
    from collections.abc import Iterable

XNNPACK, BUILTIN = "XNNPACK", "LiteRT"
"""Who runs an operator: the delegate, or the runtime's own kernels."""

_OWN = ("lepton_torch.", "arith.", "tfl.")
"""How the converter names tensors that it knows no value for."""

_MOVES = frozenset(
    {
        "RESHAPE", "TRANSPOSE", "PAD", "PADV2", "MIRROR_PAD", "SLICE", "STRIDED_SLICE", "SPLIT",
        "SPLIT_V", "CONCATENATION", "PACK", "UNPACK", "GATHER", "GATHER_ND", "EXPAND_DIMS",
        "SQUEEZE", "BROADCAST_TO", "TILE", "CAST", "QUANTIZE", "DEQUANTIZE", "SHAPE", "FILL",
        "RANGE", "EMBEDDING_LOOKUP", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "REVERSE_V2",
        "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "ZEROS_LIKE", "RANK", "SCATTER_ND", "WHERE",
        "SELECT", "SELECT_V2", "DYNAMIC_UPDATE_SLICE", "RESIZE_NEAREST_NEIGHBOR", "ONE_HOT",
        "BITCAST",
    }
)  # fmt: skip
"""Operators that move values or compute shapes, and no more."""

_WEIGHTED = {
    "FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D", "BATCH_MATMUL",
}  # fmt: skip
_PRECISIONS = {
    "float32": "fp32",
    "float16": "fp16",
    "float64": "fp64",
    "bfloat16": "bf16",
    "int8": "int8",
    "uint8": "int8",
    "int16": "int16",
    "int4": "int4",
}


def storage_facts(stored: dict[str, int]) -> dict[str, Any]:
    """Return what a session and an artifact record about how values are stored.

    Args:
        stored: Number of constant values by element type.
    """
    totals: Counter[str] = Counter()
    for name, count in stored.items():
        if name in _PRECISIONS:
            totals[_PRECISIONS[name]] += count
    main = max(totals, key=lambda key: (totals[key], key), default="none")
    return {"storage_precision": main, "stored_values": dict(sorted(stored.items()))}


@dataclass(frozen=True, slots=True)
class FileNode:
    """An operator of a file.

    Attributes:
        name: Name of its first output.
        operator: The format's operator (``"CONV_2D"``).
        sources: Names of the pivot's values that it computes, as its outputs are named after them.
        precision: What it computes in (``fp32``, ``int8``, …); ``int8 dynamic`` stands for int8
            weights whose float input is quantized at run time. Empty where it only moves values.
    """

    name: str
    operator: str
    sources: tuple[str, ...]
    precision: str


def file_nodes(root: Any) -> list[list[FileNode]]:  # noqa: ANN401 - a generated class
    """Return the operators of each subgraph, in their order.

    Args:
        root: A file that is read in place.
    """
    codes = [operator_name(_Code(root.OperatorCodes(i))) for i in range(root.OperatorCodesLength())]
    found = []
    for number in range(root.SubgraphsLength()):
        graph = root.Subgraphs(number)
        operators = (graph.Operators(i) for i in range(graph.OperatorsLength()))
        found.append([_file_node(graph, one, codes[one.OpcodeIndex()]) for one in operators])
    return found


def _file_node(graph: Any, operator: Any, name: str) -> FileNode:  # noqa: ANN401
    outputs = [text(graph.Tensors(operator.Outputs(i)).Name())
               for i in range(operator.OutputsLength())]  # fmt: skip
    sources = tuple(dict.fromkeys(s for output in outputs for s in sources_of(output)))
    precision = None if name in _MOVES else _precision(graph, operator, name)
    return FileNode(next(iter(outputs), ""), name, sources, precision or "")


def sources_of(name: str) -> list[str]:
    """Return the pivot's values that a tensor is named after: ``r;;c;1`` is named after r and c."""
    parts = [part.partition(";")[0].removesuffix("/int8") for part in name.split(";;")]
    return [part for part in reversed(parts) if part and not part.startswith(_OWN)]


def computing_layers(graphs: Iterable[Iterable[FileNode]]) -> dict[str, int]:
    """Return the number of computing operators by precision."""
    counts = Counter(node.precision for graph in graphs for node in graph if node.precision)
    return dict(sorted(counts.items()))


class _Code:
    """An operator code that is read in place, with the names of one that is unpacked."""

    def __init__(self, code: Any) -> None:  # noqa: ANN401 - a generated class
        self.builtinCode = code.BuiltinCode()
        self.deprecatedBuiltinCode = code.DeprecatedBuiltinCode()
        self.customCode = code.CustomCode()


def operator_names(graphs: Iterable[Iterable[FileNode]]) -> dict[str, int]:
    """Return how often each operator is used."""
    return dict(Counter(node.operator for graph in graphs for node in graph))


def custom_operators(root: Any) -> list[str]:  # noqa: ANN401 - a generated class
    """Return the names of operators that are not LiteRT's own; Flex ones begin with ``Flex``."""
    found = []
    for i in range(root.OperatorCodesLength()):
        code = _Code(root.OperatorCodes(i))
        if max(code.builtinCode, code.deprecatedBuiltinCode) == schema.BuiltinOperator.CUSTOM:
            found.append(operator_name(code))
    return found


def _precision(graph: Any, operator: Any, name: str) -> str | None:  # noqa: ANN401
    def kind(index: int) -> str:
        return DTYPES.get(graph.Tensors(index).Type(), "") if index >= 0 else ""

    inputs = [kind(operator.Inputs(i)) for i in range(operator.InputsLength())]
    data = inputs[2:] if name == "TRANSPOSE_CONV" else inputs
    first = next((k for k in data if k in _PRECISIONS), None)
    if first is None:
        return None
    weight = inputs[1] if name in _WEIGHTED and len(inputs) > 1 else ""
    if first == "float32" and weight in ("int8", "int4"):
        return f"{weight} dynamic"
    return _PRECISIONS[first]


def sentence(layers: dict[str, int], storage: str) -> str:
    """Say in words what precision most operators run in, beside how weights are stored."""
    total = sum(layers.values())
    if not total:
        return "none (no operator computes with numbers)"
    main = max(layers, key=lambda key: (layers[key], key))
    text = f"{main} ({layers[main]} of {total} layers"
    rest = [f"{count} in {key}" for key, count in layers.items() if key != main]
    if rest:
        text += f"; {', '.join(rest)}"
    if storage == "fp16" and main != "fp16":
        text += "; fp16 storage is converted"
    if storage in ("int8", "int4") and main == "fp32":
        text += f"; {storage} weights are unpacked"
    return f"{text})"


@dataclass(frozen=True, slots=True)
class Placement:
    """Which operators an interpreter gave to the delegate.

    Attributes:
        operators: The runtime's names of all operators, in order; ``None`` if it lists none.
        partitions: Calls of the delegate.
        taken: Numbers of the operators that it runs.
    """

    operators: tuple[str, ...] | None = None
    partitions: int = 0
    taken: frozenset[int] = frozenset()

    def fact(self) -> dict[str, Any]:
        """Return ``name``, ``partitions``, ``operators`` and ``of``; nothing without a delegate."""
        if not self.partitions or self.operators is None:
            return {}
        return {
            "name": XNNPACK,
            "partitions": self.partitions,
            "operators": len(self.taken),
            "of": len(self.operators),
        }


def placement(interpreter: Any) -> Placement:  # noqa: ANN401 - a class of the runtime
    """Return which operators the delegate runs, from the interpreter's own list."""
    details = getattr(interpreter, "_get_ops_details", None)
    if details is None:
        return Placement()
    nodes = details()
    own = [node for node in nodes if node["op_name"] != "DELEGATE"]
    parts = [node for node in nodes if node["op_name"] == "DELEGATE"]
    maker = {int(out): i for i, node in enumerate(own) for out in node["outputs"]}
    taken: set[int] = set()
    for part in parts:
        given = {int(i) for i in part["inputs"]}
        pending = [int(i) for i in part["outputs"]]
        while pending:
            index = pending.pop()
            node = maker.get(index)
            if index in given or node is None or node in taken:
                continue
            taken.add(node)
            pending += [int(i) for i in own[node]["inputs"] if i >= 0]
    names = tuple(str(node["op_name"]) for node in own)
    return Placement(names, len(parts), frozenset(taken))


def uniform(graphs: list[list[FileNode]], *, taken: bool = False) -> Placement:
    """Return that the delegate runs all operators of the entry's subgraph, or none of them."""
    names = tuple(node.operator for node in graphs[0])
    return Placement(names, int(taken), frozenset(range(len(names)) if taken else ()))


def execution_map(
    runtime: str, graphs: list[list[FileNode]], placed: Placement | None, *, device: str = "cpu"
) -> ExecutionMap:
    """Return which operators run where, in which precision.

    Args:
        runtime: As in the session's facts.
        graphs: The file's subgraphs (:func:`file_nodes`); the first one is the entry's.
        placed: What the interpreter tells; ``None`` of an interface that tells nothing.
        device: What all of them run on; empty if that is not told.
    """
    notes = []
    if len(graphs) > 1:
        notes.append("Operators of inner subgraphs are left out, as the runtime lists none.")
    nodes = graphs[0]
    told = placed is not None and placed.operators == tuple(node.operator for node in nodes)
    if not told:
        notes.append("The runtime does not tell which operators its delegate runs.")
    taken = placed.taken if placed is not None else frozenset()

    def provider(number: int) -> str:
        if not told:
            return ""
        return XNNPACK if number in taken else BUILTIN

    return ExecutionMap(
        runtime,
        tuple(
            ExecutedNode(n.name, n.operator, n.sources, device, provider(i), n.precision)
            for i, n in enumerate(nodes)
        ),
        tuple(notes),
    )


__all__ = [
    "BUILTIN",
    "XNNPACK",
    "FileNode",
    "Placement",
    "computing_layers",
    "custom_operators",
    "execution_map",
    "file_nodes",
    "operator_names",
    "placement",
    "sentence",
    "sources_of",
    "storage_facts",
    "uniform",
]
