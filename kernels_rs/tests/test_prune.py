import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kernel_strategies import axes, floats, lay_out

import lepton_kernels as lk
from lepton_kernels import _native, reference

SHARES = [0, 0.1, 0.5, 0.55, 0.9, 1]


@given(data=st.data())
def test_masks_equal_their_definition(data):
    arrays = data.draw(st.lists(floats(), min_size=1, max_size=3))
    if data.draw(st.booleans()):  # many ties
        arrays = [np.round(a).astype(a.dtype) for a in arrays]
    sparsity = data.draw(st.sampled_from(SHARES))
    threads = data.draw(st.integers(1, 3))
    got = lk.prune_masks(arrays, sparsity, threads=threads)
    want = reference.prune_masks(arrays, sparsity)
    for mask, expected in zip(got, want, strict=True):
        assert mask.dtype == np.bool_ and mask.flags.c_contiguous
        np.testing.assert_array_equal(mask, expected)
    threshold = lk.magnitude_threshold(arrays, sparsity)
    assert threshold == reference.magnitude_threshold(arrays, sparsity)
    np.testing.assert_array_equal(
        lk.prune_mask(arrays[0], sparsity), reference.prune_masks(arrays[:1], sparsity)[0]
    )


@given(data=st.data())
def test_channels_rank_for_themselves(data):
    x = data.draw(floats(min_dims=1))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    sparsity = data.draw(st.sampled_from(SHARES))
    got = np.moveaxis(lk.prune_mask(x, sparsity, axis=axis), axis, 0)
    for channel, mask in zip(np.moveaxis(x, axis, 0), got, strict=True):
        np.testing.assert_array_equal(mask, reference.prune_masks([channel], sparsity)[0])


def test_large_masks_do_not_depend_on_threads():
    x = np.random.default_rng(0).standard_normal((1100, 1000), dtype=np.float32)
    for values in (x, x.astype(np.float16), np.round(x), x.T, np.ones_like(x)):
        want = reference.prune_masks([values], 0.3)[0]
        for threads in (1, 2, 3):
            np.testing.assert_array_equal(lk.prune_mask(values, 0.3, threads=threads), want)
            np.testing.assert_array_equal(
                lk.nm_mask(values, threads=threads), reference.nm_mask(values, 2, 4)
            )


def test_masks_of_large_arrays_together():
    x = np.random.default_rng(0).standard_normal((1100, 1000), dtype=np.float32)
    parts = [x[:700], x[700:701].astype(np.float16), x[701:].T]
    want = reference.prune_masks(parts, 0.3)
    for threads in (1, 3):
        for mask, expected in zip(lk.prune_masks(parts, 0.3, threads=threads), want, strict=True):
            np.testing.assert_array_equal(mask, expected)


def test_masks_share_no_memory():
    x, mask = np.ones(4, np.float32), np.zeros(4, np.uint8)
    for masks in ([mask, mask], [mask, x.view(np.uint8)[:4]]):
        with pytest.raises(lk.KernelError, match="shares memory"):
            _native.magnitude_masks([x, x.copy()], 3, masks, 1)
    with pytest.raises(lk.KernelError, match="2 arrays and 1 masks"):
        _native.magnitude_masks([x, x.copy()], 3, [mask], 1)
    np.testing.assert_array_equal(x, 1)


@given(data=st.data())
def test_groups_equal_their_definition(data):
    m = data.draw(st.sampled_from([1, 2, 4, 5, 8, 64]))
    n = data.draw(st.integers(0, m))
    shape = (
        *data.draw(hnp.array_shapes(max_dims=2, min_side=0)),
        m * data.draw(st.integers(0, 40)),
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x = np.round(rng.standard_normal(shape), data.draw(st.integers(0, 4))).astype(np.float32)
    got = lk.nm_mask(lay_out(data.draw, x), n, m, threads=data.draw(st.integers(1, 3)))
    assert got.dtype == np.bool_ and got.flags.c_contiguous
    np.testing.assert_array_equal(got, reference.nm_mask(x, n, m))


@given(data=st.data())
def test_norms_equal_their_definition(data):
    x = data.draw(floats(nan=True))
    axis = data.draw(axes(x.ndim))
    order = data.draw(st.sampled_from([1, 2]))
    got = lk.channel_norms(x, axis=axis, order=order, threads=data.draw(st.integers(1, 3)))
    want = reference.channel_norms(x, axis, order)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-13, atol=0)


