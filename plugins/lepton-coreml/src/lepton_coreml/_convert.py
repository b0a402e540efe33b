"""``lepton_convert`` for the edge pivot -> coreml."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core.environment import versions_of
from lepton_core.errors import ConversionError, UnsupportedOperationError
from lepton_core.files import digest_path, disk_errors
from lepton_core.types import ConvertRequest, ConvertResult, LineageStep, Model
from lepton_coreml import __version__
from lepton_coreml._doubles import fit_doubles
from lepton_coreml._features import SIGNATURE_NOTE, signature_note, unsupported
from lepton_coreml._integers import VALUES_NOTE
from lepton_coreml._mil._package import open_package
from lepton_coreml._precision import storage
from lepton_coreml._prove import constants_record, kept_in_fp32, run_once
from lepton_coreml._wide import check_wide
from lepton_coreml.info import INFO
from lepton_onnx import pivot
from lepton_onnx.equivalents import lower_ranks
from lepton_onnx.external import digest, verify_external

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto

    from lepton_core.context import Context
    from lepton_core.types import Signature
    from lepton_coreml._frontend import Exported
    from lepton_coreml._same import Numbers

PACKAGE = "model.mlpackage"
DEVICE = "ios18"
"""Deployment target where none is asked for."""
MOST_DIMENSIONS = 5
"""Of a value in an ML Program."""
_OPTIONS = {"keep": (list, tuple), "max_batch": int, "max_size": int, "compute": str}
_COMPUTE = ("fp32", "fp16")
_GRAPH_PROOF = (
    "Graph proof, not device proof: the numbers come from a reference interpreter of the program; "
    "no Apple device has run it."
)


def convert(model: Model, request: ConvertRequest, context: Context) -> ConvertResult:
    """Write ``model.mlpackage`` under ``context.workdir``.

    The signature is that of the pivot. Arrays of Core ML are float32, float16 or int32: a session
    converts other types at the border. The same pivot gives the same bytes.

    Args:
        model: Of format ``pivot``.
        request: ``precision`` is ``fp32`` or ``fp16``, or a ``recipe`` says which values are
            integers. ``device`` is ``ios17`` or ``ios18`` (the default). Options: ``compute``
            (``fp32`` or ``fp16``: what a recipe's program computes in), ``keep`` (MIL operators
            or names of operations that stay float32 in a float16 program), ``max_batch`` (64)
            and ``max_size`` (1024), the largest sizes of a symbolic first and of another
            dimension.
        context: Where to write.

    Returns:
        A model of format ``coreml`` at the package.

    Raises:
        UnsupportedOperationError: LPT-CONV-501 (precision), 502 (a recipe and fp16, or one with
            integers between layers in float16), 503 (an option or a device), 508 (the device
            cannot hold the recipe).
        OptimizeError: LPT-OPT-001 … 008, the recipe cannot be read or does not fit the pivot.
        ConversionError: LPT-CONV-111 … 117 (no translation to torch), 504 (coremltools has none
            for an operator), 505 (it fails on one), 506 (other inputs or outputs), 507 (a type
            that cannot be passed), 509 (the package does not run), 510 (an integer beyond 32
            bits), 511 (the package holds other numbers than the recipe), 512 (a float64 beyond
            float32).
        SourceError: The pivot cannot be read.
        StorageError: The result cannot be written.
    """
    device = _refuse_what_is_not_done(request)
    source = Path(model.path)
    proto = pivot.load(source)
    verify_external(proto, source)
    signature = pivot.signature(proto)
    _check_dtypes(signature)
    parent = model.digest or digest(source)
    context.checkpoint()
    facts: dict[str, Any] = {"opset": pivot.graph_facts(proto)["opset"], "device": device}
    precision = request.precision
    lowered, numbers = proto, None
    if request.recipe:
        from lepton_coreml._lower import lower

        lowered, found, numbers = lower(
            proto, request.recipe, parent, device, half=_is_half(request)
        )
        facts |= found | {"compute": "fp16" if _is_half(request) else "fp32"}
        precision = found["recipe"]["precision"]
    bar = context.reporter.task("Convert with coremltools")
    out = context.workdir / PACKAGE
    lower_ranks(lowered, MOST_DIMENSIONS)
    notes = check_wide(lowered)
    lowered, doubles = fit_doubles(lowered, half=_is_half(request))
    notes += doubles
    exported = _write(lowered, signature, request, device=device, context=context, out=out)
    bar.finish()
    facts |= {"symbols": {k: list(v) for k, v in sorted(exported.symbols.items())}}
    facts |= _check_result(out, proto, request, numbers)
    warnings = [*notes, *exported.warnings, _GRAPH_PROOF]
    written = Model(
        format=INFO.artifact,
        path=str(out),
        signature=signature,
        digest=digest_path(out),
        lineage=(*model.lineage, _step(request, facts, parent, precision, device)),
        metadata=_metadata(model, facts, precision, request),
    )
    return ConvertResult(written, facts=facts, warnings=tuple(warnings))


def _write(
    lowered: ModelProto,
    signature: Signature,
    request: ConvertRequest,
    *,
    device: str,
    context: Context,
    out: Path,
) -> Exported:
    """Write the package; with the sizes from 1 on that the model takes, if it runs with them."""
    from lepton_coreml._frontend import boundary, export

    for from_one in (True, False):  # the second round lowers no bound, so it returns or raises
        context.about_to("translating the graph to torch")
        exported = export(
            boundary(lowered),
            dynamic=request.dynamic_batch,
            max_batch=int(request.options.get("max_batch", 64)),
            max_size=int(request.options.get("max_size", 1024)),
            from_one=from_one,
        )
        context.checkpoint()
        lowered_bound = any(exported.symbols[n][0] < k for n, k in exported.lower.items())
        try:
            found = _written(exported, signature, request, device=device, context=context, out=out)
        except ConversionError as error:
            if lowered_bound and error.code in ("LPT-CONV-505", "LPT-CONV-509"):
                continue
            raise
        low = [f"{n} from {k} on" for n, k in exported.lower.items() if exported.symbols[n][0] > 1]
        bounds = (
            [f"The package takes {', '.join(low)}: it cannot be made for fewer."] if low else []
        )
        return replace(exported, warnings=(*exported.warnings, *bounds, *found))
    raise AssertionError


def _written(
    exported: Exported,
    signature: Signature,
    request: ConvertRequest,
    *,
    device: str,
    context: Context,
    out: Path,
) -> list[str]:
    from lepton_coreml._build import build
    from lepton_coreml._mil._write import feature_names, finish

    names = feature_names([s.name for s in (*signature.inputs, *signature.outputs)])
    count = len(signature.inputs)
    with (
        disk_errors(f"the package in {context.workdir}"),
        tempfile.TemporaryDirectory(dir=context.workdir, prefix=".coreml-") as scratch,
    ):
        raw, ready = Path(scratch) / "raw.mlpackage", Path(scratch) / PACKAGE
        values = build(
            exported,
            raw,
            device=device,
            half=_is_half(request),
            keep=tuple(request.options.get("keep", ())),
            recipe=bool(request.recipe),
            tell=_words(exported, context),
        )
        context.checkpoint()
        notes = {SIGNATURE_NOTE: signature_note(signature)}
        if values:
            notes[VALUES_NOTE] = values
        try:
            finish(raw, ready, inputs=names[:count], outputs=names[count:], notes=notes)
        except ValueError as error:
            raise ConversionError(
                "LPT-CONV-506",
                "The ML Program has other inputs or outputs than the pivot",
                cause=f"{error}; the pivot is {signature}.",
                remedy="Report this model as a bug.",
            ) from error
        context.about_to("running the package")
        known = [
            tuple(str(d) if d in exported.symbols else "" for d in s.shape)
            for s in signature.inputs
        ]
        warnings = run_once(ready, known)
        ready.rename(out)
    return warnings


def _words(exported: Exported, context: Context) -> Callable[[str, str], None]:
    """Return what tells of every operator before coremltools translates it, by the graph's name."""
    from lepton_torch.bridge import origin_of

    known = {node.name: origin_of(node) for node in exported.program.graph.nodes}

    def tell(kind: str, name: str) -> None:
        found = known.get(name) or {"operator": kind, "place": name}
        context.about_to(
            "translating the program with coremltools",
            operator=str(found["operator"]),
            where=str(found["place"]),
        )

    context.about_to("translating the program with coremltools")
    return tell


