"""Hooks of the embedded engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_core.markers import hookimpl

if TYPE_CHECKING:
    from lepton_core.context import Context
    from lepton_core.types import (
        AdjustRequest,
        AdjustResult,
        DeployRequest,
        DeployResult,
        MigrateRequest,
        MigrateResult,
        Model,
    )


@hookimpl
def lepton_deploy(model: Model, request: DeployRequest, context: Context) -> DeployResult:
    """Try the artifact, store it as a version, move the alias, write the bundle."""
    from lepton_core.embedded._deploy import deploy

    return deploy(model, request, context)


@hookimpl
def lepton_adjust(model: Model, request: AdjustRequest, context: Context) -> AdjustResult:
    """Measure the variants, let a policy plan, try its table, and keep it or go back."""
    from lepton_core.embedded._adjust import adjust
    from lepton_core.hooks import default

    return adjust(request, context, context.hooks or default())


@hookimpl
def lepton_migrate(model: Model, request: MigrateRequest, context: Context) -> MigrateResult:
    """Build for the new target, compare, move the alias, watch, and go back if need be."""
    from lepton_core.migration import migrate

    return migrate(model, request, context)
