"""What the inputs of products look like over all samples, in memory of fixed size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import lepton_kernels as lk
from lepton_compress._calibrate import observation_session, plan, valid_part
from lepton_core.errors import OptimizeError
from lepton_core.samples import batches, release_pages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_compress._graph import Graph
    from lepton_core.context import Context
    from lepton_core.samples import Samples

KEPT_ROWS = 512
"""Input rows that are kept for a search over rescalings."""


class Inputs:
    """Rows that a product multiplies, summed up as they come.

    Args:
        width: Length of a row.
        seed: Decides which rows are kept.

    Attributes:
        hessian: The mean of ``x x^T``; ``8 * width ** 2`` bytes.
    """

    def __init__(self, width: int, seed: int) -> None:
        self.hessian = lk.HessianAccumulator(width)
        self._random = np.random.default_rng(seed)
        self._kept = np.empty((0, width), np.float32)
        self._keys = np.empty(0)

    def update(self, values: NDArray[Any]) -> None:
        """Add a batch of shape ``(..., width)``."""
        rows = np.ascontiguousarray(values, np.float32).reshape(-1, self._kept.shape[1])
        self.hessian.update(rows)
        keys = np.concatenate([self._keys, self._random.random(len(rows))])
        few = np.sort(np.argsort(keys, kind="stable")[:KEPT_ROWS])
        old = len(self._keys)
        self._kept = np.concatenate([self._kept[few[few < old]], rows[few[few >= old] - old]])
        self._keys = keys[few]

    @property
    def rows(self) -> NDArray[np.float32]:
        """At most :data:`KEPT_ROWS` of the rows, each with the same chance to be among them."""
        return self._kept


def observe_inputs(
    graph: Graph,
    value: str,
    width: int,
    samples: Samples,
    context: Context,
    *,
    number: int,
    threads: int | None = None,
) -> Inputs:
    """Run samples through a graph and sum up one value.

    Args:
        graph: The pivot, with the weights that were quantized so far in place.
        value: The value that products multiply.
        width: Length of its last axis.
        samples: Rows that fit the pivot's signature; read batch by batch.
        context: Opens the session; cancellation. Its seed decides which rows are kept.
        number: Makes scratch places distinct.
        threads: Threads of the session.

    Raises:
        OptimizeError: ``LPT-OPT-013`` the value is NaN or infinite for some sample.
        SessionError: The runtime refuses or fails.
    """
    found = Inputs(width, context.seed)
    inside = [] if value in graph.inputs else [value]
    _, rows = plan(graph, inside, samples, context.limits.memory_bytes)
    with observation_session(graph, inside, context, number, threads, rows=len(samples)) as session:
        for batch in batches(samples, session.signature, rows):
            context.checkpoint()
            array = session.run(batch.inputs)[value] if inside else batch.inputs[value]
            found.update(valid_part(array, batch.valid_rows, batch.inputs))
            for given in samples.inputs.values():
                release_pages(given)
    if not np.isfinite(found.hessian.total).all():
        raise OptimizeError(
            "LPT-OPT-013",
            f"The value {value!r} is not finite for some calibration samples",
            cause="its products with itself are NaN or infinite",
            remedy="Remove the samples that overflow, or choose --option method=mse, which needs "
            "none.",
            details={"value": value},
        )
    return found


__all__ = ["KEPT_ROWS", "Inputs", "observe_inputs"]
