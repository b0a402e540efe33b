"""The edge from the pivot to an exported program."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.export import Dim

from lepton_core.errors import ConversionError, LeptonError, PluginDependencyError
from lepton_core.files import digest_path
from lepton_core.installing import install_command
from lepton_core.types import ConvertResult, Model
from lepton_torch._archive import save_program
from lepton_torch._bridge._graph import read_graph
from lepton_torch._bridge._module import BridgeModule
from lepton_torch._bridge._values import DTYPES
from lepton_torch._capture import MAX_BATCH
from lepton_torch._chatter import captured
from lepton_torch._facts import lineage_step, tools
from lepton_torch._materialise import check_options
from lepton_torch._program import Program, describe_program

if TYPE_CHECKING:
    from lepton_core.context import Context
    from lepton_core.types import ConvertRequest, Signature, TensorSpec

_TRIALS = (16, 64, 224)
"""Sizes tried for symbolic dimensions that are no batch, until one suits the graph."""
_BATCH = 2
_TRAVELLING = ("labels", "preprocessing", "source", "parameters")
Axes = dict[str, dict[int, str]]


def export_program(model: Model, request: ConvertRequest, context: Context) -> ConvertResult:
    """Translate a pivot into an exported program.

    Inputs, outputs and weights keep the names of the graph. Its symbolic dimensions stay symbolic
    where the graph allows; a warning tells which did not.

    Args:
        model: Of format ``pivot``.
        request: ``dynamic_batch`` asks for symbolic dimensions; without it they are set to 1.
        context: Where to write ``model.pt2``.

    Returns:
        A model of format ``torch.export``.

    Raises:
        SourceError: The pivot cannot be read.
        ConversionError: LPT-CONV-111 … 117: an operator or a form of it has no translation, with
            the node and its place, or torch.export refuses the graph.
        PluginDependencyError: lepton-onnx is not installed.
    """
    check_options(request, set())
    task = context.reporter.task("Translate to torch")
    try:
        from lepton_onnx.pivot import load
    except ImportError as error:
        raise PluginDependencyError(
            "LPT-CONV-107",
            "The pivot is read by lepton-onnx, which cannot be imported",
            cause=str(error),
            remedy=install_command("lepton-onnx"),
        ) from error
    graph = read_graph(load(model.path))
    context.checkpoint()
    program, warnings = capture_graph(BridgeModule(graph), graph.signature, request.dynamic_batch)
    warnings = [*graph.notes, *warnings]
    context.checkpoint()
    program.notes = _notes(model, program, graph.opset, warnings)
    path = context.workdir / "model.pt2"
    save_program(program, path)
    task.finish()
    result = Model(
        format="torch.export",
        path=str(path),
        signature=program.signature,
        digest=digest_path(path),
        lineage=(
            *model.lineage,
            lineage_step("convert pivot -> torch.export", model.digest, request),
        ),
        metadata={**program.notes},
    )
    return ConvertResult(
        result, facts={**program.notes, "tools": tools()}, warnings=tuple(warnings)
    )


def _notes(model: Model, program: Program, opset: int, warnings: list[str]) -> dict[str, Any]:
    held = {k: v for k, v in dict(model.metadata).items() if k in _TRAVELLING}
    weights = program.exported.state_dict.values()
    batches = [s.shape[0] for s in program.signature.inputs if s.shape]
    batch = next((b for b in batches if isinstance(b, str)), None)
    return {
        "parameters": sum(p.numel() for p in weights if p.is_floating_point()),
        **held,
        "exporter": f"lepton bridge, torch.export {torch.__version__.split('+')[0]}",
        "opset": opset,
        "dynamic_batch": batch is not None,
        "batch_symbol": batch,
        "symbols": {k: list(v) for k, v in sorted(program.bounds.items())},
        "warnings": list(warnings),
    }


def capture_graph(
    module: BridgeModule, signature: Signature, dynamic: bool = True
) -> tuple[Program, list[str]]:
    """Export a graph's module with its symbolic dimensions.

    Sizes are tried in turn, because a graph may need more than a few pixels or tokens. Where
    torch.export proves that a dimension is fixed, the others stay symbolic and a warning says so.

    Raises:
        ConversionError: No size of the inputs suits the graph, or torch.export refuses it.
    """
    axes = _symbols(signature) if dynamic else {}
    problem: LeptonError | None = None
    warnings: list[str] = []
    for size in _TRIALS if any(axes.values()) else (1,):
        inputs = _examples(signature, size if axes else 1, _BATCH if axes else 1)
        try:
            with captured(), torch.no_grad():
                module(*inputs)
        except ConversionError as error:
            if error.code != "LPT-CONV-116":
                raise
            problem = problem or error
            continue
        module.register()
        exported = _export(module, signature, inputs, axes, warnings)
        names = [s.name for s in signature.inputs], [s.name for s in signature.outputs]
        program = describe_program(exported, *names, axes)
        return replace(program, signature=_renamed(program.signature, signature)), warnings
    assert problem is not None  # noqa: S101 - a trial ends in a program or in a problem
    raise problem


def _symbols(signature: Signature) -> Axes:
    """Return a name for every dimension of an input that is not fixed."""
    axes: Axes = {}
    for spec in signature.inputs:
        for position, size in enumerate(spec.shape):
            if not isinstance(size, int):
                name = size if size and size.isidentifier() else f"dim_{len(axes)}_{position}"
                axes.setdefault(spec.name, {})[position] = name
    return axes


def _examples(signature: Signature, size: int, batch: int) -> tuple[torch.Tensor, ...]:
    """Return zeros for every input; the same symbol has the same size everywhere."""
    chosen: dict[str, int] = {}

    def length(spec: TensorSpec, position: int) -> int:
        wanted = spec.shape[position]
        if isinstance(wanted, int):
            return wanted
        own = wanted or f"{spec.name}.{position}"
        return chosen.setdefault(own, size if position else batch)

    types = {str(d).removeprefix("torch.").replace("float8_", "float8"): d for d in DTYPES.values()}
    return tuple(
        torch.zeros([length(s, i) for i in range(len(s.shape))], dtype=types[s.dtype])
        for s in signature.inputs
    )


def _export(
    module: BridgeModule,
    signature: Signature,
    inputs: tuple[torch.Tensor, ...],
    axes: Axes,
    warnings: list[str],
) -> torch.export.ExportedProgram:
    """Export with the dimensions as asked for; where torch cannot, with those that it can."""
    names = [spec.name for spec in signature.inputs]
    if not axes:
        return _try_export(module, inputs, None)
    dims = {
        symbol: Dim(symbol, min=1, max=MAX_BATCH)
        for own in axes.values()
        for symbol in own.values()
    }
    wanted = tuple({i: dims[s] for i, s in axes.get(n, {}).items()} for n in names)
    try:
        return _try_export(module, inputs, (wanted,))
    except ConversionError as error:
        if error.code != "LPT-CONV-117":
            raise
        cause = error.cause
    loose = tuple(dict.fromkeys(axes.get(n, {}), Dim.AUTO) for n in names)
    exported = _try_export(module, inputs, (loose,))
    values = [n.meta["val"] for n in exported.graph.nodes if n.op == "placeholder"][-len(names) :]
    for name, value in zip(names, values, strict=True):
        for position, symbol in axes.get(name, {}).items():
            if not isinstance(value.shape[position], torch.SymInt):
                warnings.append(
                    f"Dimension {position} of {name!r} ({symbol}) is fixed at "
                    f"{value.shape[position]}: {' '.join(str(cause).split())[:200]}"
                )
    return exported


def _try_export(
    module: BridgeModule,
    inputs: tuple[torch.Tensor, ...],
    dynamic: Any,  # noqa: ANN401
) -> torch.export.ExportedProgram:
    try:
        with captured(), torch.no_grad():
            return torch.export.export(module, inputs, dynamic_shapes=dynamic, strict=False)
    except Exception as error:
        if isinstance(error, LeptonError) and error.code != "LPT-CONV-116":
            raise
        where = error.message if isinstance(error, LeptonError) else "torch.export refuses it"
        reason = error.cause if isinstance(error, LeptonError) else error
        raise ConversionError(
            "LPT-CONV-117",
            f"The graph cannot be exported by torch: {where}",
            cause=" ".join(str(reason).split())[:500],
            remedy="Fix the sizes of the inputs in the ONNX model, or ask for static shapes.",
        ) from error


def _renamed(found: Signature, wanted: Signature) -> Signature:
    """Give outputs the graph's names even where two are the same value."""
    outputs = tuple(
        replace(f, name=w.name) for f, w in zip(found.outputs, wanted.outputs, strict=True)
    )
    return replace(found, outputs=outputs)
