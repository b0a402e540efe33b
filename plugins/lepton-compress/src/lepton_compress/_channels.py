"""What the channels of values look like over all samples: ranges, means and powers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_compress._calibrate import observation_session, plan, valid_part
from lepton_core.samples import batches, release_pages

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from lepton_compress._graph import Graph
    from lepton_core.context import Context
    from lepton_core.samples import Samples


@dataclass(slots=True)
class Channels:
    """One value, channel by channel; float64 of shape ``(channels,)``.

    Attributes:
        low: Smallest value.
        high: Largest value.
        mean: Mean.
        power: Mean square.
        count: Values that each channel's numbers come from.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean: NDArray[np.float64]
    power: NDArray[np.float64]
    count: int = 1

    @property
    def absmax(self) -> NDArray[np.float64]:
        """Largest magnitudes."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def grouped(self, channels: int) -> Channels:
        """Join consecutive channels, so that *channels* are left."""
        if len(self.low) == channels:
            return self
        parts = [a.reshape(channels, -1) for a in (self.low, self.high, self.mean, self.power)]
        low, high, mean, power = parts
        count = self.count * low.shape[1]
        return Channels(low.min(1), high.max(1), mean.mean(1), power.mean(1), count)

    def times(self, factors: NDArray[np.floating]) -> Channels:
        """Return the channels multiplied by positive *factors*."""
        squared = np.asarray(factors, np.float64) ** 2
        return Channels(
            self.low * factors, self.high * factors, self.mean * factors, self.power * squared,
            self.count,
        )  # fmt: skip


_PIECE = 1 << 20


class _Sums:
    def __init__(self) -> None:
        self.count = 0
        self.low: Any = np.inf
        self.high: Any = -np.inf
        self.total: Any = 0.0
        self.squares: Any = 0.0

    def update(self, array: NDArray[Any], axis: int) -> None:
        array = np.asarray(array)
        step = max(1, _PIECE * len(array) // max(array.size, 1))
        for start in range(0, len(array), step):  # pieces keep copies small
            self._add(array[start : start + step], axis)

    def _add(self, array: NDArray[Any], axis: int) -> None:
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        if not rows.size:
            return
        self.count += rows.shape[1]
        self.low = np.minimum(self.low, rows.min(1).astype(np.float64))
        self.high = np.maximum(self.high, rows.max(1).astype(np.float64))
        self.total = self.total + rows.sum(1, dtype=np.float64)
        self.squares = self.squares + np.square(rows, dtype=np.float64).sum(1)

    def result(self) -> Channels:
        count = max(self.count, 1)
        return Channels(self.low, self.high, self.total / count, self.squares / count, count)


def observe_channels(
    graph: Graph,
    axes: Mapping[str, int],
    samples: Samples,
    context: Context,
    *,
    threads: int | None = None,
) -> dict[str, Channels]:
    """Run samples through a graph and return what the channels of values look like.

    As :func:`observe_axes`, for values that have one axis of channels each.

    Args:
        graph: The pivot, or a graph that a recipe's rescaling changed.
        axes: Channel axis by value.
        samples: Rows that fit the pivot's signature; read batch by batch.
        context: Opens the session; cancellation.
        threads: Threads of the session.

    Returns:
        By value; one that no sample reached is left out.

    Raises:
        SessionError: The runtime refuses or fails.
    """
    seen = observe_axes(graph, axes.items(), samples, context, threads=threads)
    return {value: channels for (value, _), channels in seen.items()}


def observe_axes(
    graph: Graph,
    axes: Iterable[tuple[str, int]],
    samples: Samples,
    context: Context,
    *,
    threads: int | None = None,
) -> dict[tuple[str, int], Channels]:
    """Run samples through a graph and return what values look like along axes.

    Operators may read one value along different axes: a Conv along axis 1, a MatMul along the
    last.

    Args:
        graph: The pivot, or a graph that a recipe's rescaling changed.
        axes: Values, each with an axis.
        samples: Rows that fit the pivot's signature; read batch by batch.
        context: Opens the session; cancellation.
        threads: Threads of the session.

    Returns:
        By value and axis; a value that no sample reached is left out.

    Raises:
        SessionError: The runtime refuses or fails.
    """
    sums = {place: _Sums() for place in axes}
    names = list(dict.fromkeys(name for name, _ in sums))
    parts, rows = plan(graph, names, samples, context.limits.memory_bytes)
    for number, group in enumerate(parts):
        inside = [name for name in group if name not in graph.inputs]
        with observation_session(graph, inside, context, 900 + number, threads) as session:
            for batch in batches(samples, session.signature, rows):
                context.checkpoint()
                found: dict[str, Any] = dict(session.run(batch.inputs)) if inside else {}
                for (name, axis), one in sums.items():
                    if name in group:
                        array = found[name] if name in found else batch.inputs[name]
                        one.update(valid_part(array, batch.valid_rows, batch.inputs), axis)
                for given in samples.inputs.values():
                    release_pages(given)
    return {place: one.result() for place, one in sums.items() if one.count}


__all__ = ["Channels", "observe_axes", "observe_channels"]
