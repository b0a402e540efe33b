import json
import math
import pickle

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_strategies import axes, floats, lay_out

import lepton_kernels as lk
from lepton_kernels import reference


def finite(x):
    values = x.astype(np.float32).ravel()
    return values[np.isfinite(values)]


def state(observer):
    return json.dumps(observer.to_dict())


def distribution(seed, n=20_000):
    """Values of the shapes that activations take, some with outliers, some without negatives."""
    rng = np.random.default_rng(seed)
    kind = seed % 5
    x = rng.standard_normal(n) * 10.0 ** rng.uniform(-3, 3)
    if kind == 1:
        x = np.maximum(x, 0)
    elif kind == 2:
        x = x**3
    elif kind == 3:
        x = rng.laplace(size=n) + 3
    elif kind == 4:
        x[: 1 + n // 5000] *= 100
    return x.astype(np.float32)


@given(data=st.data())
def test_histograms_equal_their_definition(data):
    x = data.draw(floats(nan=True))
    bins = data.draw(st.sampled_from([16, 17, 100, 2048]))
    symmetric = data.draw(st.booleans())
    observer = lk.HistogramObserver(bins, symmetric=symmetric)
    observer.update(x, threads=data.draw(st.integers(1, 3)))
    exponent, first, counts = reference.value_histogram(x, bins, magnitudes=symmetric)
    assert observer.bin_width == 2.0**exponent
    places = np.arange(first, first + bins + 1)
    np.testing.assert_array_equal(observer.edges, places * 2.0**exponent)
    np.testing.assert_array_equal(observer.counts, counts)
    wide, seen = x.astype(np.float32), finite(x)
    assert observer.count == seen.size
    assert observer.zeros == np.count_nonzero(seen == 0)
    assert observer.nan == np.count_nonzero(np.isnan(wide))
    assert observer.positive_infinity == np.count_nonzero(wide == np.inf)
    assert observer.negative_infinity == np.count_nonzero(wide == -np.inf)
    if seen.size:
        assert (observer.low, observer.high) == (seen.min(), seen.max())


@given(data=st.data())
def test_parts_of_any_size_merge_in_any_order_to_the_whole(data):
    x = data.draw(floats(nan=True)).ravel()
    symmetric = data.draw(st.booleans())
    cuts = sorted(data.draw(st.lists(st.integers(0, x.size), max_size=4)))
    parts = [
        lk.HistogramObserver(64, symmetric=symmetric).update(part) for part in np.split(x, cuts)
    ]
    total = lk.HistogramObserver(64, symmetric=symmetric)
    for part in data.draw(st.permutations(parts)):
        total.merge(type(part).from_dict(json.loads(state(part))))
    assert state(total) == state(lk.HistogramObserver(64, symmetric=symmetric).update(x))
    assert state(pickle.loads(pickle.dumps(total))) == state(total)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("zeros", [1, 70_000, 1_999_999])
def test_zeros_first_and_other_values_later(zeros, sign, symmetric):
    """The bins of zeros alone are 2^-126 wide; what is seen later is 100 powers of two wider."""
    x = np.zeros(2_000_000, np.float32)
    x[zeros:] = sign * np.linspace(0.1, 3, len(x) - zeros)
    exponent, first, counts = reference.value_histogram(x, 2048, magnitudes=symmetric)
    for threads in (1, 2, 3):
        seen = lk.HistogramObserver(2048, symmetric=symmetric).update(x, threads=threads)
        assert seen.bin_width == 2.0**exponent
        assert seen.edges[0] == first * 2.0**exponent
        assert (seen.counts == counts).all()
    parts = lk.HistogramObserver(2048, symmetric=symmetric)
    for part in (x[:zeros], x[zeros:]):
        parts.update(part)
    assert (parts.counts == counts).all()


def test_large_arrays_do_not_depend_on_threads():
    x = distribution(3, 2_000_000).reshape(1000, 2000)
    x[500, 7] = np.nan
    for values in (x, x.T, x.astype(np.float16), x.astype(ml_dtypes.bfloat16)):
        one = state(lk.HistogramObserver().update(values, threads=1))
        for threads in (2, 3, None):
            assert state(lk.HistogramObserver().update(values, threads=threads)) == one


@given(data=st.data())
def test_percentiles_are_within_a_bin_of_the_exact_ones(data):
    x = data.draw(floats(nan=True, min_side=1))
    symmetric = data.draw(st.booleans())
    percent = data.draw(st.sampled_from([100, 99.99, 99.9, 99, 90.0, 50, 1e-3]))
    observer = lk.HistogramObserver(256, symmetric=symmetric).update(x)
    if not observer.count:
        return
    got = observer.percentile(percent)
    low, high = reference.quantile_range(x, percent, magnitudes=symmetric)
    assert 0 <= got.high - high <= got.bin_width
    assert 0 <= low - got.low <= got.bin_width
    assert np.float32(got.high) == got.high and np.float32(got.low) == got.low
    seen = finite(x)
    outside = np.count_nonzero((seen < got.low) | (seen > got.high))
    assert outside / seen.size <= got.objective <= 1 - percent / 100 + 1e-12


def affine(low, high, top):
    scale = (high - low) / top
    zero = min(round(-low / scale), top)
    return scale, -zero, top - zero


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_thresholds_are_as_good_as_promised(seed, bits, symmetric):
    x = distribution(seed)
    observer = lk.HistogramObserver().update(x)
    got = observer.mse_threshold(bits, symmetric=symmetric)
    if symmetric:
        top = 2 ** (bits - 1) - 1

        def exact(low, high):
            return reference.rounding_error(x, high / top, -top, top)

        assert got.low == -got.high
        peak = np.abs(x).max()
        ranges = [(-t, t) for t in np.geomspace(peak / 50, peak, 60)]
    else:

        def exact(low, high):
            return reference.rounding_error(x, *affine(low, high, 2**bits - 1))

        low, high = min(x.min(), 0), max(x.max(), 0)
        shares = np.geomspace(0.05, 1, 12)
        ranges = [(low * a, high * b) for a in shares for b in shares]
        assert low <= got.low <= 0 <= got.high <= high
    mine = np.sqrt(exact(got.low, got.high))
    assert abs(mine - np.sqrt(got.objective)) <= got.bin_width
    best = np.sqrt(min(exact(*pair) for pair in ranges))
    assert mine <= best * 1.02 + 2 * got.bin_width
    magnitudes = lk.HistogramObserver(symmetric=True).update(x)
    if symmetric:
        half = magnitudes.mse_threshold(bits)
        assert np.sqrt(exact(half.low, half.high)) <= best * 1.02 + 2 * half.bin_width


@settings(max_examples=30)
@given(seed=st.integers(0, 100), levels=st.sampled_from([4, 7, 16, 64]))
def test_entropy_thresholds_equal_their_definition(seed, levels):
    x = distribution(seed, 3000)
    observer = lk.HistogramObserver(256, symmetric=True).update(x)
    counts = observer.counts
    counts[0] -= np.uint64(observer.zeros)
    kept, least = reference.entropy_threshold(counts, levels)
    got = observer.entropy_threshold(levels)
    assert got.objective == pytest.approx(least, abs=1e-9)
    found = round(np.ceil(got.high / got.bin_width))
    assert reference.divergence(counts[: np.flatnonzero(counts)[-1] + 1], found, levels) <= (
        least + 1e-9
    )
    assert got.high == min(found * got.bin_width, np.abs(x).max()) and got.low == -got.high
    assert kept >= levels and got.high <= np.abs(x).max()


def test_values_and_magnitudes_agree_on_entropy():
    x = distribution(4)
    signed = lk.HistogramObserver(4096).update(x).entropy_threshold()
    magnitudes = lk.HistogramObserver(2048, symmetric=True).update(x).entropy_threshold()
    assert signed.high == pytest.approx(magnitudes.high, rel=0.05)
    assert signed.high < np.abs(x).max() / 2
    far = lk.HistogramObserver().update(1000 + np.linspace(0, 1e-3, 100, dtype=np.float32))
    assert far.entropy_threshold().high == far.high


@pytest.mark.parametrize("value", [0.0, 2.5, -3e-42, 3e38])
def test_a_single_value_has_a_range(value):
    for symmetric in (False, True):
        observer = lk.HistogramObserver(symmetric=symmetric).update(np.full(9, value, np.float32))
        value = float(np.float32(value))
        low, high = (-abs(value), abs(value)) if symmetric else (value, value)
        got = observer.percentile(99)
        assert (got.low, got.high) == (low, high)
        for got in (observer.mse_threshold(), observer.entropy_threshold()):
            assert (got.low, got.high) == (min(low, 0), max(high, 0))


@given(data=st.data())
def test_ranges_add_up_in_any_order(data):
    x = data.draw(floats(nan=True, min_side=1, min_dims=1))
    axis = data.draw(axes(x.ndim))
    times = data.draw(st.integers(1, 4))
    batches = [np.roll(x, i, axis=-1) for i in range(times)]
    if axis is None or axis % x.ndim != x.ndim - 1:
        batches += [lay_out(data.draw, x[..., :1])]
    observers = [lk.RangeObserver(axis).update(batch) for batch in batches]
    total = lk.RangeObserver(axis)
    for part in data.draw(st.permutations(observers)):
        total.merge(lk.RangeObserver.from_dict(json.loads(state(part))))
    wide = [batch.astype(np.float32) for batch in batches]
    assert total.count == sum(w.size for w in wide)
    assert total.nan == sum(np.count_nonzero(np.isnan(w)) for w in wide)
    assert total.infinite == sum(np.count_nonzero(np.isinf(w)) for w in wide)
    others = tuple(i for i in range(x.ndim) if axis is None or i != axis % x.ndim)
    lows = [np.min(w, others, where=np.isfinite(w), initial=np.inf) for w in wide]
    highs = [np.max(w, others, where=np.isfinite(w), initial=-np.inf) for w in wide]
    low, high = np.minimum.reduce(lows), np.maximum.reduce(highs)
    if np.any(low > high):
        with pytest.raises(lk.KernelError, match="no finite value"):
            total.result()
        return
    for got, want in zip(total.result(), (low, high), strict=True):
        assert got.dtype == np.float32 and got.shape == np.shape(want)
        np.testing.assert_array_equal(got, want)


def test_bad_arguments():
    x = np.ones((2, 3), np.float32)
    for bins in (15, 65537):
        with pytest.raises(lk.KernelError, match="16"):
            lk.HistogramObserver(bins)
    with pytest.raises(lk.KernelTypeError, match="float64"):
        lk.HistogramObserver().update(np.ones(3))
    with pytest.raises(lk.KernelError, match="do not merge"):
        lk.HistogramObserver().merge(lk.HistogramObserver(symmetric=True))
    empty = lk.HistogramObserver().update(np.full(2, np.nan, np.float32))
    for call in (empty.mse_threshold, empty.entropy_threshold, lambda: empty.percentile(99)):
        with pytest.raises(lk.KernelError, match=r"2 NaN"):
            call()
    observer = lk.HistogramObserver().update(x)
    for percent in (0, 101, float("nan")):
        with pytest.raises(lk.KernelError, match="percent"):
            observer.percentile(percent)
    with pytest.raises(lk.KernelError, match="bits"):
        observer.mse_threshold(17)
    with pytest.raises(lk.KernelError, match="levels"):
        observer.entropy_threshold(0)
    with pytest.raises(lk.KernelError, match="symmetric=False"):
        lk.HistogramObserver(symmetric=True).update(x).mse_threshold(symmetric=False)
    with pytest.raises(lk.KernelError, match="entries"):
        lk.HistogramObserver.from_dict({})
    with pytest.raises(lk.KernelError, match="do not fit"):
        lk.HistogramObserver.from_dict(observer.to_dict() | {"count": 5})
    with pytest.raises(lk.KernelError, match="update first"):
        lk.RangeObserver().result()
    with pytest.raises(lk.KernelError, match="differ"):
        lk.RangeObserver(0).merge(lk.RangeObserver(1))
    with pytest.raises(lk.KernelError, match="one observer"):
        lk.RangeObserver(0).update(x).update(x.T)
    with pytest.raises(lk.KernelError, match="axis 2"):
        lk.RangeObserver(2).update(x)
    with pytest.raises(lk.KernelError, match="entries"):
        lk.RangeObserver.from_dict({"axis": 0})


@pytest.mark.parametrize(
    "change",
    [
        {"first": 2**40},
        {"exponent": 5000},
        {"exponent": None},
        {"low": None},
        {"high": "a"},
        {"high": math.inf},
        {"counts": [-1]},
        {"counts": None},
        {"count": "a"},
    ],
)
def test_a_state_that_contradicts_itself_is_refused(change):
    """A place of 2^40 asked for 8 TiB later on."""
    state = lk.HistogramObserver().update(np.linspace(-1, 1, 9, dtype=np.float32)).to_dict()
    assert lk.HistogramObserver.from_dict(state).to_dict() == state
    with pytest.raises(lk.KernelError):
        lk.HistogramObserver.from_dict(state | change)
