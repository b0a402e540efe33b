"""Adjusting a deployment: measure, let a policy plan, try, measure again, keep or go back.

.. code-block:: text

    candidates   which variants of the alias's version may run, and why others may not
    observe      time them in worker processes, over the rows that live calls have
    policy       a plugin plans in a worker, with a deadline, and emits a dispatch table
    trial        the table counts for a while; handles follow it
    effect       old and new table in turns, and what live handles measured
    verdict      kept or reverted: each step is a row of the ledger

The handle only ever reads the table, so a policy that is slow, wrong or broken costs an alarm.
"""

from __future__ import annotations

from lepton_core.adjusting._history import Change, explain, history, undo

__all__ = ["Change", "explain", "history", "undo"]
