"""Says what litert-torch is about to do, so that a crash in it can be named."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


class Tell(Protocol):
    """What :meth:`.Context.about_to` is to those who have no context."""

    def __call__(self, step: str, *, operator: str = "", where: str = "") -> None:
        """Leave word of what comes next."""


def silent(step: str, *, operator: str = "", where: str = "") -> None:
    """Tell nobody."""


@contextlib.contextmanager
def told(tell: Tell) -> Iterator[None]:
    """Tell of every step of litert-torch, and of every operator before it is lowered.

    Tensors get the names of the pivot's values meanwhile, in the place of the module's class:
    whoever looks at the file, an execution map for instance, finds the model in it again.

    litert-torch has no hooks for either. Its steps are wrapped where they are looked up, until the
    block ends; only one conversion may run at a time.

    Args:
        tell: Hears of them.
    """
    from litert_converter.mlir import ir
    from litert_torch import progress
    from litert_torch.backend.export import LoweringInterpreter

    step, lower, located = (
        progress.task, LoweringInterpreter.run_node, LoweringInterpreter._build_loc
    )  # fmt: skip

    def task(name: str) -> Any:  # noqa: ANN401 - a context manager
        tell(f"running litert-torch's step {name!r}")
        return step(name)

    def run_node(self: Any, node: Any) -> Any:  # noqa: ANN401 - the package has no types
        if node.op == "call_function":
            operator, where = origin(node)
            tell("lowering the graph with litert-torch", operator=operator, where=where)
        return lower(self, node)

    def build_loc(self: Any, node: Any) -> Any:  # noqa: ANN401 - the package has no types
        name = value_of(node)
        return ir.Location.name(f"{name};") if name else located(self, node)

    progress.task, LoweringInterpreter.run_node = task, run_node
    LoweringInterpreter._build_loc = build_loc
    try:
        yield
    finally:
        progress.task, LoweringInterpreter.run_node = step, lower
        LoweringInterpreter._build_loc = located


def origin(node: Any) -> tuple[str, str]:  # noqa: ANN401 - torch.fx.Node
    """Return the operator of a traced node and its place: the graph's own where that is known."""
    from lepton_torch.bridge import origin_of

    found = origin_of(node)
    if found:
        return str(found["operator"]), str(found["place"])
    return str(node.target), str(node.name)


def value_of(node: Any) -> str:  # noqa: ANN401 - torch.fx.Node
    """Return the name of the graph's value that a traced node works on; empty if not known."""
    from lepton_torch.bridge import origin_of

    found = origin_of(node) or {}
    return next((str(name) for name in found.get("outputs", ()) if name), "")


__all__ = ["Tell", "origin", "silent", "told", "value_of"]
