"""What other packages do for the same work; each is imported when its case is set up.

`kernels.py` adds these to the peers of its cases. They live in an environment of their own (see
`.ci/devtools/bench_env.py`); what is not installed is left out and named in the report.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

GROUP = 32


@dataclass(frozen=True)
class Peer:
    """One way to do the work of a case.

    Attributes:
        run: Does it once.
        share: The share of the work that `run` does; times are divided by it.
        error: What makes of a result a number to compare, such as its relative error.
    """

    run: Callable[[], Any]
    share: float = 1.0
    error: Callable[[Any], float] | None = None


def installed(name: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(name) is not None


def relative(w: np.ndarray, back: np.ndarray) -> float:
    """The relative error of weights, in float64."""
    return float(np.linalg.norm((w - back).ravel()) / np.linalg.norm(w.ravel()))


def add_peers(case: str, w: np.ndarray) -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers of a case that are installed, and why others are not there."""
    found, absent = {}, {}
    for name, package, make in PEERS.get(case, ()):
        if not installed(package):
            absent[name] = f"{package} is not installed"
            continue
        try:
            found[name] = make(w)
        except Exception as error:
            # Peers change their insides; the others are measured all the same.
            absent[name] = f"{type(error).__name__}: {error}"
    return found, absent


def _onnxruntime_tool(w):
    import onnx
    from onnxruntime.quantization.quant_utils import quantize_nparray

    def run():
        scale = np.abs(w).max(1, keepdims=True) / np.float32(127)
        zero = np.zeros(scale.shape, np.int8)
        return quantize_nparray(onnx.TensorProto.INT8, w, scale, zero, -127, 127)

    return Peer(run)


def _coremltools_int8(w):
    from coremltools.optimize.coreml._quantization_passes import linear_quantize_weights

    return Peer(
        lambda: (
            linear_quantize_weights.blockwise_compress(
                w, nbits=8, mode="LINEAR_SYMMETRIC", signed=True, block_sizes=[1, 0]
            ).data
        )
    )


def _ai_edge_int8(w):
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithms.uniform_quantize import uniform_quantize_tensor as tensor

    def run():
        low, high = w.min(1, keepdims=True), w.max(1, keepdims=True)
        granularity = qtyping.QuantGranularity.CHANNELWISE
        zero, scale = tensor.tensor_zp_scale_from_min_max(low, high, 8, True, granularity)
        parameters = qtyping.UniformQuantParams(
            num_bits=8, quantized_dimension=0, scale=scale, zero_point=zero, symmetric=True
        )
        return tensor.uniform_quantize(w, parameters)

    return Peer(run)


def _torchao(w, bits, block):
    import torch
    from torchao.quantization.quant_primitives import (
        MappingType,
        choose_qparams_affine,
        quantize_affine,
    )

    torch.set_num_threads(1)
    tensor, half = torch.from_numpy(w), 2 ** (bits - 1)
    # Symmetric int8 by row leaves -128 out, as the definition does.
    limits = (1 - half if bits == 8 else -half, half - 1)

    def run():
        scale, zero = choose_qparams_affine(
            tensor, MappingType.SYMMETRIC, block, torch.int8, *limits
        )
        return quantize_affine(tensor, block, scale, zero, torch.int8, *limits).numpy()

    return Peer(run)


def _nncf(w, mode, group):
    import nncf
    from nncf.quantization.algorithms.weight_compression import weight_lowering
    from nncf.quantization.algorithms.weight_compression.config import WeightCompressionConfig
    from nncf.tensor import Tensor

    config = WeightCompressionConfig(getattr(nncf.CompressWeightsMode, mode), group)
    return Peer(lambda: weight_lowering.compress_weight(Tensor(w), 1, config).tensor.data)


def _gguf(w, name):
    import gguf

    kind = getattr(gguf.GGMLQuantizationType, name)

    def error(result):
        return relative(w, gguf.quants.dequantize(result, kind))

    return Peer(lambda: gguf.quants.quantize(w, kind), error=error)


