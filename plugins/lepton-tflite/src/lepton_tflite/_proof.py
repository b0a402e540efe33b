"""Every file is run and compared with the torch module that it was made from before it counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lepton_tflite._border import into_file, out_of_file
from lepton_tflite._runtime import Calls, make_interpreter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from lepton_core.types import Signature


@dataclass(frozen=True, slots=True)
class Trial:
    """Inputs of one size, and what the torch module gives for them.

    Attributes:
        inputs: By name.
        outputs: By name.
    """

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


def example(signature: Signature, sizes: Mapping[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Return one array per input: normal floats; 0 and 1 for integers, which may be indices.

    Args:
        signature: Inputs with dtypes and shapes.
        sizes: Size of every symbolic dimension.
        seed: Seed of the values.
    """
    rng = np.random.default_rng(seed)
    found = {}
    for spec in signature.inputs:
        shape = [d if isinstance(d, int) else sizes[str(d)] for d in spec.shape]
        kind = np.dtype(spec.dtype)
        values = rng.normal(size=shape) if kind.kind == "f" else rng.integers(0, 2, size=shape)
        found[spec.name] = values.astype(kind)
    return found


def run_torch(
    module: Callable[..., tuple[torch.Tensor, ...]],
    signature: Signature,
    inputs: Mapping[str, np.ndarray],
) -> Trial:
    """Return what a module gives."""
    import torch

    with torch.no_grad():
        outputs = module(*(torch.from_numpy(inputs[s.name].copy()) for s in signature.inputs))
    values = {s.name: t.numpy() for s, t in zip(signature.outputs, outputs, strict=True)}
    return Trial(inputs, values)


class LoadError(Exception):
    """The runtime does not load a file, or does not run it."""


class Runner:
    """Runs a file's bytes on named arrays of the model's types, as a session does.

    Raises:
        LoadError: The runtime refuses the file.
    """

    def __init__(self, data: bytes) -> None:
        try:
            interpreter = make_interpreter(data, 1)
            interpreter.allocate_tensors()
            runner = interpreter.get_signature_runner()
            inputs, outputs = runner.get_input_details(), runner.get_output_details()
        except (ValueError, RuntimeError) as error:
            raise LoadError(" ".join(str(error).split())) from error

        self._calls = Calls(interpreter, inputs, outputs)

    def run(self, trial: Trial, *, by_rows: bool = False) -> dict[str, np.ndarray]:
        """Return one array per output, in the types that the trial's outputs have.

        Raises:
            LoadError: The runtime does not run it.
        """
        calls = self._calls
        arrays = {n: into_file(n, trial.inputs[n], d) for n, d in calls.inputs.items()}
        try:
            found = calls.run_rows(arrays) if by_rows else calls.run(arrays)
        except (ValueError, RuntimeError) as error:
            raise LoadError(" ".join(str(error).split())) from error
        return {
            name: out_of_file(found[name], calls.outputs[name], wanted.dtype.name)
            for name, wanted in trial.outputs.items()
        }


def difference(found: Mapping[str, np.ndarray], trial: Trial) -> tuple[float, str]:
    """Compare outputs with a trial's.

    Returns:
        Largest relative L2 difference (infinite for another shape, and where the one is NaN or
        infinite and the other is not the same), and the output's name.
    """
    worst, where = 0.0, ""
    for name, wanted in trial.outputs.items():
        got = found[name]
        if got.shape != wanted.shape:
            return float("inf"), name
        one, two = got.astype(np.float64), wanted.astype(np.float64)
        finite = np.isfinite(two)
        if not np.array_equal(np.isfinite(one), finite) or not np.array_equal(
            one[~finite], two[~finite], equal_nan=True
        ):
            return float("inf"), name
        scale = float(np.linalg.norm(two[finite])) or 1.0
        distance = float(np.linalg.norm(one[finite] - two[finite])) / scale
        if distance > worst:
            worst, where = distance, name
    return worst, where


def worst_of(data: bytes, trials: Sequence[Trial], *, by_rows: bool = False) -> tuple[float, str]:
    """Return the largest difference over several trials, and the output where it is.

    Raises:
        LoadError: The runtime refuses the file.
    """
    runner = Runner(data)
    return max(difference(runner.run(t, by_rows=by_rows), t) for t in trials)


__all__ = ["LoadError", "Runner", "Trial", "difference", "example", "run_torch", "worst_of"]
