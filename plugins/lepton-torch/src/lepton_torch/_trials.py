"""Inputs to try a changed graph on, and how far its outputs may be from those before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lepton_torch._retrace import Shapes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lepton_torch._program import Program

_BATCHES = (2, 1, 3)
_HALF_LIMIT = 2e-2
"""Largest relative L2 difference in half precision; what a verdict allows, too."""

Inputs = dict[str, torch.Tensor]


def trial_inputs(
    program: Program,
    fixed: Mapping[str, int],
    bounds: Mapping[str, tuple[int, int]],
    example: Mapping[str, torch.Tensor] | None,
    seed: int,
) -> list[Inputs]:
    """Return inputs by placeholder: the example, if there is one, and random ones of three sizes.

    Floats are standard normal, integers 0 or 1, which is a valid index for any embedding and a
    valid mask.

    Args:
        program: What they are for.
        fixed: Sizes that symbols are to get.
        bounds: New bounds of symbols.
        example: The user's example by input name.
        seed: Seed of the random ones.
    """
    shapes = Shapes(program)
    shapes.bounds.update(bounds)
    known = {name: size for name, size in fixed.items() if name in shapes.symbols}
    generator = torch.Generator().manual_seed(seed)
    found = []
    sizes = [shapes.choose(known, least) for least in _BATCHES]
    for size in sizes if shapes.symbols else sizes[:1] * 2:
        places = shapes.sizes(size)
        found.append({p: _random(s, shapes.dtypes[p], generator) for p, s in places.items()})
    if example is not None:
        named = zip(program.signature.inputs, shapes.dims, strict=True)
        given = {place: example[spec.name] for spec, place in named}
        fitted = {p: _fit(given[p], s) for p, s in shapes.sizes(sizes[0]).items()}
        whole = {p: t for p, t in fitted.items() if t is not None}
        if len(whole) == len(fitted):
            found.insert(0, whole)
    return found


def _random(size: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    if dtype.is_floating_point or dtype.is_complex:
        wide = torch.randn(size, generator=generator)
        return wide.to(dtype)
    return torch.randint(0, 2, size, generator=generator).to(dtype)


def _fit(value: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor | None:
    """Bring an example to another size: rows are repeated, other dimensions cut; or ``None``."""
    if value.ndim != len(size):
        return None
    if value.ndim and value.shape[0] != size[0]:
        value = value.index_select(0, torch.arange(size[0]) % value.shape[0])
    for position, wanted in enumerate(size):
        if value.shape[position] < wanted:
            return None
        value = value.narrow(position, 0, wanted)
    return value.contiguous()


Outputs = list[list[torch.Tensor]]


def difference(before: Outputs, after: Outputs) -> float:
    """Return the largest relative L2 difference of an output over all trials together.

    Trials are pooled, so that one whose output is nothing but rounding does not decide. What is
    no float must be equal, and so must be the places and signs of infinities and the places of
    NaN; otherwise the difference is infinite.

    Args:
        before: Outputs by trial.
        after: The same of the changed graph.
    """
    worst = 0.0
    if [len(b) for b in before] != [len(a) for a in after]:
        return float("inf")
    for old, new in zip(zip(*before, strict=True), zip(*after, strict=True), strict=True):
        worst = max(worst, _pooled(old, new))
    return worst


def _pooled(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> float:
    error = norm = 0.0
    for x, y in zip(before, after, strict=True):
        if x.shape != y.shape or x.dtype != y.dtype:
            return float("inf")
        if not x.is_floating_point():
            if not torch.equal(x, y):
                return float("inf")
            continue
        finite = x.isfinite()
        rest = torch.equal(x[~finite].nan_to_num(), y[~finite].nan_to_num())
        if not (rest and torch.equal(finite, y.isfinite())):
            return float("inf")
        left, right = x[finite].double(), y[finite].double()
        error += float((left - right).square().sum())
        norm += float(left.square().sum())
    if error == 0.0:
        return 0.0
    return float((error / norm) ** 0.5) if norm else float("inf")


def allowed(tolerance: float, outputs: Outputs) -> float:
    """Return the largest accepted difference: the declared one, wider for half precision.

    Args:
        tolerance: Declared for float32.
        outputs: Outputs of the program, whose coarsest dtype counts.
    """
    steps = [torch.finfo(t.dtype).eps for own in outputs for t in own if t.is_floating_point()]
    factor = max([1.0, *(step / torch.finfo(torch.float32).eps for step in steps)])
    return tolerance if factor == 1.0 else min(tolerance * factor, _HALF_LIMIT)


__all__ = ["Inputs", "Outputs", "allowed", "difference", "trial_inputs"]
