"""What is done to a float graph before it becomes integers, and the recipe that it leads to."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from onnx import ModelProto

from lepton_compress._build import static_recipe
from lepton_compress._graph import Graph
from lepton_core.recipe import Correction, Rescaled
from lepton_onnx import qdq

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from lepton_compress._calibrate import Range
    from lepton_compress._job import Job
    from lepton_core.recipe import Recipe, Tensor
    from lepton_core.samples import Samples


NARROW = "absmax/2"
"""Estimator of weights that use half of their integers: scale absmax / 63.5."""


@dataclass(frozen=True)
class Recovery:
    """What was done to a float graph before it became integers.

    Attributes:
        rescaled: Values with rescaled channels.
        corrections: Corrections of biases, by layer.
        keep: Operators that join values of different scales and stay float.
        narrow: Weights that use half of their integers, -64..64, so that two products fit 16 bits.
    """

    rescaled: Mapping[str, Rescaled] = field(default_factory=dict)
    corrections: Mapping[str, Correction] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    narrow: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing was done."""
        return not (self.rescaled or self.corrections or self.keep or self.narrow)

    @property
    def moves_ranges(self) -> bool:
        """Whether float weights and ranges, and so all integers, are other ones by it."""
        return bool(self.rescaled or self.keep)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "rescaled": {name: asdict(entry) for name, entry in self.rescaled.items()},
            "corrections": {name: asdict(entry) for name, entry in self.corrections.items()},
            "keep": list(self.keep),
            "narrow": list(self.narrow),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recovery:
        """Undo :meth:`to_dict`, also after a round through JSON."""
        rescaled = {
            name: Rescaled(**{**entry, "exponents": tuple(entry["exponents"])})
            for name, entry in data["rescaled"].items()
        }
        corrections = {
            name: Correction(**{**entry, "values": tuple(entry["values"])})
            for name, entry in data["corrections"].items()
        }
        return cls(rescaled, corrections, tuple(data["keep"]), tuple(data["narrow"]))

    def on(self, graph: Graph) -> tuple[Graph, qdq.Rescaling]:
        """Return the graph after rescaling, and how its names relate to the pivot's."""
        if not self.rescaled:
            return graph, qdq.Rescaling(graph.model)
        copy = ModelProto()
        copy.CopyFrom(graph.model)
        names = qdq.rescale(copy, self.rescaled)
        return Graph(copy), names

    def recipe(
        self,
        job: Job,
        samples: Samples,
        estimator: str,
        keep: Collection[str] = (),
        ranges: dict[str, Range] | None = None,
    ) -> tuple[Recipe, dict[str, Range]]:
        """Return static int8 with all of this, and the ranges that were seen after rescaling.

        Args:
            job: What was asked for.
            samples: Rows to calibrate on.
            estimator: Range estimator.
            keep: Names that stay float.
            ranges: What an earlier call returned for the same samples and estimator.
        """
        graph, names = self.on(job.graph)
        recipe, ranges = static_recipe(
            graph, job.base.digest, job.opset, samples, job.scratch,
            estimator=estimator, keep=(*keep, *self.keep), threads=job.options.threads,
            ranges=ranges, wide=job.request.precision == "int16",
        )  # fmt: skip
        recipe = names.pivot_recipe(recipe)
        used = {n for n, t in recipe.tensors.items() if t.kind == "weight"}
        rescaled = {
            value: entry
            for value, entry in self.rescaled.items()
            if used & {*entry.multiplied, *entry.divided}
        }
        tensors = {n: halved(t) if n in self.narrow else t for n, t in recipe.tensors.items()}
        corrections = {n: c for n, c in self.corrections.items() if n in recipe.layers}
        changed = replace(recipe, tensors=tensors, rescaled=rescaled, corrections=corrections)
        return changed, ranges


def halved(tensor: Tensor) -> Tensor:
    """Return a weight's entry that uses half of its integers; doubling a scale is exact."""
    scales = tuple(2 * scale for scale in tensor.scales)
    scale = scales if isinstance(tensor.scale, tuple) else scales[0]
    return replace(tensor, scale=scale, estimator=NARROW)


__all__ = ["Recovery", "halved"]
