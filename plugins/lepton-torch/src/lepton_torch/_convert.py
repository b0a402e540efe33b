"""Sends a conversion to the edge that does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_core.errors import UnsupportedOperationError

if TYPE_CHECKING:
    from lepton_core.context import Context
    from lepton_core.types import ConvertRequest, ConvertResult, Model


def convert(model: Model, request: ConvertRequest, context: Context) -> ConvertResult | None:
    """Walk the edge from the model's format; ``None`` if it is not one of ours.

    Args:
        model: Of format ``torch.factory``, ``huggingface``, ``torch.export`` or ``pivot``.
        request: What to produce; an empty ``to_format`` means ``torch.export``.
        context: Where to write.

    Raises:
        UnsupportedOperationError: Another precision than fp32 was asked for.
        SourceError: The source cannot be read.
        ConversionError: The model cannot be converted.
    """
    edge = (model.format, request.to_format or "torch.export")
    known = {
        ("torch.factory", "torch.export"),
        ("huggingface", "torch.export"),
        ("torch.export", "pivot"),
        ("pivot", "torch.export"),
    }
    if edge not in known:
        return None
    if request.precision != "fp32":
        raise UnsupportedOperationError(
            "LPT-CONV-108",
            f"lepton-torch writes {edge[1]} as fp32 only, not as {request.precision}",
            remedy="Ask the target for the precision; the pivot stays fp32.",
        )
    if edge[1] == "pivot":
        from lepton_torch._pivot import export_pivot

        return export_pivot(model, request, context)
    if model.format == "pivot":
        from lepton_torch._bridge._export import export_program

        return export_program(model, request, context)
    from lepton_torch._materialise import materialise

    return materialise(model, request, context)
