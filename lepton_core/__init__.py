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
    from lepton_core.errors import LeptonError
    from lepton_core.markers import hookimpl
    from lepton_core.types import Model, Signature, Target, TensorSpec, Variant

_PUBLIC = {
    "LeptonError": "lepton_core.errors",
    "Model": "lepton_core.types",
    "Signature": "lepton_core.types",
    "Target": "lepton_core.types",
    "TensorSpec": "lepton_core.types",
    "Variant": "lepton_core.types",
    "hookimpl": "lepton_core.markers",
}
_MODULES = {"errors", "hooks"}

__all__ = [
    "LeptonError",
    "Model",
    "Signature",
    "Target",
    "TensorSpec",
    "Variant",
    "__version__",
    "errors",
    "hookimpl",
    "hooks",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - module attribute of any type
    if name in _MODULES:
        return import_module(f"lepton_core.{name}")
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    msg = f"module 'lepton_core' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
