"""One version, open: its session, the files under it, and how it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_core.context import Context
from lepton_core.errors import DeployError, LeptonError
from lepton_core.types import OpenRequest, Target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.context import Session
    from lepton_core.dispatch import Hooks
    from lepton_core.store import Resolved, Setting, Store, View


@dataclass(frozen=True, slots=True)
class Opening:
    """How sessions are opened; what is ``None`` is left to the deployment's settings.

    Attributes:
        threads: Intra-op threads.
        device: Device.
        options: Owner-specific options, over those of the settings.
    """

    threads: int | None = None
    device: str | None = None
    options: Mapping[str, Any] | None = None

    def request(
        self, target: str, setting: Setting | None, threads: int | None = None
    ) -> OpenRequest:
        """Return the request for a target string.

        Args:
            target: Target string of a version.
            setting: The deployment's ``open`` setting, if there is one.
            threads: What the dispatch table says; it counts more than the setting, and what the
                application has fixed counts more than both.
        """
        table: Mapping[str, Any] = setting.value if setting and setting.value else {}
        parsed = Target.parse(target)
        options = {**table.get("options", {}), **(self.options or {})}
        if self.threads is not None:
            threads = self.threads
        elif threads is None:
            threads = table.get("threads")
        device = self.device or table.get("device") or parsed.device
        return OpenRequest(parsed.id, device, threads, False, options)


class Slot:
    """An open version.

    Attributes:
        request: How it was opened.
        version: Id of the version.
        session: The session.
    """

    __slots__ = ("_view", "request", "resolved", "session", "version")

    def __init__(
        self, request: OpenRequest, resolved: Resolved, session: Session, view: View
    ) -> None:
        self.request = request
        self.resolved = resolved
        self.version = resolved.version.id
        self.session = session
        self._view = view

    def fits(self, resolved: Resolved, request: OpenRequest) -> bool:
        """Tell whether it is what opening a version so would give again."""
        return self.version == resolved.version.id and self.request == request

    def touch(self) -> None:
        """Keep the files from collection."""
        self._view.touch()

    def close(self) -> None:
        """Close the session and remove its files."""
        try:
            self.session.close()
        finally:
            self._view.close()


def open_slot(store: Store, hooks: Hooks, resolved: Resolved, request: OpenRequest) -> Slot:
    """Verify, open and try a version.

    Args:
        store: Where its files are.
        hooks: Opens the session.
        resolved: The version.
        request: How to open it; see :meth:`Opening.request`.

    Raises:
        StorageError: LPT-STORE-004, a file of it is damaged.
        DeployError: LPT-DEP-003, it cannot be opened; LPT-DEP-006, it answers otherwise than
            when it was deployed.
    """
    version = resolved.version
    view = store.view(version)
    try:
        session = hooks.open(view.model, request, Context(view.workdir))
        try:
            if version.role("golden"):
                from lepton_core.deployment._golden import check_golden

                check_golden(session, view.folder / "golden")  # the first run is the slow one
        except BaseException:
            session.close()
            raise
    except BaseException as error:
        view.close()
        if isinstance(error, LeptonError) or not isinstance(error, Exception):
            raise
        raise DeployError(
            "LPT-DEP-003",
            f"{version.id} of {resolved.name} cannot be opened on {version.target}",
            cause=f"{type(error).__name__}: {error}",
            remedy="Promote another version, or roll back.",
        ) from error
    return Slot(request, resolved, session, view)


__all__ = ["Opening", "Slot", "open_slot"]
