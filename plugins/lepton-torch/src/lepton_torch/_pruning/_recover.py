"""Trains what is left of a model towards the original, whose outputs need no labels."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.fx import GraphModule

    from lepton_torch._pruning._data import Rows

_RATE = 2e-3
_BATCH = 32
_TEMPERATURE = 2.0
_WARM_UP = 0.1
_RETRIES = 2


@dataclass
class Recovery:
    """How one recovery went.

    Attributes:
        epochs: Passes over the rows that were finished.
        seconds: Time spent.
        before: Loss on validation rows before.
        after: Loss of the checkpoint that was kept.
        best_epoch: Its epoch; 0 if nothing was better than the start.
        stopped: ``"time"`` if time ran out, else empty.
        restarts: How often training diverged and began again more slowly.
    """

    epochs: int = 0
    seconds: float = 0.0
    before: float = 0.0
    after: float = 0.0
    best_epoch: int = 0
    stopped: str = ""
    restarts: int = 0


class Loss:
    """Distance of a model's outputs from the original's, and from labels where there are some.

    Each output of floats with rows counts by its squared error over its variance; one that looks
    like class scores also by the divergence of the softened distributions (Hinton et al. 2015).

    Args:
        teacher: The original's outputs on the rows.
        labels: Class indices of the rows, if there are any.
    """

    def __init__(self, teacher: list[torch.Tensor], labels: torch.Tensor | None) -> None:
        self._scales = [float(t.float().var(correction=0)) + 1e-8 for t in teacher]
        scores = [n for n, t in enumerate(teacher) if t.ndim == 2 and t.shape[1] > 1]
        fits = [n for n in scores if labels is not None and int(labels.max()) < teacher[n].shape[1]]
        self._scores = scores
        self._labelled = fits[0] if fits else None

    def __call__(
        self,
        outputs: list[torch.Tensor],
        teacher: list[torch.Tensor],
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the loss of a batch."""
        total = torch.zeros(())
        for number, (mine, wanted) in enumerate(zip(outputs, teacher, strict=True)):
            total = total + (mine - wanted).square().mean() / self._scales[number]
            if number in self._scores:
                t = _TEMPERATURE
                total = total + t * t * nn.functional.kl_div(
                    (mine / t).log_softmax(1), (wanted / t).log_softmax(1),
                    reduction="batchmean", log_target=True,
                )  # fmt: skip
        if labels is not None and self._labelled is not None:
            total = total + nn.functional.cross_entropy(outputs[self._labelled], labels)
        return total


def recover(
    graph_module: GraphModule,
    rows: Rows,
    *,
    epochs: int,
    deadline: float | None,
    seed: int,
    step: Callable[[], None] = lambda: None,
) -> Recovery:
    """Train a graph towards the original and leave its best weights in it.

    AdamW with one cycle of the learning rate; every batch also holds mixtures of its rows, whose
    targets the original gives, so that few rows do not wear out. After each epoch the loss on
    validation rows decides whether its weights are kept. A loss that is not finite starts again
    from the best weights at a quarter of the rate.

    Args:
        graph_module: The pruned graph; its weights are changed.
        rows: Rows with the original's answers.
        epochs: Passes over the rows.
        deadline: ``time.monotonic()`` after which no epoch begins; ``None`` for none.
        seed: Seed of order and mixtures.
        step: Called after every epoch.
    """
    began = time.monotonic()
    weights = [p for p in graph_module.parameters() if p.is_floating_point()]
    loss = Loss(rows.teacher, rows.labels)
    result = Recovery(before=_validate(graph_module, rows, loss))
    best, result.after = [w.detach().clone() for w in weights], result.before
    rate, done = _RATE, False
    while not done and result.restarts <= _RETRIES:
        done = True
        optimiser = torch.optim.AdamW(weights, lr=rate, weight_decay=1e-4)
        generator = torch.Generator().manual_seed(seed + result.restarts)
        for weight in weights:
            weight.requires_grad_(True)
        for epoch in range(epochs):
            if deadline is not None and time.monotonic() > deadline:
                result.stopped = "time"
                break
            place = (epoch, epochs, rate)
            finite = _epoch(graph_module, rows, loss, optimiser, place, generator=generator)
            value = _validate(graph_module, rows, loss) if finite else math.nan
            if not math.isfinite(value):
                _restore(weights, best)
                rate, done = rate / 4, False
                result.restarts += 1
                break
            result.epochs += 1
            if value < result.after:
                result.after, result.best_epoch = value, epoch + 1
                best = [w.detach().clone() for w in weights]
            step()
    _restore(weights, best)
    for weight in weights:
        weight.requires_grad_(False)
    result.seconds = time.monotonic() - began
    return result


def _restore(weights: list[nn.Parameter], values: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for weight, value in zip(weights, values, strict=True):
            weight.copy_(value)
            weight.grad = None


def _rate(position: float, peak: float) -> float:
    """Return the rate at a share of the whole training: up in a line, down in a cosine."""
    if position < _WARM_UP:
        return peak * max(position / _WARM_UP, 0.05)
    return peak * 0.5 * (1 + math.cos(math.pi * (position - _WARM_UP) / (1 - _WARM_UP)))


def _epoch(
    graph_module: Any,  # noqa: ANN401 - torch's GraphModule
    rows: Rows,
    loss: Loss,
    optimiser: torch.optim.Optimizer,
    place: tuple[int, int, float],
    *,
    generator: torch.Generator,
) -> bool:
    """Go over the rows once; tell whether every loss was finite."""
    epoch, epochs, peak = place
    batches = rows.shuffled(_BATCH, generator)
    for number, batch in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = _rate((epoch + number / len(batches)) / epochs, peak)
        optimiser.zero_grad()
        inputs, teacher, labels = rows.at(batch)
        value = loss(rows.leaves(graph_module(*inputs)), teacher, labels)
        mixed = rows.mixed(batch, generator)
        if mixed is not None:
            value = value + loss(rows.leaves(graph_module(*mixed[0])), mixed[1])
        if not torch.isfinite(value):
            return False
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(
            [p for group in optimiser.param_groups for p in group["params"]], 5.0
        )
        optimiser.step()
    return True


def _validate(graph_module: Any, rows: Rows, loss: Loss) -> float:  # noqa: ANN401
    """Return the mean loss over validation rows."""
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in rows.validation_batches(_BATCH):
            inputs, teacher, _ = rows.at(batch)
            value = float(loss(rows.leaves(graph_module(*inputs)), teacher))
            total, count = total + value * len(batch), count + len(batch)
    return total / max(count, 1)


__all__ = ["Loss", "Recovery", "recover"]
