"""Training-only operators, pooling, activations, normalisations and shapes; torch is the judge."""

from __future__ import annotations

import pytest
import torch
from adapting import Adapted, adapt, exported, of
from torch import nn
from torch.nn import functional
from torch.utils import checkpoint

from lepton_core.capabilities import Constraints
from lepton_core.errors import AdaptError, UsageError

X = torch.randn(2, 8, 12, 12)
ROWS = torch.randn(2, 5, 16)


class Function(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function, *parts):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x):
        return self.function(x, *self.parts)


# --- training-only operators --------------------------------------------------------------------


def _no_grad(x):
    with torch.no_grad():
        y = x * 2
    return y + x


@pytest.mark.parametrize(
    ("function", "gone"),
    [
        (lambda x: functional.dropout(x, 0.3, False) + 1, "dropout"),
        (lambda x: functional.alpha_dropout(x, 0.3, False) + 1, "dropout"),
        (lambda x: functional.dropout2d(x, 0.3, False) + 1, "dropout"),
        (lambda x: x.detach() * 2, "detach"),
        (lambda x: x.clone() * 2, "clone"),
        (lambda x: x.contiguous() * 2, "contiguous"),
        (lambda x: x.float() * 2, "aten.to"),
        (lambda x: x[:] * 2, "slice"),
        (lambda x: (x.relu() + 0) * 2, "aten.add"),
        (lambda x: x.relu() / 1 - 2, "aten.div"),
        (lambda x: functional.pad(x, (0, 0, 0, 0)) * 2, "pad"),
        (lambda x: x.relu().view(x.shape) * 2, "view"),
        (lambda x: x.relu().expand(x.shape) * 2, "expand"),
        (_no_grad, "wrap_with_set_grad_enabled"),
        (
            lambda x: checkpoint.checkpoint(torch.relu, x, use_reentrant=False) * 2,
            "checkpoint",
        ),
    ],
    ids=lambda p: p if isinstance(p, str) else "",
)
def test_what_does_nothing_is_removed_exactly(function, gone):
    done = of(Function(function), X)
    assert not [name for name in done.operators if gone in name]
    assert done.error(torch.randn(3, 8, 12, 12)) == 0.0
    assert all(line.endswith("; exact") for line in done.result.changes)
    again = adapt(done.result.model)
    assert again.changes == ()
    assert again.model == done.result.model


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.double() * 2,
        lambda x: x[:, 1:] * 2,
        lambda x: x + 0.5,
        lambda x: x * -1,
        lambda x: x.view(x.shape[0], -1),
        lambda x: torch.div(x, 1, rounding_mode="floor"),
        lambda x: (x, x.clone()),  # two results must stay two tensors
        lambda x: x.clone(),
    ],
)
def test_what_does_something_stays(function):
    done = of(Function(function), X)
    assert done.error(torch.randn(3, 8, 12, 12)) == 0.0
    assert not any("removed" in line for line in done.result.changes)


def test_a_copy_that_is_written_to_does_not_become_its_source():
    done = of(Function(lambda x: x.clone().mul_(2) + x), X)
    assert done.error(torch.randn(3, 8, 12, 12)) == 0.0


# --- pooling ------------------------------------------------------------------------------------

POOLS = ("aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d", "aten.adaptive_max_pool2d")


@pytest.mark.parametrize(
    ("layer", "x", "became"),
    [
        (nn.AdaptiveAvgPool2d(4), X, "kernel 3x3, stride 3x3"),
        (nn.AdaptiveAvgPool2d((1, 6)), X, "kernel 12x2, stride 12x2"),
        (nn.AdaptiveAvgPool2d((None, 3)), X, "kernel 1x4, stride 1x4"),
        (nn.AdaptiveAvgPool2d(1), X, "kernel 12x12"),
        (nn.AdaptiveAvgPool2d(3), torch.randn(2, 8, 7, 7), "kernel 3x3, stride 2x2"),
        (nn.AdaptiveAvgPool1d(4), ROWS, "kernel 4, stride 4"),
        (nn.AdaptiveMaxPool2d(4), X, "max_pool2d with kernel 3x3"),
        (nn.AdaptiveMaxPool2d((2, 4)), X, "kernel 6x3, stride 6x3"),
        (nn.AdaptiveAvgPool3d(2), torch.randn(2, 3, 4, 6, 8), "kernel 2x3x4"),
    ],
)
def test_adaptive_pooling_becomes_fixed(layer, x, became):
    forbidden = (*POOLS, "aten.adaptive_avg_pool3d")
    done = of(nn.Sequential(nn.ReLU(), layer), x, forbidden=forbidden)
    assert any(became in line for line in done.result.changes), done.result.changes
    assert not [name for name in done.operators if "adaptive" in name]
    assert done.error(torch.randn(3, *x.shape[1:])) < 1e-6


