"""Opening a deployment by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_core.deployment._handle import Deployment
from lepton_core.deployment._slot import Opening
from lepton_core.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lepton_core.deployment._alarms import Alarm
    from lepton_core.dispatch import Hooks


def open_deployment(
    reference: str,
    *,
    store: str | Path | Store | None = None,
    hooks: Hooks | None = None,
    threads: int | None = None,
    device: str | None = None,
    options: Mapping[str, Any] | None = None,
    poll_seconds: float | None = 1.0,
    flush_seconds: float | None = None,
    drain_seconds: float = 30.0,
    allow_signature_change: bool = False,
    on_alarm: Callable[[Alarm], None] | None = None,
) -> Deployment:
    """Open a deployment: ``lepton_core.deployment("digits@production")``.

    Args:
        reference: ``NAME@ALIAS``, ``NAME`` for its alias ``production``, or ``NAME@VERSION``,
            which never moves.
        store: The store or its folder; ``LEPTON_STORE`` or the user's data folder by default.
        hooks: Hooks to open sessions with; the process's own by default.
        threads: Intra-op threads; by default what the deployment's settings say.
        device: Device, likewise.
        options: Owner-specific options of the session, over those of the settings.
        poll_seconds: How often to look whether the alias moved; ``None`` only in
            :meth:`.Deployment.check`.
        flush_seconds: How often to write measurements to the store; ``None`` never.
        drain_seconds: How long a swap waits for calls under way before it goes on without them.
        allow_signature_change: Let a version take over whose signature does not fit the callers.
        on_alarm: Called with every alarm, in the watching thread.

    Returns:
        The handle; close it, or use it as a context manager.

    Raises:
        UsageError: LPT-STORE-006 … 009, the reference leads nowhere.
        StorageError: LPT-STORE-002 … 004, there is no store, or something in it is damaged.
        PluginError: The target's plugin is not installed or cannot be used.
        SessionError: The runtime refuses the model.
        DeployError: LPT-DEP-003, LPT-DEP-006.
    """
    from lepton_core.hooks import default

    opened = store if isinstance(store, Store) else Store(store, create=False)
    try:
        return Deployment(
            reference,
            opened,
            hooks or default(),
            opening=Opening(threads, device, options),
            poll_seconds=poll_seconds,
            flush_seconds=flush_seconds,
            drain_seconds=drain_seconds,
            allow_signature_change=allow_signature_change,
            on_alarm=on_alarm,
            owns_store=opened is not store,
        )
    except BaseException:
        if opened is not store:
            opened.close()
        raise


__all__ = ["open_deployment"]
