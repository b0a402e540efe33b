import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kernel_strategies import floats, lay_out

import lepton_kernels as lk
from lepton_kernels import reference

SCHEMES = ["signed_max", "absmax", "asymmetric"]


def finite(x):
    return np.where(np.isfinite(x.astype(np.float32)), x, x.dtype.type(0))


@given(data=st.data())
def test_blocks_equal_their_definition(data):
    x = lay_out(data.draw, finite(data.draw(floats(min_dims=1))))
    size = data.draw(st.sampled_from([1, 2, 3, 16, 32, 128]))
    bits = data.draw(st.integers(2, 8))
    scheme = data.draw(st.sampled_from(SCHEMES))
    threads = data.draw(st.integers(1, 3))
    got = lk.quantize_blocks(x, size, bits=bits, scheme=scheme, threads=threads)
    codes, scale, zero = reference.quantize_blocks(x, size, bits, scheme)
    np.testing.assert_array_equal(got.scale, scale)
    np.testing.assert_array_equal(got.codes, codes)
    if scheme == "asymmetric":
        np.testing.assert_array_equal(got.zero_point, zero)
    else:
        assert got.zero_point is None and got.codes.dtype == np.int8
    back = lk.dequantize_blocks(got.codes, got.scale, got.zero_point, size)
    np.testing.assert_array_equal(back, reference.dequantize_blocks(codes, scale, zero, size))


@given(data=st.data())
def test_other_roundings_equal_their_definition(data):
    x = lay_out(data.draw, finite(data.draw(floats(min_dims=1))))
    size = data.draw(st.sampled_from([1, 3, 32, 128]))
    bits, scheme = data.draw(st.integers(2, 8)), data.draw(st.sampled_from(SCHEMES))
    clip = data.draw(st.sampled_from(["range", "mse"]))
    rule = {"rounding": data.draw(st.sampled_from(["half_away", "stochastic"]))}
    if rule["rounding"] == "stochastic":
        rule["seed"] = data.draw(st.integers(0, 2**64 - 1))
    kept = {"bits": bits, "scheme": scheme, "clip": clip}
    got = lk.quantize_blocks(x, size, threads=data.draw(st.integers(1, 3)), **kept, **rule)
    codes, scale, _ = reference.quantize_blocks(x, size, bits, scheme, clip, **rule)
    np.testing.assert_array_equal(got.scale, scale)
    np.testing.assert_array_equal(got.codes, codes)
    if bits == 4 and size % 2 == 0 and x.shape[-1] % size == 0:
        packed = lk.quantize_blocks(x, size, packed=True, **kept, **rule)
        want = reference.pack_int4(codes).reshape(packed.codes.shape)
        np.testing.assert_array_equal(packed.codes, want)


def test_stochastic_rounding_keeps_the_mean():
    x = np.tile(np.array([8, 0.3, -0.7, 2.5], np.float32), (20_000, 8))
    got = lk.quantize_blocks(x, 32, rounding="stochastic", seed=1)
    back = lk.dequantize_blocks(*got).mean(0).reshape(8, 4).mean(0)
    np.testing.assert_allclose(back, [8, 0.3, -0.7, 2.5], atol=0.01)


@given(data=st.data())
def test_fused_packing_equals_packing_afterwards(data):
    x = finite(data.draw(floats(min_dims=1)))
    size = data.draw(st.sampled_from([2, 6, 32, 128]))
    scheme = data.draw(st.sampled_from(SCHEMES))
    offset = 0 if scheme == "asymmetric" else data.draw(st.sampled_from([0, 8]))
    got = lk.quantize_blocks(x, size, scheme=scheme, packed=True, offset=offset)
    codes, scale, zero = reference.quantize_blocks(x, size, 4, scheme)
    pad = -x.shape[-1] % size
    codes = np.pad(codes, [(0, 0)] * (x.ndim - 1) + [(0, pad)])
    if pad and zero.size:
        codes[..., -pad:] = zero[..., -1:]
    codes = codes.reshape(*scale.shape, size)
    np.testing.assert_array_equal(got.codes, reference.pack_int4(codes, offset))
    np.testing.assert_array_equal(got.scale, scale)


