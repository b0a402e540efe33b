"""Structured pruning over small architectures: what is cut is what setting to zero would be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from adapting import exported, randomised
from torch import nn
from torch.nn import functional as F

from lepton_core.context import Context
from lepton_core.types import ConvertRequest, Model
from lepton_torch import plugin
from lepton_torch._archive import load_program, save_program
from lepton_torch._pruning._classes import NONE, Classes, Cut
from lepton_torch._pruning._cut import cut_graph, zeroed_graph
from lepton_torch._pruning._groups import find_groups
from lepton_torch._pruning._proof import Prover, traced
from lepton_torch._pruning._reshape import regions
from lepton_torch._retrace import retrace
from lepton_torch._trials import difference

IMAGE = torch.zeros(2, 3, 8, 8)
TOKENS = torch.zeros(2, 6, 16)


def block(ins, outs, groups=1, stride=1):
    return nn.Sequential(
        nn.Conv2d(ins, outs, 3, stride, 1, groups=groups, bias=False),
        nn.BatchNorm2d(outs),
        nn.ReLU(),
    )


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(block(3, 16), nn.MaxPool2d(2), block(16, 24))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(24 * 16, 32), nn.GELU(), nn.Linear(32, 5))

    def forward(self, x):
        return self.head(self.body(x))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = block(3, 16), block(16, 24), nn.Conv2d(24, 16, 3, padding=1)
        self.down, self.c = nn.Conv2d(16, 32, 1, 2), block(16, 32, stride=2)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(x + self.b(self.a(x)))
        x = self.down(x) + self.c(x)
        return self.head(x.mean((2, 3)))


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.layers = nn.ModuleList(block(16 + 8 * n, 8) for n in range(3))
        self.norm, self.head = nn.BatchNorm2d(40), nn.Linear(40, 5)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(F.adaptive_avg_pool2d(torch.relu(self.norm(x)), 1).flatten(1))


class Squeeze(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Conv2d(width, 8, 1), nn.Conv2d(8, width, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.b(torch.relu(self.a(x.mean((2, 3), keepdim=True)))))


class Mobile(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.wide = block(3, 16), nn.Conv2d(16, 48, 1)
        self.deep, self.squeeze = block(48, 48, groups=48), Squeeze(48)
        self.narrow, self.multiplied = nn.Conv2d(48, 16, 1), nn.Conv2d(16, 32, 3, groups=16)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.narrow(self.squeeze(self.deep(F.hardswish(self.wide(x)))))
        return self.head(self.multiplied(x).amax((2, 3)))


class Grouped(nn.Module):
    def __init__(self, groups):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, padding=1, groups=groups)
        self.norm, self.c = nn.GroupNorm(8, 32), nn.ConvTranspose2d(32, 16, 2, 2)
        self.slope, self.head = nn.PReLU(16), nn.Conv2d(16, 2, 1)

    def forward(self, x):
        return self.head(self.slope(self.c(self.norm(torch.relu(self.b(self.a(x)))))))


class Shuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.head = (
            nn.Conv2d(3, 32, 1),
            block(16, 16, groups=2),
            nn.Linear(32, 5),
        )

    def forward(self, x):
        left, right = self.stem(x).chunk(2, 1)
        x = torch.cat([left, self.conv(right)], 1)
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.head(x.flatten(2).mean(-1))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.deep, self.up = (
            block(3, 16),
            block(16, 32),
            nn.ConvTranspose2d(32, 16, 2, 2),
        )
        self.join, self.head = block(32, 16), nn.Conv2d(16, 2, 1)

    def forward(self, x):
        high = self.down(x)
        low = self.deep(F.max_pool2d(high, 2))
        low = F.interpolate(low, scale_factor=0.5, mode="nearest")
        low = F.interpolate(low, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.head(self.join(torch.cat([high, self.up(low)], 1)))


class Heads(nn.Module):
    """Attention as vision transformers write it: one product for q, k and v."""

    def __init__(self, fused=True):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 96), nn.Linear(32, 16)
        self.fc1, self.fc2, self.head = nn.Linear(16, 48), nn.Linear(48, 16), nn.Linear(16, 5)
        self.fused, self.place = fused, nn.Parameter(torch.randn(1, 6, 16))

    def forward(self, x):
        x = x + self.place
        b, n, _ = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, n, 3, 4, 8).permute(2, 0, 3, 1, 4)
        if self.fused:
            y = F.scaled_dot_product_attention(*qkv.unbind(0))
        else:
            q, k, v = qkv[0], qkv[1], qkv[2]
            y = (q @ k.transpose(-2, -1) / 8**0.5).softmax(-1) @ v
        x = x + self.out(y.transpose(1, 2).reshape(b, n, 32))
        x = x + self.fc2(F.gelu(self.fc1(x)))
        return self.head(x[:, 0])


class Separate(nn.Module):
    """Attention with grouped queries, a gate, and a tied embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.q, self.k, self.v = nn.Linear(16, 32), nn.Linear(16, 16), nn.Linear(16, 16)
        self.out, self.gate, self.value = nn.Linear(32, 16), nn.Linear(16, 24), nn.Linear(16, 24)
        self.down, self.norm = nn.Linear(24, 16), nn.RMSNorm(16)

    def forward(self, ids):
        x = self.embed(ids)
        b, n, _ = x.shape
        y = self.norm(x)
        q = self.q(y).view(b, n, 4, 8).transpose(1, 2)
        k, v = (f(y).view(b, n, 2, 8).transpose(1, 2) for f in (self.k, self.v))
        k, v = (t[:, :, None].expand(b, 2, 2, n, 8).reshape(b, 4, n, 8) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, n, -1))
        x = x + self.down(F.silu(self.gate(x)) * self.value(x))
        return F.linear(self.norm(x), self.embed.weight)


