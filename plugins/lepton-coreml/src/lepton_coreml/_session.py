"""Sessions: the reference interpreter, or coremltools on a Mac."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lepton_core.environment import version_of
from lepton_core.errors import LeptonError, SessionError
from lepton_core.files import digest_path
from lepton_core.switches import as_switch
from lepton_core.types import REFERENCE_DEVICE
from lepton_coreml import __version__
from lepton_coreml._features import (
    from_feature,
    named,
    recorded_signature,
    systems,
    to_feature,
)
from lepton_coreml._interpreter import Interpreter, OperatorError
from lepton_coreml._mil._package import Package, damaged, open_package
from lepton_coreml._mil._write import DIGEST_NOTE
from lepton_coreml._precision import execution_sentence, storage
from lepton_coreml.info import INFO
from lepton_onnx.arrays import checked_inputs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    import numpy as np

    from lepton_core.context import Context
    from lepton_core.types import Model, OpenRequest, Signature
    from lepton_coreml._mil._program import Program


_NEWEST = {"ios17": 8, "ios18": 9}
"""Newest version of the file format that a device reads."""
_OF_IOS18 = frozenset(
    {
        "constexpr_blockwise_shift_scale", "constexpr_lut_to_sparse",
        "constexpr_sparse_blockwise_shift_scale", "scaled_dot_product_attention",
    }
)  # fmt: skip
"""Operators that iOS 18 brought, by which a package is known to be more than recently written."""


class Engine(Protocol):
    """What runs a program: arrays by the program's own names in and out."""

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run once."""


class CoreMLSession:
    """A package; :meth:`run` may be called from several threads at once.

    Args:
        engine: What runs it.
        program: The program.
        signature: Named inputs and outputs.
        facts: What is known about the session.
    """

    def __init__(
        self, engine: Engine, program: Program, signature: Signature, facts: dict[str, Any]
    ) -> None:
        self.signature = signature
        self.facts: Mapping[str, Any] = facts
        self._engine: Engine | None = engine
        self._program = program
        self._features = named(program, signature)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once.

        Args:
            inputs: One array per input, of the dtype and shape that the signature states.

        Returns:
            One array per output, in the signature's order; they belong to the caller.

        Raises:
            SessionError: LPT-RUN-201 to 204 (an input is missing, unknown, or of a wrong dtype or
                shape), 506 (an operator fails), 507 (a number that the package's type cannot
                hold), 508 (a size beyond the package's bounds), 511 (closed), 512 (Core ML
                refuses them).
        """
        engine, feed = self._opened(), self._feed(inputs)
        try:
            made = engine.run(feed)
        except OperatorError as error:
            raise _fails(error) from error
        return {
            s.name: from_feature(s, made[self._features[s.name].name])
            for s in self.signature.outputs
        }

    def inner(
        self, inputs: Mapping[str, np.ndarray], fed: Mapping[str, np.ndarray] | None = None
    ) -> Iterator[tuple[str, str, np.ndarray]]:
        """Run once, and yield name, operator and array of every value of the program.

        Args:
            inputs: As for :meth:`run`.
            fed: Values by the program's names that operators read in the place of those made here.

        Raises:
            SessionError: As :meth:`run`; 510, Core ML runs the package and shows no inner values.
        """
        engine, feed = self._opened(), self._feed(inputs)
        if not isinstance(engine, Interpreter):
            raise SessionError(
                "LPT-RUN-510",
                "Core ML shows no inner values",
                remedy="Open the package with the device reference.",
            )
        try:
            for operation, made in engine.steps(feed, fed):
                for name, value in made.items():
                    yield name, operation.kind, value
        except OperatorError as error:
            raise _fails(error) from error

    def differences(self, other: CoreMLSession) -> tuple[str, ...]:
        """Return how this package differs from another's: operations, and constants."""
        from lepton_coreml.locate import differences

        operations, constants = differences(self._program, other._program)
        return (*operations, *(f"{name}: {n} numbers differ" for name, n in constants.items()))

    def _opened(self) -> Engine:
        if self._engine is None:
            raise SessionError(
                "LPT-RUN-511", "The session is closed", remedy="Open the model again."
            )
        return self._engine

    def _feed(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = checked_inputs(self.signature, inputs)
        return {
            self._features[s.name].name: to_feature(s, self._features[s.name], arrays[s.name])
            for s in self.signature.inputs
        }

    def close(self) -> None:
        """Free the program; calling it again does nothing."""
        self._engine = None

    def __enter__(self) -> CoreMLSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _fails(error: OperatorError) -> SessionError:
    return SessionError(
        "LPT-RUN-506",
        f"{error.operation.kind} ({error.operation.name!r}) fails on these inputs",
        cause=error.cause,
        remedy="Check the inputs; indices must be in range and sizes must fit together.",
        details={"operator": error.operation.kind, "where": error.operation.name},
    )


class _Mac:
    """Core ML itself, through coremltools. Not tried: no Mac was at hand."""

    def __init__(self, path: Path, units: str) -> None:
        from lepton_coreml._coremltools import captured, coremltools

        ct = coremltools()
        with captured():
            self._model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit[units])

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            made: dict[str, Any] = self._model.predict(dict(inputs))
        except Exception as error:
            raise _core_ml_refuses("to run on these inputs", error) from error
        return made


