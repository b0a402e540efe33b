"""Every operator of the interpreter against torch (or, where torch has none, its definition)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lepton_coreml._interpreter import FAMILIES, OPERATORS

RNG = np.random.default_rng(7)


def real(*shape, low=None):
    array = RNG.normal(size=shape).astype("f4")
    return array if low is None else (np.abs(array) + low).astype("f4")


def whole(high, *shape, low=0):
    return RNG.integers(low, high, shape).astype("i4")


def i32(*values):
    return np.array(values, np.int32)


def T(array):
    return torch.from_numpy(np.ascontiguousarray(array))


IMAGE, ROWS, UNIT = real(2, 4, 7, 6), real(3, 5), np.clip(real(3, 5) / 4, -0.9, 0.9)
POSITIVE = real(3, 5, low=0.1)
WEIGHT, BIAS = real(6, 4, 3, 2), real(6)
CASES = []


def case(name, expected, **given):
    CASES.append(pytest.param(name, given, expected, id=f"{name}-{len(CASES)}"))


# --- elementwise
for name, function in {
    "abs": torch.abs, "ceil": torch.ceil, "cos": torch.cos, "cosh": torch.cosh, "erf": torch.erf,
    "exp": torch.exp, "exp2": torch.exp2, "floor": torch.floor, "sign": torch.sign,
    "sin": torch.sin, "sinh": torch.sinh, "square": torch.square, "tan": torch.tan,
    "atan": torch.atan, "identity": lambda x: x, "relu": torch.relu, "relu6": F.relu6,
    "sigmoid": torch.sigmoid, "silu": F.silu, "softplus": F.softplus, "softsign": F.softsign,
    "tanh": torch.tanh, "softmax": lambda x: torch.softmax(x, -1),
}.items():  # fmt: skip
    case(name, function(T(ROWS)), x=ROWS)
for name, function in {"acos": torch.acos, "asin": torch.asin, "atanh": torch.atanh}.items():
    case(name, function(T(UNIT)), x=UNIT)
HALVES = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.4], "f4")
case("round", torch.round(T(HALVES)), x=HALVES)
case("sqrt", torch.sqrt(T(POSITIVE)), x=POSITIVE)
case("rsqrt", torch.rsqrt(T(POSITIVE)), x=POSITIVE)
case("log", torch.log(T(POSITIVE)), x=POSITIVE)
case("log", torch.log(T(POSITIVE) + 0.5), x=POSITIVE, epsilon=np.float32(0.5))
case("inverse", 1 / (T(POSITIVE) + 0.25), x=POSITIVE, epsilon=np.float32(0.25))
case("logical_not", ~T(ROWS > 0), x=ROWS > 0)
case(
    "clip", torch.clamp(T(ROWS), -0.5, 0.25), x=ROWS, alpha=np.float32(-0.5), beta=np.float32(0.25)
)
case("threshold", torch.clamp(T(ROWS), min=0.25), x=ROWS, alpha=np.float32(0.25))
case("cast", T(3 * ROWS).to(torch.int32), x=3 * ROWS, dtype="int32")
case("cast", T(ROWS).half(), x=ROWS, dtype="fp16")
case("cast", T(ROWS).bool(), x=ROWS, dtype="bool")
for name, function in {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "maximum": torch.maximum,
    "minimum": torch.minimum, "equal": torch.eq, "not_equal": torch.ne, "less": torch.lt,
    "less_equal": torch.le, "greater": torch.gt, "greater_equal": torch.ge, "real_div": torch.div,
}.items():  # fmt: skip
    other = np.where(np.arange(5) == 2, ROWS[0], real(5)).astype("f4")
    case(name, function(T(ROWS), T(other)), x=ROWS, y=other)
INTS, DIVISORS = whole(40, 3, 5, low=-40), whole(7, 3, 5, low=1)
case("mod", torch.remainder(T(INTS), T(DIVISORS)), x=INTS, y=DIVISORS)
case("floor_div", torch.floor_divide(T(INTS), T(DIVISORS)), x=INTS, y=DIVISORS)
case("pow", torch.pow(T(POSITIVE), 2.5), x=POSITIVE, y=np.float32(2.5))
for name, function in {
    "logical_and": torch.logical_and, "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}.items():  # fmt: skip
    case(name, function(T(ROWS > 0), T(UNIT > 0.1)), x=ROWS > 0, y=UNIT > 0.1)
case("select", torch.where(T(ROWS > 0), T(ROWS), T(UNIT)), cond=ROWS > 0, a=ROWS, b=UNIT)

# --- activations
CHANNEL = real(4)
SHAPED = T(CHANNEL).reshape(1, 4, 1, 1)
case("leaky_relu", F.leaky_relu(T(ROWS), 0.1), x=ROWS, alpha=np.float32(0.1))
case("prelu", F.prelu(T(IMAGE), T(CHANNEL)), x=IMAGE, alpha=CHANNEL)
case("elu", F.elu(T(ROWS), 0.7), x=ROWS, alpha=np.float32(0.7))
case("gelu", F.gelu(T(ROWS)), x=ROWS)
case("gelu", F.gelu(T(ROWS), approximate="tanh"), x=ROWS, mode="TANH_APPROXIMATION")
case("gelu", T(ROWS) * torch.sigmoid(1.702 * T(ROWS)), x=ROWS, mode="SIGMOID_APPROXIMATION")
case("linear_activation", 2 * T(ROWS) + 1, x=ROWS, alpha=np.float32(2), beta=np.float32(1))
case("scaled_tanh", 2 * torch.tanh(3 * T(ROWS)), x=ROWS, alpha=np.float32(2), beta=np.float32(3))
case(
    "sigmoid_hard",
    F.hardsigmoid(T(3 * ROWS)),
    x=3 * ROWS,
    alpha=np.float32(1 / 6),
    beta=np.float32(0.5),
)
case(
    "clamped_relu", torch.minimum(torch.tensor(1.0), F.leaky_relu(T(ROWS), 0.2)), x=ROWS,
    alpha=np.float32(0.2), beta=np.float32(1),
)  # fmt: skip
case(
    "softplus_parametric",
    SHAPED * F.softplus(SHAPED * T(IMAGE)),
    x=IMAGE,
    alpha=CHANNEL,
    beta=CHANNEL,
)
case("thresholded_relu", F.threshold(T(ROWS), 0.3, 0.0), x=ROWS, alpha=np.float32(0.3))
case("softmax", torch.softmax(T(IMAGE), 1), x=IMAGE, axis=np.int32(1))

# --- products and convolutions
MATRIX = real(8, 5)
case(
    "linear",
    F.linear(T(ROWS), T(MATRIX), T(real(8) * 0 + 1)),
    x=ROWS,
    weight=MATRIX,
    bias=np.ones(8, "f4"),
)
case("linear", F.linear(T(ROWS), T(MATRIX)), x=ROWS, weight=MATRIX)
A, B = real(2, 3, 4), real(2, 4, 5)
case("matmul", T(A) @ T(B), x=A, y=B)
case("matmul", T(A) @ T(B), x=A.swapaxes(1, 2).copy(), y=B.swapaxes(1, 2).copy(),
     transpose_x=np.True_, transpose_y=np.True_)  # fmt: skip
case("einsum", torch.einsum("bij,bjk->bik", T(A), T(B)), values=[A, B], equation="bij,bjk->bik")
case("conv", F.conv2d(T(IMAGE), T(WEIGHT), T(BIAS)), x=IMAGE, weight=WEIGHT, bias=BIAS)
case(
    "conv", F.conv2d(T(IMAGE), T(WEIGHT), T(BIAS), stride=(2, 1), padding=(2, 1), dilation=(1, 2)),
    x=IMAGE, weight=WEIGHT, bias=BIAS, strides=i32(2, 1), pad_type="custom",
    pad=i32(2, 2, 1, 1), dilations=i32(1, 2),
)  # fmt: skip
GROUPED, DEPTH = real(6, 2, 3, 3), real(8, 1, 3, 3)
case("conv", F.conv2d(T(IMAGE), T(GROUPED), groups=2), x=IMAGE, weight=GROUPED, groups=np.int32(2))
case("conv", F.conv2d(T(IMAGE), T(DEPTH), groups=4, stride=2), x=IMAGE, weight=DEPTH,
     groups=np.int32(4), strides=i32(2, 2))  # fmt: skip
SAME = real(6, 4, 3, 3)
case("conv", F.conv2d(T(IMAGE), T(SAME), padding="same"), x=IMAGE, weight=SAME, pad_type="same")
LINE, VOLUME = real(2, 4, 9), real(1, 2, 4, 5, 6)
case("conv", F.conv1d(T(LINE), T(WEIGHT[..., 0])), x=LINE, weight=WEIGHT[..., 0].copy())
SOLID = real(3, 2, 2, 3, 2)
case("conv", F.conv3d(T(VOLUME), T(SOLID)), x=VOLUME, weight=SOLID)
BACK = real(4, 3, 3, 2)
case(
    "conv_transpose", F.conv_transpose2d(T(IMAGE), T(BACK), T(BIAS[:3]), stride=2, padding=(1, 0)),
    x=IMAGE, weight=BACK, bias=BIAS[:3], strides=i32(2, 2), pad_type="custom",
    pad=i32(1, 1, 0, 0),
)  # fmt: skip
case(
    "conv_transpose",
    F.conv_transpose2d(T(IMAGE), T(BACK), stride=2, padding=1, output_padding=1, dilation=2),
    x=IMAGE, weight=BACK, strides=i32(2, 2), pad_type="custom", pad=i32(1, 1, 1, 1),
    dilations=i32(2, 2), output_shape=i32(2, 3, 16, 12),
)  # fmt: skip
case("conv_transpose", F.conv_transpose2d(T(IMAGE), T(BACK), groups=2), x=IMAGE, weight=BACK,
     groups=np.int32(2))  # fmt: skip

# --- pooling
case("max_pool", F.max_pool2d(T(IMAGE), (3, 2), (2, 1), (1, 0)), x=IMAGE, kernel_sizes=i32(3, 2),
     strides=i32(2, 1), pad_type="custom", pad=i32(1, 1, 0, 0))  # fmt: skip
case("max_pool", F.max_pool2d(T(IMAGE), 3, 2, 1, ceil_mode=True), x=IMAGE, kernel_sizes=i32(3, 3),
     strides=i32(2, 2), pad_type="custom", pad=i32(1, 1, 1, 1), ceil_mode=np.True_)  # fmt: skip
for counted in (True, False):
    for ceil in (True, False):
        case(
            "avg_pool",
            F.avg_pool2d(T(IMAGE), 3, 2, 1, ceil_mode=ceil, count_include_pad=counted),
            x=IMAGE, kernel_sizes=i32(3, 3), strides=i32(2, 2), pad_type="custom",
            pad=i32(1, 1, 1, 1), ceil_mode=np.bool_(ceil),
            exclude_padding_from_average=np.bool_(not counted),
        )  # fmt: skip
case("l2_pool", F.lp_pool2d(T(IMAGE), 2, 2, 2), x=IMAGE, kernel_sizes=i32(2, 2), strides=i32(2, 2))

# --- normalisation
MEAN, SPREAD = real(4), real(4, low=0.2)
case("batch_norm", F.batch_norm(T(IMAGE), T(MEAN), T(SPREAD), T(CHANNEL), T(MEAN)), x=IMAGE,
     mean=MEAN, variance=SPREAD, gamma=CHANNEL, beta=MEAN)  # fmt: skip
case("instance_norm", F.instance_norm(T(IMAGE), weight=T(CHANNEL), bias=T(MEAN)), x=IMAGE,
     gamma=CHANNEL, beta=MEAN)  # fmt: skip
WIDE = real(7, 6)
case("layer_norm", F.layer_norm(T(IMAGE), (7, 6), T(WIDE), T(WIDE)), x=IMAGE, axes=i32(-2, -1),
     gamma=WIDE, beta=WIDE)  # fmt: skip
case(
    "l2_norm", T(IMAGE) / (T(IMAGE).square().sum((-3, -2, -1), keepdim=True) + 1e-6).sqrt(), x=IMAGE
)
case("local_response_norm", F.local_response_norm(T(IMAGE), 3, 0.1, 0.7, 1.5), x=IMAGE,
     size=np.int32(3), alpha=np.float32(0.1), beta=np.float32(0.7), k=np.float32(1.5))  # fmt: skip

# --- reductions
for name, function in {
    "reduce_sum": torch.sum, "reduce_mean": torch.mean, "reduce_max": torch.amax,
    "reduce_min": torch.amin, "reduce_log_sum_exp": torch.logsumexp,
    "reduce_l1_norm": lambda x, d, keepdim: x.abs().sum(d, keepdim=keepdim),
    "reduce_l2_norm": lambda x, d, keepdim: x.square().sum(d, keepdim=keepdim).sqrt(),
    "reduce_sum_square": lambda x, d, keepdim: x.square().sum(d, keepdim=keepdim),
}.items():  # fmt: skip
    case(
        name, function(T(IMAGE), (1, 3), keepdim=True), x=IMAGE, axes=i32(1, 3), keep_dims=np.True_
    )
case("reduce_log_sum", T(POSITIVE).sum(1).log(), x=POSITIVE, axes=i32(1))
case("reduce_prod", T(IMAGE).prod(2), x=IMAGE, axes=i32(2))
case("reduce_argmax", T(ROWS).argmax(1).int(), x=ROWS, axis=np.int32(1))
case(
    "reduce_argmin",
    T(ROWS).argmin(0, keepdim=True).int(),
    x=ROWS,
    axis=np.int32(0),
    keep_dims=np.True_,
)
VALUES, PLACES = torch.topk(T(ROWS), 2, 1)
case("topk", (VALUES, PLACES.int()), x=ROWS, k=np.int32(2), axis=np.int32(1))
case("argsort", torch.argsort(T(ROWS), 1).int(), x=ROWS, axis=np.int32(1), ascending=np.True_)

# --- shapes
case("reshape", T(IMAGE).reshape(2, -1, 6), x=IMAGE, shape=i32(0, -1, 6))
case("transpose", T(IMAGE).permute(0, 2, 3, 1), x=IMAGE, perm=i32(0, 2, 3, 1))
case("expand_dims", T(ROWS)[:, None, :, None], x=ROWS, axes=i32(1, 3))
case("squeeze", T(ROWS), x=ROWS[:, None, :, None].copy(), axes=i32(1, 3))
case("flatten2d", T(IMAGE).flatten(1), x=IMAGE)
case("concat", torch.cat([T(ROWS), T(UNIT)], 1), values=[ROWS, UNIT], axis=np.int32(1))
case("concat", torch.stack([T(ROWS), T(UNIT)], 2).reshape(3, 10), values=[ROWS, UNIT],
     axis=np.int32(1), interleave=np.True_)  # fmt: skip
case("stack", torch.stack([T(ROWS), T(UNIT)], 1), values=[ROWS, UNIT], axis=np.int32(1))
case("split", torch.split(T(IMAGE), [1, 3], 1), x=IMAGE, axis=np.int32(1), split_sizes=i32(1, 3))
case("split", torch.chunk(T(IMAGE), 2, 1), x=IMAGE, axis=np.int32(1), num_splits=np.int32(2))
case("tile", T(ROWS).repeat(2, 3), x=ROWS, reps=i32(2, 3))
case("slice_by_index", T(IMAGE)[:, 2, 1:-1:2, :4], x=IMAGE, begin=i32(0, 2, 1, 0),
     end=i32(0, 0, -1, 4), stride=i32(1, 1, 2, 1), begin_mask=np.array([1, 0, 0, 0], bool),
     end_mask=np.array([1, 0, 0, 0], bool), squeeze_mask=np.array([0, 1, 0, 0], bool))  # fmt: skip
case(
    "slice_by_size",
    T(IMAGE)[1:, 1:3, :, 2:5],
    x=IMAGE,
    begin=i32(1, 1, 0, 2),
    size=i32(-1, 2, 7, 3),
)
case("pad", F.pad(T(IMAGE), (1, 2, 3, 0), value=1.5), x=IMAGE, pad=i32(3, 0, 1, 2),
     constant_val=np.float32(1.5))  # fmt: skip
case(
    "pad",
    F.pad(T(IMAGE), (1, 2, 3, 0), mode="reflect"),
    x=IMAGE,
    pad=i32(3, 0, 1, 2),
    mode="reflect",
)
case(
    "pad",
    F.pad(T(IMAGE), (1, 2, 3, 0), mode="replicate"),
    x=IMAGE,
    pad=i32(3, 0, 1, 2),
    mode="replicate",
)
case("reverse", torch.flip(T(IMAGE), (1, 3)), x=IMAGE, axes=i32(1, 3))
TURNED = T(ROWS).clone()
TURNED[0, :2], TURNED[1, :4] = T(ROWS)[0, :2].flip(0), T(ROWS)[1, :4].flip(0)
case("reverse_sequence", TURNED, x=ROWS, lengths=i32(2, 4, 1), seq_axis=np.int32(1))
PIXELS = real(2, 8, 3, 4)
case("pixel_shuffle", F.pixel_shuffle(T(PIXELS), 2), x=PIXELS, upscale_factor=np.int32(2))
LARGE = real(2, 2, 6, 4)
case("pixel_unshuffle", F.pixel_unshuffle(T(LARGE), 2), x=LARGE, downscale_factor=np.int32(2))
# torch has no depth-first order: it is pixel_shuffle with the channels regrouped.
REGROUPED = T(PIXELS).reshape(2, 4, 2, 3, 4).transpose(1, 2).reshape(2, 8, 3, 4)
case("depth_to_space", F.pixel_shuffle(REGROUPED, 2), x=PIXELS, block_size=np.int32(2))
SPACE = F.pixel_unshuffle(T(LARGE), 2).reshape(2, 2, 4, 3, 2).transpose(1, 2).reshape(2, 8, 3, 2)
case("space_to_depth", SPACE, x=LARGE, block_size=np.int32(2))
SQUARE = real(4, 4)
case("band_part", torch.tril(T(SQUARE)), x=SQUARE, lower=np.int32(-1), upper=np.int32(0))
case("sliding_windows", T(ROWS).unfold(1, 3, 2), x=ROWS, axis=np.int32(1), size=np.int32(3),
     stride=np.int32(2))  # fmt: skip
case("crop", T(IMAGE)[..., 1:-2, 2:-1], x=IMAGE, crop_height=i32(1, 2), crop_width=i32(2, 1))
case("shape", torch.tensor([2, 4, 7, 6], dtype=torch.int32), x=IMAGE)
case("fill", torch.full((2, 3), 1.5), shape=i32(2, 3), value=np.float32(1.5))
case("fill_like", torch.full((3, 5), 2.0), ref_tensor=ROWS, value=np.float32(2))
case(
    "range_1d",
    torch.arange(1, 9, 3, dtype=torch.int32),
    end=np.int32(9),
    start=np.int32(1),
    step=np.int32(3),
)
PICKS = whole(5, 2, 3)
case("one_hot", F.one_hot(T(PICKS).long(), 5).int(), indices=PICKS, one_hot_vector_size=np.int32(5))
case("non_zero", torch.nonzero(T(ROWS > 0)).int(), x=ROWS > 0)
case("cumsum", torch.cumsum(T(ROWS), 1), x=ROWS, axis=np.int32(1))
case("cumsum", torch.cumsum(T(ROWS).flip(1), 1).flip(1) - T(ROWS), x=ROWS, axis=np.int32(1),
     exclusive=np.True_, reverse=np.True_)  # fmt: skip

# --- by index
LOOKUP = whole(7, 2, 3)
case("gather", T(IMAGE)[:, :, T(LOOKUP).long()], x=IMAGE, indices=LOOKUP, axis=np.int32(2))
case("gather", T(IMAGE).gather(1, T(PICKS[:, :2] % 4).long()[:, :, None, None].expand(2, 2, 7, 6)),
     x=IMAGE, indices=PICKS[:, :2] % 4, axis=np.int32(1), batch_dims=np.int32(1))  # fmt: skip
ALONG = whole(7, 2, 4, 3, 6)
case(
    "gather_along_axis",
    T(IMAGE).gather(2, T(ALONG).long()),
    x=IMAGE,
    indices=ALONG,
    axis=np.int32(2),
)
POINTS = np.stack([whole(2, 5), whole(4, 5)], -1)
case("gather_nd", T(IMAGE)[T(POINTS[:, 0]).long(), T(POINTS[:, 1]).long()], x=IMAGE, indices=POINTS)
SPOTS, NEW = i32(2, 0, 2), real(3, 3)
case("scatter", T(ROWS).index_add(1, T(SPOTS).long(), T(NEW)), data=ROWS, indices=SPOTS,
     updates=NEW, axis=np.int32(1))  # fmt: skip
ROW_SPOTS = whole(5, 3, 2)
case("scatter_along_axis", T(ROWS).scatter_add(1, T(ROW_SPOTS).long(), T(NEW[:, :2].copy())),
     data=ROWS, indices=ROW_SPOTS, updates=NEW[:, :2].copy(), axis=np.int32(1))  # fmt: skip
ND = i32(0, 1, 2, 4).reshape(2, 2)
INDEX = (T(ND[:, 0]).long(), T(ND[:, 1]).long())
case("scatter_nd", T(ROWS).index_put(INDEX, T(NEW[0, :2].copy())),
     data=ROWS, indices=ND, updates=NEW[0, :2].copy(), mode="update")  # fmt: skip

# --- resizing
for corners in (True, False):
    SCALED = F.interpolate(T(IMAGE), scale_factor=2, mode="bilinear", align_corners=corners)
    case("upsample_bilinear", SCALED,
         x=IMAGE, scale_factor_height=np.int32(2), scale_factor_width=np.int32(2),
         align_corners=np.bool_(corners))  # fmt: skip
case("upsample_nearest_neighbor", F.interpolate(T(IMAGE), scale_factor=(2, 3)), x=IMAGE,
     scale_factor_height=np.int32(2), scale_factor_width=np.int32(3))  # fmt: skip
case("resize_nearest_neighbor", F.interpolate(T(IMAGE), size=(5, 11)), x=IMAGE,
     target_size_height=np.int32(5), target_size_width=np.int32(11))  # fmt: skip
RESIZED = F.interpolate(T(IMAGE), size=(5, 11), mode="bilinear", align_corners=False)
case("resize_bilinear", RESIZED, x=IMAGE, target_size_height=np.int32(5),
     target_size_width=np.int32(11), sampling_mode="UNALIGN_CORNERS")  # fmt: skip
CORNERED = F.interpolate(T(IMAGE), size=(5, 11), mode="bilinear", align_corners=True)
case("resize_bilinear", CORNERED, x=IMAGE, target_size_height=np.int32(5),
     target_size_width=np.int32(11), sampling_mode="STRICT_ALIGN_CORNERS")  # fmt: skip
case(
    "resize",
    RESIZED,
    x=IMAGE,
    shape=i32(5, 11),
    resized_dims=np.uint32(2),
    sampling_mode="UNALIGN_CORNERS",
)
case("resize", F.interpolate(T(IMAGE), size=(14, 12)), x=IMAGE, shape=i32(14, 12),
     resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR")  # fmt: skip
GRID = np.clip(real(2, 3, 5, 2), -1.3, 1.3)
for mode, ours in {"zeros": "constant", "border": "border", "reflection": "reflection"}.items():
    for corners in (True, False):
        case("resample", F.grid_sample(T(IMAGE), T(GRID), padding_mode=mode, align_corners=corners),
             x=IMAGE, coordinates=GRID, sampling_mode="bilinear", padding_mode=ours,
             padding_value=np.float32(0), coordinates_mode="normalized_minus_one_to_one",
             align_corners=np.bool_(corners))  # fmt: skip

# --- integers
CODES, SCALES = whole(127, 4, 6, low=-127).astype("i1"), real(4, low=0.01)
PLAIN, ZEROS = real(4, 6), np.array([1, 2, 3, 4], "i1")
ONE = torch.fake_quantize_per_tensor_affine(T(PLAIN), 0.02, 5, -128, 127)
HELD_ONE = torch.round(ONE / 0.02 + 5).to(torch.int8)
case(
    "quantize",
    HELD_ONE,
    input=PLAIN,
    scale=np.float32(0.02),
    zero_point=np.int8(5),
    output_dtype="int8",
)
case("dequantize", ONE, input=HELD_ONE.numpy(), scale=np.float32(0.02), zero_point=np.int8(5))
CHANNELS = torch.fake_quantize_per_channel_affine(
    T(PLAIN), T(SCALES), T(ZEROS.astype("f4")).int(), 0, -128, 127
)
WHOLE = torch.round(CHANNELS / T(SCALES)[:, None] + T(ZEROS)[:, None]).to(torch.int8)
case(
    "quantize",
    WHOLE,
    input=PLAIN,
    scale=SCALES,
    zero_point=ZEROS,
    output_dtype="int8",
    axis=np.int32(0),
)
case("dequantize", CHANNELS, input=WHOLE.numpy(), scale=SCALES, zero_point=ZEROS, axis=np.int32(0))
case("constexpr_affine_dequantize", CHANNELS, quantized_data=WHOLE.numpy(), scale=SCALES,
     zero_point=ZEROS, axis=np.int32(0))  # fmt: skip
BLOCKS, OFFSETS = real(4, 3, low=0.01), whole(9, 4, 3).astype("i1")
WIDENED = (T(CODES).float() - T(OFFSETS).float().repeat_interleave(2, 1)) * T(
    BLOCKS
).repeat_interleave(2, 1)
case("constexpr_blockwise_shift_scale", WIDENED, data=CODES, scale=BLOCKS, offset=OFFSETS)
MASK = (ROWS > 0).astype("u1")
case("constexpr_sparse_to_dense", T(ROWS) * T(MASK), nonzero_data=ROWS[MASK != 0], mask=MASK)
case("constexpr_sparse_to_dense", T(ROWS) * T(MASK), nonzero_data=ROWS[MASK != 0],
     mask=np.packbits(MASK.ravel(), bitorder="little"), shape=i32(3, 5).astype("u4"))  # fmt: skip
PALETTES, INDICES = real(2, 1, 4, 1), whole(4, 6, 2).astype("u1")
FULL = torch.stack([T(PALETTES)[i // 3, 0, T(INDICES).long()[i], 0] for i in range(6)])
case("constexpr_lut_to_dense", FULL, indices=INDICES, lut=PALETTES)
VECTORS, BITS = real(1, 1, 1, 2, 3), whole(2, 2, 2, 2).astype("u1")
LAID = T(VECTORS)[0, 0, 0][T(BITS).long()].permute(0, 1, 3, 2).reshape(2, 6, 2)
case("constexpr_lut_to_dense", LAID, indices=BITS, lut=VECTORS, vector_axis=np.int32(1))
FLAT = real(4)
case("constexpr_lut_to_dense", T(FLAT)[T(INDICES).long()],
     indices=np.packbits(np.unpackbits(INDICES.reshape(-1, 1), axis=1, bitorder="little")[:, :2],
                         bitorder="little"),
     lut=FLAT, shape=i32(6, 2).astype("u4"))  # fmt: skip
SOME = (whole(2, 6, 2) > 0).astype("u1")
case("constexpr_lut_to_sparse", (T(SOME), FULL[T(SOME) != 0]), indices_mask=SOME,
     indices_nonzero_data=INDICES[SOME != 0], lut=PALETTES)  # fmt: skip
HELD = (CODES > 0).astype("u1")
case("constexpr_sparse_blockwise_shift_scale", (T(HELD), WIDENED[T(HELD) != 0]), data_mask=HELD,
     nonzero_data=CODES[HELD != 0], scale=BLOCKS, offset=OFFSETS)  # fmt: skip
case("constexpr_cast", T(ROWS).half().float(), source_val=ROWS.astype("f2"), output_dtype="fp32")

# --- attention and recurrence
Q, K, V = real(2, 2, 3, 4), real(2, 2, 5, 4), real(2, 2, 5, 4)
SEEN = whole(2, 2, 1, 3, 5) > 0
SEEN[..., 0] = True
case("scaled_dot_product_attention", F.scaled_dot_product_attention(T(Q), T(K), T(V), T(SEEN)),
     query=Q, key=K, value=V, attn_mask=SEEN)  # fmt: skip


def lstm_case(both):
    torch.manual_seed(3)
    net = torch.nn.LSTM(5, 4, bidirectional=both)
    x, ways = real(6, 2, 5), 2 if both else 1
    h, c = real(ways, 2, 4), real(ways, 2, 4)
    with torch.no_grad():
        steps, (last_h, last_c) = net(T(x), (T(h), T(c)))

    def side(state):
        return np.concatenate(list(np.asarray(state)), axis=-1)

    def gates(array):  # torch: input, forget, cell, output
        i, f, z, o = np.split(array.detach().numpy(), 4)
        return np.concatenate([i, f, o, z])

    given = {}
    for suffix, ours in (("", ""), ("_reverse", "_back"))[:ways]:
        own = {
            n: getattr(net, f"{n}_l0{suffix}")
            for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        given[f"weight_ih{ours}"] = gates(own["weight_ih"])
        given[f"weight_hh{ours}"] = gates(own["weight_hh"])
        given[f"bias{ours}"] = gates(own["bias_ih"] + own["bias_hh"])
    wanted = (steps, T(side(last_h)), T(side(last_c)))
    case("lstm", wanted, x=x, initial_h=side(h), initial_c=side(c),
         output_sequence=np.True_, **given,
         direction="bidirectional" if both else "forward")  # fmt: skip


lstm_case(False)
lstm_case(True)
torch.manual_seed(4)
PLAIN_RNN, SEQUENCE, START = torch.nn.RNN(5, 4), real(6, 2, 5), real(1, 2, 4)
with torch.no_grad():
    STEPS, LAST = PLAIN_RNN(T(SEQUENCE), T(START))
case("rnn", (STEPS, LAST[0]), x=SEQUENCE, initial_h=START[0],
     weight_ih=PLAIN_RNN.weight_ih_l0.detach().numpy(),
     weight_hh=PLAIN_RNN.weight_hh_l0.detach().numpy(),
     bias=(PLAIN_RNN.bias_ih_l0 + PLAIN_RNN.bias_hh_l0).detach().numpy(),
     output_sequence=np.True_)  # fmt: skip


@pytest.mark.parametrize(("name", "given", "expected"), CASES)
def test_an_operator_gives_what_torch_gives(name, given, expected):
    results = OPERATORS[name](**given)
    made = results if isinstance(results, tuple) else (results,)
    wanted = expected if isinstance(expected, tuple | list) else (expected,)
    assert len(made) == len(wanted)
    for ours, expected_one in zip(made, wanted, strict=True):
        theirs = expected_one.numpy()
        assert np.shape(ours) == theirs.shape
        if theirs.dtype.kind in "biu":
            np.testing.assert_array_equal(np.asarray(ours), theirs)
        else:
            tolerance = 1e-3 if theirs.dtype == np.float16 else 2e-5
            np.testing.assert_allclose(np.asarray(ours, "f4"), theirs, tolerance, 2e-6)


def test_every_operator_has_a_case():
    assert {parameter.values[0] for parameter in CASES} == set(OPERATORS)


def test_every_operator_belongs_to_a_family():
    assert set(FAMILIES) == set(OPERATORS)
    assert len(set(FAMILIES.values())) >= 12


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("gather", {"x": ROWS, "indices": i32(3), "axis": np.int32(0)}),
        ("conv", {"x": IMAGE, "weight": real(4, 3, 1, 1)}),
        ("split", {"x": ROWS, "axis": np.int32(1), "split_sizes": i32(2, 2)}),
        ("constexpr_sparse_to_dense", {"nonzero_data": ROWS[0], "mask": MASK}),
        ("constexpr_blockwise_shift_scale", {"data": CODES, "scale": real(3, 2)}),
        ("slice_by_size", {"x": ROWS, "begin": i32(0, 3), "size": i32(3, 3)}),
    ],
)
def test_what_does_not_fit_is_an_error(name, given):
    with pytest.raises((ValueError, IndexError)):
        OPERATORS[name](**given)


@pytest.mark.parametrize(
    ("x", "wanted"),
    [
        (np.array([3, np.iinfo(np.int32).min, 7], np.int32), [2, 0, 1]),
        (np.array([False, True, False]), [1, 0, 2]),
        (np.array([-128, 5], np.int8), [1, 0]),
    ],
)
def test_the_order_of_integers_and_booleans_does_not_wrap(x, wanted):
    from lepton_coreml._interpreter._reduction import argsort, topk

    assert argsort(x).tolist() == wanted
    assert topk(x, np.int32(1))[1].tolist() == wanted[:1]


def test_one_packed_number_of_four_bits_keeps_its_sign():
    from lepton_coreml._mil._messages import messages
    from lepton_coreml._mil._program import TypeSpec, _tensor

    held = messages()["Value"]().immediateValue.tensor
    for byte in (b"\x0f", b"\xff"):  # packed, and written as a value of its own
        held.bytes.values = byte
        assert _tensor(held, TypeSpec("int4", (1,))).tolist() == [-1]