def _onnxruntime_histogram(w):
    from onnxruntime.quantization.calibrate import HistogramCollector

    def run():
        collector = HistogramCollector(
            method="percentile",
            symmetric=False,
            num_bins=2048,
            num_quantized_bins=128,
            percentile=99.9,
            scenario="same",
        )
        collector.collect({"x": [w]})
        return collector

    return Peer(run)


def _coremltools_palette(w, bits):
    from coremltools.optimize.coreml._quantization_passes import palettize_weights

    part = w.ravel()[: 1 << 24].astype(np.float16)
    wide = part.astype(np.float64)

    def error(result):
        lut, indices = result
        return float(np.mean((wide - np.asarray(lut, np.float64).ravel()[indices.ravel()]) ** 2))

    return Peer(
        lambda: palettize_weights._get_lut_and_indices(part, "KMEANS", bits, None), error=error
    )


def _coremltools_half(w):
    from coremltools.optimize.coreml._quantization_passes import prune_weights

    return Peer(lambda: prune_weights.compress_by_magnitude(w, 0.5))


def _coremltools_2_4(w):
    from coremltools.optimize.coreml._quantization_passes import prune_weights

    return Peer(lambda: prune_weights.compress_by_nm_sparsity(w, (2, 4), 1))


def _hqq(w, group):
    import torch
    from onnxruntime.quantization.matmul_nbits_quantizer import HQQWeightOnlyQuantizer

    torch.set_num_threads(1)
    rows = max(1, len(w) // 16)
    hqq, part = HQQWeightOnlyQuantizer(None), torch.from_numpy(w[:rows])

    def error(result):
        codes, scale, zero = (tensor.float().numpy() for tensor in result)
        blocks = codes.reshape(-1, group)
        back = (blocks - zero.reshape(-1, 1)) * scale.reshape(-1, 1)
        return relative(w[:rows], back.reshape(rows, -1))

    run = lambda: hqq.quantize_internal(part, bits=4, group_size=group)  # noqa: E731
    return Peer(run, share=rows / len(w), error=error)


# case: (name in the report, package, maker).
PEERS: dict[str, list[tuple[str, str, Callable[[np.ndarray], Peer]]]] = {
    "int8_symmetric": [
        ("onnxruntime's tool", "onnxruntime", _onnxruntime_tool),
        ("coremltools", "coremltools", _coremltools_int8),
        ("ai-edge-quantizer", "ai_edge_quantizer", _ai_edge_int8),
        ("torchao", "torchao", lambda w: _torchao(w, 8, (1, w.shape[1]))),
        ("nncf", "nncf", lambda w: _nncf(w, "INT8_SYM", -1)),
    ],
    "int4_blocks": [
        ("torchao, no packing", "torchao", lambda w: _torchao(w, 4, (1, GROUP))),
        ("nncf, no packing", "nncf", lambda w: _nncf(w, "INT4_SYM", GROUP)),
        ("gguf Q4_0", "gguf", lambda w: _gguf(w, "Q4_0")),
        ("gguf Q4_1, asymmetric", "gguf", lambda w: _gguf(w, "Q4_1")),
    ],
    "histogram": [("onnxruntime's collector", "onnxruntime", _onnxruntime_histogram)],
    "clip_search": [
        ("onnxruntime HQQ, a 16th of the rows", "onnxruntime", lambda w: _hqq(w, 32)),
        ("onnxruntime HQQ, blocks of 128, a 16th", "onnxruntime", lambda w: _hqq(w, 128)),
    ],
    "palette": [
        ("coremltools fp16, 16 entries", "coremltools", lambda w: _coremltools_palette(w, 4)),
        ("coremltools fp16, 64 entries", "coremltools", lambda w: _coremltools_palette(w, 6)),
    ],
    "half_mask": [("coremltools", "coremltools", _coremltools_half)],
    "mask_2_4": [("coremltools", "coremltools", _coremltools_2_4)],
}
