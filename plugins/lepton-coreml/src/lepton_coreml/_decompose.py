"""Operators of torch that coremltools cannot translate, in terms of those that it can.

What coremltools 9.0 has no translation of is left to torch's own decompositions, as far as there
are some; :data:`OWN` has those for which neither knows a way.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import torch

from lepton_coreml._coremltools import captured, coremltools
from lepton_coreml._integers import Names
from lepton_coreml._shims import installed

if TYPE_CHECKING:
    from collections.abc import Callable

_OPERANDS = 2
"""Of an einsum that coremltools translates."""
_ROUNDS = 4
"""How often what a decomposition leads to is decomposed again."""


_LARGE = 1e9
"""From here on x + sqrt(x^2 +- 1) is 2x in float32, and the square does not overflow yet."""


def _log1p(x: torch.Tensor) -> torch.Tensor:
    """Return log(1 + x) with the digits of a small x (Kahan), which MIL's logarithm loses."""
    more = 1.0 + x
    return torch.where(more == 1.0, x, torch.log(more) * (x / torch.where(x == 0, 1.0, more - 1.0)))


def _acosh(x: torch.Tensor) -> torch.Tensor:
    over = torch.clamp(x, max=_LARGE) - 1.0
    near = _log1p(over + torch.sqrt(over * (over + 2.0)))
    return torch.where(x > _LARGE, torch.log(x) + math.log(2), near)


def _asinh(x: torch.Tensor) -> torch.Tensor:
    size = torch.abs(x)
    some = torch.clamp(size, max=_LARGE)
    square = some * some
    near = _log1p(some + square / (1.0 + torch.sqrt(square + 1.0)))
    return torch.sign(x) * torch.where(size > _LARGE, torch.log(size) + math.log(2), near)


def _diagonal(x: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> torch.Tensor:
    """Take a diagonal by its step; coremltools knows the main one of the first two axes alone."""
    rows = x.movedim((dim1, dim2), (-2, -1))
    rows = rows[..., :, offset:] if offset > 0 else rows[..., -offset:, :]
    columns = rows.shape[-1]
    count = min(rows.shape[-2], columns)
    return rows[..., :count, :].flatten(-2)[..., :: columns + 1][..., :count]


def _group_norm(
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *_: bool,
) -> torch.Tensor:
    """Normalise rows of groups; coremltools writes an open batch as a constant shape, and fails."""
    rows = x.reshape(x.shape[0], groups, -1)
    centred = rows - rows.mean(-1, keepdim=True)
    inverse = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)
    result = (centred * inverse).reshape(x.shape)
    along = [-1, *[1] * (x.ndim - 2)]
    result = result if weight is None else result * weight.reshape(along)
    return result if bias is None else result + bias.reshape(along)


_aten = torch.ops.aten
OWN: dict[Any, Callable[..., torch.Tensor]] = {
    _aten.acosh.default: _acosh,
    _aten.asinh.default: _asinh,
    _aten.diagonal.default: _diagonal,
    _aten.group_norm.default: _group_norm,
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
    broken = BROKEN | {node.target for node in program.graph.nodes if _odd_einsum(node)}
    for op in found - set(OWN) - _translated(found - broken):
        way = _way(op)
        if way is not None:
            table[op] = way
    return table


def _odd_einsum(node: Any) -> bool:  # noqa: ANN401 - torch's own class
    """Tell whether an einsum takes a diagonal, or more than two operands."""
    if node.target is not _aten.einsum.default:
        return False
    operands = str(node.args[0]).replace(" ", "").partition("->")[0].split(",")
    diagonal = any(len(set(one) - {"."}) < len(one.replace(".", "")) for one in operands)
    return diagonal or len(operands) > _OPERANDS


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
