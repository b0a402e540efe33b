"""Rows to measure importance and to train on, with the original's answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lepton_torch._pruning._importance import float_leaves
from lepton_torch._retrace import constants, placeholders, tensor_inputs

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from lepton_core.samples import Samples
    from lepton_torch._program import Program

_VALIDATION = 0.15
_TEACHER_BATCH = 64


class Rows:
    """Rows as tensors, divided into those to train on and those that choose the checkpoint.

    Args:
        program: The original program.
        graph_module: Its graph with the weights as attributes.
        samples: Rows, as :func:`lepton_core.samples.match` returns them.
        seed: Seed of the division.

    Attributes:
        teacher: The original's outputs of floats, rows first.
        labels: Class indices, if the samples have some.
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
        joined = [torch.cat(parts)[:count] for parts in zip(*found, strict=True)]
        return [t for t in joined if len(t) == count]

    def answer(self, inputs: list[Any]) -> list[torch.Tensor]:
        """Return the original's outputs of floats."""
        with torch.no_grad():
            return float_leaves(self._graph(*inputs))

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


__all__ = ["Rows"]
