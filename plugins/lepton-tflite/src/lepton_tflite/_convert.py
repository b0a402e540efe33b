"""``lepton_convert`` for the edge pivot -> tflite."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core.artifacts import EXTERNAL_FILES
from lepton_core.environment import versions_of
from lepton_core.errors import ConversionError, UnsupportedOperationError
from lepton_core.files import digest_path, write_atomic
from lepton_core.types import ConvertResult, LineageStep, Model
from lepton_onnx import pivot
from lepton_onnx.external import digest
from lepton_tflite import __version__
from lepton_tflite._build import ROWS, Built, Plan, build
from lepton_tflite._edgetpu import fact as edgetpu_fact
from lepton_tflite._edgetpu import placed, refuse_floats, sentences
from lepton_tflite._edgetpu_products import as_convolutions
from lepton_tflite._execution import storage_facts
from lepton_tflite._finish import finish, float_ports, integer_ports, port_types
from lepton_tflite._flatbuffer import FILE, pack, root_of, stored_values
from lepton_tflite._half import LIMIT as HALF_LIMIT
from lepton_tflite._half import Half, store_half
from lepton_tflite._integers import check_border, check_integers
from lepton_tflite._layout import take_nhwc
from lepton_tflite._lower import LIMIT, lower
from lepton_tflite._place import place
from lepton_tflite._ports import EDGETPU, WEIGHTS, Ports, check_dtypes, parse_options
from lepton_tflite._read import check_weights
from lepton_tflite._readers import one_reader_each
from lepton_tflite._reproduce import reproducer
from lepton_tflite._single import to_single
from lepton_tflite._words import silent
from lepton_tflite.info import INFO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onnx import ModelProto

    from lepton_core.context import Context
    from lepton_core.types import ConvertRequest
    from lepton_tflite._words import Tell

_TOOLS = ("litert-torch", "litert-converter", "ai-edge-litert", "torch", "onnx")


@dataclass(frozen=True)
class _Task:
    """What is to be converted.

    Attributes:
        proto: The pivot, weights in memory.
        parent: Its digest.
        ports: What it is converted for.
    """

    proto: ModelProto
    parent: str
    ports: Ports


@dataclass(frozen=True)
class _Made:
    """What a conversion led to.

    Attributes:
        parent: Digest of the pivot.
        ports: What it was converted for.
        built: The file.
        facts: For the record.
    """

    parent: str
    ports: Ports
    built: Built
    facts: dict[str, Any]


def convert(model: Model, request: ConvertRequest, context: Context) -> ConvertResult:
    """Write ``model.tflite`` under ``context.workdir``.

    Names, order and symbolic batch of inputs and outputs are those of the pivot; 64-bit types are
    32-bit in the file, and sessions pass them exactly. Where it can be proved on the model, the
    batch stays open; else the file takes one row, and sessions loop over the rows of a batch.

    Args:
        model: Of format ``pivot``.
        request: ``precision``, or a ``recipe`` that says which values are integers. Options:
            ``batch`` (``"auto"``; ``"open"`` refuses any other; a number fixes it), ``shapes``
            (sizes of other symbolic dimensions, ``"tokens=128"``), and with a recipe ``io``
            (``"float"``, or ``"int8"`` for integers at the border) and ``weights`` (``"auto"``,
            ``"dynamic"`` or ``"float"``: how operators compute that take floats). ``layout``
            (``"nchw"``; ``"nhwc"`` has the file take all inputs of four axes with the channels
            last, ``"nhwc:image,mask"`` some; the signature, and sessions, keep the source's order).
        context: Where to write.

    Returns:
        A model of format ``tflite``.

    Raises:
        UnsupportedOperationError: LPT-CONV-407 (precision), 408 (an option), 412 (a
            recipe's scheme), 413 (a recipe and fp16), 414 (an Edge TPU without a recipe).
        ConversionError: LPT-CONV-402 … 406 (:func:`._build.build`), 409 (dtypes that cannot be
            passed), 410 (a symbolic dimension without a size), 411 (other integers than the
            recipe's), 415 (floats in a file for an Edge TPU), 416 (too large), 417 (a constant is
            beyond float32); LPT-CONV-111 …
            116, the graph has no translation to torch.
        PluginDependencyError: LPT-CONV-401, the converter is not installed.
        SourceError: The pivot cannot be read.
    """
    task = _read(model, request)
    context.checkpoint()
    with reproducer(Path(model.path), task.parent, request) as saved:
        try:
            context.about_to("reading the graph", reproducer=str(saved.folder))
            built, facts = _built(task, request, context.checkpoint, context.about_to)
        except ConversionError as error:
            raise saved.named(error) from error
    return _written(model, request, context, _Made(task.parent, task.ports, built, facts))


def attempt(model: Model, request: ConvertRequest) -> None:
    """Convert and prove as :func:`convert` does, and write nothing; reproducers call this.

    Raises:
        LeptonError: As :func:`convert`; the error names no reproducer.
    """
    _built(_read(model, request), request, lambda: None, silent)


def _read(model: Model, request: ConvertRequest) -> _Task:
    """Check what was asked for, and read the pivot."""
    options = parse_options(request)
    _refuse_what_is_not_done(request)
    source = Path(model.path)
    proto = pivot.load(source)
    signature = pivot.signature(proto)
    check_dtypes(signature)
    dynamic = request.dynamic_batch and request.device != EDGETPU
    ports = options.settle(signature, dynamic=dynamic)
    proto, said = to_single(proto)
    ports = replace(ports, warnings=(*ports.warnings, *said))
    return _Task(proto, model.digest or digest(source), ports)


def _refuse_what_is_not_done(request: ConvertRequest) -> None:
    if request.device == EDGETPU and not request.recipe:
        raise UnsupportedOperationError(
            "LPT-CONV-414",
            f"An Edge TPU takes int8 alone, not {request.precision}",
            remedy="Build it with --precision int8, or lower a recipe with --recipe.",
        )
    if request.recipe and request.precision in ("fp16", "bf16"):
        raise UnsupportedOperationError(
            "LPT-CONV-413",
            f"A recipe and the precision {request.precision} do not go together",
            cause=f"{request.recipe} says which values are integers; the others stay fp32.",
            remedy="Leave the precision out, or convert without the recipe.",
        )
    if request.precision not in INFO.precisions and not request.recipe:
        raise UnsupportedOperationError(
            "LPT-CONV-407",
            f"tflite cannot be built as {request.precision!r}",
            cause=f"It is built as {' or '.join(INFO.precisions)}.",
            remedy="Choose one of these; int8 is made by `lepton optimize`.",
        )


def _built(
    task: _Task, request: ConvertRequest, checkpoint: Callable[[], None], tell: Tell
) -> tuple[Built, dict[str, Any]]:
    """Convert, with a recipe or without; returns facts for the record too."""
    proto, ports = task.proto, task.ports
    facts: dict[str, Any] = {"opset": pivot.graph_facts(proto)["opset"]}
    plan = Plan(
        take_nhwc(proto, ports.turned), ports.stored, ports.symbol,
        partial(_sealed, task, request, facts),
        demand_open=ports.demand_open, checkpoint=checkpoint, tell=tell,
    )  # fmt: skip
    if not request.recipe:
        if request.precision == "fp16":
            return _built_half(plan, facts)
        return build(plan), facts
    return _built_recipe(plan, task, str(request.recipe), facts)


def _built_recipe(
    plan: Plan, task: _Task, path: str, facts: dict[str, Any]
) -> tuple[Built, dict[str, Any]]:
    """Convert with a recipe: its integers are held against the file, or written into it."""
    ports = task.ports
    lowered = lower(task.proto, path, task.parent)
    if ports.weights != WEIGHTS[0] and not lowered.weights:
        raise UnsupportedOperationError(
            "LPT-CONV-408",
            f"The option weights={ports.weights} has no effect on this recipe",
            cause="All its weights belong to operators whose inputs are integers as well.",
            remedy="Leave the option out.",
        )
    facts |= lowered.facts
    digest = lowered.facts["recipe"]["digest"]

    def edit(model: Any) -> None:  # noqa: ANN401 - a generated class
        weights = check_integers(model, lowered.proto, lowered.recipe)
        for name, note in weights.items():
            note["axis"] = lowered.recipe.tensors[name].axis
        facts["notes"] = {"weights": weights, "recipe": digest}
        float_ports(model, ports.signature)
        check_border(model, lowered.proto, lowered.recipe)

    def put(model: Any, places: dict[str, int]) -> None:  # noqa: ANN401 - a generated class
        placed = place(model, places, lowered.weights, ports.weights)
        notes = facts["notes"]["weights"]
        for name, note in placed.notes.items():
            again = [note, *note.pop("again")]  # behind the tensor that integer kernels read
            notes[name] = {**(notes[name] if name in notes else again.pop(0)), "again": again}
        facts["dynamic_weights"] = placed.hybrid
        facts["unpacked_weights"] = placed.unpacked
        if not lowered.integer:
            plan.limit = LIMIT if placed.hybrid else plan.limit

    plan.proto = take_nhwc(one_reader_each(lowered.proto), ports.turned)
    plan.integer, plan.edit = lowered.integer, edit
    plan.weights, plan.place = lowered.weights, put if lowered.weights else None
    plan.limit = LIMIT if lowered.integer else plan.limit
    built = build(plan)
    check_weights(built.data, lowered.weights)
    return built, facts


def _sealed(
    task: _Task,
    request: ConvertRequest,
    facts: dict[str, Any],
    model: Any,  # noqa: ANN401 - a generated class
    batch: str,
) -> bytes:
    """Give a file its border and its notes; returns its bytes, and adds to the facts.

    Raises:
        ConversionError: LPT-CONV-415 (floats in a file for an Edge TPU), 416 (too large).
    """
    signature = task.ports.signature
    if task.ports.integer:
        integer_ports(model)
    grids, floats = port_types(model, signature)
    facts["border"] = ("mixed" if floats else "int8") if grids else "float"
    for key, found in (("integer_ports", list(grids)), ("port_grids", grids)):
        facts.pop(key, None)  # of a file that was not used
        facts |= {key: found} if grids else {}
    if task.ports.integer and floats:
        facts["float_ports"] = floats
    if request.device == EDGETPU:
        refuse_floats(model)
        written = as_convolutions(model)
        nodes = placed(model)
        facts["edgetpu"] = {**edgetpu_fact(nodes), "products_as_convolutions": written}
        facts["edgetpu_says"] = list(sentences(nodes))
    notes = {"batch": batch, "border": facts["border"], "precision": _precision(request, facts)}
    notes |= {"integer_ports": list(grids)} if grids else {}
    if task.ports.turned:
        notes["nhwc_inputs"] = facts["nhwc_inputs"] = list(task.ports.turned)
    finish(model, signature, {**notes, **facts.get("notes", {})})
    return pack(model)


def _precision(request: ConvertRequest, facts: dict[str, Any]) -> str:
    return str(facts.get("recipe", {}).get("precision", request.precision))


def _built_half(plan: Plan, facts: dict[str, Any]) -> tuple[Built, dict[str, Any]]:
    found = Half()

    def edit(model: Any) -> None:  # noqa: ANN401 - a generated class
        nonlocal found
        found = store_half(model)  # of the file that counts, which is the last one

    built = build(replace(plan, limit=HALF_LIMIT, edit=edit))
    lost = {"out_of_fp16_range": sorted(found.kept), "zero_in_fp16": found.zeroed}
    return built, {**facts, **lost}


def _written(model: Model, request: ConvertRequest, context: Context, made: _Made) -> ConvertResult:
    built, facts = made.built, made.facts
    precision = _precision(request, facts)
    facts.pop("notes", None)
    said = facts.pop("edgetpu_says", [])
    out = context.workdir / FILE
    write_atomic(out, built.data)
    facts |= storage_facts(stored_values(root_of(built.data)))
    facts |= {"batch": built.batch, "difference_to_torch": built.difference}
    if built.closed:
        facts["batch_closed_because"] = list(built.closed)
    step = LineageStep(
        step=f"convert pivot -> tflite ({precision})",
        owner=f"lepton-tflite {__version__}",
        parent=made.parent,
        request={"precision": precision, "batch": built.batch, **_recipe_digest(facts)},
        tools=versions_of(*_TOOLS),
    )
    kept = ("opset", "storage_precision", "batch", "border", "integer_ports", "port_grids",
            "nhwc_inputs", "recipe")  # fmt: skip
    written = Model(
        format=INFO.artifact,
        path=str(out),
        signature=made.ports.signature,
        digest=digest_path(out),
        lineage=(*model.lineage, step),
        metadata={
            **{k: v for k, v in model.metadata.items() if k != EXTERNAL_FILES},  # the pivot's
            "precision": precision,
            **{key: facts[key] for key in kept if key in facts},
        },
    )
    return ConvertResult(written, facts=facts, warnings=(*_warnings(made), *said))


def _warnings(made: _Made) -> Iterator[str]:
    yield from made.ports.warnings
    if made.facts.get("out_of_fp16_range"):
        first, *others = made.facts["out_of_fp16_range"]
        yield (
            f"{1 + len(others)} constants hold values beyond float16 and stay float32, the first "
            f"is {first!r}."
        )
    if made.facts.get("zero_in_fp16"):
        zeroed = made.facts["zero_in_fp16"]
        yield (
            f"{sum(zeroed.values())} values in {len(zeroed)} constants are too small for float16 "
            f"and became 0, the first in {next(iter(zeroed))!r}."
        )
    if made.facts.get("float_ports"):
        yield (
            f"Not int8 at the border: {', '.join(made.facts['float_ports'])}, as the recipe keeps "
            "what is behind it in float."
        )
    yield from _not_dynamic(made.ports, made.facts)
    if made.built.batch == ROWS:
        yield (
            "The batch cannot stay open, so sessions run it row by row: "
            f"{'; '.join(made.built.closed)}."
        )


def _not_dynamic(ports: Ports, facts: dict[str, Any]) -> Iterator[str]:
    """Say what is computed in float although inputs should be quantized at run time."""
    reasons = facts.get("unpacked_weights", {})
    wanted = {name: why for name, why in reasons.items() if why}
    dynamic = ports.weights == "dynamic" or facts.get("recipe", {}).get("scheme") == "int8-dynamic"
    if wanted and dynamic:
        name, why = next(iter(wanted.items()))
        yield (
            f"{len(wanted)} weights are unpacked to floats, as no kernel quantizes inputs for "
            f"them: the first is {name!r}, where {why}."
        )


def _recipe_digest(facts: dict[str, Any]) -> dict[str, str]:
    return {"recipe": facts["recipe"]["digest"]} if "recipe" in facts else {}


__all__ = ["attempt", "convert"]
