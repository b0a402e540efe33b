"""What Google's compiler for Edge TPUs asks of a file, checked before it is shipped.

It maps operators on int8 with fixed sizes; the first one that is not ends what it maps, and the
rest runs on the host. So a file for that device has no float inside and at its border.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_core.errors import ConversionError
from lepton_tflite._flatbuffer import DTYPES, operator_name

if TYPE_CHECKING:
    from lepton_core.types import Signature


def refuse_floats(model: Any, signature: Signature) -> None:  # noqa: ANN401 - a generated class
    """Refuse a file that an Edge TPU would not run as a whole.

    Raises:
        ConversionError: LPT-CONV-415, with the operators and ports that are float.
    """
    graph = model.subgraphs[0]
    found = [str(s) for s in (*signature.inputs, *signature.outputs) if s.dtype == "float32"]
    for operator in graph.operators:
        ends = [*operator.inputs, *operator.outputs]
        kinds = {DTYPES.get(graph.tensors[i].type) for i in ends if i >= 0}
        if kinds & {"float32", "float16"}:
            found.append(operator_name(model.operatorCodes[operator.opcodeIndex]))
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
