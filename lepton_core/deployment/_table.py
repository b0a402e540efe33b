"""The dispatch table opened: sessions by number of rows, as the fast path reads it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lepton_core._split import run_split, splittable
from lepton_core.deployment._routes import Dispatch, Route, setting_key
from lepton_core.deployment._signature import check_replaces
from lepton_core.deployment._slot import open_slot
from lepton_core.errors import DeployError, LeptonError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    from lepton_core.deployment._slot import Opening, Slot
    from lepton_core.dispatch import Hooks
    from lepton_core.store import Resolved, Store

Key = tuple[str, int]
"""Version that the alias points to and number of changed settings: what a table follows from."""


class OpenRoute:
    """A route with its session."""

    __slots__ = ("batch", "limit", "route", "slot")

    def __init__(self, route: Route, slot: Slot) -> None:
        self.route = route
        self.slot = slot
        self.limit = route.rows
        self.batch = route.batch
        if route.batch is not None and not splittable(slot.session.signature):
            raise DeployError(
                "LPT-DEP-011",
                f"{slot.version} cannot run in parts of {route.batch} rows",
                cause="its inputs and outputs do not share one open first axis: "
                f"{slot.session.signature}",
                remedy="Use a route without a batch.",
            )

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a call."""
        if self.batch is None:
            return self.slot.session.run(inputs)
        return run_split(self.slot.session, inputs, self.batch)


class Table:
    """What runs now; immutable, replaced as a whole.

    Attributes:
        key: What it follows from.
        version: Version that the alias points to.
        routes: Open routes, by rising number of rows.
        change: Id of the change that led to it, ``""`` for none.
        over_at: When its trial runs out, ``None`` if it is on no trial.
    """

    __slots__ = ("change", "key", "over_at", "routes", "version")

    def __init__(
        self,
        key: Key,
        version: str,
        routes: tuple[OpenRoute, ...],
        change: str = "",
        over_at: float | None = None,
    ) -> None:
        self.key = key
        self.version = version
        self.routes = routes
        self.change = change
        self.over_at = over_at

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The open sessions, each once."""
        return tuple(dict.fromkeys(route.slot for route in self.routes))

    @property
    def main(self) -> Slot:
        """The session of the largest calls."""
        return self.routes[-1].slot

    def pick(self, rows: int) -> OpenRoute:
        """Return the route of a call of so many rows."""
        for route in self.routes:
            if route.limit is None or rows <= route.limit:
                return route
        return self.routes[-1]

    def stale(self, now: float) -> bool:
        """Tell whether its trial has run out."""
        return self.over_at is not None and now >= self.over_at


class Opener:
    """Opens tables for one deployment.

    Args:
        store: Where versions and settings are.
        hooks: Opens sessions.
        opening: What the application has fixed.
        alias: The alias; ``None`` for a reference that never moves, which has no table.
        any_signature: Whether a version may take over that does not fit the callers.
    """

    def __init__(
        self,
        store: Store,
        hooks: Hooks,
        opening: Opening,
        alias: str | None,
        *,
        any_signature: bool,
    ) -> None:
        self._store = store
        self._hooks = hooks
        self._opening = opening
        self._alias = alias
        self._any_signature = any_signature

    def open(
        self,
        resolved: Resolved,
        key: Key,
        old: Table | None,
        on_refused: Callable[[str, LeptonError], None],
    ) -> Table:
        """Open what the alias and its dispatch table say, keeping sessions that stay the same.

        A table that cannot be opened gives way to the one before it, and that to the alias's
        version alone.

        Args:
            resolved: What the alias points to.
            key: What the table follows from.
            old: The present table, whose sessions are used again where they fit.
            on_refused: Told of each table that gave way.

        Raises:
            LeptonError: The alias's version itself cannot take over; nothing stays open of what
                was opened for it.
        """
        plain = (Route(resolved.version.id),)
        try:
            dispatch = self._dispatch(resolved)
        except LeptonError as error:
            on_refused(resolved.version.id, error)
            dispatch = Dispatch(resolved.version.id)
        now = time.time()
        tries = dict.fromkeys(
            routes for routes in (dispatch.effective(now), dispatch.before) if routes
        )
        for routes in tries:
            if routes == plain:
                continue
            try:
                opened = self._open_routes(resolved, routes, old)
            except LeptonError as error:
                on_refused(routes[-1].version, error)
                continue
            over_at = None if dispatch.over(now) else dispatch.until
            return Table(key, resolved.version.id, opened, dispatch.change, over_at)
        return Table(key, resolved.version.id, self._open_routes(resolved, plain, old))

    def open_fixed(self, resolved: Resolved, routes: Sequence[Route]) -> Table:
        """Open given routes, whatever the store's table says; for measuring them.

        Raises:
            LeptonError: One cannot be opened; nothing stays open.
        """
        opened = self._open_routes(resolved, routes, None)
        return Table((resolved.version.id, 0), resolved.version.id, opened)

    def _dispatch(self, resolved: Resolved) -> Dispatch:
        """Return the table that counts; an empty one if it was made for another version."""
        none = Dispatch(resolved.version.id)
        if self._alias is None:
            return none
        setting = self._store.settings(resolved.name).get(setting_key(self._alias))
        if setting is None or setting.value is None:
            return none
        found = Dispatch.of(setting.value)
        return found if found.base == resolved.version.id else none

    def _open_routes(
        self, resolved: Resolved, routes: Sequence[Route], old: Table | None
    ) -> tuple[OpenRoute, ...]:
        setting = self._store.settings(resolved.name).get("open")
        there = list(old.slots) if old is not None else []
        made: list[Slot] = []
        opened = []
        try:
            for route in routes:
                one = self._resolve(resolved, route.version)
                request = self._opening.request(one.version.target, setting, route.threads)
                slot = next((s for s in (*there, *made) if s.fits(one, request)), None)
                if slot is None:
                    slot = open_slot(self._store, self._hooks, one, request)
                    made.append(slot)
                    if old is not None and not self._any_signature:
                        callers = old.main.session.signature
                        check_replaces(callers, slot.session.signature, slot.version)
                opened.append(OpenRoute(route, slot))
        except BaseException:
            for slot in made:
                slot.close()
            raise
        return tuple(opened)

    def _resolve(self, base: Resolved, version: str) -> Resolved:
        if version == base.version.id:
            return base
        return self._store.resolve(f"{base.name}@{version}")


__all__ = ["Key", "OpenRoute", "Opener", "Table"]
