"""Lepton: one AI model to every platform, with proof that it still is the same model.

The names below are the public interface; each is imported on first use, so that
``import lepton_core`` costs a few milliseconds and loads neither numpy nor a framework.
Whatever has a leading underscore anywhere in its path, or is absent from a module's
``__all__``, is private.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lepton_core._version import __version__

if TYPE_CHECKING:
    from lepton_core import errors, hooks
    from lepton_core.api import (
        adapt,
        adjust,
        convert,
        deploy,
        inspect,
        load,
        migrate,
        open,
        optimize,
        targets,
    )
    from lepton_core.context import Context, Session
    from lepton_core.deployment import open_deployment as deployment
    from lepton_core.errors import LeptonError
    from lepton_core.markers import hookimpl
    from lepton_core.porting import PortResult, port
    from lepton_core.store import Store
    from lepton_core.types import Model, Signature, Target, TensorSpec, Variant

# Both a package and a function: the package may be called (see its docstring).
_CALLABLE = "deployment"
_MODULES = (_CALLABLE, "errors", "hooks")
_PUBLIC = {
    "lepton_core.api": (
        "adapt",
        "adjust",
        "convert",
        "deploy",
        "inspect",
        "load",
        "migrate",
        "open",
        "optimize",
        "targets",
    ),
    "lepton_core.context": ("Context", "Session"),
    "lepton_core.errors": ("LeptonError",),
    "lepton_core.markers": ("hookimpl",),
    "lepton_core.porting": ("PortResult", "port"),
    "lepton_core.store": ("Store",),
    "lepton_core.types": ("Model", "Signature", "Target", "TensorSpec", "Variant"),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [
    "Context",
    "LeptonError",
    "Model",
    "PortResult",
    "Session",
    "Signature",
    "Store",
    "Target",
    "TensorSpec",
    "Variant",
    "__version__",
    "adapt",
    "adjust",
    "convert",
    "deploy",
    "deployment",
    "errors",
    "hookimpl",
    "hooks",
    "inspect",
    "load",
    "migrate",
    "open",
    "optimize",
    "port",
    "targets",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - module attribute of any type
    if name in _MODULES:
        return import_module(f"lepton_core.{name}")
    if name not in _HOME:
        msg = f"module 'lepton_core' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(_HOME[name]), name)
    # Importing `lepton_core.porting` binds the submodule here; the function must win from now on.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
