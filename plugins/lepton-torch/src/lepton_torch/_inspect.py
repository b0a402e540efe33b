"""Reads a source without converting it: signature, operators, and what stands in the way."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

from lepton_core.errors import ConversionError
from lepton_core.files import digest_path
from lepton_core.types import InspectResult
from lepton_torch._archive import load_program
from lepton_torch._capture import capture
from lepton_torch._operators import list_operators, missing_operators, random_operators
from lepton_torch._sources import open_source

if TYPE_CHECKING:
    from lepton_core.context import Context
    from lepton_core.types import InspectRequest, Model, OperatorUse
    from lepton_torch._program import Program

_OPSET = 21
_FORMATS = {"torch.factory", "huggingface", "torch.export"}


def inspect_source(model: Model, request: InspectRequest, context: Context) -> InspectResult | None:
    """Find out what a torch source is and what would stop its conversion.

    A live source is exported in memory, nothing is written. A module that cannot be exported is
    no error here: the reason is in ``problems`` and ``facts["exported"]`` is false.

    Args:
        model: Of one of this plugin's source formats.
        request: Whether to list operators.
        context: Seed and reporter.

    Returns:
        The model with signature and digest, operators in the ``aten`` domain with the user's
        line of first use; ``None`` for another format.

    Raises:
        SourceError: The source cannot be found, read or trusted.
    """
    if model.format not in _FORMATS:
        return None
    if model.format == "torch.export":
        program = load_program(model.path)
        found = model.evolve(
            signature=program.signature,
            digest=digest_path(model.path),
            metadata={**model.metadata, **program.notes},
        )
        return _report(found, program, request, list(program.notes.get("warnings", ())))
    with open_source(model, context.seed) as source:
        found = model.evolve(digest=source.digest)
        try:
            program, warnings = capture(source)
        except ConversionError as error:
            problem = f"{error.message} ({error.cause})" if error.cause else error.message
            values = list(source.module.parameters())
            return InspectResult(
                found.evolve(metadata={**model.metadata, "source": source.origin}),
                domain="aten",
                parameters=sum(p.numel() for p in values),
                facts={
                    "exported": False,
                    "error": error.to_dict(),
                    "dtypes": _dtypes(values),
                    "warnings": source.warnings,
                },
                problems=(problem,),
            )
        found = found.evolve(
            signature=program.signature, metadata={**model.metadata, **program.notes}
        )
        return _report(found, program, request, warnings)


def _report(
    model: Model, program: Program, request: InspectRequest, warnings: list[str]
) -> InspectResult:
    exported = program.exported
    parameters = list(exported.parameters())
    operators: tuple[OperatorUse, ...] = ()
    problems: list[str] = []
    if request.operators:
        missing = missing_operators(exported, _OPSET)
        operators = list_operators(exported, missing)
        problems = [
            f"{use.name} ({use.where or 'no source line known'}): {use.note}"
            for use in operators
            if use.convertible is False
        ]
        warnings += [f"{name} draws random numbers" for name in random_operators(exported)]
    facts: dict[str, Any] = {
        "exported": True,
        "dynamic_batch": "batch" in program.bounds,
        "symbols": {k: list(v) for k, v in program.bounds.items()},
        "dtypes": _dtypes(parameters),
        "exporter": f"torch.export {torch.__version__}",
        "warnings": list(dict.fromkeys(warnings)),
    }
    return InspectResult(
        model,
        operators=operators,
        domain="aten",
        parameters=sum(p.numel() for p in parameters),
        facts=facts,
        problems=tuple(problems),
    )


def _dtypes(values: list[torch.nn.Parameter]) -> dict[str, int]:
    """Return how many trained values there are of each dtype."""
    counts: Counter[str] = Counter()
    for value in values:
        counts[str(value.dtype).removeprefix("torch.")] += value.numel()
    return dict(sorted(counts.items()))
