"""Every kernel that makes an array can fill one that it is given."""

import numpy as np
import pytest

import lepton_kernels as lk

MEMORY = []


def with_room(array):
    """The array at the start of memory that has room for every result."""
    memory = np.zeros(1024, np.uint8)
    MEMORY.append(memory)
    copy = memory[: array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


X = with_room(np.random.default_rng(0).standard_normal((4, 8), dtype=np.float32))
Q = with_room(np.arange(32, dtype=np.int8).reshape(4, 8) % 8)
BITS = Q.view(np.uint8)
GRAM = X.T @ X
CODED = lk.quantize_blocks(X, 4, scheme="asymmetric")
CODED = lk.BlockQuantized(with_room(CODED.codes), CODED.scale, CODED.zero_point)
TABLES = with_room(np.arange(16, dtype=np.float32).reshape(2, 8))
KERNELS = {
    "absmax": lambda out: lk.absmax(X, axis=0, out=out),
    "awq_scales": lambda out: lk.awq_scales(X, X, 4, out=out),
    "bias_correction": lambda out: lk.bias_correction(X, X / 2, X[0], out=out),
    "block_mask": lambda out: lk.block_mask(X, 0.5, (2, 2), out=out),
    "cast_float": lambda out: lk.cast_float(X, "float16", out=out),
    "channel_norms": lambda out: lk.channel_norms(X, axis=0, out=out),
    "channel_norms of all": lambda out: lk.channel_norms(X, out=out),
    "depalettize": lambda out: lk.depalettize(BITS, TABLES[0], out=out),
    "depalettize by channel": lambda out: lk.depalettize(
        BITS, TABLES, axis=0, group_size=2, out=out
    ),
    "dequantize": lambda out: lk.dequantize(Q, 0.5, out=out),
    "dequantize_blocks": lambda out: lk.dequantize_blocks(*CODED, 4, out=out),
    "dequantize_blocks of short rows": lambda out: lk.dequantize_blocks(*CODED, 5, out=out),
    "dequantize_blocks, float zero points": lambda out: lk.dequantize_blocks(
        CODED.codes, CODED.scale, CODED.zero_point.astype(np.float32), 4, out=out
    ),
    "equalization_scales": lambda out: lk.equalization_scales(X, X.T, out=out),
    "fake_quantize": lambda out: lk.fake_quantize(X, 0.5, out=out),
    "gptq": lambda out: lk.gptq(X, GRAM, 4, damp=1, out=out),
    "matmul_u8s8": lambda out: lk.matmul_u8s8(BITS, Q.T, saturate16=True, out=out),
    "minmax": lambda out: lk.minmax(X, axis=0, out=out),
    "nm_mask": lambda out: lk.nm_mask(X, out=out),
    "pack_bits": lambda out: lk.pack_bits(BITS, 3, out=out),
    "pack_int4": lambda out: lk.pack_int4(BITS, out=out),
    "palettize": lambda out: lk.palettize(X, 2, out=out),
    "palettize by channel": lambda out: lk.palettize(X, 1, axis=1, group_size=3, out=out),
    "prune_mask": lambda out: lk.prune_mask(X, 0.5, out=out),
    "prune_mask by channel": lambda out: lk.prune_mask(X, 0.5, axis=1, out=out),
    "prune_masks": lambda out: lk.prune_masks([X, X[0]], 0.5, out=out),
    "quantize": lambda out: lk.quantize(X, 0.5, out=out),
    "quantize_bias": lambda out: lk.quantize_bias(X[0], 0.5, X[1], out=out),
    "quantize_blocks": lambda out: lk.quantize_blocks(X, 4, out=out),
    "quantize_symmetric": lambda out: lk.quantize_symmetric(X, axis=0, out=out),
    "scale_from_absmax": lambda out: lk.scale_from_absmax(TABLES, 127, out=out),
    "scale_mse": lambda out: lk.scale_mse(X, axis=0, scheme="asymmetric", out=out),
    "scale_mse of all": lambda out: lk.scale_mse(X, out=out),
    "scale_percentile": lambda out: lk.scale_percentile(X, 90, axis=0, out=out),
    "scale_symmetric": lambda out: lk.scale_symmetric(X, axis=0, out=out),
    "smoothquant_scales": lambda out: lk.smoothquant_scales(TABLES[1], [X], out=out),
    "unpack_bits": lambda out: lk.unpack_bits(BITS, 4, 16, out=out),
    "unpack_int4": lambda out: lk.unpack_int4(BITS, 16, out=out),
    "wanda_scores": lambda out: lk.wanda_scores(X, X[0], out=out),
}
PARTS = {"minmax", "prune_masks", "scale_mse", "scale_mse of all"}


def results(name, out=None):
    """The arrays that `out` stands for."""
    found = KERNELS[name](out)
    if name in PARTS:
        return list(found)
    return [found[0] if isinstance(found, tuple) else found]


def fill(name, arrays):
    given = tuple(arrays) if name in PARTS else arrays[0]
    return results(name, given)


@pytest.mark.parametrize("name", KERNELS)
def test_out_is_filled_and_returned(name):
    want = results(name)
    out = [np.full(part.shape, 99).astype(part.dtype) for part in want]
    for got, given, expected in zip(fill(name, out), out, want, strict=True):
        assert got is given
        np.testing.assert_array_equal(got, expected)
        assert expected.flags.c_contiguous


def bad(array):
    """Arrays that do not fit, with what the error says."""
    if array.ndim:
        yield np.empty((*array.shape, 2), array.dtype)[..., 0], "contiguous"
    yield np.empty((*array.shape, 1), array.dtype), "shape"
    yield np.empty(array.shape, np.complex64), "complex64"
    frozen = np.empty_like(array)
    frozen.flags.writeable = False
    yield frozen, "read-only"
    if array.itemsize > 1:
        raw = np.empty(array.nbytes + 1, np.uint8)
        yield raw[1:].view(array.dtype).reshape(array.shape), "aligned"


@pytest.mark.parametrize("name", KERNELS)
def test_an_out_that_does_not_fit_is_refused_by_all_in_the_same_words(name):
    want = results(name)
    for i, part in enumerate(want):
        for wrong, text in bad(part):
            out = [np.empty_like(other) for other in want]
            out[i] = wrong
            with pytest.raises(lk.KernelError, match=text):
                fill(name, out)
    with pytest.raises(lk.KernelTypeError, match="out must be"):
        KERNELS[name](3)


@pytest.mark.parametrize("name", KERNELS)
def test_out_over_an_input_is_refused(name):
    """Each reads at least one of these while it writes."""
    want = results(name)
    refused = 0
    for memory in MEMORY:
        old = memory.copy()
        out = [np.empty_like(part) for part in want]
        out[0] = memory[: want[0].nbytes].view(want[0].dtype).reshape(want[0].shape)
        try:
            fill(name, out)
        except lk.KernelError as error:
            assert "shares memory" in str(error)
            np.testing.assert_array_equal(memory, old)
            refused += 1
        memory[:] = old
    assert refused


def test_outputs_must_not_share_memory_with_each_other():
    scale, zero = np.empty(8, np.float32), np.empty(4, np.int64)
    masks = np.empty((4, 8), np.bool_)
    for call in (
        lambda: lk.scale_mse(X, axis=0, out=(scale[:4], scale.view(np.int64))),
        lambda: lk.minmax(X, axis=0, out=(scale[:4], scale[:4])),
        lambda: lk.prune_masks([X, X[0]], 0.5, out=[masks, masks[0]]),
    ):
        with pytest.raises(lk.KernelError, match="shares memory"):
            call()
    with pytest.raises(lk.KernelError, match="out has 1 arrays, needed are 2"):
        lk.prune_masks([X, X[0]], 0.5, out=[masks])
    with pytest.raises(lk.KernelTypeError, match="tuple of two arrays"):
        lk.scale_mse(X, axis=0, out=zero)
