"""The work behind the hooks; this module may import the runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from lepton_core.artifacts import copy_artifact
from lepton_core.errors import ConversionError, SessionError
from lepton_core.files import digest_path
from lepton_core.types import ConvertResult, LineageStep
from lepton_onnx import pivot
from lepton_onnx.arrays import checked_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.context import Context
    from lepton_core.types import ConvertRequest, Model


def convert(model: Model, request: ConvertRequest, context: Context) -> ConvertResult:
    """Write the artifact under ``context.workdir``.

    Raises:
        ConversionError: ``ACME-CONV-001`` the runtime does not take the graph.
    """
    context.checkpoint()  # stop here if the user pressed Ctrl-C
    written = copy_artifact(model, context.workdir)
    proto = onnx.load(written.path)
    try:
        ReferenceEvaluator(proto)
    except NotImplementedError as error:
        raise ConversionError(
            "ACME-CONV-001",
            "ACME does not know an operator of this model",
            cause=str(error),
            remedy="Replace the operator in the model, or choose another target.",
        ) from error
    step = LineageStep(
        step="convert pivot -> acme",
        owner="lepton-acme 0.1.0",
        parent=model.digest or None,
        request={"precision": request.precision},
        tools={"onnx": onnx.__version__},
    )
    return ConvertResult(
        written.evolve(
            format="acme",
            signature=pivot.signature(proto),
            digest=digest_path(written.path),
            lineage=(*model.lineage, step),
        ),
        facts={"storage_precision": "fp32"},
    )


class AcmeSession:
    """Named arrays in, named arrays out; see :class:`lepton_core.context.Session`.

    Raises:
        SessionError: ``ACME-RUN-002`` the file cannot be read.
    """

    def __init__(self, path: str) -> None:
        try:
            proto = onnx.load(path)
            self._evaluator: ReferenceEvaluator | None = ReferenceEvaluator(proto)
        except Exception as error:  # whatever the runtime raises at a file that is damaged
            raise SessionError(
                "ACME-RUN-002",
                f"ACME cannot open {path}",
                cause=f"{type(error).__name__}: {error}",
                remedy="The file is damaged or not an artifact of this target: convert anew.",
            ) from error
        self.signature = pivot.signature(proto)
        self.facts: dict[str, Any] = {
            "runtime": "acme",
            "runtime_version": onnx.__version__,
            "threads": 1,
            "storage_precision": "fp32",
            "execution_precision": "fp32",
        }

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once.

        Raises:
            SessionError: The session is closed, or an input does not fit the signature.
        """
        if self._evaluator is None:
            raise SessionError("ACME-RUN-001", "The session is closed", remedy="Open it again.")
        values = self._evaluator.run(None, checked_inputs(self.signature, inputs))
        names = [spec.name for spec in self.signature.outputs]
        return {n: np.asarray(v) for n, v in zip(names, values, strict=True)}

    def close(self) -> None:
        """Free what the session holds; calling it again does nothing."""
        self._evaluator = None

    def __enter__(self) -> AcmeSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
