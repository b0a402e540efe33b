"""Telling observers that a stage starts and how it ended."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from lepton_core.errors import LeptonError
from lepton_core.registry import PluginWarning

if TYPE_CHECKING:
    from lepton_core.registry import Registry
    from lepton_core.types import StageEvent


def announce(registry: Registry, name: str, event: StageEvent) -> None:
    """Tell every observer; what one of them raises is a warning and nothing more."""
    manager = registry.manager
    observers = getattr(manager.hook, name).get_hookimpls()
    for one in observers:
        others = [impl.plugin for impl in observers if impl.plugin is not one.plugin]
        try:
            manager.subset_hook_caller(name, remove_plugins=others)(event=event)
        except (Exception, SystemExit) as error:  # an observer never stops the work
            warnings.warn(
                f"observer {manager.get_name(one.plugin)!r} failed at {name}: "
                f"{type(error).__name__}: {error}",
                PluginWarning,
                stacklevel=2,
            )


class Stage:
    """Announces a stage around a ``with`` block.

    Args:
        registry: Where observers are registered.
        event: What starts.
    """

    def __init__(self, registry: Registry, event: StageEvent) -> None:
        self._registry = registry
        self._event = event
        self._began = 0.0

    def __enter__(self) -> None:
        self._registry.load_always()
        self._began = time.perf_counter()
        announce(self._registry, "lepton_stage_started", self._event)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        done = replace(
            self._event,
            status="ok" if error is None else "failed",
            seconds=time.perf_counter() - self._began,
            error_code=error.code if isinstance(error, LeptonError) else None,
        )
        announce(self._registry, "lepton_stage_finished", done)


__all__ = ["Stage", "announce"]