def test_norms_do_not_depend_on_threads():
    x = np.random.default_rng(0).standard_normal((60, 100, 100), dtype=np.float32)
    for axis in (None, 0, 1, 2):
        one = lk.channel_norms(x, axis=axis, threads=1)
        for threads in (2, 3):
            np.testing.assert_array_equal(lk.channel_norms(x, axis=axis, threads=threads), one)


@given(data=st.data())
def test_scores_equal_their_definition(data):
    weight = data.draw(floats(nan=True, min_dims=2))
    weight = weight[(0,) * (weight.ndim - 2)] if min(weight.shape) else weight[:0, :0].reshape(0, 0)
    norms = np.abs(np.resize(data.draw(floats(nan=True, min_dims=1)), weight.shape[1]))
    got = lk.wanda_scores(weight, norms)
    assert got.dtype == np.float32 and got.flags.c_contiguous
    np.testing.assert_array_equal(got, reference.wanda_scores(weight, norms))


def test_wanda_ranks_by_weight_and_input():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 32), dtype=np.float32)
    samples = rng.standard_normal((100, 32), dtype=np.float32) * np.linspace(0.1, 5, 32)
    norms = lk.channel_norms(samples.astype(np.float32), axis=1)
    scores = lk.wanda_scores(weight, norms)
    np.testing.assert_array_equal(scores, np.abs(weight) * norms.astype(np.float32))
    mask = lk.prune_mask(scores, 0.5, axis=0)
    assert (mask.sum(axis=1) == 16).all()
    assert mask[:, 16:].sum() > mask[:, :16].sum()
    out = np.empty_like(weight)
    assert lk.wanda_scores(weight, norms, out=out) is out


