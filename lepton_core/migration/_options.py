"""Options of a migration by the embedded engine."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - msgspec resolves the annotations at run time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lepton_core.errors import UsageError

WATCH_SECONDS = 30.0
NOT_RECORDED = ("store", "resume", "dry_run", "page")


@dataclass(frozen=True)
class Options:
    """What a migration can be asked for.

    Attributes:
        store: Folder of the store; ``LEPTON_STORE`` or the user's data folder by default.
        alias: Alias to move.
        data: Recorded inputs (and labels, if any) to compare on; by default the golden inputs of
            the present version.
        watch: Seconds to follow the deployment after the switch; 0 for none.
        allow_weak: Switch although nothing better than *weak* can be said.
        metric: Name of the metric; chosen by the kind of outputs and labels by default.
        max_drop: Largest accepted loss, in the metric's own unit.
        max_errors: Share of failed calls above which it returns while it is watched.
        max_slowdown: Ratio of the median latency to the one before, above which it returns.
        latency_seconds: Time to spend on timing each version; 0 for none.
        resume: Take up an interrupted migration, and do not begin another one.
        dry_run: Build and verify only; nothing is written into the store.
        page: File to write the comparison to, as a page.
        why: Reason, for the ledger.
    """

    store: str | None = None
    alias: str = "production"
    data: str | None = None
    watch: float = WATCH_SECONDS
    allow_weak: bool = False
    metric: str | None = None
    max_drop: float | None = None
    max_errors: float = 0.05
    max_slowdown: float = 3.0
    latency_seconds: float = 0.3
    resume: bool = False
    dry_run: bool = False
    page: str | None = None
    why: str = ""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Options:
        """Return the options of a request.

        Raises:
            UsageError: LPT-MIG-001, one is not known, of a wrong type or out of range.
        """
        import msgspec

        known = {field.name for field in fields(cls)}
        try:
            if strange := sorted(set(options) - known):
                raise ValueError(f"not known: {', '.join(strange)}")
            plain = {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}
            made = msgspec.convert(plain, cls, strict=False)
            low = [n for n in ("watch", "latency_seconds", "max_errors") if getattr(made, n) < 0]
            if low or not made.max_slowdown > 1.0:
                raise ValueError(f"out of range: {', '.join(low) or 'max_slowdown'}")
            return made
        except (ValueError, TypeError, msgspec.ValidationError) as error:
            raise UsageError(
                "LPT-MIG-001",
                "The embedded engine does not take these options for a migration",
                cause=str(error),
                remedy=f"It takes: {', '.join(sorted(known))}.",
            ) from error

    def recorded(self) -> dict[str, Any]:
        """Return what the journal keeps, as JSON types: a relative path means a place here."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in NOT_RECORDED}
        if self.data is not None and Path(self.data).exists():
            values["data"] = str(Path(self.data).absolute())
        return values


__all__ = ["WATCH_SECONDS", "Options"]
