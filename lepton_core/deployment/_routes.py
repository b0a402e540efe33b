"""The dispatch table as it is stored: which version and settings run a call of so many rows.

A setting ``dispatch.<alias>`` of the deployment, moved by compare-and-swap like every setting.
``adjust`` writes it, the handle reads it; the fast path sees only what the handle made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lepton_core.errors import DeployError

SCHEMA = 1
PREFIX = "dispatch."


def setting_key(alias: str) -> str:
    """Return the key of the setting that holds an alias's table."""
    return f"{PREFIX}{alias}"


@dataclass(frozen=True, slots=True)
class Route:
    """Who runs calls of up to so many rows.

    Attributes:
        version: Version that runs them; a variant of the one that the alias points to.
        rows: Largest number of rows of such a call; ``None`` for all that are larger.
        threads: Intra-op threads; ``None`` for the deployment's own setting.
        batch: Rows per run: larger calls are split; ``None`` for never.
    """

    version: str
    rows: int | None = None
    threads: int | None = None
    batch: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "version": self.version,
            "rows": self.rows,
            "threads": self.threads,
            "batch": self.batch,
        }


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A dispatch table.

    Attributes:
        base: Version that the alias pointed to when the table was made; once it points
            elsewhere, the table counts no more.
        routes: By rising ``rows``, the last without a limit; empty means that *base* runs all.
        until: Time (seconds since the epoch) up to which the routes are on trial; ``None`` once
            they are confirmed. A trial that nobody ended is over by itself.
        before: Routes that count again when a trial is over.
        change: Id of the change that led here, ``""`` for none.
        record: What is known of that change: cause, prediction, measurement, verdict.
    """

    base: str
    routes: tuple[Route, ...] = ()
    until: float | None = None
    before: tuple[Route, ...] = ()
    change: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)

    def effective(self, now: float) -> tuple[Route, ...]:
        """Return the routes that count at a time."""
        return self.before if self.over(now) else self.routes

    def over(self, now: float) -> bool:
        """Tell whether the trial has run out."""
        return self.until is not None and now >= self.until

    def to_value(self) -> dict[str, Any]:
        """Return the setting's value; ``versions`` keeps them from collection."""
        named = {route.version for route in (*self.routes, *self.before)}
        return {
            "schema": SCHEMA,
            "base": self.base,
            "routes": [route.to_dict() for route in self.routes],
            "until": self.until,
            "before": [route.to_dict() for route in self.before],
            "change": self.change,
            "record": dict(self.record),
            "versions": sorted(named),
        }

    @classmethod
    def of(cls, value: Any) -> Dispatch:  # noqa: ANN401 - a setting's value
        """Return the table that a setting's value holds.

        Raises:
            DeployError: LPT-DEP-010, it holds none.
        """
        try:
            if value["schema"] != SCHEMA:
                raise ValueError(f"schema {value['schema']!r}; this lepton knows {SCHEMA}")
            until = value["until"]
            return cls(
                str(value["base"]),
                read_routes(value["routes"]),
                None if until is None else float(until),
                read_routes(value["before"]),
                str(value["change"]),
                dict(value["record"]),
            )
        except (TypeError, KeyError, ValueError) as error:
            raise DeployError(
                "LPT-DEP-010",
                "The deployment's dispatch table cannot be read",
                cause=f"{type(error).__name__}: {error}",
                remedy="`lepton store set NAME dispatch.ALIAS --clear` takes the table away; the "
                "alias's version runs.",
            ) from error


def read_routes(data: Any) -> tuple[Route, ...]:  # noqa: ANN401 - JSON types
    """Return routes from JSON types.

    Raises:
        ValueError: They are no table: a wrong type or key, limits that do not rise, or no last
            route without a limit.
        TypeError: They are no list of objects.
    """
    routes = tuple(_read_route(one) for one in data)
    limits = [route.rows for route in routes]
    if routes and limits[-1] is not None:
        raise ValueError("the last route has a limit of rows, so larger calls would have none")
    rising = [limit for limit in limits[:-1] if limit is not None]
    if len(rising) < len(limits) - 1 or rising != sorted(set(rising)):
        raise ValueError("the limits of rows do not rise from route to route")
    return routes


def _read_route(data: Any) -> Route:  # noqa: ANN401 - JSON types
    if not isinstance(data, Mapping):
        raise TypeError(f"a route is an object, not a {type(data).__name__}")
    if strange := sorted(set(data) - {"version", "rows", "threads", "batch"}):
        raise ValueError(f"a route has no {', '.join(map(str, strange))}")
    version = data["version"]
    if not isinstance(version, str) or not version:
        raise ValueError(f"{version!r} is not a version")
    numbers = {key: _positive(key, data.get(key)) for key in ("rows", "threads", "batch")}
    return Route(version, **numbers)


def _positive(key: str, value: Any) -> int | None:  # noqa: ANN401 - JSON types
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{key} is {value!r}, not a number from 1 up")
    return value


__all__ = ["PREFIX", "Dispatch", "Route", "read_routes", "setting_key"]
