"""In which precision a file computes, and what the XNNPACK delegate takes over.

LiteRT's kernels are chosen by the types of their operands, so the file tells: int8 activations
mean integer kernels, int8 weights with float activations the hybrid kernels that quantize their
input at run time, and DEQUANTIZE before an operator that it computes in float.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from lepton_tflite._flatbuffer import DTYPES, operator_name
from lepton_tflite._schema import schema

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


def computing_layers(root: Any) -> dict[str, int]:  # noqa: ANN401 - a generated class
    """Return the number of computing operators by precision (``fp32``, ``int8``, …).

    ``int8 dynamic`` stands for int8 weights whose float input is quantized at run time.

    Args:
        root: A file that is read in place.
    """
    counts: Counter[str] = Counter()
    codes = [operator_name(_Code(root.OperatorCodes(i))) for i in range(root.OperatorCodesLength())]
    for number in range(root.SubgraphsLength()):
        graph = root.Subgraphs(number)
        for i in range(graph.OperatorsLength()):
            operator = graph.Operators(i)
            name = codes[operator.OpcodeIndex()]
            precision = None if name in _MOVES else _precision(graph, operator, name)
            if precision is not None:
                counts[precision] += 1
    return dict(sorted(counts.items()))


class _Code:
    """An operator code that is read in place, with the names of one that is unpacked."""

    def __init__(self, code: Any) -> None:  # noqa: ANN401 - a generated class
        self.builtinCode = code.BuiltinCode()
        self.deprecatedBuiltinCode = code.DeprecatedBuiltinCode()
        self.customCode = code.CustomCode()


def operator_names(root: Any) -> dict[str, int]:  # noqa: ANN401 - a generated class
    """Return how often each operator is used in a file that is read in place."""
    codes = [operator_name(_Code(root.OperatorCodes(i))) for i in range(root.OperatorCodesLength())]
    counts: Counter[str] = Counter()
    for number in range(root.SubgraphsLength()):
        graph = root.Subgraphs(number)
        for i in range(graph.OperatorsLength()):
            counts[codes[graph.Operators(i).OpcodeIndex()]] += 1
    return dict(counts)


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


def delegated(interpreter: Any) -> dict[str, Any]:  # noqa: ANN401 - a class of the runtime
    """Return how many operators the delegate runs, from the interpreter's own list.

    Returns:
        ``name``, ``partitions``, ``operators`` and ``of``; nothing where there is no delegate or
        the runtime does not list its operators.
    """
    details = getattr(interpreter, "_get_ops_details", None)
    if details is None:
        return {}
    nodes = details()
    own = [node for node in nodes if node["op_name"] != "DELEGATE"]
    parts = [node for node in nodes if node["op_name"] == "DELEGATE"]
    if not parts:
        return {}
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
    return {
        "name": "XNNPACK",
        "partitions": len(parts),
        "operators": len(taken),
        "of": len(own),
    }


__all__ = [
    "computing_layers",
    "custom_operators",
    "delegated",
    "operator_names",
    "sentence",
    "storage_facts",
]
