"""Sessions on the LiteRT runtime."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.environment import available_cpus, version_of
from lepton_core.errors import SessionError
from lepton_core.switches import as_switch
from lepton_core.types import Signature
from lepton_onnx.arrays import checked_inputs
from lepton_tflite import _flatbuffer as flat
from lepton_tflite._border import into_file, out_of_file
from lepton_tflite._execution import delegated
from lepton_tflite._file import File, read_file
from lepton_tflite._litert import quiet
from lepton_tflite._ports import NCHW, NHWC, TO_NHWC, turned_signature
from lepton_tflite._runtime import Calls, make_interpreter
from lepton_tflite.info import INFO

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from lepton_core.context import Context
    from lepton_core.types import Model, OpenRequest, TensorSpec

    _Ports = tuple[Mapping[str, Any], Mapping[str, Any]]

OPTIONS = ("xnnpack", "io", "layout")


class TfliteSession:
    """A model on LiteRT; calls of several threads take turns, as an interpreter runs one.

    Args:
        interpreter: The runtime's, with tensors allocated.
        ports: The runtime's details of inputs and of outputs, by name.
        signature: Named inputs and outputs.
        by_rows: Whether the file takes one row, and batches are run row by row.
        facts: What is known about the session.
        turned: Inputs that are passed as NCHW and that the file takes as NHWC.
    """

    def __init__(
        self,
        interpreter: Any,  # noqa: ANN401 - a class of the runtime
        ports: _Ports,
        signature: Signature,
        by_rows: bool,
        facts: dict[str, Any],
        *,
        turned: tuple[str, ...] = (),
    ) -> None:
        self._turned = turned
        self.signature = signature
        self.facts: Mapping[str, Any] = facts
        self._by_rows = by_rows
        self._lock = threading.Lock()
        self._inputs, self._outputs = ports
        self._calls: Calls | None = Calls(interpreter, self._inputs, self._outputs)

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

    def close(self) -> None:
        """Free the runtime's resources; calling it again does nothing."""
        with self._lock:
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
    for found, specs in ((inputs, signature.inputs), (outputs, signature.outputs)):
        if set(found) != {spec.name for spec in specs}:
            raise SessionError(
                "LPT-RUN-404",
                "The file has other inputs or outputs than its signature",
                cause=f"It has {', '.join(found)}; the signature says {signature}.",
                remedy="Convert the model again: lepton convert MODEL --to tflite",
            )
    return inputs, outputs


def check_request(request: OpenRequest) -> None:
    """Check what was asked for, before anything is read.

    Raises:
        SessionError: LPT-RUN-409 (device), 410 (an option), 411 (threads), 413 (its value).
    """
    device = request.device or "cpu"
    if device not in INFO.devices:
        raise SessionError(
            "LPT-RUN-409",
            f"LiteRT has no device {request.device!r}",
            remedy=f"Use one of {', '.join(INFO.devices)}; all of them run on the CPU here.",
        )
    for key in request.options:
        if key not in OPTIONS:
            raise SessionError(
                "LPT-RUN-410",
                f"tflite has no option {key!r} for opening",
                remedy=f"Options are {', '.join(OPTIONS)}.",
            )
    if request.options.get("io", "float") not in ("float", "int8"):
        raise SessionError(
            "LPT-RUN-413",
            f"The option io cannot be {request.options['io']!r}",
            remedy="It is float or int8.",
        )
    if request.options.get("layout", NCHW) not in (NCHW, NHWC):
        raise SessionError(
            "LPT-RUN-413",
            f"The option layout cannot be {request.options['layout']!r}",
            remedy="It is nchw or nhwc.",
        )
    _switched_on(request)
    if request.threads is not None and request.threads < 1:
        raise SessionError(
            "LPT-RUN-411",
            f"{request.threads} threads were asked for",
            remedy="Ask for 1 or more, or leave it out to use what the container allows.",
        )


def _switched_on(request: OpenRequest) -> bool:
    """Return whether XNNPACK was asked for."""
    given = request.options.get("xnnpack", True)
    on = as_switch(given)
    if on is None:
        raise SessionError(
            "LPT-RUN-413",
            f"The option xnnpack cannot be {given!r}",
            remedy="It is true or false.",
        )
    return on


def open_session(model: Model, request: OpenRequest, context: Context) -> TfliteSession:
    """Open a .tflite file.

    Options: ``xnnpack`` (true; false runs LiteRT's own kernels, as the yardstick does), ``io``
    (``"float"``; ``"int8"`` passes the integers of a file whose border is int8 as they are),
    ``layout`` (``"nchw"``; ``"nhwc"`` passes inputs that the file takes as NHWC as they are).

    Raises:
        SessionError: LPT-RUN-402 (no such file), 403 (Flex or custom operators), 404 (other
            inputs or outputs), 409 (device), 410 (option), 411 (threads), 412 (the runtime
            refuses the file), 413 (an option's value).
        PluginDependencyError: LPT-RUN-401, the runtime is not there.
    """
    check_request(request)
    path = Path(model.path)
    found = read_file(path)
    context.checkpoint()
    threads = request.threads or available_cpus()
    use = _switched_on(request) and not request.reference
    try:
        with quiet():
            interpreter = make_interpreter(str(path), threads, delegate=use)
            interpreter.allocate_tensors()
        ports = _ports(interpreter, found.signature)
        facts = _facts(found, interpreter, threads)
    except (*flat.MALFORMED, RuntimeError) as error:  # in a damaged file, its names as well
        raise SessionError(
            "LPT-RUN-412",
            f"LiteRT {_version()} refuses {path}",
            cause=" ".join(str(error).split())[:500],
            remedy="Convert the model again; `lepton check` tells which operators the target has.",
        ) from error
    signature = found.signature
    if request.options.get("io") == "int8":
        signature = _as_stored(ports, signature)
    turned = found.turned
    if request.options.get("layout") == NHWC:
        if not turned:
            raise SessionError(
                "LPT-RUN-413",
                "The option layout cannot be nhwc for this file, which takes no input so",
                remedy="Leave it out, or convert with --option layout=nhwc.",
            )
        signature, turned = turned_signature(signature, turned), ()
    return TfliteSession(interpreter, ports, signature, found.batch == "rows", facts, turned=turned)


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


def _version() -> str:
    return version_of("ai-edge-litert") or ""


def _facts(found: File, interpreter: Any, threads: int) -> dict[str, Any]:  # noqa: ANN401
    return {
        "runtime": "litert",
        "runtime_version": _version(),
        "device": "cpu",
        "threads": threads,
        "batch": found.batch,
        "border": str(found.notes.get("border", "float")),
        **({"nhwc_inputs": list(found.turned)} if found.turned else {}),
        "delegate": delegated(interpreter),
        **found.facts,
    }


__all__ = ["OPTIONS", "TfliteSession", "check_request", "open_session"]
