"""A reporter that remembers, so that tests can say what progress arrived."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class RecordedTask:
    """One bar and what happened to it.

    Attributes:
        description: What it was started with.
        total: Its length, ``None`` if unknown.
        done: Sum of the amounts it was advanced by.
        finished: Its closing note, ``None`` while it runs.
    """

    description: str
    total: float | None = None
    done: float = 0.0
    finished: str | None = None

    def advance(self, amount: float = 1.0) -> None:
        """Add *amount*."""
        self.done += amount

    def finish(self, note: str = "") -> None:
        """Keep the closing note."""
        self.finished = note


@dataclass
class RecordingReporter:
    """Keeps tasks, notes and warnings in the order in which they came."""

    tasks: list[RecordedTask] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def task(self, description: str, total: float | None = None) -> RecordedTask:
        """Start and keep a bar."""
        self.tasks.append(RecordedTask(description, total))
        return self.tasks[-1]

    def note(self, text: str) -> None:
        """Keep a remark."""
        self.notes.append(text)

    def warn(self, text: str) -> None:
        """Keep a warning."""
        self.warnings.append(text)


__all__ = ["RecordedTask", "RecordingReporter"]
