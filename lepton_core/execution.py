"""Execution maps: which nodes of a model ran where, in which precision, in one form for all.

A runtime does not run a model's graph but one of its own, in which nodes are fused, moved to
another device or computed in another precision than they are stored in. A session that can tell
has the method ``execution_map()``; what a runtime does not tell stays empty, and a note says so.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lepton_core.errors import SessionError

if TYPE_CHECKING:
    from lepton_core.context import Session

NOT_TOLD = "not told"
"""Stands for an empty provider in totals."""


@dataclass(frozen=True, slots=True)
class ExecutedNode:
    """One node of the graph that a runtime runs.

    Attributes:
        name: The runtime's name of it.
        operator: The runtime's operator (``"Conv"``, ``"FullyConnected"``, ``"CONV_2D"``).
        sources: Names of the nodes or values of the opened file that it stands for, in the file's
            order; empty where the runtime made it up, to bring values into another layout for
            instance, and where the file does not tell.
        device: What it runs on, as in a target (``"cpu"``); empty if not told.
        provider: What of the runtime runs it: an execution provider, a plugin of a device, a
            delegate, or the runtime's own kernels; empty if not told.
        precision: What it computes in (``"fp32"``, ``"bf16"``, ``"int8"``); empty where it only
            moves or converts values, or works out sizes and indices.
    """

    name: str
    operator: str
    sources: tuple[str, ...] = ()
    device: str = "cpu"
    provider: str = ""
    precision: str = ""


@dataclass(frozen=True, slots=True)
class ExecutionMap:
    """What a session runs.

    Attributes:
        runtime: As in the session's facts (``"onnxruntime"``).
        nodes: In the order of execution, as far as the runtime has one; constants, inputs and
            outputs are none.
        notes: What the runtime does not tell, in sentences.
    """

    runtime: str
    nodes: tuple[ExecutedNode, ...]
    notes: tuple[str, ...] = ()

    def totals(self) -> dict[str, Any]:
        """Return how many nodes there are, by precision, by provider and by device.

        Returns:
            ``nodes``; ``computing``, those with a precision; ``precisions``, numbers by precision;
            ``providers``, for each provider the number of its nodes by precision, ``moves`` for
            those without; ``devices``, numbers by device.
        """
        providers: dict[str, Counter[str]] = {}
        for node in self.nodes:
            counts = providers.setdefault(node.provider or NOT_TOLD, Counter())
            counts[node.precision or "moves"] += 1
        precisions = Counter(node.precision for node in self.nodes if node.precision)
        return {
            "nodes": len(self.nodes),
            "computing": sum(precisions.values()),
            "precisions": dict(sorted(precisions.items())),
            "providers": {name: dict(sorted(c.items())) for name, c in sorted(providers.items())},
            "devices": dict(sorted(Counter(n.device or NOT_TOLD for n in self.nodes).items())),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data: ``runtime``, ``totals``, ``nodes``, ``notes``."""
        from lepton_core.codec import to_data

        return {
            "runtime": self.runtime,
            "totals": self.totals(),
            "nodes": [to_data(node) for node in self.nodes],
            "notes": list(self.notes),
        }


@runtime_checkable
class TellsExecution(Protocol):
    """A session that knows what its runtime runs."""

    def execution_map(self) -> ExecutionMap:
        """Return what the runtime runs; nothing is run for it."""


def execution_map(session: Session) -> ExecutionMap:
    """Return which nodes a session runs where, in which precision.

    Raises:
        SessionError: LPT-RUN-004, its runtime does not tell, or was asked not to look.
    """
    if isinstance(session, TellsExecution):
        return session.execution_map()
    runtime = session.facts.get("runtime", "its target")
    raise SessionError(
        "LPT-RUN-004",
        f"There is no execution map of this session on {runtime}",
        cause="The target's plugin does not tell which nodes run where.",
        remedy="Ask a target that does, such as onnxruntime, openvino or tflite.",
    )


__all__ = [
    "NOT_TOLD",
    "ExecutedNode",
    "ExecutionMap",
    "TellsExecution",
    "execution_map",
]
