"""Sessions on ONNX Runtime."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core.errors import SessionError
from lepton_core.installing import install_command
from lepton_onnx import pivot
from lepton_onnx.arrays import checked_inputs
from lepton_onnx.external import verify_external
from lepton_onnxruntime._execution import execution_of, storage_facts
from lepton_onnxruntime._map import RECORD, assigned, graph_nodes, map_of
from lepton_onnxruntime._runtime import (
    DISABLED_OPTIMIZERS,
    FLOAT_EXACT,
    SLOWER_EXACT,
    accepts_opset,
    check_options,
    distribution_conflict,
    explain,
    integer_kernels,
    onnxruntime,
    providers,
    session_options,
    switched_on,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    import numpy as np

    from lepton_core.context import Context
    from lepton_core.execution import ExecutionMap
    from lepton_core.types import Model, OpenRequest, Signature

_KEEP_INSIDE = 1024


class OnnxRuntimeSession:
    """A model on ONNX Runtime; :meth:`run` may be called from several threads at once."""

    def __init__(
        self,
        session: Any,  # noqa: ANN401 - a class of the runtime
        signature: Signature,
        facts: dict[str, Any],
        executed: ExecutionMap | None = None,
    ) -> None:
        self._session: Any = session
        self._map = executed
        self.signature = signature
        self.facts: Mapping[str, Any] = facts
        self._outputs = [spec.name for spec in signature.outputs]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once.

        Args:
            inputs: One array per input, of the dtype and shape that the signature states.

        Returns:
            One array per output, in the signature's order.

        Raises:
            SessionError: LPT-RUN-201 … 205 and 208.
        """
        session = self._session
        if session is None:
            raise SessionError(
                "LPT-RUN-208", "The session is closed", remedy="Open the model again."
            )
        arrays = checked_inputs(self.signature, inputs)
        try:
            values = session.run(self._outputs, arrays)
        except Exception as error:
            operator, reason = explain(error)
            raise SessionError(
                "LPT-RUN-205",
                f"ONNX Runtime failed in {operator}" if operator else "ONNX Runtime failed",
                cause=reason,
                remedy="Check the sizes of the inputs against the model; the cause names the node.",
            ) from error
        return dict(zip(self._outputs, values, strict=True))

    def execution_map(self) -> ExecutionMap:
        """Return which nodes run where, in which precision.

        Raises:
            SessionError: LPT-RUN-004, it was opened with ``execution_facts=False``.
        """
        if self._map is None:
            raise SessionError(
                "LPT-RUN-004",
                "There is no execution map of this session on ONNX Runtime",
                cause="It was opened with execution_facts=False, or without (OpenRequest.without).",
                remedy="Open it again with the option execution_facts=True.",
            )
        return self._map

    def close(self) -> None:
        """Free the runtime's resources; calling it again does nothing."""
        self._session = None

    def __enter__(self) -> OnnxRuntimeSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_session(model: Model, request: OpenRequest, context: Context) -> OnnxRuntimeSession:
    """Open an artifact, a pivot or an ONNX file.

    Options: ``spinning``, ``plan_memory`` and ``tf32`` (:mod:`lepton_onnxruntime._runtime`), and
    ``execution_facts=False`` to leave out the look at the optimized graph, which costs the time
    to write it once.

    Raises:
        SourceError: The file cannot be read, or its external data is missing or out of place.
        SessionError: LPT-RUN-206 (device), 207 (the runtime refuses the model), 210 (threads),
            211 (an option).
        PluginDependencyError: LPT-RUN-209, the runtime is not there.
    """
    _check_threads(request)
    check_options(request)
    path = Path(model.path)
    proto = pivot.read(path)
    verify_external(proto, path)
    facts = _static_facts(proto, request)
    wanted = providers(request)
    context.checkpoint()
    options = session_options(request)
    if facts.get("integers") == SLOWER_EXACT:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if not switched_on(request, "execution_facts"):
        return _wrap(_start(path, options, wanted, request, facts), proto, facts, None)
    with tempfile.TemporaryDirectory(dir=context.workdir, prefix="optimized-") as folder:
        optimized = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(optimized)
        for key, value in (
            ("session.optimized_model_external_initializers_file_name", "weights.bin"),
            ("session.optimized_model_external_initializers_min_size_in_bytes", _KEEP_INSIDE),
        ):
            options.add_session_config_entry(key, str(value))
        options.add_session_config_entry(RECORD, "1")
        session = _start(path, options, wanted, request, facts)
        execution = execution_of(optimized)
    takers, given = assigned(session), session.get_providers()
    executed = map_of(execution, graph_nodes(proto.graph), takers, given)
    facts["execution_precision"] = execution.sentence(facts["storage_precision"])
    facts["execution_nodes"] = execution.nodes
    facts["execution_casts"] = execution.casts
    facts["execution"] = executed.totals()
    return _wrap(session, proto, facts, executed)


