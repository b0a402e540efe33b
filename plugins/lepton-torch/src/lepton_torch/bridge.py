"""From a pivot to a torch module, for plugins whose converters start from torch.

:func:`load_module` gives the module; :func:`read_graph`, :class:`BridgeModule` and
:func:`capture_graph`, one after the other, an exported program with open sizes.
Importing this module imports ``torch`` and ``onnx``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch  # noqa: TID253 - whoever imports this module wants it

from lepton_torch._bridge._export import capture_graph
from lepton_torch._bridge._graph import read_graph
from lepton_torch._bridge._module import BridgeModule
from lepton_torch._bridge._names import origin_of, value_names
from lepton_torch._bridge._registry import Node, Operator
from lepton_torch._bridge._values import Known, Value
from lepton_torch._bridge.operators._linear import CUT_CONV_TRANSPOSE, CUT_OUTPUT_PADDING
from lepton_torch._bridge.operators._reduction import TOP_K
from lepton_torch._capture import MAX_BATCH
from lepton_torch._chatter import captured

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx import ModelProto


def load_module(
    proto: ModelProto,
    inputs: Sequence[torch.Tensor],
    overrides: Mapping[str, Operator] | None = None,
    held: torch.nn.Module | None = None,
) -> BridgeModule:
    """Translate a pivot into a module that ``torch.export`` can trace.

    Args:
        proto: The pivot with its weights in memory.
        inputs: One tensor per input, of sizes that suit the graph; it is run on them once.
        overrides: Translations to use in the place of the bridge's own, by operator.
        held: Module with the weights of these translations; it becomes part of the result.

    Returns:
        A module in eval mode. It takes the inputs and gives a tuple of the outputs, both in the
        graph's order; weights are parameters and buffers under the names of the initializers.

    Raises:
        ConversionError: LPT-CONV-111 … 116, an operator or a form of it has no translation.
    """
    module = BridgeModule(read_graph(proto), overrides)
    if held is not None:
        module.add_module("held", held)
    with captured(), torch.no_grad():
        module(*inputs)
    module.register()
    return module.eval()


__all__ = [
    "CUT_CONV_TRANSPOSE",
    "CUT_OUTPUT_PADDING",
    "MAX_BATCH",
    "TOP_K",
    "BridgeModule",
    "Known",
    "Node",
    "Operator",
    "Value",
    "capture_graph",
    "captured",
    "load_module",
    "origin_of",
    "read_graph",
    "value_names",
]
