"""Helpers of the tests of ``adapt``: modules in, adapted programs out, torch as the judge."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lepton_core.capabilities import Constraints
from lepton_core.context import Context
from lepton_core.types import AdaptRequest, AdaptResult, Model
from lepton_torch import plugin
from lepton_torch._archive import load_program

if TYPE_CHECKING:
    from collections.abc import Sequence


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every weight and statistic a value that folding cannot ignore; in eval mode."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            if part.running_mean is not None:
                part.running_mean.normal_()
                part.running_var.uniform_(0.3, 2.0)
            if part.weight is not None:
                nn.init.normal_(part.weight, 1.0, 0.5)
                nn.init.normal_(part.bias)
        elif isinstance(part, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)) and part.weight is not None:
            nn.init.normal_(part.weight, 1.0, 0.5)
    return module.eval()


def exported(module: nn.Module, *inputs: torch.Tensor, dynamic: bool = True) -> Model:
    """Export a module as a user would, with a dynamic batch, and save it."""
    path = Path(tempfile.mkdtemp(prefix="lepton-adapt-")) / "model.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = tuple({0: batch} for _ in inputs) if dynamic else None
    with torch.no_grad():
        program = torch.export.export(module, inputs, dynamic_shapes=shapes)
    torch.export.save(program, path)
    return Model("torch.export", str(path))


def adapt(model: Model, forbidden: Sequence[str] = (), **request: Any) -> AdaptResult:
    """Call the hook for a target that forbids these operators."""
    constraints = request.pop("constraints", None) or Constraints(forbidden_ops=tuple(forbidden))
    context = Context(Path(tempfile.mkdtemp(prefix="lepton-adapt-")), seed=request.pop("seed", 0))
    result = plugin.lepton_adapt(
        model, AdaptRequest("target", constraints=constraints, **request), context
    )
    assert result is not None
    return result


@dataclass
class Adapted:
    """An adapted program beside the module it came from."""

    result: AdaptResult
    module: nn.Module

    @property
    def operators(self) -> list[str]:
        """The operators that the program calls."""
        nodes = load_program(self.result.model.path).exported.graph.nodes
        return [str(n.target) for n in nodes if n.op == "call_function"]

    @property
    def left(self) -> list[str]:
        """What was left, of all rewrites."""
        return [line for one in self.result.considered for line in one.left]

    def error(self, *inputs: torch.Tensor) -> float:
        """Return the relative L2 difference between module and program on these inputs."""
        run = load_program(self.result.model.path).exported.module()
        with torch.no_grad():
            want, got = self.module(*inputs), run(*inputs)
        leaves = torch.utils._pytree.tree_leaves
        worst = 0.0
        for x, y in zip(leaves(want), leaves(got), strict=True):
            assert x.shape == y.shape
            assert x.dtype == y.dtype
            worst = max(worst, float((x - y).double().norm() / x.double().norm()))
        return worst


def of(module: nn.Module, *inputs: torch.Tensor, dynamic: bool = True, **request: Any) -> Adapted:
    """Randomise, export, save and adapt a module."""
    module = randomised(module)
    model = exported(module, *inputs, dynamic=dynamic)
    return Adapted(adapt(model, **request), module)