def open_session(model: Model, request: OpenRequest, context: Context) -> CoreMLSession:
    """Open a package.

    On a Mac Core ML runs it, unless the device is ``reference`` or a yardstick is asked for;
    everywhere else the reference interpreter does. Options: ``compute_units`` (``"CPU_ONLY"`` by
    default, ``"CPU_AND_NE"``, ``"CPU_AND_GPU"``, ``"ALL"``), on a Mac alone; ``unverified``, which
    opens a package whose weights are others than it was written with, to see where it errs.

    Raises:
        SessionError: LPT-RUN-501 (no ML Program), 502 (damaged), 503 (newer), 504 (a path leaves
            the package), 505 (other weights), 506 (an operator that the interpreter does not
            know), 510 (device or option), 512 (Core ML refuses it), 513 (it needs a newer system
            than the device's).
    """
    device = request.device or ""
    _check_request(request, device)
    path = Path(model.path)
    package = open_package(path)
    program = package.program()
    if not as_switch(request.options.get("unverified", False)):
        _check_weights(package, program)
    if program.version > _NEWEST.get(device, program.version):
        raise _too_new(path, program, device)
    context.checkpoint()
    on_mac = sys.platform == "darwin" and device != "reference" and not request.reference
    engine: Engine = _mac(path, request) if on_mac else _interpreter(program)
    signature = model.signature or _recorded(path, program)
    counts = (len(signature.inputs), len(signature.outputs))
    if counts != (len(program.inputs), len(program.outputs)):
        raise damaged(path, "it has other inputs or outputs than its signature")
    version = version_of("coremltools") if on_mac else __version__
    facts: dict[str, Any] = {
        "runtime": "coreml" if on_mac else "lepton-coreml reference interpreter",
        "runtime_version": version,
        "device": "macos" if on_mac else REFERENCE_DEVICE,
        "threads": None,
        "proof": "device" if on_mac else "graph proof, not device proof",
        "opset": program.opset,
        "needs": "iOS {}, macOS {}".format(*systems(program)),
        **storage(program),
    }
    facts["execution_precision"] = execution_sentence(program, on_device=on_mac)
    return CoreMLSession(engine, program, signature, facts)


def _too_new(path: Path, program: Program, device: str) -> SessionError:
    needs = "iOS {} and macOS {}".format(*systems(program))
    forms = sorted({op.kind for op in program.block.operations if op.kind in _OF_IOS18})
    return SessionError(
        "LPT-RUN-513",
        f"{path.name} needs {needs}, and {device} does not read it",
        cause=f"It is of version {program.version} of the file format with operators of "
        f"{program.opset}; {device} reads up to version {_NEWEST[device]}."
        + (f" It holds {', '.join(forms)}, which {needs} brought." if forms else ""),
        remedy=f"Convert the model for it (--to coreml:{device}), or deploy this package to "
        "coreml:ios18. Weights in 4 bits, by block or with several tables have no form there: "
        "choose int8, or palettes without --group.",
        details={"needs": needs, "device": device},
    )


def _recorded(path: Path, program: Program) -> Signature:
    try:
        return recorded_signature(program)
    except ValueError as error:
        raise damaged(path, str(error)) from error


def _interpreter(program: Program) -> Engine:
    try:
        return Interpreter(program)
    except OperatorError as error:
        raise SessionError(
            "LPT-RUN-506",
            f"The reference interpreter cannot run {error.operation.kind} "
            f"({error.operation.name!r})",
            cause=error.cause,
            remedy="Run the package on a Mac, or convert the model with lepton.",
            details={"operator": error.operation.kind, "where": error.operation.name},
        ) from error


def _mac(path: Path, request: OpenRequest) -> Engine:
    try:
        return _Mac(path, str(request.options.get("compute_units", "CPU_ONLY")))
    except LeptonError:
        raise
    except Exception as error:
        raise _core_ml_refuses(f"{path}", error) from error


def _core_ml_refuses(what: str, error: Exception) -> SessionError:
    return SessionError(
        "LPT-RUN-512",
        f"Core ML refuses {what}",
        cause=f"{type(error).__name__}: {' '.join(str(error).split())[:400]}",
        remedy="Check the deployment target against the system's version; the device reference "
        "runs the package without Core ML.",
    )


def _check_weights(package: Package, program: Program) -> None:
    wanted = program.metadata.get(DIGEST_NOTE)
    files = package.weight_files()
    found = digest_path(files[0]) if files else ""
    if wanted is not None and (len(files) != 1 or found != wanted):
        raise SessionError(
            "LPT-RUN-505",
            f"{package.path} holds other weights than it was written with",
            cause=f"Their digest is {found or 'missing'}; the program names {wanted}.",
            remedy="Copy the package again from where it is whole, or convert the model again.",
        )


def _check_request(request: OpenRequest, device: str) -> None:
    odd = [name for name in request.options if name not in ("compute_units", "unverified")]
    if odd or (device and device not in INFO.devices):
        what = f"the option {odd[0]!r}" if odd else f"the device {device!r}"
        raise SessionError(
            "LPT-RUN-510",
            f"coreml cannot be opened with {what}",
            cause=f"Devices are {', '.join(INFO.devices)}; options are compute_units and "
            "unverified.",
            remedy="Leave it out, or choose one of these.",
        )


__all__ = ["CoreMLSession", "open_session"]
