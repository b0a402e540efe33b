"""Rows to measure importance and to train on, with the original's answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from lepton_core.errors import AdaptError, UsageError
from lepton_torch._retrace import constants, placeholders, tensor_inputs

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from lepton_core.samples import Samples
    from lepton_torch._program import Program

_VALIDATION = 0.15
_TEACHER_BATCH = 64


def divide(
    samples: Samples, program: Program, rows: int | None, seed: int
) -> tuple[Samples, Samples]:
    """Divide samples into those to prune with and those that are held out.

    Args:
        samples: Rows, as :func:`lepton_core.samples.match` returns them.
        program: What they are for.
        rows: How many to prune with; by default as many as a calibration takes.
        seed: Seed of the division, the same as that of ``lepton port``.

    Raises:
        UsageError: LPT-ADAPT-022, there are too few rows.
        SampleError: LPT-DATA-020, *rows* leaves nothing held out.
        AdaptError: LPT-ADAPT-023, the program has no output to train towards.
    """
    from lepton_core.samples import split
    from lepton_core.samples._split import default_calibration

    row_outputs(program)
    training, held_out = split(samples, seed=seed, calibration=rows)
    if training is None:
        least = 2 if rows else next(n for n in range(1, 1000) if default_calibration(n) > 0)
        kinds = len(set(samples.row_keys))
        raise UsageError(
            "LPT-ADAPT-022",
            "The model cannot be pruned with these samples",
            cause=f"{len(samples)} {'row' if len(samples) == 1 else 'rows'}, {kinds} of them "
            "different, leave nothing to train on beside what is held out",
            remedy=f"Give at least {least} different rows, better some hundreds; without --data "
            "channels go by their weights alone.",
            details={"rows": len(samples), "different": kinds, "least": least},
        )
    return training, held_out


def row_outputs(program: Program) -> list[int]:
    """Return which outputs are floats with one entry per row of the input.

    Raises:
        AdaptError: LPT-ADAPT-023, there is none.
    """
    signature = program.signature
    first = signature.inputs[0].shape[:1]
    found = [
        number
        for number, spec in enumerate(signature.outputs)
        if "float" in spec.dtype and first and spec.shape[:1] == first
    ]
    if not found:
        raise AdaptError(
            "LPT-ADAPT-023",
            "The model has no output to train what is left towards",
            cause=f"none holds floats, one entry for each row of {signature.inputs[0].name}; the "
            f"model is {signature}",
            remedy="Let it return scores or features with the batch first, or prune without "
            "--data: channels go by their weights alone then.",
        )
    return found


class Rows:
    """Rows as tensors, divided into those to train on and those that choose the checkpoint.

    Args:
        program: The original program.
        graph_module: Its graph with the weights as attributes.
        samples: Rows, as :func:`lepton_core.samples.match` returns them.
        seed: Seed of the division.

    Attributes:
        teacher: The original's outputs of floats that have rows first.
        labels: Class indices, if the samples have some.

    Raises:
        AdaptError: LPT-ADAPT-023, there is no such output.
    """

    def __init__(
        self, program: Program, graph_module: GraphModule, samples: Samples, seed: int
    ) -> None:
        signature = program.signature
        places = tensor_inputs(program.exported)
        self._order = [str(n.target) for n in placeholders(graph_module)]
        self._constants = constants(program.exported)
        self._inputs = {
            place: torch.from_numpy(np.array(samples.inputs[spec.name]))
            for place, spec in zip(places, signature.inputs, strict=True)
        }
        first = signature.inputs[0].shape
        self.fixed = int(first[0]) if first and isinstance(first[0], int) else None
        self._graph: Any = graph_module
        self._outputs = row_outputs(program)
        self.labels = _classes(samples.labels)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(samples), generator=generator)
        apart = max(1, int(len(samples) * _VALIDATION)) if len(samples) > 1 else 0
        self._validation, self._training = order[:apart], order[apart:]
        self.teacher = self._answers(len(samples))

    def __len__(self) -> int:
        """Return how many rows are trained on."""
        return len(self._training)

    @property
    def validation(self) -> int:
        """How many rows choose the checkpoint."""
        return len(self._validation)

    def _given(self, tensors: dict[str, torch.Tensor]) -> list[Any]:
        return [tensors[n] if n in tensors else self._constants[n] for n in self._order]

    def inputs(self, index: torch.Tensor) -> list[Any]:
        """Return the graph's arguments for some rows."""
        return self._given({n: t[index] for n, t in self._inputs.items()})

    def _answers(self, count: int) -> list[torch.Tensor]:
        found: list[list[torch.Tensor]] = []
        for index in self._parts(torch.arange(count), _TEACHER_BATCH):
            found.append(self.answer(self.inputs(index)))
        return [torch.cat(parts)[:count] for parts in zip(*found, strict=True)]

    def leaves(self, result: Any) -> list[torch.Tensor]:  # noqa: ANN401 - whatever a graph returns
        """Return the outputs of floats that have rows first, of what a graph returned."""
        found = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        return [found[n] for n in self._outputs]

    def answer(self, inputs: list[Any]) -> list[torch.Tensor]:
        """Return the original's outputs of floats that have rows first."""
        with torch.no_grad():
            return self.leaves(self._graph(*inputs))

    def _parts(self, order: torch.Tensor, size: int) -> list[torch.Tensor]:
        """Divide rows into batches; where the size is fixed, the last is filled up with others."""
        size = self.fixed or size
        parts = list(torch.split(order, size))
        if self.fixed and parts and len(parts[-1]) < size:
            parts[-1] = parts[-1][torch.arange(size) % len(parts[-1])]
        return parts

    def shuffled(self, size: int, generator: torch.Generator) -> list[torch.Tensor]:
        """Return the rows to train on as batches in another order."""
        order = self._training[torch.randperm(len(self._training), generator=generator)]
        return self._parts(order, size)

    def validation_batches(self, size: int) -> list[torch.Tensor]:
        """Return the rows that choose the checkpoint; the rows to train on if there are none."""
        return self._parts(self._validation if self.validation else self._training, size)

    def first(self, count: int, size: int) -> list[list[Any]]:
        """Return at most *count* rows to train on as batches of inputs."""
        return [self.inputs(part) for part in self._parts(self._training[:count], size)]

    def at(self, index: torch.Tensor) -> tuple[list[Any], list[torch.Tensor], torch.Tensor | None]:
        """Return inputs, the original's outputs and the labels of some rows."""
        labels = None if self.labels is None else self.labels[index]
        return self.inputs(index), [t[index] for t in self.teacher], labels

    def mixed(
        self, index: torch.Tensor, generator: torch.Generator
    ) -> tuple[list[Any], list[torch.Tensor]] | None:
        """Return mixtures of pairs of rows and the original's answers; ``None`` without floats."""
        if not any(t.is_floating_point() for t in self._inputs.values()):
            return None
        other = index[torch.randperm(len(index), generator=generator)]
        share = torch.rand((), generator=generator) * 0.5
        tensors = {
            n: torch.lerp(t[index], t[other], share) if t.is_floating_point() else t[index]
            for n, t in self._inputs.items()
        }
        given = self._given(tensors)
        return given, self.answer(given)


def _classes(labels: Any) -> torch.Tensor | None:  # noqa: ANN401 - numpy's array or nothing
    """Return labels as class indices, ``None`` where they are something else."""
    if labels is None:
        return None
    array = np.asarray(labels)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer) or (array < 0).any():
        return None
    return torch.from_numpy(array.astype(np.int64))


__all__ = ["Rows", "divide", "row_outputs"]
