"""Modes and branches of operators against torch, until every line of the interpreter has a case."""

from __future__ import annotations

import ast
import itertools
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lepton_coreml import _interpreter
from lepton_coreml._interpreter import OPERATORS

FIRST = runpy.run_path(str(Path(__file__).with_name("test_coreml_operators.py")))
IMAGE, ROWS, T, i32, real, whole = (
    FIRST[name] for name in ("IMAGE", "ROWS", "T", "i32", "real", "whole")
)
check = FIRST["test_an_operator_gives_what_torch_gives"]
RNG = np.random.default_rng(23)
CASES = []


def case(name, expected, **given):
    CASES.append(pytest.param(name, given, expected, id=f"{name}-{len(CASES)}"))


# --- attention
Q, K, V, MASK = real(2, 2, 3, 4), real(2, 2, 5, 4), real(2, 2, 5, 4), real(2, 1, 3, 5)
case("scaled_dot_product_attention", F.scaled_dot_product_attention(T(Q), T(K), T(V), T(MASK)),
     query=Q, key=K, value=V, attn_mask=MASK)  # fmt: skip
case("scaled_dot_product_attention", F.scaled_dot_product_attention(T(Q), T(K), T(V)),
     query=Q, key=K, value=V)  # fmt: skip

# --- compressed
VECTORS, PICKED = real(1, 1, 1, 4, 2), whole(4, 3, 2, 2).astype("u1")
SOME = (whole(2, 3, 2, 2) > 0).astype("u1")
DENSE = T(VECTORS)[0, 0, 0][T(PICKED).long()].permute(0, 1, 3, 2).reshape(3, 4, 2)
WIDE = T(SOME).repeat_interleave(2, 1)
case("constexpr_lut_to_sparse", (WIDE, DENSE[WIDE != 0]), indices_mask=SOME,
     indices_nonzero_data=PICKED[SOME != 0], lut=VECTORS, vector_axis=np.int32(1))  # fmt: skip

# --- by index
TABLE, SPOTS = real(2, 5, 4, 3), np.stack([whole(5, 6), whole(4, 6)], -1)
TWO = np.stack([SPOTS, SPOTS[::-1]])
case("gather_nd", torch.stack([T(TABLE)[b][T(TWO[b, :, 0]).long(), T(TWO[b, :, 1]).long()]
                               for b in range(2)]),
     x=TABLE, indices=TWO, batch_dims=np.int32(1))  # fmt: skip
DATA, AT, NEW = real(3, 5), whole(5, 3, 4), real(3, 4, low=0.5)
LONG = T(AT).long()
for mode, wanted in {
    "update": T(DATA).scatter(1, T(np.argsort(real(3, 5))[:, :4].copy()), T(NEW)),
    "sub": T(DATA).scatter_add(1, LONG, -T(NEW)),
    "mul": T(DATA).scatter_reduce(1, LONG, T(NEW), "prod"),
    "div": T(DATA).scatter_reduce(1, LONG, 1 / T(NEW), "prod"),
    "max": T(DATA).scatter_reduce(1, LONG, T(NEW), "amax"),
    "min": T(DATA).scatter_reduce(1, LONG, T(NEW), "amin"),
}.items():  # fmt: skip
    if mode != "update":
        case("scatter_along_axis", wanted, data=DATA, indices=AT, updates=NEW, axis=np.int32(1),
             mode=mode)  # fmt: skip
PLACES, SLICES = i32(2, 0), real(2, 5)
case("scatter", T(DATA).index_copy(0, T(PLACES).long(), T(SLICES)), data=DATA, indices=PLACES,
     updates=SLICES, mode="update")  # fmt: skip
case("scatter_nd", T(DATA).index_add(0, T(PLACES).long(), T(SLICES)), data=DATA,
     indices=PLACES[:, None], updates=SLICES)  # fmt: skip

# --- windows
KERNEL, BACK = real(6, 4, 3, 2), real(4, 3, 2, 2)
for kind, sides in {"same": (0, 1, 1, 1), "same_lower": (1, 0, 1, 1)}.items():  # left, right, top
    case("conv", F.conv2d(F.pad(T(IMAGE), sides), T(KERNEL), stride=(2, 1)), x=IMAGE,
         weight=KERNEL, strides=i32(2, 1), pad_type=kind)  # fmt: skip
GROWN = F.conv_transpose2d(T(IMAGE), T(BACK), stride=1)
case("conv_transpose", GROWN[..., :-1, :-1], x=IMAGE, weight=BACK, pad_type="same")
case("conv_transpose", GROWN[..., 1:, 1:], x=IMAGE, weight=BACK, pad_type="same_lower")
case("conv_transpose", F.conv_transpose2d(T(IMAGE), T(BACK), stride=3, output_padding=2),
     x=IMAGE, weight=BACK, strides=i32(3, 3), output_shape=i32(2, 3, 22, 19))  # fmt: skip
case("max_pool", F.max_pool2d(T(IMAGE), 2, 4, 1, ceil_mode=True), x=IMAGE, kernel_sizes=i32(2, 2),
     strides=i32(4, 4), pad_type="custom", pad=i32(1, 1, 1, 1), ceil_mode=np.True_)  # fmt: skip

