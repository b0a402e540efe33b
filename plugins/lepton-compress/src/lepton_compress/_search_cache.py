"""What was measured, kept in a file, so that an interrupted search goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from typing import TYPE_CHECKING, Any

from lepton_compress._sparse_options import refuse
from lepton_core.files import disk_errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def key_of(facts: Mapping[str, Any]) -> str:
    """Return a digest of JSON types; equal facts have equal keys."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Cache:
    """Measurements by key: one JSON object a line, appended as they come.

    A line that was cut off by a crash is passed over. Nothing but measurements is kept: no samples.

    Args:
        folder: Where; ``None`` keeps them in memory.
        facts: What all measurements have in common: pivot, target, versions, options.

    Raises:
        OptimizeError: LPT-OPT-015, there can be no such folder.
        StorageError: The disk is full or cannot be written.

    Attributes:
        hits: How often something was asked for that an earlier run had measured.
    """

    def __init__(self, folder: Path | None, facts: Mapping[str, Any]) -> None:
        self._known: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._path = None if folder is None else folder / f"{key_of(facts)[:32]}.jsonl"
        self._before: set[str] = set()
        self._torn = False
        self.hits = 0
        if self._path is not None:
            try:
                with disk_errors(str(folder)):
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                    self._read(self._path)
            except OSError as error:  # a file stands there, for example
                raise refuse(f"cache cannot be {str(folder)!r}", str(error)) from error

    def _read(self, path: Path) -> None:
        if not path.is_file():
            return
        text = path.read_text(encoding="utf-8", errors="replace")
        self._torn = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                self._known[entry["key"]] = entry["value"]
            except (ValueError, KeyError, TypeError):
                continue
        self._before = set(self._known)

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what was measured, ``None`` if nothing was."""
        with self._lock:
            found = self._known.get(key)
            self.hits += key in self._before
            return found

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Keep a measurement; it is on disk when this returns.

        Raises:
            StorageError: The disk is full or cannot be written.
        """
        with self._lock:
            self._known[key] = value
            if self._path is None:
                return
            line = json.dumps({"key": key, "value": value}, allow_nan=False) + "\n"
            if self._torn:  # a new line, or this one would be lost with the one that was cut off
                line, self._torn = f"\n{line}", False
            with disk_errors(str(self._path)), self._path.open("a", encoding="utf-8") as stream:
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())


__all__ = ["Cache", "key_of"]