def test_pooling_to_one_value_takes_an_open_size():
    module = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1)).eval()
    model = exported(module, X)
    size = torch.export.Dim("height", min=2, max=64)
    program = torch.export.export(module, (X,), dynamic_shapes=({2: size},))
    torch.export.save(program, model.path)
    done = Adapted(adapt(model, forbidden=POOLS), module)
    assert "aten.mean.dim" in done.operators
    assert done.error(torch.randn(2, 8, 31, 12)) < 1e-6


def _indices(x, pool):
    values, indices = pool(x)
    return values + indices


@pytest.mark.parametrize(
    ("module", "x", "why"),
    [
        (nn.Sequential(nn.AdaptiveAvgPool2d(5)), X, "from 12x12 to 5x5 differ"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(24)), X, "differ in length or distance"),
        (Function(_indices, nn.AdaptiveMaxPool2d(4, return_indices=True)), X, "indices are used"),
    ],
)
def test_what_has_no_fixed_form_is_refused_with_the_place(module, x, why):
    with pytest.raises(AdaptError, match="adaptive") as caught:
        of(module, x, forbidden=POOLS)
    assert caught.value.code == "LPT-ADAPT-009"
    assert why in str(caught.value)
    assert ".py:" in str(caught.value) or "(module " in str(caught.value)


# --- activations and normalisations -------------------------------------------------------------

FORMS = [
    (nn.Hardswish(), "hardswish", X),
    (nn.Hardsigmoid(), "hardsigmoid", X),
    (nn.SiLU(), "silu", X),
    (nn.ReLU6(), "relu6", X),
    (nn.Hardtanh(-2.0, 1.5), "relu6", X),
    (nn.GELU(), "gelu", X),
    (nn.GELU(approximate="tanh"), "gelu", X),
    (nn.Mish(), "mish", X),
    (nn.LayerNorm(16), "layer-norm", ROWS),
    (nn.LayerNorm((5, 16), elementwise_affine=False), "layer-norm", ROWS),
    (nn.GroupNorm(4, 8), "group-norm", X),
    (nn.GroupNorm(8, 8, affine=False), "group-norm", X),
    (nn.GroupNorm(1, 5), "group-norm", ROWS),
    (nn.InstanceNorm2d(8, affine=True), "instance-norm", X),
    (nn.InstanceNorm1d(5), "instance-norm", ROWS),
    (nn.RMSNorm(16), "rms-norm", ROWS),
    (nn.RMSNorm(16, eps=1e-3, elementwise_affine=False), "rms-norm", ROWS),
    (nn.BatchNorm2d(8), "batch-norm", X),
    (nn.BatchNorm2d(8, affine=False), "batch-norm", X),
    (nn.BatchNorm2d(8, track_running_stats=False), "batch-norm", X),
]
NAMES = {"relu6": ("aten.relu6", "aten.hardtanh")}


@pytest.mark.parametrize(("layer", "name", "x"), FORMS, ids=lambda p: getattr(p, "lower", str)())
def test_forms_compute_the_same(layer, name, x):
    forbidden = NAMES.get(name, (f"aten.{name.replace('-', '_')}",))
    done = of(nn.Sequential(nn.Identity(), layer), x, forbidden=forbidden)
    assert [c.partition(":")[0] for c in done.result.changes] == [f"expand-{name}"]
    fresh = 4 * torch.randn(7, *x.shape[1:])
    assert done.error(fresh) < 1e-6
    assert done.result.model.signature.inputs[0].shape[0] == "batch"


def test_forms_are_done_only_where_forbidden_and_once():
    layers = [layer for layer, _, x in FORMS if x is X and not isinstance(layer, nn.BatchNorm2d)]
    names = [f"aten.{n.replace('-', '_')}" for _, n, x in FORMS if x is X] + ["aten.hardtanh"]
    module = nn.Sequential(nn.Identity(), *layers)
    kept = of(module, X)
    assert kept.result.changes == ()
    done = adapt(kept.result.model, forbidden=names)
    assert len(done.changes) == len(layers)
    assert Adapted(done, module).error(torch.randn(3, 8, 12, 12)) < 1e-5
    again = adapt(done.model, forbidden=names)
    assert (again.changes, again.model) == ((), done.model)


