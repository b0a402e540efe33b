"""``lepton_inspect`` for .tflite files: they can be opened, measured and compared."""

from __future__ import annotations

from pathlib import Path

from lepton_core.errors import SessionError, SourceError
from lepton_core.files import digest_path
from lepton_core.types import InspectRequest, InspectResult, Model, OperatorUse
from lepton_tflite._file import border_facts, read_file
from lepton_tflite._litert import quiet
from lepton_tflite._runtime import make_interpreter, runtime_name

_TRAINED = ("float", "int8", "int4")


def inspect(model: Model, request: InspectRequest) -> InspectResult:
    """Read and describe a file; the runtime is asked whether it takes it, and does not run it.

    Raises:
        SourceError: LPT-SRC-401, it cannot be read, or needs operators of somebody else's.
        PluginDependencyError: LPT-RUN-401, the runtime is not there.
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
        problems=_refused(path),
        facts={**found.facts, "batch": found.batch},
    )


def _refused(path: Path) -> tuple[str, ...]:
    """Return why the runtime takes a file not, for an operator that is newer than it say."""
    try:
        with quiet():
            make_interpreter(str(path), 1, delegate=False)
    except (ValueError, RuntimeError) as error:
        cause = " ".join(str(error).split())[:500]
        return (f"LiteRT {runtime_name()[1]} refuses the file: {cause}",)
    return ()


__all__ = ["inspect"]
