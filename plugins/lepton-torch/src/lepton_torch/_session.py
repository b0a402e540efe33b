"""An exported program as a session: named arrays in, named arrays out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.export.graph_signature import TensorArgument
from torch.utils import _pytree as pytree

from lepton_core.environment import available_cpus
from lepton_core.errors import LeptonError, SessionError
from lepton_torch._archive import load_program
from lepton_torch._chatter import captured
from lepton_torch._usercode import near

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from lepton_core.context import Context
    from lepton_core.types import Model, OpenRequest, Signature, TensorSpec
    from lepton_torch._program import Program

_SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}


def open_session(model: Model, request: OpenRequest, context: Context) -> TorchSession | None:
    """Open an exported program on the CPU or on a CUDA device.

    Args:
        model: Of format ``torch.export``.
        request: Device (``cpu``, ``cuda``, ``cuda:1``) and threads; ``None`` takes as many as
            this container may use. TF32 and other reduced precision are off in any case, so
            ``reference`` changes nothing.
        context: Not written to.

    Returns:
        The session; ``None`` for another format.

    Raises:
        SourceError: The file cannot be read or trusted.
        SessionError: The device is not there, the thread count is not positive, or an option was
            given.
    """
    if model.format != "torch.export":
        return None
    if request.options:
        raise SessionError(
            "LPT-RUN-109",
            f"torch has no option {next(iter(request.options))!r} for opening",
            remedy="Leave it out: a session on torch has none.",
        )
    device = _device(request.device)
    threads = available_cpus() if request.threads is None else request.threads
    if threads < 1:
        raise SessionError(
            "LPT-RUN-102",
            f"{threads} threads were asked for",
            remedy="Ask for at least one, or for none to use what the container allows.",
        )
    return TorchSession(load_program(model.path), device, threads, request.reference)


def _device(name: str | None) -> torch.device:
    known = "Devices of the target torch: cpu, cuda, cuda:INDEX."
    try:
        device = torch.device(name or "cpu")
    except RuntimeError as error:
        raise SessionError(
            "LPT-RUN-101", f"torch has no device {name!r}", cause=str(error), remedy=known
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise SessionError("LPT-RUN-101", f"{name!r} is not supported", remedy=known)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic cuBLAS
        with captured():
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            built = "was built without CUDA" if torch.version.cuda is None else f"sees {count}"
            raise SessionError(
                "LPT-RUN-101",
                f"The device {name!r} is not there",
                cause=f"torch {torch.__version__} {built} CUDA device(s)."
                if torch.version.cuda
                else f"torch {torch.__version__} {built}.",
                remedy="Use the target `torch` (CPU), or check the driver with nvidia-smi.",
            )
    return device


class TorchSession:
    """A program opened on torch (see :class:`lepton_core.context.Session`).

    Attributes:
        signature: Inputs and outputs of the program's contract.
        facts: ``runtime``, ``build``, ``device``, ``threads``, ``storage_precision``,
            ``execution_precision``, ``reference``.
    """

    def __init__(
        self, program: Program, device: torch.device, threads: int, reference: bool
    ) -> None:
        self.signature: Signature = program.signature
        self._bounds = program.bounds
        self._device = device
        self._threads = threads
        exported = program.exported
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            exported = move_to_device_pass(exported, device)
        with captured():
            self._module: Any = exported.module()
        self._in_spec = exported.call_spec.in_spec
        self._constants = [  # inputs that were no tensors when the program was made
            None if isinstance(s.arg, TensorArgument) else (getattr(s.arg, "value", None),)
            for s in exported.graph_signature.input_specs
            if s.kind.name == "USER_INPUT"
        ]
        stored = sorted(
            {
                str(t.dtype).removeprefix("torch.")
                for t in exported.state_dict.values()
                if t.is_floating_point()
            }
        )
        precision = "+".join(_SHORT.get(d, d) for d in stored) or "fp32"
        self.facts: Mapping[str, Any] = {
            "runtime": f"torch {torch.__version__.split('+')[0]}",
            "build": str(torch.__version__),
            "device": str(device),
            "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "",
            "threads": threads,
            "storage_precision": precision,
            "execution_precision": precision,
            "reference": reference,
        }

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once.

        Args:
            inputs: One array per input, of the dtype and shape that the signature states.

        Returns:
            One array per output, in the signature's order.

        Raises:
            SessionError: An input is missing, unknown, or of a wrong dtype or shape, the
                session is closed, or torch failed.
        """
        if self._module is None:
            raise SessionError(
                "LPT-RUN-108", "The session is closed", remedy="Open the model again."
            )
        check_inputs(self.signature, self._bounds, inputs)
        tensors = [
            torch.from_numpy(np.array(inputs[spec.name], order="C", copy=True)).to(self._device)
            for spec in self.signature.inputs
        ]
        try:
            outputs = self._call(tensors)
        except LeptonError:
            raise
        except Exception as error:
            lines = str(error).strip().splitlines()
            raise SessionError(
                "LPT-RUN-107",
                "torch failed while running the model",
                cause=f"{type(error).__name__}: {lines[0] if lines else ''}",
                remedy="Check the sizes of the inputs; `lepton check` shows the signature.",
            ) from error
        named = zip(self.signature.outputs, outputs, strict=True)
        return {spec.name: tensor.detach().cpu().numpy() for spec, tensor in named}

    def _call(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        given = iter(tensors)
        flat = [next(given) if c is None else c[0] for c in self._constants]
        args, kwargs = pytree.tree_unflatten(flat, self._in_spec)
        if torch.get_num_threads() != self._threads:  # a setting of the whole process
            torch.set_num_threads(self._threads)
        deterministic = torch.are_deterministic_algorithms_enabled()
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            with torch.inference_mode(), _full_precision(self._device):
                result = self._module(*args, **kwargs)
        finally:
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]

    def close(self) -> None:
        """Free the program; calling it again does nothing."""
        self._module = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def __enter__(self) -> TorchSession:
        """Return the session."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the session."""
        self.close()