# --- order
NUMBERS = RNG.permutation(15).reshape(3, 5).astype("i4") - 7
VALUES, ORDER = torch.topk(T(NUMBERS), 3, 1)
case("topk", (VALUES, ORDER.int()), x=NUMBERS, k=np.int32(3))
LOW, LOWEST = torch.topk(T(NUMBERS), 2, 0, largest=False)
case("topk", (LOW, LOWEST.int()), x=NUMBERS, k=np.int32(2), axis=np.int32(0), ascending=np.True_)
case("argsort", torch.argsort(T(NUMBERS), 1, descending=True).int(), x=NUMBERS)
case("reduce_max", T(IMAGE).max(), x=IMAGE)
case("one_hot", torch.where(F.one_hot(T(AT).long(), 5).permute(0, 2, 1) > 0, 2.5, -1.0), indices=AT,
     one_hot_vector_size=np.int32(5), axis=np.int32(1), on_value=np.float32(2.5),
     off_value=np.float32(-1))  # fmt: skip


# --- resizing: where places lie follows MIL's text on sampling_mode; torch interpolates there
def sampled(x, rows, columns):
    """Interpolate at rows and columns of the input, counted from 0."""
    height, width = x.shape[-2:]
    grid = torch.stack(torch.meshgrid(
        torch.as_tensor(rows) * 2 / (height - 1) - 1,
        torch.as_tensor(columns) * 2 / (width - 1) - 1, indexing="ij")[::-1], -1)  # fmt: skip
    grid = grid.float().expand(len(x), -1, -1, -1)
    return F.grid_sample(T(x), grid, padding_mode="border", align_corners=True)


def spaced(size, wanted, mode):
    i = np.arange(wanted)
    if mode == "DEFAULT":
        return i * (size - size / wanted) / (wanted - 1)
    delta = max(1, size - 1) / wanted  # OFFSET_CORNERS
    return np.clip(0.5 * delta + i * delta, 0, size - 1)


for mode in ("DEFAULT", "OFFSET_CORNERS"):
    THERE = sampled(IMAGE, spaced(7, 5, mode), spaced(6, 11, mode))
    case("resize_bilinear", THERE, x=IMAGE, target_size_height=np.int32(5),
         target_size_width=np.int32(11), sampling_mode=mode)  # fmt: skip
CENTRE = sampled(IMAGE, [3.0], [2.5])
case("resize_bilinear", CENTRE, x=IMAGE, target_size_height=np.int32(1),
     target_size_width=np.int32(1), sampling_mode="ALIGN_CORNERS")  # fmt: skip
case("resize_bilinear", T(IMAGE)[..., :1, :1], x=IMAGE, target_size_height=np.int32(1),
     target_size_width=np.int32(1), sampling_mode="STRICT_ALIGN_CORNERS")  # fmt: skip
case("upsample_bilinear", sampled(IMAGE, spaced(7, 14, "DEFAULT"), spaced(6, 12, "DEFAULT")),
     x=IMAGE, scale_factor_height=np.float32(2), scale_factor_width=np.float32(2),
     align_corners=np.False_, half_pixel_centers=np.False_)  # fmt: skip