def _check_result(
    out: Path, proto: ModelProto, request: ConvertRequest, numbers: Numbers | None
) -> dict[str, Any]:
    """Return what is recorded about the constants, compared with those of the pivot.

    Raises:
        ConversionError: LPT-CONV-511, the recipe's numbers are not those of the package, which is
            taken away.
    """
    half = _is_half(request)
    more: dict[str, Any] = {}
    program = open_package(out).program()
    if request.recipe and numbers is not None:
        from lepton_core.recipe import read
        from lepton_coreml._same import check_numbers

        try:
            more["integers"] = check_numbers(program, numbers, read(request.recipe))
        except ConversionError:
            shutil.rmtree(out)
            raise
    if half:
        more["kept_in_fp32"] = kept_in_fp32(out, request.options.get("keep", ()))
    return {
        **more,
        "storage_precision": storage(program)["storage_precision"],
        "weights": constants_record(
            out, proto, half=half, more=numbers.small.floats() if numbers is not None else ()
        ),
        "proof": "graph, not device",
    }


def _metadata(
    model: Model, facts: dict[str, Any], precision: str, request: ConvertRequest
) -> dict[str, Any]:
    held = {k: v for k, v in model.metadata.items() if k != "external_files"}
    return {
        **held,
        "opset": facts["opset"],
        "precision": precision,
        "storage_precision": facts["storage_precision"],
        "device": facts["device"],
        "symbols": facts["symbols"],
        "weights_sha256": facts["weights"]["sha256"],
        "proof": facts["proof"],
        **({"recipe": facts["recipe"]} if request.recipe else {}),
    }


