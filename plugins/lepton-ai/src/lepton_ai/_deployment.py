"""``ModelDeployer``, ``ModelAdjuster`` and ``ModelMigrator``: a model in use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_ai._inputs import describe
from lepton_ai._targets import checked, default_target
from lepton_ai._work import scratch_context, verb

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from lepton_ai._inputs import ModelLike
    from lepton_core.types import AdjustResult, DeployResult, MigrateResult


class ModelDeployer:
    """Puts a model under a name, as a new version in the store.

    Args:
        model: A source, or a result of another verb.
        name: Name of the deployment; by default the model's own.
        target: Target string; by default the one that the model was made for, or else this
            machine (:func:`.default_target`).
        alias: Alias to point at the new version; ``None`` for none.
        kind: ``"embedded"``, or ``"bundle"`` for a directory to ship as well.
        store: Folder of the store; by default ``LEPTON_STORE`` or the user's data folder.
        out: Directory of the bundle; by default the name.
        samples: Path of samples whose first rows become golden inputs; they are stored then.
        options: More options of the embedded engine.
    """

    def __init__(
        self,
        model: ModelLike,
        *,
        name: str | None = None,
        target: str | None = None,
        alias: str | None = "production",
        kind: str = "embedded",
        store: str | os.PathLike[str] | None = None,
        out: str | os.PathLike[str] | None = None,
        samples: str | os.PathLike[str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.name = name
        self.target = target
        self.alias = alias
        self.kind = kind
        self.options = {**_paths(store=store, out=out, samples=samples), **(options or {})}

    @verb
    def deploy(self) -> DeployResult:
        """Try the model here, store it, and move the alias.

        Returns:
            Name, version and place: ``lepton_core.deployment("NAME@production")`` runs it.

        Raises:
            UsageError: LPT-AI-001, what was given is no model; an option or name is wrong.
            SourceError: The model cannot be found or read.
            PluginError: The target cannot be used.
            DeployError: It could not be deployed; what stood before still stands.
            SessionError: The artifact does not open or run here.
            StorageError: The store cannot be written.
        """
        import lepton_core

        source = describe(self.model)
        name = self.name or source.name
        options = dict(self.options)
        if self.kind == "bundle":
            options.setdefault("out", str(Path(name).absolute()))
        with scratch_context() as context:
            return lepton_core.deploy(
                source.given,
                name=name,
                target=checked(self.target or source.target or default_target()),
                alias=self.alias,
                kind=self.kind,
                options=options,
                context=context,
            )


class ModelAdjuster:
    """Tunes a deployment by what it measures here.

    Args:
        name: Name of the deployment.
        objective: What to improve: ``"latency"``, ``"throughput"`` or ``"memory"``.
        floor: Lowest accepted value of the accuracy metric.
        samples: Path of samples to call with; noise by default.
        store: Folder of the store; by default ``LEPTON_STORE`` or the user's data folder.
        options: More options of the engine.
    """

    def __init__(
        self,
        name: str,
        *,
        objective: str = "latency",
        floor: float | None = None,
        samples: str | os.PathLike[str] | None = None,
        store: str | os.PathLike[str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.objective = objective
        self.floor = floor
        self.options = {**_paths(store=store, samples=samples), **(options or {})}

    @verb
    def adjust(self) -> AdjustResult:
        """Do it.

        Returns:
            What was changed, with predicted and measured effect.

        Raises:
            UsageError: There is no such deployment, or an option is wrong.
            UnsupportedOperationError: The engine does not do it.
            AdjustError: It could not be adjusted; it goes on as it was.
            StorageError: The store cannot be read or written.
        """
        from lepton_core import hooks
        from lepton_core.types import AdjustRequest, Model

        request = AdjustRequest(self.name, self.objective, self.floor, options=self.options)
        with scratch_context() as context:
            return hooks.adjust(Model("deployment", self.name), request, context)


class ModelMigrator:
    """Moves a deployment to another target, if it proves to be the same there.

    Args:
        name: Name of the deployment.
        target: Target string to move to.
        samples: Path of recorded inputs to compare on; without them, and without real golden
            inputs, the proof is weak, and nothing is moved.
        store: Folder of the store; by default ``LEPTON_STORE`` or the user's data folder.
        options: More options of the engine.
    """

    def __init__(
        self,
        name: str,
        target: str,
        *,
        samples: str | os.PathLike[str] | None = None,
        store: str | os.PathLike[str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.target = target
        self.options = {**_paths(store=store, data=samples), **(options or {})}

    @verb
    def migrate(self) -> MigrateResult:
        """Do it.

        Returns:
            How it ended: ``"done"``, or ``"returned"`` to the old target, and why.

        Raises:
            UsageError: There is no such deployment, or an option is wrong.
            PluginError: The target cannot be used.
            UnsupportedOperationError: The engine does not do it.
            MigrateError: It could not be moved; it goes on as it was.
            StorageError: The store cannot be read or written.
        """
        from lepton_core import hooks
        from lepton_core.types import MigrateRequest, Model

        target = checked(self.target)
        request = MigrateRequest(self.name, target, options=self.options)
        with scratch_context() as context:
            return hooks.migrate(Model("deployment", self.name), request, context)


def _paths(**given: str | os.PathLike[str] | None) -> dict[str, str]:
    """Return the paths that were given, absolute; ``file.py:callable`` counts as one."""
    return {k: str(Path(v).expanduser().absolute()) for k, v in given.items() if v is not None}


__all__ = ["ModelAdjuster", "ModelDeployer", "ModelMigrator"]
