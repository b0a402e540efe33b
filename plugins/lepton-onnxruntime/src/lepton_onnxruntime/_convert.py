"""``lepton_convert`` for the edge pivot -> onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core.environment import versions_of
from lepton_core.errors import ConversionError, UnsupportedOperationError, UsageError
from lepton_core.types import ConvertRequest, ConvertResult, LineageStep, Model
from lepton_onnx import pivot
from lepton_onnx.equivalents import put_time_first
from lepton_onnx.external import digest, verify_external
from lepton_onnx.lowering import lower_recipe
from lepton_onnxruntime import __version__
from lepton_onnxruntime._execution import storage_facts
from lepton_onnxruntime._half import write_half
from lepton_onnxruntime._integers import INTEGER_OPS, separate_weights
from lepton_onnxruntime._limits import check_nodes, check_ports
from lepton_onnxruntime._runtime import accepts_opset, explain, onnxruntime
from lepton_onnxruntime.info import DISTRIBUTIONS, INFO

if TYPE_CHECKING:
    from onnx import ModelProto

    from lepton_core.context import Context

FILE_NAME = "model.onnx"


def convert(model: Model, request: ConvertRequest, context: Context) -> ConvertResult:
    """Write ``model.onnx`` under ``context.workdir`` and load it once.

    With ``request.recipe`` the file holds the recipe's integer weights and Q/DQ pairs, placed
    where ONNX Runtime's CPU kernels compute with integers; weights in few bits are read by
    MatMulNBits. The precision is then the recipe's (int8, int4, …).

    Option: ``keep``, names of values, nodes or operators that stay in fp32 when the precision is
    fp16.

    Raises:
        UnsupportedOperationError: LPT-CONV-211 (precision), 212 (a recipe and fp16).
        UsageError: LPT-CONV-217, an option that there is not.
        OptimizeError: LPT-OPT-001 … 008, the recipe cannot be read or does not fit the pivot.
        ConversionError: LPT-CONV-213, the installed runtime does not load the result, or 214,
            it dies on it, 215 (dtypes that cannot be passed), 216 (an operator that loads and never
            runs).
        SourceError: The pivot cannot be read.
    """
    _refuse_what_is_not_done(request)
    source, out = Path(model.path), context.workdir / FILE_NAME
    proto = pivot.load(source)
    check_ports(pivot.signature(proto))
    check_nodes(proto)
    if not request.recipe:
        put_time_first(proto)  # the kernels have no layout whose batch comes first
    parent = model.digest or digest(source)
    context.checkpoint()
    facts: dict[str, Any] = {}
    warnings: tuple[str, ...] = ()
    precision = request.precision
    if request.recipe:
        proto, found = lower_recipe(
            proto, request.recipe, parent, integer_ops=INTEGER_OPS,
            sparse_dtypes=("float32", "int8"), codes=True,
        )  # fmt: skip
        facts |= found
        precision = found["recipe"]["precision"]
        separate_weights(proto)
        put_time_first(proto)
        pivot.save(proto, out)
    elif precision == "fp16":
        keep = (*_kept(request), *_without_half_kernels(proto))
        proto, facts, warnings = write_half(proto, out, keep)
    else:
        pivot.save(proto, out)
    context.checkpoint()
    _load_once(out)
    found = pivot.graph_facts(proto)
    facts |= {"opset": found["opset"], "ir_version": found["ir_version"]}
    facts |= storage_facts(found["weights"])
    asked: dict[str, Any] = {"precision": precision, "options": dict(request.options)}
    if request.recipe:
        asked["recipe"] = facts["recipe"]["digest"]
    step = LineageStep(
        step=f"convert pivot -> onnxruntime ({precision})",
        owner=f"lepton-onnxruntime {__version__}",
        parent=parent,
        request=asked,
        tools=versions_of("onnx", *DISTRIBUTIONS),
    )
    metadata = {**model.metadata, "opset": found["opset"], "precision": precision}
    if request.recipe:
        metadata["recipe"] = facts["recipe"]
    metadata["storage_precision"] = facts["storage_precision"]
    metadata.pop("external_files", None)
    structure = pivot.read(out)
    files = [file.name for file in verify_external(structure, out)]
    written = Model(
        format=INFO.artifact,
        path=str(out),
        signature=pivot.signature(proto),
        digest=digest(out, proto=structure),
        lineage=(*model.lineage, step),
        metadata=metadata | ({"external_files": files} if files else {}),
    )
    return ConvertResult(written, facts=facts, warnings=warnings)


def _refuse_what_is_not_done(request: ConvertRequest) -> None:
    if request.recipe and request.precision in ("fp16", "bf16"):
        raise UnsupportedOperationError(
            "LPT-CONV-212",
            f"A recipe and the precision {request.precision} do not go together",
            cause=f"{request.recipe} says which values are integers; the others stay fp32.",
            remedy="Leave the precision out, or convert without the recipe.",
        )
    if request.precision not in INFO.precisions and not request.recipe:
        raise UnsupportedOperationError(
            "LPT-CONV-211",
            f"onnxruntime cannot be built as {request.precision!r} without a recipe",
            cause=f"It is built as {' or '.join(INFO.precisions)}, or from a recipe.",
            remedy="Choose one of these; int8 and int4 are made by `lepton optimize`.",
        )
    unknown = [name for name in request.options if name != "keep"]
    if unknown:
        raise UsageError(
            "LPT-CONV-217",
            f"onnxruntime has no option {unknown[0]!r} for converting",
            remedy="The one option is keep=NAME,NAME: values, nodes or operators that stay float32 "
            "in fp16.",
        )


def _kept(request: ConvertRequest) -> list[str]:
    """Return the names that stay float32, also of a text as a command line gives it."""
    keep = request.options.get("keep", ())
    return [name.strip() for name in keep.split(",")] if isinstance(keep, str) else list(keep)


def _without_half_kernels(proto: ModelProto) -> list[str]:
    """Return the nodes that load in float16 but fail when they run.

    The CPU's scatter operators are registered for float16 and refuse to reduce in it.
    """
    scatters = ("ScatterElements", "ScatterND")
    nodes = (n for n in proto.graph.node if n.op_type in scatters)
    reducing = (
        n for n in nodes if any(a.name == "reduction" and a.s != b"none" for a in n.attribute)
    )
    return [node.name or node.output[0] for node in reducing]


def _load_once(path: Path) -> None:
    """Make sure that the installed runtime takes the file."""
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        operator, reason = explain(error)
        opset = pivot.graph_facts(pivot.read(path))["opset"]
        newer = not accepts_opset(opset)
        raise ConversionError(
            "LPT-CONV-213",
            f"ONNX Runtime {ort.__version__} does not load the converted model"
            + (f": it does not know opset {opset}" if newer else ""),
            cause=f"{operator}: {reason}" if operator else reason,
            remedy="Upgrade onnxruntime, or export the model with opset 21 or lower."
            if newer
            else "The cause names the operator; replace it in the model, or choose another target.",
        ) from error
