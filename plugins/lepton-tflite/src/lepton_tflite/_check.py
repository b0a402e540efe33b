"""``lepton_check``: will a source fit, judged from its inspection alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lepton_core.errors import ConversionError
from lepton_core.reasons import without_a_way
from lepton_core.types import CheckRequest, CheckResult, InspectResult, Model
from lepton_tflite._ports import EDGETPU, unsupported
from lepton_tflite.info import INFO

if TYPE_CHECKING:
    from collections.abc import Iterator


def check(model: Model, request: CheckRequest) -> CheckResult:
    """Judge whether a model will run on LiteRT, without importing the converter.

    An ONNX source is judged by its operators, its opset and its constants; any other by whether
    each operator has a way to the pivot, and torch's also by whether the runtime has a kernel for
    what they become, as far as their names tell. Dimensions other than the batch need a size.

    For an Edge TPU, reasons also name each operator that would run on the CPU, and the first cut.
    """
    found = request.inspection
    edgetpu = request.device == EDGETPU
    if found.domain == "tflite":
        return _file(found, edgetpu=edgetpu)
    reasons = list(_onnx_reasons(found) if found.domain == "onnx" else _other_reasons(found))
    signature = found.model.signature or model.signature
    reasons += [
        f"{spec} is of a kind that a LiteRT session cannot pass." for spec in unsupported(signature)
    ]
    if reasons:
        return CheckResult("impossible", tuple(dict.fromkeys(reasons)))
    if edgetpu:
        from lepton_tflite._edgetpu import source_reasons

        return CheckResult("fits", tuple(source_reasons(found)), ("int8",))
    return CheckResult("fits", precisions=INFO.precisions)


def _file(found: InspectResult, *, edgetpu: bool) -> CheckResult:
    """Judge a .tflite file: for an Edge TPU, operator by operator."""
    if found.problems:
        return CheckResult("impossible", found.problems)
    precisions = (str(found.facts.get("storage_precision", "")),)
    if not edgetpu:
        return CheckResult("fits", precisions=precisions)
    from lepton_tflite._edgetpu import placed, refuse_floats, sentences
    from lepton_tflite._flatbuffer import MALFORMED, unpack

    try:
        model = unpack(Path(found.model.path).read_bytes())
        refuse_floats(model)
        return CheckResult("fits", tuple(sentences(placed(model))), precisions)
    except ConversionError as error:
        return CheckResult("impossible", (f"{error.message}. {error.cause}",))
    except MALFORMED as error:  # the inspection reads less of it
        return CheckResult("impossible", (f"The file is damaged: {error}.",))


def _kernel_reasons(found: InspectResult) -> Iterator[str]:
    from lepton_tflite._operators import why_not

    for use in found.operators:
        reason = why_not(use.name)
        if reason:
            place = f", first at {use.where}" if use.where else ""
            yield f"{use.name} ({use.count} times{place}) cannot be run: {reason}."


def _onnx_reasons(found: InspectResult) -> Iterator[str]:
    yield from _kernel_reasons(found)
    for use in found.facts.get("unsigned_constants", ()):
        yield (
            f"ai.onnx::{use['operator']} ({use['count']} times, first at {use['where']}) takes "
            f"{use['dtype']} constants, which litert-torch cannot hold: use signed integers, or "
            "convert the float model and let `lepton optimize` make the integers."
        )
    yield from found.problems


def _other_reasons(found: InspectResult) -> Iterator[str]:
    yield from without_a_way(found)
    if found.domain == "aten":
        yield from _kernel_reasons(found)


__all__ = ["check"]
