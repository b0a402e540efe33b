"""Sessions on OpenVINO."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.environment import version_of
from lepton_core.errors import SessionError
from lepton_onnx.arrays import checked_inputs
from lepton_openvino import _ir
from lepton_openvino._dtypes import NUMPY_NAMES, storage_facts
from lepton_openvino._execution import execution_map, sentence
from lepton_openvino._messages import explain, operators_without_rule
from lepton_openvino._ports import indices, signature_of
from lepton_openvino._products import apply_products, products_fact
from lepton_openvino._settings import check_request, compiled_facts, device_name, properties
from lepton_openvino._shapes import ShapeGuard
from lepton_openvino._telemetry import openvino

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from lepton_core.context import Context
    from lepton_core.execution import ExecutionMap
    from lepton_core.types import Model, OpenRequest, Signature


class OpenVinoSession:
    """A model on OpenVINO; :meth:`run` may be called from several threads at once.

    Args:
        compiled: OpenVINO's compiled model.
        signature: Named inputs and outputs.
        facts: What is known about the session.
        executed: What the runtime runs.
        guard: Checks shapes where the runtime does not.
    """

    def __init__(
        self,
        compiled: Any,  # noqa: ANN401 - a class of the runtime
        signature: Signature,
        facts: dict[str, Any],
        executed: ExecutionMap,
        guard: ShapeGuard | None,
    ) -> None:
        self.signature = signature
        self.facts: Mapping[str, Any] = facts
        self._compiled: Any = compiled
        self._guard = guard
        self._map = executed
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._inputs = _ordered(signature.inputs, compiled.inputs)
        self._outputs = _ordered(signature.outputs, compiled.outputs)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once.

        Indices out of range (an embedding's, for instance) are not noticed by OpenVINO.

        Args:
            inputs: One array per input, of the dtype and shape that the signature states.

        Returns:
            One array per output, in the signature's order; they belong to the caller.

        Raises:
            SessionError: LPT-RUN-201 to 204 (an input is missing, unknown, or of a wrong dtype or
                shape), 304 (shapes do not fit together, or the runtime failed), 305 (closed).
        """
        compiled = self._compiled
        if compiled is None:
            raise _closed()
        arrays = checked_inputs(self.signature, inputs)
        feed = dict(zip(self._inputs, arrays.values(), strict=True))
        try:
            if self._guard is not None:
                self._guard.check([feed[i].shape for i in range(len(feed))])
            request = self._take(compiled)
            request.infer(feed, share_inputs=True, share_outputs=True)
            values = [np.array(request.get_output_tensor(i).data) for i in self._outputs]
        except Exception as error:
            # The request is not used again: what it holds now is not known.
            raise SessionError(
                "LPT-RUN-304",
                "OpenVINO cannot run the model on these inputs",
                cause=explain(error),
                remedy="Check the sizes of the inputs against each other; the cause names the "
                "node.",
            ) from error
        self._idle.put(request)
        return {s.name: v for s, v in zip(self.signature.outputs, values, strict=True)}

    def _take(self, compiled: Any) -> Any:  # noqa: ANN401 - classes of the runtime
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return compiled.create_infer_request()

    def execution_map(self) -> ExecutionMap:
        """Return which layers run where, in which precision."""
        return self._map

    def close(self) -> None:
        """Free the runtime's resources; calling it again does nothing."""
        self._compiled = self._guard = None
        self._idle = queue.SimpleQueue()

    def __enter__(self) -> OpenVinoSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _ordered(specs: Any, ports: Any) -> list[int]:  # noqa: ANN401 - classes of the runtime
    found = indices(specs, ports)
    if found is None:
        wanted = ", ".join(map(str, specs))
        raise SessionError(
            "LPT-RUN-301",
            "OpenVINO's model has other inputs or outputs than its signature",
            cause=f"It has {', '.join(map(str, ports))}; the signature says {wanted}.",
            remedy="Convert the model again: lepton convert MODEL --to openvino",
        )
    return found


def _closed() -> SessionError:
    return SessionError("LPT-RUN-305", "The session is closed", remedy="Open the model again.")


