"""The store: immutable versions of artifacts, aliases that move, a ledger that remembers.

.. code-block:: python

    from lepton_core.store import Store

    with Store("models") as store:
        added = store.add("digits", model, target="onnxruntime", alias="production")
        store.rollback("digits")

On disk: ``ledger.db`` (SQLite: ledger, versions, aliases, settings), ``ledger.head`` (how far the
ledger goes), ``metrics.db``, ``cas/sha256/ab/<digest>`` (all files), ``views/`` (files laid out
for open sessions), ``lepton-store.json`` (the marker). ``docs/reference/store.md`` has the rest.
"""

from __future__ import annotations

from lepton_core.store._metrics import Metric
from lepton_core.store._place import default_path
from lepton_core.store._store import Store
from lepton_core.store._types import (
    AliasState,
    Damage,
    GcReport,
    LedgerRow,
    Setting,
    StoredFile,
    VerifyReport,
    Version,
)
from lepton_core.store._versions import Resolved
from lepton_core.store._views import View

__all__ = [
    "AliasState",
    "Damage",
    "GcReport",
    "LedgerRow",
    "Metric",
    "Resolved",
    "Setting",
    "Store",
    "StoredFile",
    "VerifyReport",
    "Version",
    "View",
    "default_path",
]