case("resize", F.interpolate(T(IMAGE), size=(7, 9), mode="bilinear", align_corners=False), x=IMAGE,
     shape=i32(0, 9), resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS")  # fmt: skip
case("resize", F.interpolate(T(IMAGE), size=(10, 4), mode="nearest-exact"), x=IMAGE,
     shape=i32(10, 4), resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR",
     sampling_mode="UNALIGN_CORNERS")  # fmt: skip
POINTS = np.clip(real(2, 3, 5, 2), -1.3, 1.3)
for kind, (points, scaled) in itertools.product(
    ("bilinear", "nearest"),
    {"normalized_zero_to_one": (POINTS / 2 + 0.5, "01"),
     "unnormalized": ((POINTS + 1) / 2 * np.array([5, 6], "f4"), "px")}.items(),
):  # fmt: skip
    given = scaled[0] if isinstance(scaled, tuple) else scaled
    case("resample", F.grid_sample(T(IMAGE), T(POINTS), mode=kind, align_corners=True), x=IMAGE,
         coordinates=given.astype("f4"), sampling_mode=kind, padding_mode="constant",
         padding_value=np.float32(0), coordinates_mode=points, align_corners=np.True_)  # fmt: skip
FAR = np.full((2, 1, 1, 2), 9, "f4")
case("resample", torch.full((2, 4, 1, 1), 1.5), x=IMAGE, coordinates=FAR, sampling_mode="bilinear",
     padding_mode="constant", padding_value=np.float32(1.5), coordinates_mode="unnormalized",
     align_corners=np.True_)  # fmt: skip
MIRRORED = F.grid_sample(T(IMAGE), T(POINTS), padding_mode="reflection", align_corners=False)
case("resample", MIRRORED, x=IMAGE, coordinates=((POINTS + 1) * np.array([6, 7], "f4") - 1) / 2,
     sampling_mode="bilinear", padding_mode="symmetric", padding_value=np.float32(0),
     coordinates_mode="unnormalized", align_corners=np.False_)  # fmt: skip


# --- recurrence: torch has neither peepholes nor a clip, so its operators are put together
def stepped(x, h, c, weights, peephole, clip, backward):
    w_input, w_hidden, bias = weights
    looks, seen = torch.chunk(peephole, 3), []
    for step in x.flip(0) if backward else x:
        i, f, o, z = torch.chunk(step @ w_input.T + h @ w_hidden.T + bias, 4, dim=1)
        fresh = torch.clamp(torch.tanh(z), -clip, clip)
        c = torch.sigmoid(f + looks[1] * c) * c + torch.sigmoid(i + looks[0] * c) * fresh
        h = torch.sigmoid(o + looks[2] * c) * F.softsign(c)
        seen.append(h)
    return torch.stack(seen[::-1] if backward else seen), h, c


X, H, C = real(6, 2, 5), real(2, 4), real(2, 4)
GATES = (real(16, 5), real(16, 4), real(16))
LOOKS = real(12)
for direction in ("forward", "reverse"):
    STEPS, LAST_H, LAST_C = stepped(
        T(X), T(H), T(C), [T(w) for w in GATES], T(LOOKS), 0.3, direction == "reverse"
    )
    for whole_sequence in (True, False):
        case("lstm", (STEPS if whole_sequence else LAST_H[None], LAST_H, LAST_C), x=X, initial_h=H,
             initial_c=C, weight_ih=GATES[0], weight_hh=GATES[1], bias=GATES[2], peephole=LOOKS,
             clip=np.float32(0.3), activation="softsign", direction=direction,
             output_sequence=np.bool_(whole_sequence))  # fmt: skip
CELL = torch.nn.RNN(5, 4, nonlinearity="relu", bias=False)
with torch.no_grad():
    _, BACKWARD = CELL(T(X).flip(0), T(H)[None])
case("rnn", (BACKWARD, BACKWARD[0]), x=X, initial_h=H, direction="reverse", activation="relu",
     weight_ih=CELL.weight_ih_l0.detach().numpy(),
     weight_hh=CELL.weight_hh_l0.detach().numpy())  # fmt: skip

REFUSED = [
    ("gelu", {"x": ROWS, "mode": "ROUGH"}),
    ("constexpr_blockwise_shift_scale", {"data": whole(9, 4, 6), "scale": real(4)}),
    ("constexpr_lut_to_dense", {"indices": PICKED + 9, "lut": VECTORS}),
    ("conv", {"x": IMAGE, "weight": KERNEL, "pad_type": "some"}),
    ("quantize", {"input": ROWS, "scale": real(5), "output_dtype": "int8"}),
    ("lstm", {"x": X, "initial_h": np.tile(H, 2), "initial_c": np.tile(C, 2),
              "weight_ih": GATES[0], "weight_hh": GATES[1], "direction": "bidirectional"}),
    ("resize_bilinear", {"x": IMAGE, "sampling_mode": "SOMEWHERE"}),
    ("split", {"x": ROWS, "axis": np.int32(1)}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "expected"), CASES)
def test_a_branch_gives_what_torch_gives(name, given, expected):
    check(name, given, expected)


@pytest.mark.parametrize(("name", "given"), REFUSED)
def test_what_no_branch_takes_is_refused(name, given):
    with pytest.raises((ValueError, IndexError)):
        OPERATORS[name](**given)


def statements(path):
    """Return the lines of functions' statements, without texts and decorated definitions."""
    found = {}
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef):
            for one in ast.walk(function):
                plain = isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)
                if isinstance(one, ast.stmt) and one is not function and not plain:
                    found[one.lineno] = function.name
    return found


def test_every_line_of_every_operator_is_run_by_a_case():
    """Cases of both files, and the refusals: nothing of the interpreter is left untried."""
    folder = Path(_interpreter.__file__).parent
    run: dict[str, set[int]] = {}

    def tracer(frame, event, value):
        name = frame.f_code.co_filename
        if not name.startswith(str(folder)):
            return None
        lines = run.setdefault(name, set())

        def line(frame, event, value):
            if event == "line":
                lines.add(frame.f_lineno)
            return line

        return line

    wrong = FIRST["test_what_does_not_fit_is_an_error"].pytestmark[0].args[1]
    held = sys.gettrace()
    sys.settrace(tracer)
    try:
        for name, given, _ in (p.values for p in (*FIRST["CASES"], *CASES)):
            OPERATORS[name](**given)
        for name, given in (*wrong, *REFUSED):
            try:
                OPERATORS[name](**given)
            except (ValueError, IndexError):
                continue
    finally:
        sys.settrace(held)
    left = {
        f"{path.name}:{line}"
        for path in folder.glob("_*.py")
        if path.name not in ("__init__.py", "_run.py", "_registry.py")
        for line, function in statements(path).items()
        if not function.startswith("_add") and line not in run.get(str(path), set())
    }
    # Those of functions that are made when the module is imported.
    assert left == set()