class _full_precision:  # noqa: N801 - reads as a block
    """Turn TF32 off on CUDA for the length of a block."""

    def __init__(self, device: torch.device) -> None:
        self._active = device.type == "cuda"

    def __enter__(self) -> None:
        if self._active:
            self._kept = (
                torch.backends.cuda.matmul.allow_tf32,
                torch.backends.cudnn.allow_tf32,
                torch.backends.cudnn.benchmark,
            )
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.benchmark = False

    def __exit__(self, *_: object) -> None:
        if self._active:
            (
                torch.backends.cuda.matmul.allow_tf32,
                torch.backends.cudnn.allow_tf32,
                torch.backends.cudnn.benchmark,
            ) = self._kept


def check_inputs(
    signature: Signature,
    bounds: Mapping[str, tuple[int, int | None]],
    inputs: Mapping[str, np.ndarray],
) -> None:
    """Compare arrays with a signature.

    Args:
        signature: What is expected.
        bounds: Smallest and largest size by symbol.
        inputs: What was given.

    Raises:
        SessionError: The first thing that does not fit, with what was given and expected.
    """
    names = [spec.name for spec in signature.inputs]
    expected = ", ".join(map(str, signature.inputs))
    for name in inputs:
        if name not in names:
            close = near(name, names, 1)
            raise SessionError(
                "LPT-RUN-103",
                f"The model has no input {name!r}",
                cause=f"Its inputs are: {expected}.",
                remedy=f"Did you mean {close[0]!r}?" if close else "Use the names above.",
                details={"given": name, "expected": names},
            )
    sizes: dict[str, tuple[int, str]] = {}
    for spec in signature.inputs:
        if spec.name not in inputs:
            raise SessionError(
                "LPT-RUN-104",
                f"The input {spec.name!r} is missing",
                cause=f"Given: {', '.join(inputs) or 'nothing'}; expected: {expected}.",
                remedy=f"Pass an array of {spec}.",
                details={"missing": spec.name},
            )
        _check_array(spec, inputs[spec.name])
        _check_sizes(spec, inputs[spec.name].shape, bounds, sizes)


def _check_array(spec: TensorSpec, array: object) -> None:
    if not isinstance(array, np.ndarray):
        raise SessionError(
            "LPT-RUN-105",
            f"The input {spec.name!r} is a {type(array).__name__}, not an array",
            remedy=f"Pass a NumPy array of {spec}.",
        )
    if array.dtype != np.dtype(spec.dtype):
        raise SessionError(
            "LPT-RUN-105",
            f"The input {spec.name!r} is {array.dtype}, the model takes {spec.dtype}",
            cause=f"Expected {spec}.",
            remedy=f"Convert it: array.astype(numpy.{spec.dtype}).",
            details={"given": str(array.dtype), "expected": spec.dtype},
        )


def _check_sizes(
    spec: TensorSpec,
    shape: tuple[int, ...],
    bounds: Mapping[str, tuple[int, int | None]],
    sizes: dict[str, tuple[int, str]],
) -> None:
    def wrong(cause: str) -> SessionError:
        return SessionError(
            "LPT-RUN-106",
            f"The input {spec.name!r} has shape {list(shape)}, the model takes {spec}",
            cause=cause,
            remedy="Reshape the array; a symbol stands for the same size in every input.",
            details={"given": list(shape), "expected": list(spec.shape)},
        )

    if len(shape) != len(spec.shape):
        raise wrong(f"It has {len(shape)} dimensions instead of {len(spec.shape)}.")
    for position, (size, wanted) in enumerate(zip(shape, spec.shape, strict=True)):
        if isinstance(wanted, int) and size != wanted:
            raise wrong(f"Dimension {position} is {size} instead of {wanted}.")
        if not isinstance(wanted, str):
            continue
        lower, upper = bounds.get(wanted, (1, None))
        if size < lower or (upper is not None and size > upper):
            raise wrong(f"{wanted} is {size}; it may be {lower} to {upper or 'any size'}.")
        other, owner = sizes.setdefault(wanted, (size, spec.name))
        if other != size:
            raise wrong(f"{wanted} is {size} here and {other} in {owner!r}.")
