"""The cases of calibration and compression; `kernels.py` runs them."""

from __future__ import annotations

import numpy as np
from _kernel_peers import Peer, installed, relative
from _weight_cases import probe

import lepton_kernels as lk
import lepton_kernels.reference


def case_histogram(w):
    """2048 bins of the whole tensor ({values} values), over its own range."""
    positive = np.maximum(w, 0)  # as ReLU leaves them: zeros share one bin
    peers = {
        "lepton": lambda: lk.HistogramObserver().update(w, threads=1),
        "lepton, 2 threads": lambda: lk.HistogramObserver().update(w, threads=2),
        "lepton, after ReLU": lambda: lk.HistogramObserver().update(positive, threads=1),
        "numpy bincount in blocks": lambda: numpy_bincount(w.ravel()),
        "numpy bincount in blocks, after ReLU": lambda: numpy_bincount(positive.ravel()),
        "numpy histogram": lambda: np.histogram(w, 2048),
    }
    if installed("torch"):
        import torch

        tensor = torch.from_numpy(w)
        peers["torch"] = lambda: torch.histc(tensor, 2048)
    return peers, None


def numpy_bincount(x, block=1 << 18):
    low, high = x.min(), x.max()
    per_value = np.float32(2048) / (high - low)
    counts = np.zeros(2048, np.int64)
    for start in range(0, x.size, block):
        place = ((x[start : start + block] - low) * per_value).astype(np.int32)
        np.minimum(place, 2047, out=place)
        counts += np.bincount(place, minlength=2048)
    return counts


def case_thresholds(w):
    """The entropy threshold of 2048 bins, once they are counted."""
    observer = lk.HistogramObserver(symmetric=True).update(w)
    signed = lk.HistogramObserver().update(w)
    peers = {
        "lepton, entropy, 128 levels": lambda: observer.entropy_threshold(128),
        "lepton, MSE, 8 bits symmetric": lambda: observer.mse_threshold(8),
        "lepton, MSE, 8 bits asymmetric": lambda: signed.mse_threshold(8),
        "lepton, percentile": lambda: signed.percentile(99.9),
    }
    return peers, None


def case_float8(w):
    """float32 to float8_e4m3fn, saturating, into fresh memory."""
    peers = {
        "lepton (with counts)": lambda: (
            lk.cast_float(w, "float8_e4m3fn", saturate=True, threads=1).values
        ),
        "probe: read once, fill fresh 8 bits": lambda: probe(w),
    }
    if installed("torch"):
        import torch

        tensor = torch.from_numpy(w)
        peers["torch"] = lambda: tensor.to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    if installed("ml_dtypes"):
        import ml_dtypes

        peers["ml_dtypes"] = lambda: w.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    return peers, lk.reference.cast_float8(w, 4, saturate=True)[0]


def case_fake_quantize(w):
    """int8 per row and back in one pass, scales given."""
    scale = lk.scale_symmetric(w, axis=0)
    peers = {
        "lepton": lambda: lk.fake_quantize(w, scale, axis=0, threads=1),
        "lepton, two calls": lambda: lk.dequantize(
            lk.quantize(w, scale, axis=0, threads=1), scale, axis=0, threads=1
        ),
        "numpy": lambda: (
            np.clip(np.rint(w / scale[:, None]), -128, 127) * scale[:, None] + np.float32(0)
        ),
    }
    if installed("torch"):
        import torch

        tensor, scales = torch.from_numpy(w), torch.from_numpy(scale)
        zero = torch.zeros(len(w), dtype=torch.int32)
        peers["torch"] = lambda: torch.fake_quantize_per_channel_affine(
            tensor, scales, zero, 0, -128, 127
        ).numpy()
    return peers, lk.dequantize(lk.quantize(w, scale, axis=0), scale, axis=0)


