import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kernel_strategies import floats, lay_out

import lepton_kernels as lk
from lepton_kernels import reference


@st.composite
def any_bits(draw):
    bits = draw(hnp.arrays(np.uint32, hnp.array_shapes(min_side=0, max_side=12)))
    return lay_out(draw, bits.view(np.float32))


@given(x=floats(nan=True) | any_bits(), saturate=st.booleans(), threads=st.integers(1, 3))
def test_casts_equal_their_definition(x, saturate, threads):
    got = lk.cast_float(x, "float16", saturate=saturate, threads=threads)
    values, overflow, underflow = reference.cast_float16(x, saturate=saturate)
    assert got.values.dtype == np.float16 and got.values.flags.c_contiguous
    np.testing.assert_array_equal(got.values, values)
    np.testing.assert_array_equal(np.signbit(got.values), np.signbit(values))
    assert (got.overflow, got.underflow) == (overflow, underflow)
    got = lk.cast_float(x, "bfloat16", saturate=saturate, threads=threads)
    bits, overflow, underflow = reference.cast_bfloat16(x, saturate=saturate)
    np.testing.assert_array_equal(got.values, bits)
    assert (got.overflow, got.underflow) == (overflow, underflow)
    for dtype, exponent_bits in (("float8_e4m3fn", 4), ("float8_e5m2", 5)):
        got = lk.cast_float(x, dtype, saturate=saturate, threads=threads)
        bits, overflow, underflow = reference.cast_float8(x, exponent_bits, saturate=saturate)
        assert got.values.dtype == np.uint8
        np.testing.assert_array_equal(got.values, bits)
        assert (got.overflow, got.underflow) == (overflow, underflow)


def test_equals_ml_dtypes():
    bits = np.random.default_rng(0).integers(0, 2**32, 1_000_000, np.uint32)
    x = bits.view(np.float32)
    x = x[~np.isnan(x)]
    out = np.empty(x.shape, ml_dtypes.bfloat16)
    got = lk.cast_float(x, "bfloat16", out=out)
    assert got.values is out
    with np.errstate(all="ignore"):
        want = x.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(out.view(np.uint16), want.view(np.uint16))
    for dtype in (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2):
        out = np.empty(x.shape, dtype)
        # Near the range of the formats, where something can be told apart.
        near = np.ldexp(np.frexp(x)[0], np.arange(x.size) % 40 - 20)
        for values in (x, near):
            assert lk.cast_float(values, dtype.__name__, out=out).values is out
            with np.errstate(all="ignore"):
                want = values.astype(dtype)
            np.testing.assert_array_equal(out.view(np.uint8), want.view(np.uint8))


def test_bad_arguments():
    x = np.ones(3, np.float32)
    with pytest.raises(lk.KernelTypeError, match="float8_e5m2"):
        lk.cast_float(x, "float8")
    with pytest.raises(lk.KernelTypeError, match="float64"):
        lk.cast_float(np.ones(3), "float16")
    with pytest.raises(lk.KernelError, match="needed is float16"):
        lk.cast_float(x, "float16", out=np.empty(3, np.uint16))
    with pytest.raises(lk.KernelError, match="contiguous"):
        lk.cast_float(x, "bfloat16", out=np.empty(6, np.uint16)[::2])
