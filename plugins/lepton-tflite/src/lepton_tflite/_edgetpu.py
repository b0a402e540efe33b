"""What Google's compiler for Edge TPUs asks of a file, checked before it is shipped.

It maps operators on int8 with fixed sizes; the first one that is not ends what it maps, and the
rest runs on the host. So a file for that device is checked to have no operator that reads or gives
floats and no size that is left open. Which operators the compiler knows is not checked here.
"""

from __future__ import annotations

from typing import Any

from lepton_core.errors import ConversionError
from lepton_tflite._flatbuffer import DTYPES, operator_name


def refuse_floats(model: Any) -> None:  # noqa: ANN401 - a generated class
    """Refuse a file that an Edge TPU would not run as a whole.

    Raises:
        ConversionError: LPT-CONV-415, with the operators that are float or of open sizes.
    """
    graph = model.subgraphs[0]
    found, opened = [], []
    for operator in graph.operators:
        ends = [graph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
        name = operator_name(model.operatorCodes[operator.opcodeIndex])
        if {DTYPES.get(tensor.type) for tensor in ends} & {"float32", "float16"}:
            found.append(name)
        if any(t.shapeSignature is not None and -1 in t.shapeSignature for t in ends):
            opened.append(name)
    if opened:
        raise ConversionError(
            "LPT-CONV-415",
            "The file leaves sizes open, which an Edge TPU does not",
            cause=f"Open: {', '.join(dict.fromkeys(opened))}.",
            remedy="Give every dimension a size: batch=1, and shapes for others.",
            details={"open": list(dict.fromkeys(opened))},
        )
    if found:
        raise ConversionError(
            "LPT-CONV-415",
            "The file computes with floats, which an Edge TPU does not",
            cause=f"Float: {', '.join(dict.fromkeys(found))}.",
            remedy="Replace the operators that the recipe keeps in float (its kept_float says "
            "why), or build for tflite:cpu.",
            details={"float": list(dict.fromkeys(found))},
        )


__all__ = ["refuse_floats"]
