"""``lepton_inspect`` for .tflite files: they can be opened, measured and compared."""

from __future__ import annotations

from pathlib import Path

from lepton_core.errors import SessionError, SourceError
from lepton_core.files import digest_path
from lepton_core.types import InspectRequest, InspectResult, Model, OperatorUse
from lepton_tflite._file import border_facts, read_file

_TRAINED = ("float", "int8", "int4")


def inspect(model: Model, request: InspectRequest) -> InspectResult:
    """Read and describe a file, without the runtime.

    Raises:
        SourceError: LPT-SRC-401, it cannot be read, or needs operators of somebody else's.
    """
    path = Path(model.path)
    try:
        found = read_file(path)
        border = border_facts(path, found)
    except SessionError as error:
        raise SourceError(
            "LPT-SRC-401",
            error.message,
            cause=error.cause,
            remedy="Check where the file comes from; it has to be a LiteRT file that the plain "
            "runtime can run.",
        ) from error
    uses = tuple(
        OperatorUse(f"tflite.{name}", count=count)
        for name, count in sorted(found.operators.items())
        if request.operators
    )
    stored = found.facts["stored_values"]
    return InspectResult(
        model=model.evolve(
            signature=found.signature,
            digest=digest_path(path),
            metadata={**model.metadata, **border},
        ),
        operators=uses,
        domain="tflite",
        parameters=sum(n for kind, n in stored.items() if kind.startswith(_TRAINED)),
        facts={**found.facts, "batch": found.batch},
    )


__all__ = ["inspect"]
