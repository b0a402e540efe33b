"""The hooks as functions, for programs: ``hooks.convert(model, request, context)``.

The names and the order of the arguments are those of the specifications; the registry is the
process's default one. Heavy steps run in worker processes unless ``LEPTON_ISOLATION=0``.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lepton_core import types
    from lepton_core.context import Context, Session
    from lepton_core.dispatch import Hooks

_lock = threading.Lock()
_default: Hooks | None = None


def default() -> Hooks:
    """Return the process's hooks, made when first asked for."""
    global _default  # noqa: PLW0603 - one registry per process is the point
    with _lock:
        if _default is None:
            from lepton_core.dispatch import Hooks
            from lepton_core.registry import Registry
            from lepton_core.workers import WorkerPool

            isolated = os.environ.get("LEPTON_ISOLATION", "1") != "0"
            _default = Hooks(Registry(), WorkerPool() if isolated else None)
        return _default


def use(hooks: Hooks | None) -> Hooks | None:
    """Replace the process's hooks and return the old ones; ``None`` makes new ones when needed."""
    global _default
    with _lock:
        _default, old = hooks, _default
        return old


def inspect(
    model: types.Model, request: types.InspectRequest, context: Context
) -> types.InspectResult:
    """See :meth:`.LeptonSpecs.lepton_inspect`."""
    return default().inspect(model, request, context)


def check(model: types.Model, request: types.CheckRequest, context: Context) -> types.CheckResult:
    """See :meth:`.LeptonSpecs.lepton_check`."""
    return default().check(model, request, context)


def adapt(model: types.Model, request: types.AdaptRequest, context: Context) -> types.AdaptResult:
    """See :meth:`.LeptonSpecs.lepton_adapt`."""
    return default().adapt(model, request, context)


def convert(
    model: types.Model, request: types.ConvertRequest, context: Context
) -> types.ConvertResult:
    """See :meth:`.LeptonSpecs.lepton_convert`; walks the whole planned path."""
    return default().convert(model, request, context)


def optimize(
    model: types.Model, request: types.OptimizeRequest, context: Context
) -> types.OptimizeResult:
    """See :meth:`.LeptonSpecs.lepton_optimize`."""
    return default().optimize(model, request, context)


def deploy(
    model: types.Model, request: types.DeployRequest, context: Context
) -> types.DeployResult:
    """See :meth:`.LeptonSpecs.lepton_deploy`."""
    return default().deploy(model, request, context)


def adjust(
    model: types.Model, request: types.AdjustRequest, context: Context
) -> types.AdjustResult:
    """See :meth:`.LeptonSpecs.lepton_adjust`."""
    return default().adjust(model, request, context)


def migrate(
    model: types.Model, request: types.MigrateRequest, context: Context
) -> types.MigrateResult:
    """See :meth:`.LeptonSpecs.lepton_migrate`."""
    return default().migrate(model, request, context)


def open(model: types.Model, request: types.OpenRequest, context: Context) -> Session:
    """See :meth:`.LeptonSpecs.lepton_open`."""
    return default().open(model, request, context)


__all__ = [
    "adapt",
    "adjust",
    "check",
    "convert",
    "default",
    "deploy",
    "inspect",
    "migrate",
    "open",
    "optimize",
    "use",
]
