"""The hook contract: what a plugin may implement.

Every hook takes ``(model, request, context)``; an implementation may take fewer. Growth happens
inside the frozen request and result classes of :mod:`lepton_core.types`. A verb is planned into
steps and each step goes to exactly one owner plus the wrappers; it is never broadcast.

Guarantees that every implementation keeps: inputs are not changed; files are written only under
``context.workdir``; the same inputs and seed give the same bytes; expected failures are
:class:`~lepton_core.errors.LeptonError` subclasses, anything else is reported as a fault of the
plugin, with its name and version; ``None`` means "not mine", never failure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_core.markers import hookspec

if TYPE_CHECKING:
    from lepton_core.context import Context, Session
    from lepton_core.types import (
        AdaptRequest,
        AdaptResult,
        AdjustRequest,
        AdjustResult,
        CheckRequest,
        CheckResult,
        ConvertRequest,
        ConvertResult,
        DeployRequest,
        DeployResult,
        InspectRequest,
        InspectResult,
        MigrateRequest,
        MigrateResult,
        Model,
        OpenRequest,
        OptimizeRequest,
        OptimizeResult,
        StageEvent,
    )


class LeptonSpecs:
    """All hooks; method names are the contract."""

    @hookspec(firstresult=True)
    def lepton_inspect(
        self, model: Model, request: InspectRequest, context: Context
    ) -> InspectResult | None:
        """Read a source without converting it.

        Called by ``lepton check`` and ``lepton port`` on the plugin that declares the model's
        format among its ``sources``.

        Args:
            model: The source as the user named it; signature and digest may be missing.
            request: What to find out.
            context: Where to write scratch files, how to report, when to stop.

        Returns:
            The model with signature, digest and metadata, and the operators it uses.

        Raises:
            SourceError: The source cannot be found, read or trusted.

        .. versionadded:: 0.1
        """

    @hookspec(firstresult=True)
    def lepton_check(
        self, model: Model, request: CheckRequest, context: Context
    ) -> CheckResult | None:
        """Judge whether a model will fit this target, before anything is converted.

        Called by ``lepton check`` on the target's plugin; must answer in seconds and from the
        inspection alone.

        Args:
            model: The inspected source.
            request: The inspection and the device.
            context: As for :meth:`lepton_inspect`.

        Returns:
            ``fits``, ``needs-rewrite`` or ``impossible``, with reasons that name the place.

        .. versionadded:: 0.1
        """

    @hookspec(firstresult=True)
    def lepton_adapt(
        self, model: Model, request: AdaptRequest, context: Context
    ) -> AdaptResult | None:
        """Rewrite a model so that it meets a target's declared constraints.

        Called on the plugin that owns the source format.

        Args:
            model: The model to rewrite; its files must not be changed.
            request: The target with its constraints, and which rewrites and sizes are asked for.
            context: Where to write the adapted model.

        Returns:
            The adapted model and one line per change.

        Raises:
            AdaptError: A constraint cannot be met; names the place in the source.

        .. versionadded:: 0.1
        """

    @hookspec(firstresult=True)
    def lepton_convert(
        self, model: Model, request: ConvertRequest, context: Context
    ) -> ConvertResult | None:
        """Walk one edge: from the model's format to ``request.to_format``.

        Called on the one plugin that declares this edge, after the plan has been made.

        Args:
            model: The model to convert; its files must not be changed.
            request: What to produce.
            context: Where to write it, how to report, when to stop.

        Returns:
            The converted model with signature, digest and lineage.

        Raises:
            ConversionError: The model cannot be converted; names the operator and, where it is
                known, the user's source line.

        .. versionadded:: 0.1
        """

    @hookspec(firstresult=True)
    def lepton_optimize(
        self, model: Model, request: OptimizeRequest, context: Context
    ) -> OptimizeResult | None:
        """Compress a model under a budget.

        Called on the engine named in the request.

        Args:
            model: The pivot, or the model of the engine's own format.
            request: Precision, budget, samples, or a recipe to reproduce.
            context: Where to write the recipe and the model.

        Returns:
            The compressed model, its recipe, and why this one was chosen.

        Raises:
            OptimizeError: Nothing within the budget was found, or the recipe does not fit.

        .. versionadded:: 0.1
        """

    @hookspec(firstresult=True)
    def lepton_deploy(
        self, model: Model, request: DeployRequest, context: Context
    ) -> DeployResult | None:
        """Put a model under a name, as a new version.

        Called on the engine named in the request.

        Args:
            model: The artifact to deploy.
            request: Name, target, alias and kind.
            context: Where to write, how to report.

        Returns:
            Name, version and location of what was deployed.

        Raises:
            DeployError: It could not be deployed; what stood before still stands.

        .. versionadded:: 0.1
        """

    @hookspec(firstresult=True)
    def lepton_adjust(
        self, model: Model, request: AdjustRequest, context: Context
    ) -> AdjustResult | None:
        """Plan changes to a running deployment from what it measured.

        Called on the engine named in the request; a policy only plans, the fast path reads the
        table it leaves behind.

        Args:
            model: The artifact that the deployment runs now.
            request: Objective and floor.
            context: Where to write, how to call other verbs.

        Returns:
            The changes with predicted and measured effect.

        Raises:
            AdjustError: No change could be planned; the deployment is as before.

        .. versionadded:: 0.1
        """

    @hookspec(firstresult=True)
    def lepton_migrate(
        self, model: Model, request: MigrateRequest, context: Context
    ) -> MigrateResult | None:
        """Move a deployment to another target with a proof of equivalence.

        Called on the engine named in the request.

        Args:
            model: The artifact that the deployment runs now.
            request: Name and new target.
            context: Where to write, how to call other verbs.

        Returns:
            ``done`` or ``returned``, and why.

        Raises:
            MigrateError: It could not be moved; the deployment is as before.

        .. versionadded:: 0.1
        """

    @hookspec(firstresult=True)
    def lepton_open(self, model: Model, request: OpenRequest, context: Context) -> Session | None:
        """Open a model as a session.

        Called on the target's plugin, or, to run a source as the yardstick, on the plugin that
        declares the best reference rank for the format.

        Args:
            model: An artifact in a format that the plugin declares in ``opens``.
            request: Device, threads, whether it is the yardstick.
            context: Where to write caches.

        Returns:
            An open session; the caller closes it.

        Raises:
            SessionError: The runtime refuses the model, or a device is not there.

        .. versionadded:: 0.1
        """

    @hookspec
    def lepton_stage_started(self, event: StageEvent) -> None:
        """Observe that a stage starts; exceptions are reported as warnings, never raised.

        Args:
            event: What starts, and on whose behalf.

        .. versionadded:: 0.1
        """

    @hookspec
    def lepton_stage_finished(self, event: StageEvent) -> None:
        """Observe that a stage ended, with duration and error code.

        Args:
            event: What ended, and how.

        .. versionadded:: 0.1
        """