def case_half_mask(w):
    """A mask that keeps the half of largest magnitude."""
    peers = {
        "lepton (exact count)": lambda: lk.prune_mask(w, 0.5, threads=1),
        "lepton, 2 threads": lambda: lk.prune_mask(w, 0.5, threads=2),
        "numpy partition": lambda: numpy_mask(w),
    }
    if installed("torch"):
        import torch

        flat = torch.from_numpy(w).abs().reshape(-1)
        peers["torch kthvalue"] = lambda: flat > flat.kthvalue(flat.numel() // 2).values
    return peers, None


def numpy_mask(w):
    size = np.abs(w).ravel()
    middle = size.size // 2
    return np.abs(w) >= np.partition(size, middle)[middle]


def case_mask_2_4(w):
    """A mask that keeps two of every four."""
    peers = {
        "lepton": lambda: lk.nm_mask(w, threads=1),
        "lepton, 2 threads": lambda: lk.nm_mask(w, threads=2),
        "numpy comparisons": lambda: numpy_2_4(w),
    }
    return peers, lk.reference.nm_mask(w, 2, 4)


def numpy_2_4(w):
    a, b, c, d = np.moveaxis(np.abs(w).reshape(-1, 4), 1, 0)
    high, other = np.maximum(a, b), np.maximum(c, d)
    low = np.where(high > other, np.minimum(a, b), np.minimum(c, d))
    second = np.maximum(np.minimum(high, other), low)
    return (np.abs(w).reshape(-1, 4) >= second[:, None]).reshape(w.shape)


def case_palette(w):
    """A palette of 16 entries for the first 16.8 million values, and the indices."""
    part = w.ravel()[: 1 << 24]
    half = part.astype(np.float16)
    wide = half.astype(np.float64)

    def error(result):
        return float(np.mean((wide - result.palette.ravel()[result.indices.ravel()]) ** 2))

    peers = {
        "lepton fp16, 16 entries": Peer(lambda: lk.palettize(half, 4, threads=1), error=error),
        "lepton fp16, 64 entries": Peer(lambda: lk.palettize(half, 6, threads=1), error=error),
        "lepton, 16 entries": lambda: lk.palettize(part, 4, threads=1).indices,
        "lepton, 64 entries": lambda: lk.palettize(part, 6, threads=1).indices,
        "lepton, 256 entries": lambda: lk.palettize(part, 8, threads=1).indices,
    }
    return peers, None


def case_pack_bits(w):
    """One index of 3 bits (and of 4) for every value, packed."""
    codes = (w.view(np.uint32) & 7).astype(np.uint8)
    peers = {
        "lepton, 3 bits": lambda: lk.pack_bits(codes, 3, threads=1),
        "lepton, 4 bits": lambda: lk.pack_int4(codes, threads=1),
        "numpy, 4 bits": lambda: codes[:, ::2] | codes[:, 1::2] << 4,
    }
    return peers, None


def case_matmul_u8s8(_):
    """512x1024 by 1024x512 with 16-bit sums of pairs."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (512, 1024)).astype(np.uint8)
    b = rng.integers(-128, 128, (1024, 512)).astype(np.int8)
    peers = {
        "lepton, saturating": lambda: lk.matmul_u8s8(a, b, saturate16=True, threads=1).values,
        "numpy, exact int32": lambda: a.astype(np.int32) @ b.astype(np.int32),
    }
    return peers, None


def case_other_roundings(w):
    """int8 with one scale, by other rules than half to even, into reused memory."""
    out = np.zeros(w.shape, np.int8)
    kept = {"out": out, "threads": 1}
    peers = {
        "lepton, half to even": lambda: lk.quantize(w, 0.03, **kept),
        "lepton, half away": lambda: lk.quantize(w, 0.03, rounding="half_away", **kept),
        "lepton, stochastic": lambda: lk.quantize(w, 0.03, rounding="stochastic", **kept),
        "numpy, stochastic": lambda: numpy_stochastic(w, 0.03),
    }
    return peers, None


def numpy_stochastic(w, scale, rows=64):
    generator = np.random.default_rng(0)
    out = np.empty(w.shape, np.int8)
    for start in range(0, len(w), rows):
        v = w[start : start + rows] / np.float32(scale)
        v = np.floor(v + generator.random(v.shape, dtype=np.float32))
        out[start : start + rows] = np.clip(v, -128, 127)
    return out


def case_clip_search(w):
    """4 bits in blocks of 32 and 128 with scales of least squared error; 8 bits by row."""
    half = {"scheme": "asymmetric", "zero_point": "float"}

    def search(size, **options):
        def error(found):
            return relative(w, lk.dequantize_blocks(*found, size))

        run = lambda: lk.quantize_blocks(w, size, clip="mse", threads=1, **options)  # noqa: E731
        return Peer(run, error=error)

    peers = {
        "lepton, signed maximum": search(32),
        "lepton, asymmetric": search(32, scheme="asymmetric"),
        "lepton, asymmetric, float zero points": search(32, **half),
        "lepton, asymmetric, 128": search(128, scheme="asymmetric"),
        "lepton, asymmetric, float zero points, 128": search(128, **half),
        "lepton, int8 by row, scales": lambda: lk.scale_mse(w, axis=0, threads=1),
        "lepton, int8 with one scale": lambda: lk.scale_mse(w, threads=1),
        "lepton, int8 with one scale, 2 threads": lambda: lk.scale_mse(w, threads=2),
    }
    return peers, None


def case_gptq(w):
    """4 bits in blocks of 128 by GPTQ, 4096x4096 at most, the hessian given."""
    n = min(4096, *w.shape)
    weight, hessian = np.ascontiguousarray(w[:n, :n]), correlated_hessian(n)
    whole = np.sqrt(np.sum((weight @ hessian) * weight))

    def of_values(back):
        lost = weight - back
        return float(np.sqrt(np.sum((lost @ hessian) * lost)) / whole)

    def error(found):
        return of_values(lk.dequantize_blocks(*found, 128))

    def gptq(**options):
        run = lambda: lk.gptq(weight, hessian, 128, threads=1, **options)  # noqa: E731
        return Peer(run, error=error)

    peers = {
        "lepton": gptq(),
        "lepton, MSE scales, activation order": gptq(clip="mse", act_order=True),
    }
    if installed("torch"):
        peers["torch, the loop of the paper"] = lambda: torch_gptq(weight, hessian)
    if installed("nncf"):
        peers["nncf"] = Peer(nncf_gptq(weight, hessian), error=of_values)
    return peers, None


def correlated_hessian(n):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2 * n, n), dtype=np.float32)
    x += (
        0.5
        * rng.standard_normal((2 * n, 64), dtype=np.float32)
        @ rng.standard_normal((64, n), dtype=np.float32)
    )
    x *= rng.uniform(0.2, 3, n).astype(np.float32)
    return lk.HessianAccumulator(n).update(x).result()


def nncf_gptq(weight, hessian):
    """The rounding of nncf's GPTQ, which changes its arguments; scales of the range, as here."""
    from types import SimpleNamespace

    import nncf
    from nncf.quantization.algorithms.weight_compression.config import WeightCompressionConfig
    from nncf.quantization.algorithms.weight_compression.gptq import GPTQ
    from nncf.tensor import Tensor

    algorithm = GPTQ(damp_percent=0.01)
    algorithm._backend_entity = SimpleNamespace(convolution_metatypes=())
    attributes = SimpleNamespace(constant_attributes={1: {"transpose": True}})
    layer = SimpleNamespace(
        node_with_weight=SimpleNamespace(metatype=None, layer_attributes=attributes),
        weight_port_id=1,
        compression_config=WeightCompressionConfig(nncf.CompressWeightsMode.INT4_SYM, 128),
        reduction_axes=(1,),
    )

    def run():
        arrays = Tensor(hessian.astype(np.float32)), Tensor(weight.copy())
        return algorithm._quantize_weights(layer, *arrays, [])[0].data

    return run


def torch_gptq(weight, hessian, size=128):
    """As in the code of the paper: blocks of 128 columns, the factor of the inverse."""
    import torch

    torch.set_num_threads(1)
    w, h = torch.from_numpy(weight.copy()), torch.from_numpy(hessian).float()
    h += 0.01 * h.diagonal().mean() * torch.eye(len(h))
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    out = torch.empty_like(w)
    for first in range(0, w.shape[1], size):
        block, part = w[:, first : first + size], upper[first : first + size, first : first + size]
        lost = torch.empty_like(block)
        low, high = block.amin(1), block.amax(1)
        scale = torch.where(high > -low, high, low) / -8
        for j in range(block.shape[1]):
            out[:, first + j] = (block[:, j] / scale).round().clamp(-8, 7)
            error = (block[:, j] - out[:, first + j] * scale) / part[j, j]
            block[:, j:] -= torch.outer(error, part[j, j:])
            lost[:, j] = error
        w[:, first + size :] -= lost @ upper[first : first + size, first + size :]
    return out


def case_row_agreement(w):
    """Divergence of softmaxed rows, top-1 and top-10 agreement of two sets of scores."""
    r = w[: len(w) // 8]
    a = r + np.float32(0.01)
    peers = {
        "lepton": lambda: lk.row_agreement(r, a, 10, threads=1),
        "numpy, float64 as lepton, without top-10": lambda: numpy_divergence(
            r.astype(np.float64), a.astype(np.float64)
        ),
        "numpy, float32, without top-10": lambda: numpy_divergence(r, a),
    }
    return peers, None


def numpy_divergence(r, a):
    x, y = r - r.max(1, keepdims=True), a - a.max(1, keepdims=True)
    p = np.exp(x)
    z = p.sum(1)
    kl = np.einsum("ij,ij->i", p, x - y) / z - np.log(z) + np.log(np.exp(y).sum(1))
    return kl.mean(), np.mean(r.argmax(1) == a.argmax(1))


def case_block_mask(w):
    """Half of the blocks of four rows and one column, by their norms."""
    peers = {
        "lepton": lambda: lk.block_mask(w, 0.5, (4, 1), threads=1),
        "numpy, threshold by partition": lambda: numpy_block_mask(w),
    }
    return peers, None


def numpy_block_mask(w):
    norms = np.einsum("ijk,ijk->ik", (blocks := w.reshape(-1, 4, w.shape[1])), blocks)
    cut = np.partition(norms.ravel(), norms.size // 2)[norms.size // 2]
    return np.repeat(norms >= cut, 4, axis=0)