def _step(
    request: ConvertRequest, facts: dict[str, Any], parent: str, precision: str, device: str
) -> LineageStep:
    asked: dict[str, Any] = {"precision": precision, "device": device}
    if request.options:
        asked["options"] = json.loads(json.dumps(dict(request.options), default=list))
    if request.recipe:
        asked["recipe"] = facts["recipe"]["digest"]
    return LineageStep(
        step=f"convert pivot -> coreml ({precision})",
        owner=f"lepton-coreml {__version__}",
        parent=parent,
        request=asked,
        tools=versions_of("coremltools", "torch", "onnx"),
    )


def _refuse_what_is_not_done(request: ConvertRequest) -> str:
    """Return the deployment target, or refuse the request."""
    if request.recipe and request.precision in ("fp16", "bf16"):
        raise UnsupportedOperationError(
            "LPT-CONV-502",
            f"A recipe and the precision {request.precision} do not go together",
            cause=f"{request.recipe} says which values are integers.",
            remedy="Leave the precision out; the option compute=fp16 makes the floats of a "
            "recipe's program float16.",
        )
    if request.precision not in INFO.precisions and not request.recipe:
        raise UnsupportedOperationError(
            "LPT-CONV-501",
            f"coreml cannot be built as {request.precision!r}",
            cause=f"It is built as {' or '.join(INFO.precisions)}.",
            remedy="Choose one of these; int8 and int4 are made by `lepton optimize`.",
        )
    device = request.device or DEVICE
    if device not in INFO.devices:
        raise _bad_option(f"the device {device!r}", "ios17 and ios18 are known")
    for name, value in request.options.items():
        kinds = _OPTIONS.get(name)
        if kinds is None:
            raise _bad_option(f"the option {name!r}", f"it has {', '.join(_OPTIONS)}")
        wrong = not isinstance(value, kinds) or isinstance(value, bool)  # type: ignore[arg-type]
        odd = name == "compute" and value not in _COMPUTE
        if wrong or odd or (isinstance(value, int) and value < 1):
            raise _bad_option(
                f"{name}={value!r}",
                "sizes are numbers from 1 on, keep is a list, compute is fp32 or fp16",
            )
    if "compute" in request.options and not request.recipe:
        raise _bad_option("compute", "it belongs to a recipe; a precision says it without one")
    if request.options.get("keep") and not _is_half(request):
        raise _bad_option("keep", "it says what stays float32 in a float16 program")
    return DEVICE if device == "reference" else device


def _is_half(request: ConvertRequest) -> bool:
    """Tell whether the program is to compute in float16."""
    if request.recipe:
        return request.options.get("compute") == "fp16"
    return request.precision == "fp16"


def _bad_option(what: str, cause: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        "LPT-CONV-503",
        f"coreml cannot be converted with {what}",
        cause=f"{cause}.",
        remedy="Leave it out, or choose one of these.",
    )


def _check_dtypes(signature: Signature) -> None:
    wrong = unsupported(signature)
    if wrong:
        raise ConversionError(
            "LPT-CONV-507",
            f"{wrong[0]} is of a kind that Core ML's arrays cannot hold",
            remedy="Keep strings, sequences and bfloat16 inside the model, or outside of it.",
        )


__all__ = ["PACKAGE", "convert"]
