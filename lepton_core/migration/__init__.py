"""Migrating a deployment to another target, step by step, so that every step can be taken up again.

The steps are *plan → build → verify → switch → watch → done* or *returned*. Where a migration
stands is a setting of the deployment (:mod:`._journal`), moved by compare-and-swap in the same
transaction as what the step changes. So whatever ends a process, the alias points to the old
version or to the proved new one, and the next process knows what is left to do.
"""

from __future__ import annotations

from lepton_core.migration._engine import migrate
from lepton_core.migration._journal import Record, history, return_watched

__all__ = ["Record", "history", "migrate", "return_watched"]
