"""``lepton_convert`` for the edge pivot -> openvino."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core.artifacts import EXTERNAL_FILES
from lepton_core.environment import versions_of
from lepton_core.errors import ConversionError, StorageError, UnsupportedOperationError
from lepton_core.files import digest_path, disk_errors
from lepton_core.types import ConvertRequest, ConvertResult, LineageStep, Model, Signature
from lepton_onnx import pivot
from lepton_onnx.equivalents import pad_with_zero, pass_one_on, put_time_first
from lepton_onnx.external import digest, verify_external
from lepton_onnx.lowering import lower_recipe
from lepton_openvino import __version__
from lepton_openvino._dtypes import storage_facts, unsupported
from lepton_openvino._half import out_of_range
from lepton_openvino._integers import INTEGER_OPS, SPARSE_DTYPES
from lepton_openvino._ir import GRAPH_FILE, VALUES_FILE, write_ir
from lepton_openvino._messages import explain, failed_node, operators_without_rule
from lepton_openvino._ports import indices
from lepton_openvino._telemetry import openvino
from lepton_openvino.info import INFO

if TYPE_CHECKING:
    from onnx import ModelProto

    from lepton_core.context import Context


def convert(model: Model, request: ConvertRequest, context: Context) -> ConvertResult:
    """Write ``model.xml`` and ``model.bin`` under ``context.workdir``.

    Names, order, dtypes and symbolic dimensions of inputs and outputs are those of the pivot.
    With ``fp16``, weights are stored as float16; inputs, outputs and the arithmetic are not
    changed. The same pivot gives the same bytes, whatever was converted before in the process.

    Args:
        model: Of format ``pivot``.
        request: ``precision`` is ``fp32`` or ``fp16``, or a ``recipe`` says which values are
            integers; there are no options.
        context: Where to write.

    Returns:
        A model of format ``openvino`` at ``model.xml``.

    Raises:
        UnsupportedOperationError: LPT-CONV-301 (precision), 302 (a recipe and fp16), 303 (an
            option).
        OptimizeError: LPT-OPT-001 … 008, the recipe cannot be read or does not fit the pivot.
        ConversionError: LPT-CONV-304 (operators without a rule), 305 (OpenVINO fails on a node),
            306 (the result has other inputs or outputs), 307 (dtypes that cannot be passed).
        SourceError: The pivot cannot be read.
        StorageError: The result cannot be written.
    """
    _refuse_what_is_not_done(request)
    source = Path(model.path)
    proto = pivot.read(source)
    verify_external(proto, source)
    signature = pivot.signature(proto)
    _check_dtypes(signature)
    parent = model.digest or digest(source)
    context.checkpoint()
    warnings = []
    facts: dict[str, Any] = {"opset": pivot.graph_facts(proto)["opset"]}
    precision = request.precision
    if request.recipe:
        proto, lowered = lower_recipe(
            pivot.load(source), request.recipe, parent, integer_ops=INTEGER_OPS,
            sparse_dtypes=SPARSE_DTYPES, codes=True,
        )  # fmt: skip
        facts |= lowered
        precision = lowered["recipe"]["precision"]
        _equivalent(proto)
        converted = _read_lowered(proto, signature, context.workdir)
    else:
        converted = _read_whole(source, proto, signature, context.workdir)
    if request.precision == "fp16" and (lost := out_of_range(converted)):
        facts["out_of_fp16_range"] = lost
        warnings.append(_range_warning(lost))
    context.checkpoint()
    stored = _save(converted, proto, signature, request.precision == "fp16", context.workdir)
    facts |= storage_facts(stored)
    step = LineageStep(
        step=f"convert pivot -> openvino ({precision})",
        owner=f"lepton-openvino {__version__}",
        parent=parent,
        request={"precision": precision, **_recipe_digest(facts)},
        tools=versions_of("openvino", "onnx"),
    )
    out = context.workdir / GRAPH_FILE
    written = Model(
        format=INFO.artifact,
        path=str(out),
        signature=signature,
        digest=digest_path(out),
        lineage=(*model.lineage, step),
        metadata={
            **model.metadata,
            "opset": facts["opset"],
            "precision": precision,
            "storage_precision": facts["storage_precision"],
            EXTERNAL_FILES: [VALUES_FILE],
            **({"recipe": facts["recipe"]} if request.recipe else {}),
        },
    )
    return ConvertResult(written, facts=facts, warnings=tuple(warnings))


def _refuse_what_is_not_done(request: ConvertRequest) -> None:
    if request.recipe and request.precision in ("fp16", "bf16"):
        raise UnsupportedOperationError(
            "LPT-CONV-302",
            f"A recipe and the precision {request.precision} do not go together",
            cause=f"{request.recipe} says which values are integers; the others stay fp32.",
            remedy="Leave the precision out, or convert without the recipe.",
        )
    if request.precision not in INFO.precisions and not request.recipe:
        raise UnsupportedOperationError(
            "LPT-CONV-301",
            f"openvino cannot be built as {request.precision!r}",
            cause=f"It is built as {' or '.join(INFO.precisions)}.",
            remedy="Choose one of these; int8 and int4 are made by `lepton optimize`.",
        )
    if request.options:
        raise UnsupportedOperationError(
            "LPT-CONV-303",
            f"openvino has no option {next(iter(request.options))!r} for converting",
            remedy="Convert without options.",
        )


def _recipe_digest(facts: dict[str, Any]) -> dict[str, str]:
    return {"recipe": facts["recipe"]["digest"]} if "recipe" in facts else {}


def _check_dtypes(signature: Signature) -> None:
    wrong = unsupported(signature)
    if wrong:
        raise ConversionError(
            "LPT-CONV-307",
            f"{wrong[0]} is of a kind that OpenVINO's session cannot pass",
            remedy="Keep strings, sequences and bfloat16 inside the model, or outside of it.",
        )


def _read(source: Path, proto: ModelProto, signature: Signature) -> Any:  # noqa: ANN401
    """Return the pivot as OpenVINO's model, with the pivot's inputs and outputs."""
    core = openvino().Core()
    try:
        converted = core.read_model(source)
    except Exception as error:
        raise _failure(source, proto, error) from error
    for specs, ports in (
        (signature.inputs, converted.inputs),
        (signature.outputs, converted.outputs),
    ):
        if indices(specs, ports) != list(range(len(specs))):
            raise ConversionError(
                "LPT-CONV-306",
                "OpenVINO's model has other inputs or outputs than the pivot",
                cause=f"It has {', '.join(map(str, ports))}; the pivot is {signature}.",
                remedy="Report this model as a bug.",
            )
    return converted


def _read_whole(source: Path, proto: ModelProto, signature: Signature, folder: Path) -> Any:  # noqa: ANN401
    if not any(node.op_type in _REWRITTEN for node in proto.graph.node):
        return _read(source, proto, signature)
    whole = pivot.load(source)
    if not _equivalent(whole):
        return _read(source, proto, signature)
    return _read_lowered(whole, signature, folder)


_REWRITTEN = ("LSTM", "GRU", "RNN", "Pad", "Max", "Min", "Mean", "Sum")


def _equivalent(proto: ModelProto) -> bool:
    """Write what OpenVINO computes otherwise than ONNX in forms that it does not; in place.

    It ignores that a recurrent layer's batch comes first, pads with 0 where the value is computed,
    and lets the input go that a Max of it alone gives on.
    """
    changed = [rewrite(proto) for rewrite in (put_time_first, pad_with_zero, pass_one_on)]
    return any(changed)


def _read_lowered(proto: ModelProto, signature: Signature, folder: Path) -> Any:  # noqa: ANN401
    with tempfile.TemporaryDirectory(dir=folder, prefix=".lowered-") as scratch:
        place = Path(scratch) / "lowered.onnx"
        pivot.save(proto, place)
        return _read(place, proto, signature)


def _failure(source: Path, proto: ModelProto, error: Exception) -> ConversionError:
    operators = operators_without_rule(error)
    version = versions_of("openvino").get("openvino", "")
    if operators:
        places = [_place(proto, operator) for operator in operators]
        return ConversionError(
            "LPT-CONV-304",
            f"OpenVINO {version} has no conversion rule for {places[0]}",
            cause=f"Without a rule: {'; '.join(places)}.",
            remedy="Replace it in the model, or choose another target; `lepton check` lists which "
            "targets know every operator.",
            details={"operators": list(operators)},
        )
    operator, value = failed_node(error)
    return ConversionError(
        "LPT-CONV-305",
        f"OpenVINO {version} cannot convert "
        + (f"{operator} (the node that makes {value!r})" if operator else str(source)),
        cause=explain(error),
        remedy="Check the shapes that go into this node; if other runtimes take the model, choose "
        "another target.",
        details={"operator": operator, "value": value},
    )


def _place(proto: ModelProto, operator: str) -> str:
    """Return an operator with the first node that uses it, as OpenVINO spells its domain."""
    domain, _, name = operator.rpartition(".")
    for node in proto.graph.node:
        if node.op_type == name and node.domain in (domain, domain or "ai.onnx"):
            return f"{operator} (node {node.name or next(iter(node.output), '')!r})"
    return operator


def _range_warning(lost: dict[str, int]) -> str:
    first = next(iter(lost))
    return (
        f"{sum(lost.values())} weights are outside of the range of float16 and were cut to "
        f"its ends, the first in {first!r}; the passport tells what that costs."
    )


def _save(
    converted: Any,  # noqa: ANN401 - a class of the runtime
    proto: ModelProto,
    signature: Signature,
    half: bool,
    folder: Path,
) -> dict[str, int]:
    names = {node.name for node in proto.graph.node}
    names |= {name for node in proto.graph.node for name in (*node.input, *node.output)}
    with (
        disk_errors(f"the IR in {folder}"),
        tempfile.TemporaryDirectory(dir=folder, prefix=".ir-") as scratch,
    ):
        raw = Path(scratch) / GRAPH_FILE
        try:
            openvino().save_model(converted, raw, compress_to_fp16=half)
        except RuntimeError as error:
            raise StorageError(
                "LPT-IO-301",
                f"OpenVINO could not write the IR in {folder}",
                cause=explain(error),
                remedy="Free space or choose another place with --out; nothing was left behind.",
            ) from error
        return write_ir(raw, folder, signature, names)


__all__ = ["convert"]
