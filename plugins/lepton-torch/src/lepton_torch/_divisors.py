"""Averages by a divisor of the user's own, which torch's ONNX exporter leaves out in silence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from lepton_core.errors import ConversionError
from lepton_torch._operators import all_calls, source_line

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_AXES = {torch.ops.aten.avg_pool2d.default: 2, torch.ops.aten.avg_pool3d.default: 3}
_NAMES = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


def write_divisors(exported: ExportedProgram) -> None:
    """Scale what such an average reads, in place, so that its usual divisor gives the same.

    Raises:
        ConversionError: LPT-CONV-106, windows may hang over the border, and then the usual divisor
            is smaller there.
    """
    for node in all_calls(exported):
        axes = _AXES.get(node.target)
        if axes is None:
            continue
        given: dict[str, Any] = dict(zip(_NAMES, node.args[1:], strict=False)) | dict(node.kwargs)
        divisor = given.get("divisor_override")
        if divisor is None:
            continue
        if given.get("ceil_mode"):
            raise ConversionError(
                "LPT-CONV-106",
                f"{node.target} with divisor_override and ceil_mode has no translation to ONNX",
                cause="ONNX's AveragePool has no divisor, and divides by less at the border then.",
                remedy="Leave one of the two out, or pad the input and pool without ceil_mode.",
                details={"where": source_line(node)},
            )
        kernel = list(given["kernel_size"])
        size = math.prod(kernel * axes if len(kernel) == 1 else kernel)
        x = node.args[0]
        with node.graph.inserting_before(node):
            scaled = node.graph.call_function(torch.ops.aten.mul.Tensor, (x, size / divisor))
        scaled.meta = dict(x.meta)
        parts = [kernel, given.get("stride", []), given.get("padding", [0]), False, True]
        node.args, node.kwargs = (scaled, *parts), {}
    exported.graph_module.recompile()


__all__ = ["write_divisors"]
