"""Operators of torch that coremltools cannot translate, in terms of those that it can.

What coremltools 9.0 has no translation of is left to torch's own decompositions, as far as there
are some; :data:`OWN` has those for which neither knows a way.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

from lepton_coreml._coremltools import captured, coremltools
from lepton_coreml._integers import Names
from lepton_coreml._shims import installed

if TYPE_CHECKING:
    from collections.abc import Callable

_ROUNDS = 4
"""How often what a decomposition leads to is decomposed again."""


def _acosh(x: torch.Tensor) -> torch.Tensor:
    return torch.log(x + torch.sqrt(x * x - 1.0))


def _asinh(x: torch.Tensor) -> torch.Tensor:
    size = torch.abs(x)
    return torch.sign(x) * torch.log(size + torch.sqrt(x * x + 1.0))


_aten = torch.ops.aten
OWN: dict[Any, Callable[..., torch.Tensor]] = {
    _aten.acosh.default: _acosh,
    _aten.asinh.default: _asinh,
}
"""Our decompositions, used whether or not coremltools names a translation: it calls builders that
MIL does not have."""
BROKEN = frozenset({_aten.affine_grid_generator.default})
"""Operators that coremltools translates wrongly or not at all in general, and torch decomposes."""


def decomposed(program: Any) -> Any:  # noqa: ANN401 - torch's own class
    """Return an exported program in operators that coremltools translates, where there is a way.

    Args:
        program: In core ATen operators or others.
    """
    for _ in range(_ROUNDS):
        table = _wanted(program)
        if not table:
            break
        program = program.run_decompositions(table)
    return program


def _wanted(program: Any) -> dict[Any, Any]:  # noqa: ANN401 - as above
    """Return decompositions of operators in the program that have no translation."""
    found = {
        node.target
        for node in program.graph.nodes
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)
    }
    table: dict[Any, Any] = {op: OWN[op] for op in found & set(OWN)}
    for op in found - set(OWN) - _translated(found - BROKEN):
        way = _way(op)
        if way is not None:
            table[op] = way
    return table


def _way(op: Any) -> Any:  # noqa: ANN401 - as above
    """Return torch's decomposition of an operator; ``None`` if it has none."""
    if torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "CompositeImplicitAutograd"):
        return functools.partial(op._op_dk, torch._C.DispatchKey.CompositeImplicitAutograd)
    return torch._decomp.decomposition_table.get(op)


def _translated(operators: set[Any]) -> set[Any]:
    """Return those that coremltools, or one of our own translations, takes."""
    coremltools()
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    with captured(), installed(Names({})):
        return {op for op in operators if _TORCH_OPS_REGISTRY.get_func(op.name()) is not None}


__all__ = ["BROKEN", "OWN", "decomposed"]
