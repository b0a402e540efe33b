"""How large what weights multiply is: mean squares of the inputs of products, over all samples."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - the dataclass names it
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_compress._channels import observe_axes
from lepton_core.errors import OptimizeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_compress._channels import Channels
    from lepton_compress._graph import Graph
    from lepton_compress._options import Options
    from lepton_compress._prunable import Site
    from lepton_core.context import Context
    from lepton_core.samples import Samples


@dataclass(frozen=True)
class Powers:
    """Mean squares of input channels, by weight.

    A weight that several products read is scored by the inputs of all of them: what it makes of
    each is an error of the model. Their rows count alike.

    Attributes:
        reads: By weight: products that read it, with what their inputs look like. Weights that
            nothing is known about (lookups, inputs of unknown rank) are left out.
    """

    reads: Mapping[str, tuple[tuple[Site, Channels], ...]]

    def vector(self, name: str) -> NDArray[np.float64] | None:
        """Return the mean square of each input channel, if all products take them in one order."""
        reads = self.reads.get(name, ())
        if len({(site.layout, len(seen.power)) for site, seen in reads}) != 1:
            return None
        counts = np.asarray([seen.count for _, seen in reads], np.float64)
        powers = np.stack([seen.power for _, seen in reads])
        mean: NDArray[np.float64] = counts @ powers / counts.sum()
        return mean

    def of(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
        """Return for each value of a weight the mean square of what it multiplies.

        Args:
            name: The weight.
            shape: Its shape.

        Returns:
            float64 of *shape*; ``None`` where nothing is known.
        """
        one = self.vector(name)
        if one is not None:
            return self.reads[name][0][0].per_input(one, shape)
        total, rows = np.zeros(shape), 0
        for site, seen in self.reads.get(name, ()):
            total += seen.count * site.per_input(seen.power, shape)
            rows += seen.count
        return total / rows if rows else None


def input_powers(
    graph: Graph,
    sites: Mapping[str, Site],
    samples: Samples,
    context: Context,
    options: Options,
) -> Powers:
    """Return the mean squares of the input channels of weights.

    Args:
        graph: The pivot.
        sites: Weights, with what reads them first.
        samples: Rows to run.
        context: Opens the session; cancellation.
        options: Threads of the session.

    Raises:
        OptimizeError: ``LPT-OPT-013`` one is not finite.
    """
    every = {name: (site, *site.others) for name, site in sites.items()}
    known = {n: [s for s in reads if s.channels is not None] for n, reads in every.items()}
    places = dict.fromkeys(_place(site) for reads in known.values() for site in reads)
    seen: Mapping[tuple[str, Any], Channels] = observe_axes(
        graph, places, samples, context, threads=options.threads
    )
    for (value, _), channels in seen.items():
        if not np.isfinite(channels.power).all():
            raise OptimizeError(
                "LPT-OPT-013",
                f"The value {value!r} is not finite for some calibration samples",
                cause="its mean square is NaN or infinite",
                remedy="Remove the samples that overflow, or give none.",
                details={"value": value},
            )
    found = {
        name: tuple((site, seen[_place(site)]) for site in reads if _place(site) in seen)
        for name, reads in known.items()
    }
    return Powers({name: reads for name, reads in found.items() if reads})


def _place(site: Site) -> tuple[str, int]:
    return site.source, site.channels or 0


__all__ = ["Powers", "input_powers"]
