"""LiteRT's newer interface, ``CompiledModel``, called as an interpreter is.

It runs the same kernels and the same XNNPACK, so its results are the interpreter's to the last
bit. Three things it does not do (ai-edge-litert 2.3): it passes no 64-bit integers and no integers
of 16 bits, it tells no scales and zero points (the file does), and of its operators it says no
more than whether all of them run on an accelerator. Asked for an NPU together with the CPU, it
leaves everything to the CPU where there is no NPU, and says so in its log alone. That log goes to
stderr: it is kept back while a file is opened, but a call that fails and the end of the process
write lines of it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.errors import SessionError
from lepton_core.installing import install_command
from lepton_tflite import _flatbuffer as flat
from lepton_tflite._litert import quiet
from lepton_tflite._runtime import Calls, find_module

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_tflite._wanted import Wanted

_PASSED = ("float32", "float16", "int32", "int8", "uint8", "bool")
_ABSENT = {"npu": "No compiler plugin found"}
"""What LiteRT's log says where an accelerator is not there; without a GPU it raises."""


def compile_model(path: Path, wanted: Wanted) -> Any:  # noqa: ANN401 - a class of the runtime
    """Return LiteRT's ``CompiledModel`` on a file.

    Raises:
        SessionError: LPT-RUN-415 (the runtime that is installed has no such interface, or the
            accelerator is not there), 416 (a type that it does not pass).
        RuntimeError: The runtime refuses the file.
    """
    if find_module("ai_edge_litert.compiled_model") is None:
        raise SessionError(
            "LPT-RUN-415",
            "The runtime that is installed has no CompiledModel",
            cause="It came with ai-edge-litert 2; tflite-runtime has the interpreter alone.",
            remedy="Leave the option api out, or " + install_command("lepton-tflite"),
        )
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.options import CpuKernelMode, CpuOptions, Options

    kind = HardwareAccelerator.CPU
    if wanted.accelerator != "cpu":
        kind |= HardwareAccelerator[wanted.accelerator.upper()]
    mode = CpuKernelMode.DELEGATE if wanted.delegate else CpuKernelMode.BUILTIN
    cpu = CpuOptions(num_threads=wanted.threads, kernel_mode=mode)
    printed: list[str] = []
    try:
        with quiet(printed):
            options = Options(hardware_accelerators=kind, cpu_options=cpu)
            made = CompiledModel.from_file(str(path), environment=_shared(), options=options)
    except RuntimeError as error:
        cause = f"{_errors(printed)} {error}".strip()
        if wanted.accelerator == "cpu":
            raise RuntimeError(cause) from error
        raise _no_accelerator(wanted.accelerator, cause) from error
    absent = _ABSENT.get(wanted.accelerator)
    if absent and absent in "".join(printed):
        raise _no_accelerator(wanted.accelerator, f"{absent}.")
    return made


def _errors(printed: list[str]) -> str:
    """Return what the log calls errors; the exception names places in LiteRT's sources alone."""
    begin = "ERROR: "
    lines = "".join(printed).splitlines()
    return " ".join(line.removeprefix(begin) for line in lines if line.startswith(begin))


@cache
def _shared() -> Any:  # noqa: ANN401 - a class of the runtime
    """Return the environment of all models of this process, which takes a while to make."""
    from ai_edge_litert import environment

    folder = Path(environment.__file__).parent
    return environment.Environment.create(runtime_path=str(folder))


def _no_accelerator(name: str, cause: str) -> SessionError:
    return SessionError(
        "LPT-RUN-415",
        f"LiteRT finds no {name.upper()} here that runs this file",
        cause=" ".join(cause.split())[:500],
        remedy="Leave the option accelerator out to run on the CPU.",
    )


