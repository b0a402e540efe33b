"""Where a store is, what marks it, and who writes into it."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from lepton_core.errors import StorageError
from lepton_core.installing import install_command
from lepton_core.store import _faults, _ledger

MARKER = "lepton-store.json"
SCHEMA = 1


def default_path() -> Path:
    """Return ``LEPTON_STORE``, or the place of the user's data."""
    given = os.environ.get("LEPTON_STORE")
    if given:
        return Path(given)
    import platformdirs

    return Path(platformdirs.user_data_dir("lepton", appauthor=False)) / "store"


def marker_text() -> str:
    """Return what the file that marks a store holds."""
    return _ledger.canonical({"kind": "lepton.store", "schema": SCHEMA}) + "\n"


def check_marker(root: Path) -> None:
    """Check the file that marks a store.

    Raises:
        StorageError: LPT-STORE-004, it is not what was written; LPT-STORE-014, it is of a later
            version.
    """
    found = (root / MARKER).read_bytes()
    if found == marker_text().encode():
        return
    with contextlib.suppress(ValueError, TypeError, KeyError):
        data = json.loads(found)
        if data["kind"] == "lepton.store" and int(data["schema"]) > SCHEMA:
            raise StorageError(
                "LPT-STORE-014",
                f"{root} is a store of schema {data['schema']}; this lepton knows {SCHEMA}",
                remedy=install_command("lepton-core", "--upgrade"),
            )
    raise _faults.damaged(f"the marker of the store ({MARKER})", "it is not what was written")


def user_name() -> str:
    """Return the name that the ledger shows for changes of this process."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no account for this user id, as in containers
        return f"uid-{os.getuid()}" if hasattr(os, "getuid") else "unknown"


__all__ = ["MARKER", "SCHEMA", "check_marker", "default_path", "marker_text", "user_name"]
