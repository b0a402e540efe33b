"""The decorators that mark hook specifications and implementations.

This module imports pluggy and nothing else, so a plugin's ``plugin.py`` that imports
:data:`hookimpl` costs almost nothing.
"""

from __future__ import annotations

from typing import Final

import pluggy

from lepton_core._version import SPEC_VERSION

PROJECT_NAME: Final = "lepton"

hookspec: Final = pluggy.HookspecMarker(PROJECT_NAME)
"""Marks a method of :class:`lepton_core.hookspecs.LeptonSpecs` (internal)."""

hookimpl: Final = pluggy.HookimplMarker(PROJECT_NAME)
"""Marks a plugin's implementation of a hook (public)."""

__all__ = ["PROJECT_NAME", "SPEC_VERSION", "hookimpl", "hookspec"]