def open_session(model: Model, request: OpenRequest, context: Context) -> OpenVinoSession:
    """Open an IR or a pivot.

    Options: ``inference_precision`` (``"f32"`` by default, ``"bf16"``, ``"f16"``), ``hint``
    (``"latency"`` by default, ``"throughput"``), ``streams`` (calls that run side by side),
    ``pinning`` (bind threads to cores; off), ``cache`` (a folder that compiled models are kept in,
    or ``True`` for one under ``context.workdir``; off), ``dynamic_quantization`` (``"auto"`` by
    default; ``"off"`` keeps the inputs of products with weights in few bits),
    ``integer_products`` (``"exact"`` by default; ``"fast"`` keeps kernels whose sums may saturate
    on a CPU without VNNI).

    Raises:
        SourceError: The pivot cannot be read.
        SessionError: LPT-RUN-301 (signature), 302 (no IR), 303 (other values), 306 (device), 307
            (option), 308 (precision), 310 (threads), 311 (OpenVINO refuses the model).
        PluginDependencyError: LPT-RUN-309, OpenVINO is not there.
    """
    check_request(request)
    path = Path(model.path)
    signature, stored = _pivot(path) if model.format == "pivot" else _openvino_ir(path, model)
    context.checkpoint()
    core = openvino().Core()
    device = device_name(request)
    _check_device(core, device)
    try:
        network = core.read_model(path)
        products = products_fact(network, request)
        apply_products(core, products)
        settings = properties(request, context.workdir, products)
        compiled = core.compile_model(network, device, settings)
    except Exception as error:
        raise _refused(path, device, error) from error
    storage = storage_facts(stored)
    facts: dict[str, Any] = {
        "runtime": "openvino",
        "runtime_version": version_of("openvino"),
        **compiled_facts(compiled, request),
        **storage,
        **({"integers": products} if products else {}),
    }
    known = {node.get_friendly_name() for node in network.get_ops()}
    executed = execution_map(compiled, facts["execution_devices"], known)
    totals = executed.totals()
    layers = totals["precisions"]
    facts["execution_precision"] = sentence(layers, storage["storage_precision"])
    facts["execution_layers"] = layers
    facts["execution"] = totals
    guard = ShapeGuard(network) if facts["threads"] == 1 and _has_symbols(network) else None
    return OpenVinoSession(compiled, signature or signature_of(network), facts, executed, guard)


def _has_symbols(network: Any) -> bool:  # noqa: ANN401 - a class of the runtime
    return any(port.get_partial_shape().is_dynamic for port in network.inputs)


def _pivot(path: Path) -> tuple[Signature, dict[str, int]]:
    """Return signature and stored values of a pivot."""
    from lepton_onnx import pivot
    from lepton_onnx.external import verify_external

    proto = pivot.read(path)
    verify_external(proto, path)
    names = {numpy: own for own, numpy in NUMPY_NAMES.items()}
    weights = pivot.graph_facts(proto)["weights"]
    return pivot.signature(proto), {names.get(n, n): count for n, count in weights.items()}


def _openvino_ir(path: Path, model: Model) -> tuple[Signature | None, dict[str, int]]:
    """Return signature and stored values of an IR; its values are checked by digest."""
    root = _ir.read_graph(path)
    _ir.check_values(path, root)
    return _ir.recorded_signature(root) or model.signature, _ir.stored_values(root)


def _check_device(core: Any, device: str) -> None:  # noqa: ANN401 - a class of the runtime
    available = core.available_devices
    if device == "AUTO" or any(device in (name, name.partition(".")[0]) for name in available):
        return
    raise SessionError(
        "LPT-RUN-306",
        f"OpenVINO finds no {device} on this machine",
        cause=f"It finds {', '.join(available)}.",
        remedy="Install the device's driver, or leave the device out to run on the CPU.",
    )


def _refused(path: Path, device: str, error: Exception) -> SessionError:
    missing = operators_without_rule(error)
    return SessionError(
        "LPT-RUN-311",
        f"OpenVINO {version_of('openvino')} refuses {path} on {device}"
        + (f": no conversion rule for {', '.join(missing)}" if missing else ""),
        cause=explain(error),
        remedy="Convert the model again; `lepton check` tells which operators the target knows.",
    )


__all__ = ["OpenVinoSession", "open_session"]
