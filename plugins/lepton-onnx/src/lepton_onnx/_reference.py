"""A session on ONNX's own reference evaluator: slow, in NumPy, and independent of any runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from lepton_core.errors import LeptonError, SessionError
from lepton_core.installing import install_command
from lepton_onnx._arrays import checked_inputs
from lepton_onnx._load import check, load
from lepton_onnx._signature import signature

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from lepton_core.context import Context
    from lepton_core.types import Model, OpenRequest


class ReferenceSession:
    """Runs a model node by node in NumPy."""

    def __init__(self, path: Path) -> None:
        check(path)
        proto = load(path)
        self.signature = signature(proto)
        self.facts: Mapping[str, Any] = {
            "runtime": "onnx.reference",
            "runtime_version": onnx.__version__,
            "storage_precision": "as in the file",
            "execution_precision": "each operator in its own dtype, in NumPy",
            "threads": 1,
        }
        try:
            self._evaluator: ReferenceEvaluator | None = ReferenceEvaluator(proto)
        except Exception as error:
            raise SessionError(
                "LPT-RUN-207",
                f"ONNX's reference evaluator cannot open {path}",
                cause=" ".join(str(error).split())[:500],
                remedy="Open it with a runtime: " + install_command("lepton-onnxruntime[cpu]"),
            ) from error

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once; see :class:`lepton_core.context.Session`."""
        if self._evaluator is None:
            raise SessionError(
                "LPT-RUN-208", "The session is closed", remedy="Open the model again."
            )
        arrays = checked_inputs(self.signature, inputs)
        try:
            with np.errstate(all="ignore"):
                outputs = self._evaluator.run(None, arrays)
        except LeptonError:
            raise
        except Exception as error:
            raise SessionError(
                "LPT-RUN-205",
                "ONNX's reference evaluator failed",
                cause=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}",
                remedy="Check sizes of the inputs, or open the model with a runtime.",
            ) from error
        names = [spec.name for spec in self.signature.outputs]
        return {n: np.asarray(value) for n, value in zip(names, outputs, strict=True)}

    def close(self) -> None:
        """Forget the model."""
        self._evaluator = None

    def __enter__(self) -> ReferenceSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_reference(model: Model, request: OpenRequest, context: Context) -> ReferenceSession:
    """Open an ONNX file or a pivot on the reference evaluator.

    Raises:
        SourceError: The file cannot be read or is not valid.
        SessionError: LPT-RUN-206 (a device that is not there) or 207.
    """
    if request.device not in (None, "cpu"):
        raise SessionError(
            "LPT-RUN-206",
            f"ONNX's reference evaluator runs on cpu, not on {request.device!r}",
            remedy="Leave the device out, or open the model with a runtime that has it.",
        )
    context.checkpoint()
    return ReferenceSession(Path(model.path))
