"""Sessions on the LiteRT runtime."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.errors import SessionError
from lepton_core.types import Signature
from lepton_onnx.arrays import checked_inputs
from lepton_tflite import _flatbuffer as flat
from lepton_tflite._border import into_file, out_of_file
from lepton_tflite._compiled import CompiledCalls, compile_model, compiled_ports
from lepton_tflite._execution import execution_map, placement, uniform
from lepton_tflite._file import File, read_file
from lepton_tflite._litert import quiet
from lepton_tflite._ports import NHWC, TO_NHWC, turned_signature
from lepton_tflite._runtime import Calls, make_interpreter, runtime_name
from lepton_tflite._wanted import COMPILED, Wanted, parse_wanted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from lepton_core.context import Context
    from lepton_core.execution import ExecutionMap
    from lepton_core.types import Model, OpenRequest, TensorSpec

    _Ports = tuple[Mapping[str, Any], Mapping[str, Any]]
    _Opened = tuple[Calls, ExecutionMap, dict[str, Any]]


class TfliteSession:
    """A model on LiteRT; calls of several threads take turns, as an interpreter runs one.

    Args:
        calls: Runs the file.
        signature: Named inputs and outputs.
        by_rows: Whether the file takes one row, and batches are run row by row.
        facts: What is known about the session.
        executed: What the runtime runs.
        turned: Inputs that are passed as NCHW and that the file takes as NHWC.
    """

    def __init__(
        self,
        calls: Calls,
        signature: Signature,
        by_rows: bool,
        facts: dict[str, Any],
        executed: ExecutionMap,
        *,
        turned: tuple[str, ...] = (),
    ) -> None:
        self._turned = turned
        self.signature = signature
        self.facts: Mapping[str, Any] = facts
        self._by_rows = by_rows
        self._map = executed
        self._lock = threading.Lock()
        self._inputs, self._outputs = calls.inputs, calls.outputs
        self._calls: Calls | None = calls

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once, or once per row where the file takes one row.

        Args:
            inputs: One array per input, of the dtype and shape that the signature states. 64-bit
                integers are passed as 32 bits, exactly.

        Returns:
            One array per output, in the signature's order; they belong to the caller.

        Raises:
            SessionError: LPT-RUN-201 to 204 (an input is missing, unknown, or of a wrong dtype or
                shape), 405 (an integer needs more than 32 bits), 406 (the runtime failed), 407
                (closed), 408 (a batch without rows), 414 (NaN or an infinity, where the file
                takes integers for floats).
        """
        arrays = {
            name: into_file(name, array, self._inputs[name])
            for name, array in checked_inputs(self.signature, inputs).items()
        }
        arrays |= {name: arrays[name].transpose(TO_NHWC) for name in self._turned}
        with self._lock:
            if self._calls is None:
                raise SessionError(
                    "LPT-RUN-407", "The session is closed", remedy="Open the model again."
                )
            found = self._called(self._calls, arrays)
        return {
            s.name: out_of_file(found[s.name], self._outputs[s.name], s.dtype)
            for s in self.signature.outputs
        }

    def _called(self, calls: Calls, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if any(0 in array.shape for array in arrays.values()):
            raise SessionError(
                "LPT-RUN-408",
                "LiteRT does not run a batch without rows",
                remedy="Pass at least one row.",
            )
        try:
            return calls.run_rows(arrays) if self._by_rows else calls.run(arrays)
        except (ValueError, RuntimeError) as error:
            raise SessionError(
                "LPT-RUN-406",
                "LiteRT cannot run the model on these inputs",
                cause=" ".join(str(error).split())[:500],
                remedy="Check the sizes of the inputs against each other, and indices against the "
                "tables that they point into.",
            ) from error

    def execution_map(self) -> ExecutionMap:
        """Return which operators run where, in which precision."""
        return self._map

    def close(self) -> None:
        """Free the runtime's resources; calling it again does nothing."""
        with self._lock:
            if self._calls is not None:
                self._calls.close()
            self._calls = None

    def __enter__(self) -> TfliteSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _ports(interpreter: Any, signature: Signature) -> _Ports:  # noqa: ANN401
    """Return the runtime's details of each input and output, by the signature's names."""
    if interpreter.get_signature_list():
        runner = interpreter.get_signature_runner()
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
    else:
        inputs = {d["name"]: d for d in interpreter.get_input_details()}
        outputs = {d["name"]: d for d in interpreter.get_output_details()}
    return _same_names((inputs, outputs), signature)


def _same_names(ports: _Ports, signature: Signature) -> _Ports:
    """Return the ports, if they have the signature's names.

    Raises:
        SessionError: LPT-RUN-404, they have others.
    """
    inputs, outputs = ports
    for found, specs in ((inputs, signature.inputs), (outputs, signature.outputs)):
        if set(found) != {spec.name for spec in specs}:
            raise SessionError(
                "LPT-RUN-404",
                "The file has other inputs or outputs than its signature",
                cause=f"It has {', '.join(found)}; the signature says {signature}.",
                remedy="Convert the model again: lepton convert MODEL --to tflite",
            )
    return ports


def open_session(model: Model, request: OpenRequest, context: Context) -> TfliteSession:
    """Open a .tflite file.

    Options: ``xnnpack`` (true; false runs LiteRT's own kernels, as the yardstick does), ``io``
    (``"float"``; ``"int8"`` passes the integers of a file whose border is int8 as they are),
    ``api`` (``"interpreter"``; ``"compiled"`` runs the file through LiteRT's ``CompiledModel``,
    which needs no less CPU and up to three times as much in small models), with that
    ``accelerator`` (``"cpu"``, ``"gpu"``, ``"npu"``), and ``layout`` (``"nchw"``; ``"nhwc"`` passes
    inputs that the file takes as NHWC as they are).

    Raises:
        SessionError: LPT-RUN-402 (no such file), 403 (Flex or custom operators), 404 (other
            inputs or outputs), 409 (device), 410 (option), 411 (threads), 412 (the runtime
            refuses the file), 413 (an option's value), 415 (no ``CompiledModel``, or no such
            accelerator), 416 (a type that it does not pass).
        PluginDependencyError: LPT-RUN-401, the runtime is not there.
    """
    wanted = parse_wanted(request)
    path = Path(model.path)
    found = read_file(path)
    context.checkpoint()
    try:
        if wanted.api == COMPILED:
            calls, executed, said = _compiled(path, found, wanted)
        else:
            calls, executed, said = _interpreted(path, found, wanted)
    except (*flat.MALFORMED, RuntimeError) as error:  # in a damaged file, its names as well
        raise SessionError(
            "LPT-RUN-412",
            f"LiteRT {runtime_name()[1]} refuses {path}",
            cause=" ".join(str(error).split())[:500],
            remedy="Convert the model again; `lepton check` tells which operators the target has.",
        ) from error
    signature = found.signature
    if wanted.io == "int8":
        signature = _as_stored((calls.inputs, calls.outputs), signature)
    facts = _facts(found, wanted, said) | {"execution": executed.totals()}
    turned = found.turned
    if wanted.layout == NHWC:
        if not turned:
            raise SessionError(
                "LPT-RUN-413",
                "The option layout cannot be nhwc for this file, which takes no input so",
                remedy="Leave it out, or convert with --option layout=nhwc.",
            )
        signature, turned = turned_signature(signature, turned), ()
    by_rows = found.batch == "rows"
    return TfliteSession(calls, signature, by_rows, facts, executed, turned=turned)


def _interpreted(path: Path, found: File, wanted: Wanted) -> _Opened:
    """Open a file with the interpreter; returns what runs it, its map, and the facts it tells."""
    with quiet():
        interpreter = make_interpreter(str(path), wanted.threads, delegate=wanted.delegate)
        interpreter.allocate_tensors()
    ports = _ports(interpreter, found.signature)
    placed = placement(interpreter)
    executed = execution_map(runtime_name()[0], found.graphs, placed)
    return Calls(interpreter, *ports), executed, {"delegate": placed.fact()}


def _compiled(path: Path, found: File, wanted: Wanted) -> _Opened:
    """Open a file with ``CompiledModel``; returns as :func:`_interpreted`."""
    made = compile_model(path, wanted)
    ports = _same_names(compiled_ports(made, path.read_bytes()), found.signature)
    complete, on_cpu = made.is_fully_accelerated(), wanted.accelerator == "cpu"
    placed = None
    if on_cpu and not wanted.delegate:
        placed = uniform(found.graphs)
    elif on_cpu and complete:
        placed = uniform(found.graphs, taken=True)
    executed = execution_map(
        runtime_name()[0], found.graphs, placed, device="cpu" if on_cpu else ""
    )
    facts = {"accelerator": wanted.accelerator, "fully_accelerated": complete}
    return CompiledCalls(made, *ports), executed, facts


def _as_stored(sides: _Ports, signature: Signature) -> Signature:
    """Return a signature with int8 where the file's own ports are int8.

    Raises:
        SessionError: LPT-RUN-413, none is.
    """

    def stored(spec: TensorSpec, details: Any) -> TensorSpec:  # noqa: ANN401
        kind = np.dtype(details[spec.name]["dtype"]).name
        return replace(spec, dtype=kind) if kind == "int8" else spec

    inputs = tuple(stored(spec, sides[0]) for spec in signature.inputs)
    found = Signature(inputs, tuple(stored(spec, sides[1]) for spec in signature.outputs))
    if not any(spec.dtype == "int8" for spec in (*found.inputs, *found.outputs)):
        raise SessionError(
            "LPT-RUN-413",
            "The option io cannot be int8 for this file, whose border has no int8",
            remedy="Leave it out, or convert a recipe with --option io=int8.",
        )
    return found


def _facts(found: File, wanted: Wanted, said: dict[str, Any]) -> dict[str, Any]:
    name, version = runtime_name()
    return {
        "runtime": name,
        "runtime_version": version,
        "api": wanted.api,
        "device": wanted.accelerator,
        "threads": wanted.threads,
        "batch": found.batch,
        "border": str(found.notes.get("border", "float")),
        **said,
        **({"nhwc_inputs": list(found.turned)} if found.turned else {}),
        **found.facts,
    }


__all__ = ["TfliteSession", "open_session"]
