"""Turns a live module into an exported program, with weights and a recipe to rebuild it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import safetensors.torch
import torch

from lepton_core.errors import ConversionError
from lepton_core.files import digest_path, write_atomic
from lepton_core.types import ConvertResult, Model
from lepton_torch._archive import save_program
from lepton_torch._capture import capture
from lepton_torch._disk import writing
from lepton_torch._facts import lineage_step
from lepton_torch._sources import open_source

if TYPE_CHECKING:
    from pathlib import Path

    from lepton_core.context import Context
    from lepton_core.types import ConvertRequest
    from lepton_torch._program import Program
    from lepton_torch._sources import LiveSource

_OPTIONS = {"require_dynamic_batch"}


def check_options(request: ConvertRequest, known: set[str]) -> None:
    """Refuse options that this edge does not know.

    Raises:
        ConversionError: An option is unknown.
    """
    unknown = sorted(set(request.options) - known)
    if unknown:
        raise ConversionError(
            "LPT-CONV-109",
            f"lepton-torch knows no option {unknown[0]!r} for this conversion",
            remedy=f"Options: {', '.join(sorted(known)) or 'none'}.",
        )


def materialise(model: Model, request: ConvertRequest, context: Context) -> ConvertResult:
    """Export a factory's or a Hugging Face model.

    Writes ``model.pt2``, ``weights.safetensors`` (the module's own parameter names) and
    ``factory.json`` (how to build the module again, for training) into the work directory.
    The bytes depend on the source, the seed and the version of torch alone.

    Args:
        model: Of format ``torch.factory`` or ``huggingface``.
        request: ``dynamic_batch`` asks for a symbolic first dimension; where the module cannot
            be exported so, static shapes are used and a warning says why, unless the option
            ``require_dynamic_batch`` is true.
        context: Where to write, and the seed for the factory.

    Returns:
        A model of format ``torch.export``.

    Raises:
        SourceError: The source cannot be brought to life.
        ConversionError: The module cannot be exported; names the user's line.
    """
    check_options(request, _OPTIONS)
    task = context.reporter.task("Export with torch.export")
    with open_source(model, context.seed) as source:
        context.checkpoint()
        required = bool(request.options.get("require_dynamic_batch", False))
        program, warnings = capture(source, request.dynamic_batch, required)
        context.checkpoint()
        path = context.workdir / "model.pt2"
        save_program(program, path)
        sidecars = _write_sidecars(source, program, context)
    task.finish()
    notes = program.notes
    metadata = {**model.metadata, **notes, "artifacts": sidecars}
    result = Model(
        format="torch.export",
        path=str(path),
        signature=program.signature,
        digest=digest_path(path),
        lineage=(
            *model.lineage,
            lineage_step("materialise", model.digest or source.digest, request),
        ),
        metadata=metadata,
    )
    return ConvertResult(result, facts=dict(notes), warnings=tuple(warnings))


def _write_sidecars(source: LiveSource, program: Program, context: Context) -> dict[str, str]:
    """Write weights and recipe beside the program; return their digests by file name."""
    weights = context.workdir / "weights.safetensors"
    tensors = {
        name: value.detach().cpu().contiguous().clone()  # safetensors refuses shared storage
        for name, value in source.module.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
    with writing(weights, sum(t.nbytes for t in tensors.values())):
        safetensors.torch.save_file(tensors, str(weights), metadata={"format": "pt"})
    recipe = {
        "schema": 1,
        **source.origin,
        "digest": source.digest,
        "seed": context.seed,
        "inputs": [str(spec) for spec in program.signature.inputs],
        "input_names": [spec.name for spec in program.signature.inputs],
        "output_names": [spec.name for spec in program.signature.outputs],
        "dtype": sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()}),
        "weights": {"file": weights.name, "digest": digest_path(weights)},
        "shared": _shared(source.module),
    }
    factory: Path = context.workdir / "factory.json"
    write_atomic(factory, json.dumps(recipe, indent=1, sort_keys=True) + "\n")
    return {p.name: digest_path(p) for p in (weights, factory)}


def _shared(module: torch.nn.Module) -> list[list[str]]:
    """Return the groups of parameter names that are one tensor (tied weights)."""
    groups: dict[int, list[str]] = {}
    for name, value in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(value), []).append(name)
    return sorted(sorted(names) for names in groups.values() if len(names) > 1)