class Packed(nn.Module):
    """The encoder layer that torch ships; its attention folds heads into the batch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
        self.glu, self.head = nn.Linear(16, 32), nn.Linear(16, 5)

    def forward(self, x):
        return self.head(F.glu(self.glu(self.layer(x)), -1).mean(1))


CASES = {
    "plain": (Plain, IMAGE, {"body.0.0.weight", "body.2.0.weight", "head.1.weight"}),
    "residual": (
        Residual, IMAGE, {"stem.0.weight", "a.0.weight", "b.weight", "down.weight", "c.0.weight"},
    ),
    "dense": (
        Dense, IMAGE, {"stem.weight", *(f"layers.{n}.0.weight" for n in range(3))},
    ),
    "mobile": (
        Mobile, IMAGE,
        {"stem.0.weight", "wide.weight", "deep.0.weight", "squeeze.a.weight", "squeeze.b.weight",
         "narrow.weight", "multiplied.weight"},
    ),
    "groups": (lambda: Grouped(8), IMAGE, {"a.weight", "b.weight", "c.weight"}),
    "within groups": (lambda: Grouped(2), IMAGE, {"a.weight", "b.weight", "c.weight"}),
    "shuffle": (Shuffle, IMAGE, {"stem.weight", "conv.0.weight"}),
    "unet": (UNet, IMAGE, {"down.0.weight", "deep.0.weight", "up.weight", "join.0.weight"}),
    "heads": (Heads, TOKENS, {"qkv.weight", "fc1.weight"}),
    "plain heads": (lambda: Heads(fused=False), TOKENS, {"qkv.weight", "fc1.weight"}),
    "grouped queries": (
        Separate, torch.zeros(2, 6, dtype=torch.int64),
        {"q.weight", "k.weight", "v.weight", "gate.weight", "value.weight"},
    ),
    "packed": (
        Packed, TOKENS,
        {"layer.self_attn.in_proj_weight", "layer.linear1.weight", "glu.weight"},
    ),
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small are slower on more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def programs():
    made = {}

    def get(name):
        if name not in made:
            build, example, _ = CASES[name]
            module = randomised(build())
            made[name] = (module, load_program(exported(module, example).path))
        return made[name]

    return get


def some(structure, groups, seed):
    """Return a random choice of classes of every group, at least one of each stays."""
    rng = np.random.default_rng(seed)
    gone = []
    for group in groups:
        count = int(rng.integers(1, len(group.classes)))
        gone += rng.choice(group.classes, count, replace=False).tolist()
    return Cut(structure.classes, sorted(gone))


@pytest.mark.parametrize("name", CASES)
def test_the_layers_that_can_be_narrowed_are_found(name, programs):
    structure = traced(programs(name)[1], 0)
    groups, untouched = find_groups(structure, 1)
    assert {layer.name for group in groups for layer in group.layers} == CASES[name][2]
    assert all(one.why for one in untouched)
    assert not structure.left


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(2))
def test_cutting_is_setting_to_zero(name, seed, programs):
    _, program = programs(name)
    structure = traced(program, seed)
    cut = some(structure, find_groups(structure, 1)[0], seed)
    assert structure.parameters(cut) < structure.parameters()
    assert structure.macs(cut) < structure.macs()
    prover = Prover(program, structure, seed)
    found = prover.difference(cut)
    assert found <= 1e-5
    assert prover.difference(Cut(structure.classes, [])) == 0.0
    untouched = prover.run(structure.graph_module)
    assert difference(untouched, prover.run(cut_graph(structure, cut))) > 1e-4


CONVERTED = ("residual", "mobile", "unet", "grouped queries", "packed")
"""Cases that are also run as ONNX; between them they have every kind of layer."""


@pytest.mark.parametrize("name", CASES)
def test_a_cut_program_is_a_program_again(name, programs, tmp_path):
    """It is exported, keeps its open batch, has the counted parameters, and runs as ONNX."""
    _, program = programs(name)
    structure = traced(program, 0)
    cut = some(structure, find_groups(structure, 1)[0], 7)
    made = retrace(cut_graph(structure, cut), program)
    assert made.signature == program.signature
    tensors = {t.data_ptr(): t for t in made.exported.parameters()}
    assert sum(t.numel() for t in tensors.values()) == structure.parameters(cut)
    session = _as_onnx(made, tmp_path) if name in CONVERTED else None
    zeroed, run, example = zeroed_graph(structure, cut), made.exported.module(), CASES[name][1]
    for rows in (1, 2, 5):
        x = torch.randn(rows, *example.shape[1:])
        if not example.is_floating_point():
            x = torch.randint(0, 11, (rows, *example.shape[1:]))
        with torch.no_grad():
            want, got = zeroed(x)[0], run(x)[0]
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
        if session is not None:
            (onnx,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
            np.testing.assert_allclose(onnx, want, rtol=1e-3, atol=1e-3)


def _as_onnx(program, folder):
    ort = pytest.importorskip("onnxruntime")
    save_program(program, folder / "model.pt2")
    pivot = plugin.lepton_convert(
        Model("torch.export", str(folder / "model.pt2")),
        ConvertRequest("onnxruntime", to_format="pivot"),
        Context(folder),
    ).model
    return ort.InferenceSession(pivot.path, providers=["CPUExecutionProvider"])


def test_macs_are_those_that_the_layers_have(programs):
    structure = traced(programs("plain")[1], 0)
    convs = 8 * 8 * 16 * 3 * 9 + 4 * 4 * 24 * 16 * 9
    assert structure.macs() == convs + 24 * 16 * 32 + 32 * 5
    heads = traced(programs("heads")[1], 0)
    products = 6 * (16 * 96 + 32 * 16 + 2 * 16 * 48) + 2 * 4 * 6 * 6 * 8
    assert heads.macs() == products + 16 * 5


def test_what_is_not_understood_stays_and_is_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2)

        def forward(self, x):
            return self.c(torch.relu(self.b(torch.sort(self.a(x), dim=-1).values)))

    program = load_program(exported(randomised(Odd()), torch.zeros(2, 4)).path)
    structure = traced(program, 0)
    groups, untouched = find_groups(structure, 1)
    assert [g.name for g in groups] == ["b.weight"]
    assert {u.name: u.why for u in untouched} == {
        "a.weight": "sort (sort) is not understood",
        "c.weight": "it is an output of the model",
    }
    assert [(node.name, why) for node, why in structure.left] == [
        ("sort", "sort is not understood")
    ]


def test_widths_stay_multiples_and_kept_layers_stay(programs):
    structure = traced(programs("residual")[1], 0)
    groups, untouched = find_groups(structure, 8, keep=("a",))
    assert {g.name: (len(g.classes), g.step, g.next_size(len(g.classes))) for g in groups} == {
        "stem.0.weight": (16, 8, 8), "down.weight": (32, 8, 24),
    }  # fmt: skip
    assert ("a.0.weight", "asked for") in [(u.name, u.why) for u in untouched]


def test_heads_of_eight_channels_go_one_by_one(programs):
    structure = traced(programs("heads")[1], 0)
    (heads,) = [g for g in find_groups(structure, 8)[0] if g.name == "qkv.weight"]
    assert (heads.kind, len(heads.classes), heads.step) == ("head", 4, 1)


# --- the parts ----------------------------------------------------------------------------------


def test_classes_join_and_pin():
    classes = Classes()
    a, b = classes.fresh(3), classes.fresh(3)
    classes.join(a, b, "why")
    assert classes.find(b).tolist() == [0, 1, 2]
    classes.pin(b[1:2], "first")
    classes.pin(a[1:2], "second")
    assert classes.why_pinned(int(a[1])) == "first"
    assert classes.free(a).tolist() == [0, 2]
    classes.join(classes.fresh(1), np.array([NONE]), "beside nothing")
    assert classes.why_pinned(6) == "beside nothing"
    assert Cut(classes, [0]).kept(b).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((7, 24, 4, 4), (7, 384), [([0], [0]), ([1, 2, 3], [1])]),
        ((7, 6, 96), (7, 6, 3, 4, 8), [([0], [0]), ([1], [1]), ([2], [2, 3, 4])]),
        ((5, 7, 16), (5, 28, 4), [([0], [0]), ([1, 2], [1, 2])]),
        ((7, 16), (7, 1, 16, 1), [([0], [0]), ([1], [1, 2]), ([], [3])]),
        ((7, 1, 16), (7, 16), [([0], [0]), ([1, 2], [1])]),
    ],
)
def test_regions_of_a_change_of_shape(before, after, expected):
    assert regions(before, after) == expected
