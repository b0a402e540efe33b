"""``ModelAdapter``: fit a model to what a target can take."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lepton_ai._work import Job, verb, warn

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from lepton_ai._inputs import ModelLike
    from lepton_core.types import AdaptResult, Model


class ModelAdapter:
    """Rewrites a model to meet a target's declared constraints.

    Args:
        model: Name of a model in the local Hugging Face cache (``"bert-base-cased"``), a
            directory, ``model.pt2``, ``file.py:factory``, or a result of another verb.
        target: Target string, such as ``"openvino"``; by default this machine
            (:func:`.default_target`).
        rewrites: Names of the rewrites to do, and no others; by default those that the target
            needs and those that are done for every target (``lepton rewrites`` lists them).
        shapes: Fixed sizes by symbolic dimension, such as ``{"sequence": 128}``.
        bounds: Smallest and largest size of dimensions that stay open.
        options: Options of the plugin that reads the model.
        out: Directory of the result; by default ``lepton-ai-out/NAME/TARGET/adapted``, where an
            earlier result is replaced.
        force: Replace what is at *out* even if lepton did not write it.
        seed: Seed of everything random.

    Attributes:
        result: What the last call found out: the model, one line per change, what was considered.
    """

    def __init__(
        self,
        model: ModelLike,
        *,
        target: str | None = None,
        rewrites: Iterable[str] = (),
        shapes: Mapping[str, int] | None = None,
        bounds: Mapping[str, tuple[int, int]] | None = None,
        options: Mapping[str, Any] | None = None,
        out: str | os.PathLike[str] | None = None,
        force: bool = False,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.target = target
        self.rewrites = (rewrites,) if isinstance(rewrites, str) else tuple(rewrites)
        self.shapes = dict(shapes or {})
        self.bounds = dict(bounds or {})
        self.options = dict(options or {})
        self.out = out
        self.force = force
        self.seed = seed
        self.result: AdaptResult | None = None

    @verb
    def adapt(self) -> Model:
        """Do it; nothing is downloaded, and no code that comes with the model is run.

        Returns:
            The adapted model, which stands in the directory of the result.

        Raises:
            UsageError: LPT-AI-001, what was given is no model.
            SourceError: LPT-SRC-111, the name is not in the local cache: fetch it with
                ``hf download``, or give a directory; or the model cannot be read.
            PluginError: The target, or the plugin that reads the model, cannot be used.
            AdaptError: The model cannot be adapted to the target.
            StorageError: The result cannot be written.
        """
        import lepton_core

        job = Job.of("adapt", self.model, self.target, self.out, "adapted")
        with job.stage(seed=self.seed, force=self.force) as stage:
            found = lepton_core.adapt(
                stage.load(),
                target=job.parsed.id,
                rewrites=self.rewrites,
                shapes=self.shapes,
                bounds=self.bounds,
                options=self.options,
                context=stage.context,
            )
            notes = {"changes": found.changes, "warnings": found.warnings}
            model = stage.close(found.model, "", notes)
        self.result = replace(found, model=model)
        warn(found.warnings)
        return model


__all__ = ["ModelAdapter"]
