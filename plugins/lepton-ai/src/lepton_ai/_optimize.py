"""``ModelOptimizer``: make a model smaller or faster within a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_ai._work import Job, verb, warn

if TYPE_CHECKING:
    import os

    import numpy as np

    from lepton_ai._inputs import ModelLike
    from lepton_ai._work import Stage
    from lepton_core.types import Model, OptimizeResult


class ModelOptimizer:
    """Compresses a model by a recipe, and lowers it again for its target.

    An artifact cannot be compressed as it is: the graph that was kept beside it is compressed,
    and lowered for the same target.

    With samples, values are calibrated on real inputs (static int8); with ``precision="auto"``
    or a budget, what is kept is chosen by rows that were not calibrated on, and float is kept,
    with the reason in ``result.why``, if nothing within the budget is smaller or faster here.
    Without samples nothing is calibrated or measured: matrix products find their scales as they
    run (dynamic int8), and a :class:`ModelWarning` says that the verdict is weak.

    Args:
        model: A source, or a result of another verb.
        target: Target string; by default the one that the model was made for, or else this
            machine (:func:`.default_target`).
        precision: ``"auto"``; ``"int8"``, which fails if the budget cannot be met; weights alone
            in few bits, ``"int4"`` or ``"int8-weight"``; ``"mixed"``, one for each weight;
            ``"sparse"`` (with the option ``sparsity`` or ``pattern``, or a budget that says how
            much) or ``"palette"``, which stay float. Beside a recipe it is the recipe's.
        max_drop: Largest accepted loss in the metric's own unit (0.005 is half a point of
            top-1).
        max_size: Largest accepted size: bytes, or up to 1 as a share of the uncompressed one.
            The precision ``"auto"`` means ``"mixed"`` then.
        samples: Real inputs: a path (``.npz``, a folder of ``.npy``, ``file.py:callable``), or
            one array per input by name, rows first, and maybe ``labels``.
        recipe: Path of a recipe to lower again instead of searching.
        engine: Engine that does it.
        options: Options of the engine, such as ``{"scheme": "weight-only"}``.
        out: Directory of the result; by default
            ``lepton-ai-out/NAME/TARGET/optimized-PRECISION``, where an earlier result is
            replaced.
        force: Replace what is at *out* even if lepton did not write it.
        seed: Seed of everything random.
        timing_seconds: Time to spend, about, on timing the result in turns with the float model
            (``result.facts["gain"]``); 0 for none.

    Attributes:
        result: What the last call found out: the model, the recipe's path, why, facts (among
            them ``verdict``), warnings.
    """

    def __init__(
        self,
        model: ModelLike,
        *,
        target: str | None = None,
        precision: str = "auto",
        max_drop: float | None = None,
        max_size: float | None = None,
        samples: str | os.PathLike[str] | Mapping[str, np.ndarray[Any, Any]] | None = None,
        recipe: str | os.PathLike[str] | None = None,
        engine: str = "compress",
        options: Mapping[str, Any] | None = None,
        out: str | os.PathLike[str] | None = None,
        force: bool = False,
        seed: int = 0,
        timing_seconds: float = 0.25,
    ) -> None:
        self.model = model
        self.target = target
        self.precision = precision
        self.max_drop = max_drop
        self.max_size = max_size
        self.samples = samples
        self.recipe = recipe
        self.engine = engine
        self.options = dict(options or {})
        self.out = out
        self.force = force
        self.seed = seed
        self.timing_seconds = timing_seconds
        self.result: OptimizeResult | None = None

    @property
    def _asked(self) -> str:
        """What is passed on: ``"auto"`` leaves the choice to a size, or to a recipe."""
        if self.precision != "auto":
            return self.precision
        if self.recipe is not None:
            return ""
        return "mixed" if self.max_size is not None else "auto"

    @verb
    def optimize(self) -> Model:
        """Do it.

        Returns:
            The optimized artifact: open it with :func:`lepton_core.open`.

        Raises:
            UsageError: LPT-AI-001, what was given is no model.
            SourceError: It cannot be found or read.
            SampleError: The samples cannot be read, or do not fit the model.
            PluginError: The target or the engine cannot be used.
            PlanError: LPT-PLAN-003, the graph that an artifact was lowered from is not beside it.
            OptimizeError: LPT-OPT-010, the model is quantized already; LPT-OPT-014, the budget
                cannot be met; or it cannot be compressed.
            StorageError: The result cannot be written.
        """
        import lepton_core

        job = Job.of("optimize", self.model, self.target, self.out, f"optimized-{self.precision}")
        with job.stage(seed=self.seed, force=self.force) as stage:
            source = stage.load()
            found = lepton_core.optimize(
                source,
                target=job.parsed.id,
                engine=self.engine,
                precision=self._asked,
                max_drop=self.max_drop,
                max_size=self.max_size,
                samples=_prepared(self.samples, source, stage),
                recipe=None if self.recipe is None else str(Path(self.recipe).absolute()),
                options=self.options,
                device=job.parsed.device,
                timing_seconds=self.timing_seconds,
                context=stage.context,
            )
            precision = str(found.model.metadata.get("precision") or self.precision)
            notes = {"why": found.why, "facts": found.facts, "warnings": found.warnings}
            made = stage.close(found.model, precision, notes)
            recipe = stage.final(found.recipe) if found.recipe else None
        self.result = replace(found, model=made, recipe=recipe)
        warn(found.warnings)
        return made


def _prepared(
    samples: str | os.PathLike[str] | Mapping[str, np.ndarray[Any, Any]] | None,
    model: Model,
    stage: Stage,
) -> str | None:
    """Fit samples to the model, and save them for the engine's process."""
    if samples is None:
        return None
    from lepton_core.samples import from_arrays, load_samples, match, save

    given = from_arrays(samples) if isinstance(samples, Mapping) else load_samples(samples)
    if model.signature is not None:
        given = match(given, model.signature)
    return str(save(given, stage.scratch.workdir / "samples"))


__all__ = ["ModelOptimizer"]
