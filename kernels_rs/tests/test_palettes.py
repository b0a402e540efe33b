import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kernel_strategies import floats, lay_out

import lepton_kernels as lk
from lepton_kernels import reference


def finite(x):
    return np.where(np.isfinite(x.astype(np.float32)), x, x.dtype.type(0))


@settings(max_examples=40)
@given(data=st.data())
def test_small_palettes_are_optimal(data):
    x = lay_out(data.draw, finite(data.draw(floats(min_side=1))).ravel()[:150])
    bits = data.draw(st.integers(1, 5))
    got = lk.palettize(x, bits, threads=data.draw(st.integers(1, 3)))
    assert got.indices.dtype == np.uint8 and got.palette.shape == (2**bits,)
    entries = np.unique(got.palette)
    np.testing.assert_array_equal(got.indices, reference.nearest(x, entries))
    restored = lk.depalettize(got.indices, got.palette)
    assert restored.dtype == np.float32 and restored.shape == x.shape
    wide = x.astype(np.float64)
    error = np.sum((wide - restored) ** 2)
    assert got.squared_error == pytest.approx(error, rel=1e-9)
    # Entries are rounded to float32, which costs their unit in the last place at most.
    slack = np.sum((np.abs(wide) * 2.0**-23) ** 2) + 1e-80
    assert error <= reference.palette_error(x, 2**bits) * (1 + 1e-6) + 4 * slack


