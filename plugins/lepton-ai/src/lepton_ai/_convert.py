"""``ModelConverter``: bring a model into a target's own format."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lepton_ai._work import Job, verb, warn

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from lepton_ai._inputs import ModelLike
    from lepton_core.types import ConvertResult, Model


class ModelConverter:
    """Converts models for a target; one converter may convert many.

    The graph that a model was lowered from is kept beside the result, so that it can be optimized
    or converted for another target later.

    Args:
        target: Target string, such as ``"openvino"``; by default the one that the model was
            adapted for, or else this machine (:func:`.default_target`).
        precision: How weights are stored: ``"fp32"`` or ``"fp16"``. Integers are the optimizer's.
        options: Options of the plugin that converts.
        force: Replace what is at *out* even if lepton did not write it.
        seed: Seed of everything random.

    Attributes:
        result: What the last call found out: the model, facts, warnings.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        precision: str = "fp32",
        options: Mapping[str, Any] | None = None,
        force: bool = False,
        seed: int = 0,
    ) -> None:
        self.target = target
        self.precision = precision
        self.options = dict(options or {})
        self.force = force
        self.seed = seed
        self.result: ConvertResult | None = None

    @verb
    def convert(self, model: ModelLike, *, out: str | os.PathLike[str] | None = None) -> Model:
        """Convert a model.

        Args:
            model: A source, or a result of another verb. An artifact is converted for another
                target from the graph that was kept beside it, and a compressed one with its
                recipe: both targets then hold the same integers.
            out: Directory of the result; by default
                ``lepton-ai-out/NAME/TARGET/converted-PRECISION``, where an earlier result is
                replaced.

        Returns:
            The artifact: open it with :func:`lepton_core.open`.

        Raises:
            UsageError: LPT-AI-001, what was given is no model.
            SourceError: It cannot be found or read.
            PluginError: The target, or the plugin that reads the model, cannot be used.
            PlanError: No path leads to the target, or not at this precision.
            ConversionError: A step failed.
            StorageError: The result cannot be written.
        """
        from lepton_core.conversion import convert_into
        from lepton_core.hooks import default
        from lepton_core.types import ConvertRequest

        job = Job.of("convert", model, self.target, out, f"converted-{self.precision}")
        request = ConvertRequest(
            job.parsed.id,
            precision=self.precision,
            device=job.parsed.device,
            options=self.options,
        )
        with job.stage(seed=self.seed, force=self.force) as stage:
            source = stage.load()
            walked = convert_into(default(), source, request, stage.context, stage.scratch)
            found = walked.result
            precision = str(found.model.metadata.get("precision") or self.precision)
            made = stage.close(found.model, precision, {"warnings": found.warnings})
        self.result = replace(found, model=made)
        warn(found.warnings)
        return made


__all__ = ["ModelConverter"]