@given(data=st.data())
def test_packing_and_unpacking_are_inverse(data):
    shape = data.draw(hnp.array_shapes(max_dims=3, min_side=0, max_side=40))
    signed = data.draw(st.booleans())
    offset = data.draw(st.integers(0, 15))
    low, high, dtype = (-8, 7, np.int8) if signed else (0, 15, np.uint8)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    codes = lay_out(data.draw, rng.integers(low, high, shape, dtype, endpoint=True))
    packed = lk.pack_int4(codes, offset=offset, threads=data.draw(st.integers(1, 3)))
    np.testing.assert_array_equal(packed, reference.pack_int4(codes, offset))
    back = lk.unpack_int4(packed, shape[-1], signed=signed, offset=offset)
    assert back.dtype == dtype
    want = reference.unpack_int4(packed, shape[-1], signed=signed, offset=offset)
    np.testing.assert_array_equal(want, codes)
    np.testing.assert_array_equal(back, codes)


@pytest.mark.parametrize("shape", [(700, 1024), (700, 1001)])
def test_large_arrays_do_not_depend_on_threads(shape):
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    one = lk.quantize_blocks(x, 32, packed=True, threads=1)
    for threads in (2, 3, None):
        more = lk.quantize_blocks(x, 32, packed=True, threads=threads)
        np.testing.assert_array_equal(more.codes, one.codes)
        np.testing.assert_array_equal(more.scale, one.scale)


def test_signed_max_beats_absmax_on_gaussian_weights():
    x = np.random.default_rng(0).standard_normal((512, 4096), dtype=np.float32)
    error = {}
    for scheme in SCHEMES[:2]:
        got = lk.quantize_blocks(x, 32, scheme=scheme)
        error[scheme] = lk.error_metrics(x, lk.dequantize_blocks(got.codes, got.scale)).rel_l2
    assert error["signed_max"] <= 0.0914 < 0.096 < error["absmax"]


def test_nonfinite_blocks_are_counted_and_located():
    for shape, first in (((4, 64), 5), ((4, 60), 5)):
        x = np.ones(shape, np.float32)
        x[2, 40], x[3, 0] = np.nan, np.inf
        with pytest.raises(lk.KernelError, match=f"2 of 8 blocks .* index {first}"):
            lk.quantize_blocks(x, 32)


def test_bad_arguments():
    x = np.ones((2, 64), np.float32)
    bad = [
        ({"block_size": 0}, "block_size must be at least 1"),
        ({"bits": 9}, "accepted are 2 to 8"),
        ({"bits": 3, "packed": True}, "only 4 bits"),
        ({"block_size": 3, "packed": True}, "even block_size"),
        ({"scheme": "best"}, "accepted: signed_max"),
        ({"rounding": "up"}, "accepted: half_even, half_away, stochastic"),
        ({"seed": 1}, 'only rounding="stochastic"'),
        ({"offset": 8}, "packed, symmetric"),
        ({"packed": True, "offset": 16}, "0 to 15"),
        ({"out": np.empty((2, 64), np.uint8)}, "needed is int8"),
        ({"out": np.empty((2, 32), np.int8)}, "out has shape"),
        ({"out": np.empty((2, 128), np.int8)[:, ::2]}, "contiguous"),
        ({"x": np.float32(1)}, "no dimension"),
        ({"x": np.ones(3)}, "float64"),
    ]
    for change, text in bad:
        with pytest.raises(lk.KernelError, match=text):
            lk.quantize_blocks(**({"x": x} | change))
    with pytest.raises(lk.KernelError, match="do not fit 4 bits"):
        lk.pack_int4(np.array([8], np.int8))
    with pytest.raises(lk.KernelTypeError, match="int32"):
        lk.pack_int4(np.array([1], np.int32))
    with pytest.raises(lk.KernelError, match="last axis must be 2"):
        lk.unpack_int4(np.zeros(3, np.uint8), 4)
    with pytest.raises(lk.KernelError, match="scale has shape"):
        lk.dequantize_blocks(np.zeros((2, 64), np.int8), np.ones(4))