def _wrap(
    session: Any,  # noqa: ANN401 - a class of the runtime
    proto: Any,  # noqa: ANN401
    facts: dict[str, Any],
    executed: ExecutionMap | None,
) -> OnnxRuntimeSession:
    facts["providers"] = list(session.get_providers())
    return OnnxRuntimeSession(session, pivot.signature(proto), facts, executed)


def _check_threads(request: OpenRequest) -> None:
    if request.threads is not None and request.threads < 1:
        raise SessionError(
            "LPT-RUN-210",
            f"{request.threads} threads were asked for",
            remedy="Ask for 1 or more, or leave it out to use what the container allows.",
        )


def _static_facts(proto: Any, request: OpenRequest) -> dict[str, Any]:  # noqa: ANN401
    ort = onnxruntime()
    facts: dict[str, Any] = {
        "runtime": "onnxruntime",
        "runtime_version": ort.__version__,
        "device": request.device or "cpu",
        "threads": session_options(request).intra_op_num_threads,
        "spinning": switched_on(request, "spinning"),
        "optimizations": "disabled" if request.reference else "all",
        "execution_precision": "not looked at",
        **storage_facts(pivot.graph_facts(proto)["weights"]),
    }
    if facts["stored_values"].get("int8"):
        facts["integers"] = integer_kernels()
    conflict = distribution_conflict()
    if conflict:
        facts["conflict"] = conflict
    return facts


def _start(
    path: Path,
    options: Any,  # noqa: ANN401 - a class of the runtime
    wanted: list[Any],
    request: OpenRequest,
    facts: dict[str, Any],
) -> Any:  # noqa: ANN401
    """Create a session; without integer kernels where the exact ones cannot be had."""
    try:
        return _create(path, options, wanted, request)
    except SessionError:
        if facts.get("integers") != SLOWER_EXACT or request.reference:
            raise
        # ONNX Runtime 1.32 fails to choose them where weights share one zero point.
        options.graph_optimization_level = onnxruntime().GraphOptimizationLevel.ORT_ENABLE_BASIC
        session = _create(path, options, wanted, request)
    facts.update(optimizations="basic", integers=FLOAT_EXACT)
    return session


def _create(path: Path, options: Any, wanted: list[Any], request: OpenRequest) -> Any:  # noqa: ANN401
    ort = onnxruntime()
    try:
        session = ort.InferenceSession(
            str(path), options, providers=wanted, disabled_optimizers=list(DISABLED_OPTIMIZERS)
        )
    except Exception as error:
        operator, reason = explain(error)
        raise SessionError(
            "LPT-RUN-207",
            f"ONNX Runtime {ort.__version__} refuses {path}",
            cause=f"{operator}: {reason}" if operator else reason,
            remedy=_remedy(path),
        ) from error
    session.disable_fallback()
    first = wanted[0] if isinstance(wanted[0], str) else wanted[0][0]
    if first not in session.get_providers():
        raise SessionError(
            "LPT-RUN-206",
            f"ONNX Runtime could not start on {request.device}",
            cause=distribution_conflict() or "Its CUDA libraries or a driver are missing.",
            remedy="Check the driver with nvidia-smi; "
            + install_command("lepton-onnxruntime[gpu]"),
        )
    return session


def _remedy(path: Path) -> str:
    opset = pivot.graph_facts(pivot.read(path))["opset"]
    if not accepts_opset(opset):
        return f"It does not know opset {opset}: upgrade onnxruntime, or export with opset 21."
    return "The cause names the operator; `lepton check` tells which operators the target knows."