def compiled_ports(model: Any, data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:  # noqa: ANN401
    """Return details of inputs and outputs by name, as an interpreter gives them.

    Args:
        model: The runtime's ``CompiledModel``.
        data: The file's bytes, which tell scales and zero points.

    Raises:
        SessionError: LPT-RUN-416, one is of a type that cannot be passed.
    """
    key = next(iter(model.get_signature_list()))
    names = model.get_signature_list()[key]
    grids = _grids(flat.root_of(data))
    sides = []
    for which, details in (
        ("inputs", model.get_input_tensor_details(key)),
        ("outputs", model.get_output_tensor_details(key)),
    ):
        for name in names[which]:
            if details[name]["dtype"] not in _PASSED:
                raise SessionError(
                    "LPT-RUN-416",
                    f"LiteRT's CompiledModel does not pass {name!r}, which is "
                    f"{details[name]['dtype']}",
                    cause=f"It passes {', '.join(_PASSED)}.",
                    remedy="Leave the option api out: the interpreter passes it.",
                )
        sides.append(
            {
                name: {
                    "name": name,
                    "index": number,
                    "dtype": np.dtype(details[name]["dtype"]).type,
                    "shape": np.asarray(details[name]["shape"], np.int32),
                    "quantization_parameters": grids[which][number],
                }
                for number, name in enumerate(names[which])
            }
        )
    return sides[0], sides[1]


def _grids(root: Any) -> dict[str, list[dict[str, Any]]]:  # noqa: ANN401 - a generated class
    """Return scales and zero points of the entry's inputs and outputs, in their order."""
    graph = root.Subgraphs(0)
    if root.SignatureDefsLength():
        port = root.SignatureDefs(0)
        graph = root.Subgraphs(port.SubgraphIndex())
        sides = {
            "inputs": [port.Inputs(i).TensorIndex() for i in range(port.InputsLength())],
            "outputs": [port.Outputs(i).TensorIndex() for i in range(port.OutputsLength())],
        }
    else:
        sides = {"inputs": graph.InputsAsNumpy(), "outputs": graph.OutputsAsNumpy()}
    return {side: [_grid(graph.Tensors(int(i))) for i in found] for side, found in sides.items()}


def _grid(tensor: Any) -> dict[str, Any]:  # noqa: ANN401 - a generated class
    own = tensor.Quantization()
    there = own is not None and own.ScaleLength()
    return {
        "scales": own.ScaleAsNumpy() if there else np.zeros(0, np.float32),
        "zero_points": own.ZeroPointAsNumpy() if there else np.zeros(0, np.int64),
    }


class CompiledCalls(Calls):
    """Runs a ``CompiledModel`` on arrays of the file's own types.

    Attributes:
        inputs: Details of each input, by name (:func:`compiled_ports`).
        outputs: Those of each output.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - a class of the runtime
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
    ) -> None:
        super().__init__(model, inputs, outputs)
        self._key = next(iter(model.get_signature_list()))
        with quiet():  # the first value that is written makes an environment, with remarks
            self._buffers: tuple[list[Any], list[Any]] | None = self._made()
            for port in inputs.values():
                zeros = np.zeros(port["shape"], port["dtype"])
                self._buffers[0][port["index"]].write(zeros)

    def close(self) -> None:
        """Let go of the model, whose accelerators say that they end."""
        with quiet():
            self._buffers = self._interpreter = None

    def _made(self) -> tuple[list[Any], list[Any]]:
        model = self._interpreter
        return model.create_input_buffers(0), model.create_output_buffers(0)

    def _resize(self, shapes: Mapping[int, tuple[int, ...]]) -> None:
        self._buffers = None  # they have the size of the last call
        for index, shape in shapes.items():
            self._interpreter.resize_input_tensor(index, shape)

    def _invoke(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        model = self._interpreter
        if self._buffers is None:
            self._buffers = self._made()
        given, taken = self._buffers
        for name, array in arrays.items():
            given[self.inputs[name]["index"]].write(array)
        model.run_by_index(0, given, taken)
        details = model.get_output_tensor_details(self._key)
        return {
            name: taken[port["index"]]
            .read(int(np.prod(details[name]["shape"], dtype=np.int64)), port["dtype"])
            .reshape(details[name]["shape"])
            for name, port in self.outputs.items()
        }


__all__ = ["CompiledCalls", "compile_model", "compiled_ports"]