@given(data=st.data())
def test_products_equal_their_definition(data):
    m, k, n = (data.draw(st.integers(0, 20)) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    low, high = data.draw(st.sampled_from([(-128, 127), (-64, 63), (100, 127)]))
    a = lay_out(data.draw, rng.integers(0, 255, (m, k), np.uint8, endpoint=True))
    b = lay_out(data.draw, rng.integers(low, high, (k, n), np.int8, endpoint=True))
    for saturate16 in (False, True):
        got = lk.matmul_u8s8(a, b, saturate16=saturate16, threads=data.draw(st.integers(1, 3)))
        values, saturated = reference.matmul_u8s8(a, b, saturate16=saturate16)
        np.testing.assert_array_equal(got.values, values)
        assert got.saturated == saturated
        if not saturate16:
            np.testing.assert_array_equal(got.values, a.astype(np.int32) @ b.astype(np.int32))
        if high == 63:
            assert got.saturated == 0


def test_bad_arguments():
    x = np.ones((2, 6), np.float32)
    bad = x.copy()
    bad[1, 2] = np.nan
    for call in (
        lambda: lk.prune_mask(bad, 0.5),
        lambda: lk.prune_masks([x[:1], bad[1:]], 1),
        lambda: lk.nm_mask(bad, 1, 2),
        lambda: lk.magnitude_threshold(bad, 0),
    ):
        with pytest.raises(lk.KernelError, match="1 values are NaN, the first at linear index 8"):
            call()
    with pytest.raises(lk.KernelError, match="sparsity"):
        lk.prune_mask(x, 1.5)
    with pytest.raises(lk.KernelError, match="divide the rows"):
        lk.nm_mask(x, 2, 4)
    with pytest.raises(lk.KernelError, match="n at most m"):
        lk.nm_mask(x, 3, 2)
    with pytest.raises(lk.KernelTypeError, match="float64"):
        lk.prune_mask(np.ones(3), 0.5)
    with pytest.raises(lk.KernelError, match="needed is bool"):
        lk.prune_mask(x, 0.5, out=np.empty((2, 6), np.uint8))
    with pytest.raises(lk.KernelError, match="contiguous"):
        lk.prune_mask(x, 0.5, out=np.empty((2, 12), np.bool_)[:, ::2])
    with pytest.raises(lk.KernelError, match="order"):
        lk.channel_norms(x, order=3)
    with pytest.raises(lk.KernelError, match="inputs"):
        lk.wanda_scores(x, np.ones(5))
    with pytest.raises(lk.KernelTypeError, match="input_norms must be real numbers"):
        lk.wanda_scores(x, ["a"] * 6)
    with pytest.raises(lk.KernelTypeError, match="sequence of arrays, got int"):
        lk.prune_masks(3, 0.5)
    a, b = np.ones((2, 3), np.uint8), np.ones((3, 2), np.int8)
    with pytest.raises(lk.KernelTypeError, match="needed is int8"):
        lk.matmul_u8s8(a, a.T, saturate16=True)
    with pytest.raises(lk.KernelError, match=r"\(m, k\)"):
        lk.matmul_u8s8(a, b.T, saturate16=True)
    with pytest.raises(lk.KernelError, match="at most 65793"):
        lk.matmul_u8s8(np.ones((1, 65794), np.uint8), np.ones((65794, 1), np.int8), saturate16=True)
    with pytest.raises(lk.KernelError, match="needed is int32"):
        lk.matmul_u8s8(a, b, saturate16=True, out=np.empty((2, 2), np.int64))


@given(data=st.data())
def test_block_masks_equal_their_definition(data):
    x = data.draw(floats(min_dims=2))
    x = x.reshape(x.shape[0], int(np.prod(x.shape[1:])))
    width = st.sampled_from([1, 2, 4, 8]) | st.integers(1, 40)
    block = data.draw(st.tuples(st.integers(1, 5), width))
    sparsity = data.draw(st.sampled_from([0, 0.3, 0.5, 0.75, 1]))
    order = data.draw(st.sampled_from([1, 2]))
    got = lk.block_mask(x, sparsity, block, order=order, threads=data.draw(st.integers(1, 3)))
    np.testing.assert_array_equal(got, reference.block_mask(x, sparsity, block, order))
    out = np.zeros(x.shape, np.bool_)
    assert lk.block_mask(x, sparsity, block, order=order, out=out) is out
    np.testing.assert_array_equal(got, out)


@pytest.mark.parametrize("block", [(4, 1), (3, 3), (4, 8), (1, 2000)])
def test_block_masks_of_long_rows_equal_their_definition(block):
    x = np.random.default_rng(0).standard_normal((9, 3001)).astype(np.float32)
    for values in (x, np.asfortranarray(x)):
        want = reference.block_mask(x, 0.5, block, 2)
        np.testing.assert_array_equal(lk.block_mask(values, 0.5, block, threads=2), want)


def test_block_masks_keep_exactly_as_many_and_mind_ties():
    x = np.ones((8, 8), np.float32)
    x[4:, 4:] = 2
    assert lk.block_mask(x, 0.75, (4, 4)).sum() == 16
    assert lk.block_mask(x, 0.75, (4, 4))[4:, 4:].all()
    # Of equal blocks the first stay; a block at the end counts as if filled up with zeros.
    assert lk.block_mask(x[:4], 0.5, (4, 4))[:, :4].all()
    assert lk.block_mask(x[:4, :5], 0.5, (4, 4))[:, :4].all()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"x": np.ones(3, np.float32)}, "outputs, inputs"),
        ({"block": 4}, "tuple of rows and columns"),
        ({"block": (0, 4)}, "at least 1"),
        ({"order": 3}, "accepted: 1, 2"),
        ({"sparsity": 2}, "0 to 1"),
        ({"x": np.full((4, 4), np.nan, np.float32)}, "NaN"),
        ({"x": np.ones((4, 4))}, "float64 is not supported"),
        ({"out": np.zeros((4, 4), np.int8)}, "needed is bool"),
        ({"out": np.zeros((2, 4), np.bool_)}, r"needed is \(4, 4\)"),
        ({"out": np.zeros((4, 8), np.bool_)[:, ::2]}, "not C-contiguous"),
    ],
)
def test_bad_blocks(arguments, text):
    with pytest.raises(lk.KernelError, match=text):
        lk.block_mask(**({"x": np.ones((4, 4), np.float32), "sparsity": 0.5} | arguments))