@pytest.mark.parametrize("layer", [nn.Mish(), nn.GELU(), nn.SiLU(), nn.Hardswish()])
def test_forms_hold_at_the_ends(layer):
    forbidden = [f"aten.{type(layer).__name__.lower()}"]
    done = of(nn.Sequential(layer), torch.randn(2, 6), forbidden=forbidden)
    ends = torch.tensor([[-200.0, -30.0, -1e-3, 0.0, 50.0, 1000.0]])
    assert done.error(ends) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layer", [nn.LayerNorm(16), nn.RMSNorm(16), nn.SiLU()])
def test_half_precision_stays_within_its_own_rounding(layer, dtype):
    name = {"LayerNorm": "layer_norm", "RMSNorm": "rms_norm", "SiLU": "silu"}
    operator = f"aten.{name[type(layer).__name__]}"
    done = of(nn.Sequential(layer).to(dtype), ROWS.to(dtype), forbidden=[operator])
    assert done.result.changes
    assert done.error(ROWS.to(dtype)) < 4 * torch.finfo(dtype).eps


def test_in_place_activations_are_seen():
    layers = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Hardswish(inplace=True), nn.SiLU(inplace=True))
    done = of(layers, X, forbidden=["aten.hardswish", "aten.silu"])
    assert not [n for n in done.operators if "hardswish" in n or "silu" in n]
    assert done.error(torch.randn(3, 8, 12, 12)) < 1e-6


def test_writes_that_others_see_are_kept():
    def function(x):
        y = x.relu()
        z = y.view(x.shape[0], -1)
        functional.silu(z, inplace=True)
        return y + z.view(x.shape)

    done = of(Function(function), X, forbidden=["aten.silu"])
    assert not [n for n in done.operators if "silu" in n]
    assert done.error(torch.randn(3, 8, 12, 12)) < 1e-6


# --- shapes -------------------------------------------------------------------------------------


def test_a_fixed_batch_is_exact_and_says_so():
    layers = nn.Sequential(nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3))
    done = of(layers, X, shapes={"batch": 3})
    assert done.result.model.signature.inputs[0].shape == (3, 8, 12, 12)
    assert done.result.model.signature.outputs[0].shape == (3, 3)
    (line,) = done.result.changes
    assert line.startswith("fix-shapes: batch is 3 at the input")
    assert done.error(torch.randn(3, 8, 12, 12)) == 0.0
    assert not [n for n in done.operators if "sym_size" in n]
    assert adapt(done.result.model).changes == ()


def test_sizes_that_forward_computes_with_become_numbers():
    done = of(Function(lambda x: x.reshape(x.shape[0], -1) * x.shape[0]), X, shapes={"batch": 4})
    assert not [n for n in done.operators if "sym_size" in n]
    assert done.error(torch.randn(4, 8, 12, 12)) == 0.0


def test_bounds_become_tighter_and_the_batch_stays_open():
    from lepton_torch._archive import load_program

    done = of(nn.Sequential(nn.Conv2d(8, 4, 3), nn.ReLU()), X, bounds={"batch": (1, 8)})
    program = load_program(done.result.model.path)
    assert program.bounds == {"batch": (1, 8)}
    assert done.error(torch.randn(8, 8, 12, 12)) == 0.0
    assert done.error(torch.randn(1, 8, 12, 12)) == 0.0
    with pytest.raises(Exception, match=r"8|batch|range"):
        done.error(torch.randn(9, 8, 12, 12))


def test_a_target_with_static_shapes_gets_batch_one_and_pooling_that_it_can_run():
    constraints = Constraints(static_shapes=True, forbidden_ops=POOLS)
    done = of(
        nn.Sequential(nn.Conv2d(8, 4, 3), nn.AdaptiveAvgPool2d(5)), X, constraints=constraints
    )
    assert done.result.model.signature.inputs[0].shape[0] == 1
    assert any("batch is fixed at 1" in w for w in done.result.warnings)
    assert done.error(torch.randn(1, 8, 12, 12)) < 1e-6


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        ({"shapes": {"bach": 1}}, "LPT-ADAPT-003", "Did you mean batch"),
        ({"bounds": {"length": (1, 2)}}, "LPT-ADAPT-003", "symbolic dimensions: batch"),
        ({"shapes": {"batch": 65}}, "LPT-ADAPT-004", "1 to 64"),
        ({"bounds": {"batch": (2, 100)}}, "LPT-ADAPT-004", "1 to 64"),
        ({"options": {"speed": 1}}, "LPT-ADAPT-012", "speed"),
    ],
)
def test_wrong_sizes_are_refused(request_, code, words):
    with pytest.raises(UsageError, match=r".") as caught:
        of(nn.Sequential(nn.ReLU()), X, **request_)
    assert caught.value.code == code
    assert words in str(caught.value)
