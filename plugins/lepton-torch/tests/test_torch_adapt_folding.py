"""Batch normalisation folded into its neighbours; torch is the judge."""

from __future__ import annotations

import warnings

import pytest
import torch
from adapting import Adapted, adapt, exported, of, randomised
from torch import nn
from torch.nn import functional

X1, X2, X3 = torch.randn(2, 4, 9), torch.randn(2, 4, 9, 9), torch.randn(2, 4, 5, 5, 5)
CLOSE = 1e-6


@pytest.mark.parametrize(
    ("layers", "x"),
    [
        ((nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)), X2),
        ((nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)), X2),
        ((nn.Conv2d(4, 6, 3, padding="same"), nn.BatchNorm2d(6)), X2),
        ((nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)), X2),
        ((nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8)), X2),
        ((nn.Conv2d(4, 8, 3, groups=2, bias=False, dilation=2, stride=2), nn.BatchNorm2d(8)), X2),
        ((nn.Conv2d(4, 4, 3, groups=4, padding=1), nn.BatchNorm2d(4)), X2),
        ((nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)), X1),
        ((nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6)), X3),
        ((nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), nn.BatchNorm2d(6)), X2),
        ((nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False), nn.BatchNorm2d(6)), X2),
        ((nn.ConvTranspose1d(4, 6, 2), nn.BatchNorm1d(6)), X1),
        ((nn.Flatten(), nn.Linear(36, 7), nn.BatchNorm1d(7)), X1),
        ((nn.Flatten(), nn.Linear(36, 7, bias=False), nn.BatchNorm1d(7)), X1),
        ((nn.Conv2d(4, 6, 3), nn.Dropout(0.5), nn.BatchNorm2d(6), nn.ReLU(inplace=True)), X2),
        ((nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.BatchNorm2d(6)), X2),
        ((nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)), X2),
        ((nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2, bias=False)), X2),
        ((nn.BatchNorm1d(4), nn.Conv1d(4, 6, 3, padding="valid")), X1),
        ((nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, 7)), X1),
    ],
    ids=lambda p: "-".join(type(m).__name__ for m in p) if isinstance(p, tuple) else "",
)
def test_it_is_folded_and_computes_the_same(layers, x):
    done = of(nn.Sequential(*layers), x)
    assert not [name for name in done.operators if "batch_norm" in name]
    assert done.left == []
    fresh = torch.randn(5, *x.shape[1:])
    assert done.error(fresh) < CLOSE
    folded = [c for c in done.result.changes if c.startswith("fold-batch-norm")]
    assert len(folded) == sum("BatchNorm" in type(m).__name__ for m in layers)


def test_the_weights_shrink_to_those_of_the_convolution_and_keep_their_names():
    from lepton_torch._archive import load_program

    done = of(nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)), X2)
    held = load_program(done.result.model.path).exported.state_dict
    assert {name: tuple(v.shape) for name, v in held.items()} == {
        "0.weight": (6, 4, 3, 3), "0.bias": (6,),
    }  # fmt: skip


def test_float64_is_folded_in_float64():
    layers = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)).double()
    done = of(layers, X2.double())
    assert done.error(torch.randn(3, 4, 9, 9, dtype=torch.float64)) < 1e-14


class Shared(nn.Module):
    """One convolution that is used twice, each time with another normalisation."""

    def __init__(self):
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.b(self.conv(self.a(self.conv(x)).relu()))


class Tied(nn.Module):
    """Two convolutions over one weight."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.norm = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.norm(self.one(x)) + self.two(x)


class Elsewhere(nn.Module):
    """The output of the convolution is also used beside the normalisation."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return y + self.norm(y)


class Computed(nn.Module):
    """The weight is made in forward."""

    def __init__(self):
        super().__init__()
        self.weight, self.norm = nn.Parameter(torch.randn(6, 4, 1, 1)), nn.BatchNorm2d(6)

    def forward(self, x):
        return self.norm(functional.conv2d(x, self.weight * 2))


@pytest.mark.parametrize(
    ("module", "x", "reason"),
    [
        (Shared(), X2, "used at other places"),
        (Tied(), X2, "used at other places"),
        (Elsewhere(), X2, "also used elsewhere"),
        (Computed(), X2, "weights of the conv2d are computed"),
        (
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
            X2,
            "statistics of the batch",
        ),
        (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)), X2, "pads with zeros"),
        (nn.Sequential(nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 4, 2)), X2, "borders"),
        (nn.Sequential(nn.Linear(9, 9), nn.BatchNorm1d(4)), X1, "another dimension"),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU()), X2, "no convolution or linear"),
    ],
    ids=lambda p: p if isinstance(p, str) else "",
)
def test_it_is_left_where_folding_would_be_wrong(module, x, reason):
    done = of(module, x)
    assert any("batch_norm" in name for name in done.operators)
    assert any(reason in line for line in done.left), done.left
    assert all(".py:" in line or "(module " in line for line in done.left)
    assert done.error(torch.randn(5, *x.shape[1:])) == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_left(dtype):
    layers = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    model = exported(randomised(layers).to(dtype), X2.to(dtype))
    (report,) = [r for r in adapt(model).considered if r.rewrite == "fold-batch-norm"]
    assert "rounded twice" in report.left[0]


def test_programs_that_torch_has_lowered_are_folded_too():
    module = randomised(nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        program = torch.export.export(module, (X2,)).run_decompositions()
    model = exported(module, X2)
    torch.export.save(program, model.path)
    result = adapt(model)
    assert any("folded into the convolution" in line for line in result.changes)
    assert Adapted(result, module).error(torch.randn(2, 4, 9, 9)) < CLOSE