def shared(x):
    """A mask in the memory of the values, or in the part of it that is read last."""
    return x.view(np.bool_).reshape(-1)[-x.size :].reshape(x.shape)


def read_only(x):
    out = np.empty(x.shape, np.bool_)
    out.flags.writeable = False
    return out


@pytest.mark.parametrize(
    ("out", "text"),
    [
        (shared, "shares memory .* accepted"),
        (lambda x: np.empty(x.shape[::-1], np.bool_), r"has shape \(16, 8\), needed is \(8, 16\)"),
        (lambda x: np.empty((1, *x.shape), np.bool_), "has shape"),
        (lambda x: np.empty((8, 32), np.bool_)[:, ::2], "not C-contiguous .* accepted"),
        (lambda x: np.empty(x.shape, np.bool_, order="F"), "not C-contiguous"),
        (read_only, "read-only.* accepted"),
        (lambda x: np.empty(x.shape, np.uint8), "has dtype uint8, needed is bool"),
    ],
)
@pytest.mark.parametrize(
    "mask",
    [
        lambda x, out: lk.prune_mask(x, 0.5, out=out),
        lambda x, out: lk.prune_mask(x, 1.0, out=out),
        lambda x, out: lk.prune_mask(x, 0.5, axis=0, out=out),
        lambda x, out: lk.prune_mask(x, 0.5, axis=1, out=out),
        lambda x, out: lk.prune_mask(x, 1.0, axis=0, out=out),
        lambda x, out: lk.nm_mask(x, out=out),
        lambda x, out: lk.block_mask(x, 0.5, (1, 1), out=out),
        lambda x, out: lk.block_mask(x, 0.5, (4, 1), out=out),
        lambda x, out: lk.block_mask(x, 1.0, (1, 4), out=out),
    ],
)
def test_masks_are_not_written_where_they_do_not_fit(mask, out, text):
    x = np.random.default_rng(0).standard_normal((8, 16), dtype=np.float32)
    before = x.copy()
    with pytest.raises(lk.KernelError, match=text):
        mask(x, out(x))
    np.testing.assert_array_equal(x, before)


def test_scores_are_not_written_where_they_do_not_fit():
    weight, norms = np.ones((4, 8), np.float32), np.ones(8, np.float32)
    frozen = np.empty_like(weight)
    frozen.flags.writeable = False
    for out, text in ((frozen, "read-only"), (weight, "shares memory"), (weight.T, "shape")):
        with pytest.raises(lk.KernelError, match=text):
            lk.wanda_scores(weight, norms, out=out)
    with pytest.raises(lk.KernelTypeError, match="NumPy array, got list"):
        lk.prune_mask(weight, 0.5, out=[True])


def test_a_block_beyond_the_matrix_takes_no_more_memory():
    x = np.random.default_rng(0).standard_normal((1000, 10)).astype(np.float32)
    wide = lk.block_mask(x, 0.3, (1, 2**31 - 1))
    np.testing.assert_array_equal(wide, lk.block_mask(x, 0.3, (1, 10)))
    assert lk.block_mask(x, 0.4, (2**31 - 1, 2**31 - 1)).all()


def test_a_share_that_is_no_number_is_refused():
    for wrong in ("0.5", None):
        with pytest.raises(lk.KernelTypeError, match="sparsity must be a real number"):
            lk.prune_mask(np.ones(3, np.float32), wrong)