@pytest.mark.parametrize("kind", ["gaussian", "outliers", "float16", "bfloat16", "uniform"])
@pytest.mark.parametrize("bits", [1, 4, 6])
def test_large_palettes_come_within_a_thousandth(kind, bits):
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, 200_000) if kind == "uniform" else rng.standard_normal(200_000)
    if kind == "outliers":
        x[:50] *= 100
    x = x.astype({"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}.get(kind, np.float32))
    got = lk.palettize(x, bits)
    assert got.squared_error <= optimum(np.asarray(x, np.float64), got.palette) * 1.001
    for threads in (1, 3):
        again = lk.palettize(x, bits, threads=threads)
        np.testing.assert_array_equal(again.palette, got.palette)
        np.testing.assert_array_equal(again.indices, got.indices)
        assert again.squared_error == got.squared_error


def optimum(x, palette):
    """The best of several runs of Lloyd's iteration over all values, one of them from a palette."""
    x = np.sort(x)
    sums = np.concatenate([[0.0], np.cumsum(x)])
    squares = np.concatenate([[0.0], np.cumsum(x * x)])
    rng = np.random.default_rng(0)
    least = np.inf
    for start in (
        palette.astype(np.float64),
        x[np.linspace(0, x.size - 1, palette.size + 2).astype(int)[1:-1]],
        np.linspace(x[0], x[-1], palette.size + 2)[1:-1],
        np.sort(rng.choice(x, palette.size, replace=False)),
    ):
        ends, centers, moved = None, None, start
        while not np.array_equal(moved, centers):
            centers = moved
            cuts = np.searchsorted(x, (centers[1:] + centers[:-1]) / 2, side="right")
            ends = np.concatenate([[0], cuts, [x.size]])
            n = np.diff(ends)
            moved = np.where(n > 0, np.diff(sums[ends]) / np.maximum(n, 1), centers)
        s, q = np.diff(sums[ends]), np.diff(squares[ends])
        least = min(least, float(np.sum(q - s * s / np.maximum(n, 1))))
    return least


@given(data=st.data())
def test_groups_of_channels_have_their_own(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=9))
    x = lay_out(data.draw, rng.standard_normal(shape, dtype=np.float32))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    size = data.draw(st.none() | st.integers(1, 10))
    got = lk.palettize(x, 2, axis=axis, group_size=size)
    restored = lk.depalettize(got.indices, got.palette, axis=axis, group_size=size)
    want = reference.depalettize(got.indices, got.palette, axis % x.ndim, size)
    np.testing.assert_array_equal(restored, want)
    channels = x.shape[axis]
    step = size or channels
    assert got.palette.shape == (-(-channels // step), 4)
    assert got.squared_error == pytest.approx(np.sum((x.astype(float) - restored) ** 2), rel=1e-9)
    for i, start in enumerate(range(0, channels, step)):
        take = np.arange(start, min(start + step, channels))
        single = lk.palettize(np.take(x, take, axis), 2)
        np.testing.assert_array_equal(got.palette[i], single.palette)
        np.testing.assert_array_equal(np.take(got.indices, take, axis), single.indices)


@given(data=st.data())
def test_bits_pack_and_unpack_exactly(data):
    shape = data.draw(hnp.array_shapes(max_dims=3, min_side=0, max_side=40))
    bits, signed = data.draw(st.integers(1, 8)), data.draw(st.booleans())
    offset = data.draw(st.integers(0, 2**bits - 1))
    order = data.draw(st.sampled_from(["low", "high"]))
    half = 2 ** (bits - 1)
    low, high, dtype = (-half, half - 1, np.int8) if signed else (0, 2 * half - 1, np.uint8)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    codes = lay_out(data.draw, rng.integers(low, high, shape, dtype, endpoint=True))
    threads = data.draw(st.integers(1, 3))
    packed = lk.pack_bits(codes, bits, offset=offset, order=order, threads=threads)
    np.testing.assert_array_equal(packed, reference.pack_bits(codes, bits, offset, order))
    back = lk.unpack_bits(packed, bits, shape[-1], signed=signed, offset=offset, order=order)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, codes)
    want = reference.unpack_bits(packed, bits, shape[-1], signed=signed, offset=offset, order=order)
    np.testing.assert_array_equal(want, codes)
    if bits == 4 and order == "low":
        np.testing.assert_array_equal(packed, lk.pack_int4(codes, offset=offset))


def test_each_consumers_bytes():
    codes = np.array([1, -2, 7, -8, 0], np.int8)
    # ONNX INT4, TFLite int4, OpenVINO i4: the first in the low half, two's complement.
    assert lk.pack_int4(codes).tolist() == [0xE1, 0x87, 0x00]
    # MatMulNBits with 4 bits and zero point 8.
    assert lk.pack_int4(codes, offset=8).tolist() == [0x69, 0x0F, 0x08]
    # MatMulBnb4: the first in the high half.
    assert lk.pack_bits(codes, 4, order="high").tolist() == [0x1E, 0x78, 0x00]
    # Core ML: one stream from the lowest bit on.
    indices = np.array([1, 2, 3, 4, 5, 6, 7, 0], np.uint8)
    word = sum(int(v) << 3 * i for i, v in enumerate(indices))
    assert lk.pack_bits(indices, 3).tolist() == list(word.to_bytes(3, "little"))
    # OpenVINO u1: from the highest bit on.
    assert lk.pack_bits(np.array([1, 0, 0], np.uint8), 1, order="high").tolist() == [0x80]


def test_bad_arguments():
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    for bits in (0, 9):
        with pytest.raises(lk.KernelError, match="bits"):
            lk.palettize(x, bits)
        with pytest.raises(lk.KernelError, match="bits"):
            lk.pack_bits(np.zeros(3, np.uint8), bits)
    bad = x.copy()
    bad[1, 1] = np.nan
    with pytest.raises(lk.KernelError, match="1 of 12 values"):
        lk.palettize(bad, 2)
    with pytest.raises(lk.KernelError, match="no values"):
        lk.palettize(x[:0], 2)
    with pytest.raises(lk.KernelError, match="name their axis"):
        lk.palettize(x, 2, group_size=2)
    with pytest.raises(lk.KernelError, match=r"needed is \(3, 4\)"):
        lk.palettize(x, 2, out=np.empty((4, 3), np.uint8))
    with pytest.raises(lk.KernelTypeError, match="float64"):
        lk.palettize(np.ones(3), 2)
    got = lk.palettize(x, 2)
    with pytest.raises(lk.KernelError, match="groups"):
        lk.depalettize(got.indices, got.palette, axis=0)
    with pytest.raises(lk.KernelError, match="name their axis"):
        lk.depalettize(got.indices, got.palette, group_size=1)
    with pytest.raises(lk.KernelTypeError, match="palette must be real numbers"):
        lk.depalettize(got.indices, ["a"] * 4)
    with pytest.raises(lk.KernelError, match="leave a palette"):
        lk.depalettize(got.indices + np.uint8(3), got.palette)
    with pytest.raises(lk.KernelError, match="do not fit 3 bits"):
        lk.pack_bits(np.array([4], np.int8), 3)
    with pytest.raises(lk.KernelError, match="offset"):
        lk.pack_bits(np.array([1], np.int8), 3, offset=8)
    with pytest.raises(lk.KernelError, match="order"):
        lk.pack_bits(np.array([1], np.int8), 3, order="middle")
    with pytest.raises(lk.KernelError, match="last axis must be 2"):
        lk.unpack_bits(np.zeros(1, np.uint8), 3, 4)
    with pytest.raises(lk.KernelTypeError, match="int16"):
        lk.pack_bits(np.zeros(3, np.int16), 3)


def test_a_value_far_from_two_close_entries_takes_the_nearer_one():
    # Their distances to 0.5 are one number in float64; only the midpoint tells them apart.
    x = np.array([-1.0, -1e-40, 1e-38, 0.5, 3e38], np.float32)
    assert reference.nearest(x[3:4], x[:3])[0] == 2
    got = lk.palettize(x, 2)
    np.testing.assert_array_equal(got.indices, reference.nearest(x, np.unique(got.palette)))


@pytest.mark.parametrize(
    "values", [[0.1], [-0.0131, 0.0, 0.0131], [1.0, np.nextafter(np.float32(1), np.float32(2))]]
)
def test_few_values_are_exact_in_large_arrays(values):
    """Zeros of pruned weights above all, which came back as 2.9e-42."""
    x = np.resize(np.array(values, np.float32), 200_001)
    got = lk.palettize(x, 2)
    assert got.squared_error == 0
    np.testing.assert_array_equal(lk.depalettize(got.indices, got.palette), x)


@pytest.mark.parametrize("far", [1e30, -3e38])
@pytest.mark.parametrize("bits", [4, 8])
def test_zeros_and_a_value_far_out_leave_the_other_entries(bits, far):
    """The zeros took half of the groups, and the other one all digits of the sums of squares."""
    core = np.random.default_rng(0).standard_normal(60_000).astype(np.float32)
    x = np.zeros(1_000_000, np.float32)
    x[: core.size], x[-1] = core, far
    got = lk.palettize(x, bits)
    assert np.unique(got.palette).size == 2**bits
    assert far in got.palette
    others = got.palette[got.palette != far]
    assert got.squared_error <= optimum(x[:-1].astype(np.float64), others) * 1.001


@pytest.mark.parametrize("far", [-1e9, 1e30])
@pytest.mark.parametrize("near", [500, 24_000, 80_000])
def test_far_values_leave_the_others_their_digits_however_many_they_are(near, far):
    """Sums were taken from the value up to which half of the weight lies, which was the far one."""
    core = np.random.default_rng(0).standard_normal(near).astype(np.float32)
    x = np.concatenate([np.full(near * 3 // 2, far, np.float32), core])
    got = lk.palettize(x, 4)
    assert far in got.palette
    if near < 4096:
        assert got.squared_error <= reference.palette_error(core, 15) * (1 + 1e-6)
    others = got.palette[got.palette != far]
    assert others.size == 15
    assert got.squared_error <= optimum(core.astype(np.float64), others) * 1.001


def test_far_values_on_both_sides_of_a_few():
    x = np.repeat(np.float32([-3e38, -1e9, 1, 2, 4, 8, 1e9, 3e38]), [9, 9, 1, 1, 1, 1, 9, 9])
    got = lk.palettize(x, 3)
    assert got.squared_error == 0
    few = lk.palettize(np.concatenate([x, np.float32([1.5])]), 3)
    assert few.squared_error == pytest.approx(reference.palette_error([1, 1.5, 2, 4, 8], 4))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_narrow_range_far_from_zero_is_not_cut_into_few_cells(bits):
    x = (1000 + np.random.default_rng(0).standard_normal(200_000)).astype(np.float32)
    got = lk.palettize(x, bits)
    assert np.unique(got.palette).size == 2**bits
    assert got.squared_error <= optimum(x.astype(np.float64) - 1000, got.palette - 1000) * 1.001


def test_only_integers_are_indices():
    palette = np.array([1, 2], np.float32)
    for wrong in (np.array([True, False]), np.array([0.0, 1.0]), []):
        with pytest.raises(lk.KernelTypeError, match="must be integers"):
            lk.depalettize(wrong, palette)
    with pytest.raises(lk.KernelError, match="palette has shape"):
        lk.depalettize(np.zeros(2, np.uint8), np.float32(1))
