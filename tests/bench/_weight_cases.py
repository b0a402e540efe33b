"""The cases of quantization, casts and ranges; `kernels.py` runs them."""

from __future__ import annotations

import threading

import numpy as np
from _kernel_peers import GROUP, Peer, installed, relative

import lepton_kernels as lk
import lepton_kernels.reference


def case_int8_symmetric(w):
    """Scales per row from the largest magnitude, then int8, into fresh memory."""
    peers = {
        "lepton": lambda: lk.quantize_symmetric(w, axis=0, threads=1)[0],
        "lepton, 2 threads": lambda: lk.quantize_symmetric(w, axis=0, threads=2)[0],
        "lepton, two calls": lambda: lk.quantize(
            w, lk.scale_symmetric(w, axis=0, threads=1), axis=0, narrow=True, threads=1
        ),
        "probe: read once, fill fresh int8": lambda: probe(w),
        "probe, 2 threads": lambda: by_two(w, np.empty(w.shape, np.int8), read_and_fill),
        "probe: read once": w.max,
        "probe: read once, 2 threads": lambda: by_two(w, w, lambda part, _: part.max()),
        "numpy": lambda: numpy_int8(w),
        "numpy in row blocks": lambda: numpy_int8_blocks(w),
    }
    if installed("torch"):
        peers["torch"] = torch_int8(w)
    scale = np.abs(w).max(1) / np.float32(127)
    return peers, np.clip(np.rint(w / scale[:, None]), -127, 127).astype(np.int8)


def case_int8_scales_given(w):
    """int8 with known scales per row."""
    scale = np.abs(w).max(1) / np.float32(127)
    out = np.zeros(w.shape, np.int8)
    peers = {
        "lepton": lambda: lk.quantize(w, scale, axis=0, threads=1),
        "lepton, out= reused": lambda: lk.quantize(w, scale, axis=0, out=out, threads=1),
        "lepton, out= reused, 2 threads": lambda: lk.quantize(w, scale, axis=0, out=out, threads=2),
        "numpy": lambda: np.clip(np.rint(w / scale[:, None]), -128, 127).astype(np.int8),
    }
    if installed("onnxruntime") and installed("onnx"):
        peers["onnxruntime (reuses its memory)"] = onnxruntime_int8(w)
    return peers, np.clip(np.rint(w / scale[:, None]), -128, 127).astype(np.int8)


def probe(w, dtype=np.int8):
    """A reading of the input and a writing of the output, each at memory speed."""
    read_and_fill(w, np.empty(w.shape, dtype))


def read_and_fill(w, out):
    w.max()
    out.fill(0)


def by_two(w, out, work):
    """Let two threads do the work, each with half of the rows."""
    middle = len(w) // 2
    other = threading.Thread(target=work, args=(w[middle:], out[middle:]))
    other.start()
    work(w[:middle], out[:middle])
    other.join()


def numpy_int8(w):
    scale = np.abs(w).max(1, keepdims=True) / np.float32(127)
    return np.clip(np.rint(w / scale), -127, 127).astype(np.int8)


def numpy_int8_blocks(w, rows=4):
    out = np.empty(w.shape, np.int8)
    buffer = np.empty((rows, w.shape[1]), np.float32)
    for start in range(0, len(w), rows):
        block = w[start : start + rows]
        part = buffer[: len(block)]
        np.abs(block, out=part)
        scale = part.max(1, keepdims=True) / np.float32(127)
        np.divide(block, scale, out=part)
        np.rint(part, out=part)
        np.clip(part, -127, 127, out=part)
        out[start : start + rows] = part
    return out


def torch_int8(w):
    import torch

    torch.set_num_threads(1)
    tensor = torch.from_numpy(w)
    zero = torch.zeros(len(w), dtype=torch.int64)

    def run():
        scale = tensor.abs().amax(1) / 127
        q = torch.quantize_per_channel(tensor, scale, zero, 0, torch.qint8)
        return q.int_repr().numpy()

    return run


def onnxruntime_session(nodes, inputs, outputs):
    import onnx
    import onnxruntime

    graph = onnx.helper.make_graph(nodes, "bench", inputs, outputs)
    opset = [onnx.helper.make_opsetid("", 21)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def onnxruntime_int8(w):
    import onnx

    kind, value = onnx.TensorProto, onnx.helper.make_tensor_value_info
    session = onnxruntime_session(
        [onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=0)],
        [
            value("x", kind.FLOAT, list(w.shape)),
            value("s", kind.FLOAT, [len(w)]),
            value("z", kind.INT8, [len(w)]),
        ],
        [value("q", kind.INT8, list(w.shape))],
    )
    scale = np.abs(w).max(1) / np.float32(127)
    feed = {"x": w, "s": scale, "z": np.zeros(len(w), np.int8)}
    return lambda: session.run(None, feed)[0]


def case_dequantize(w):
    """int8 per row to float32, into fresh memory."""
    q, scale = lk.quantize_symmetric(w, axis=0)
    peers = {
        "lepton": lambda: lk.dequantize(q, scale, axis=0, threads=1),
        "lepton, 2 threads": lambda: lk.dequantize(q, scale, axis=0, threads=2),
        "numpy": lambda: q.astype(np.float32) * scale[:, None],
    }
    if installed("torch"):
        import torch

        zero = torch.zeros(len(w), dtype=torch.int64)
        made = torch._make_per_channel_quantized_tensor(
            torch.from_numpy(q), torch.from_numpy(scale), zero, 0
        )
        peers["torch"] = lambda: made.dequantize().numpy()
    return peers, q.astype(np.float32) * scale[:, None]


def case_int4_blocks(w):
    """4 bits in blocks of 32 along the rows, packed, signed maximum."""

    def error(result):
        codes = lk.unpack_int4(result.codes.reshape(len(w), -1), w.shape[1], offset=8)
        return relative(w, lk.dequantize_blocks(codes, result.scale, None, GROUP))

    peers = {
        "lepton": Peer(
            lambda: lk.quantize_blocks(w, GROUP, packed=True, offset=8, threads=1), error=error
        ),
        "lepton, 2 threads": lambda: lk.quantize_blocks(w, GROUP, packed=True, offset=8, threads=2),
        "numpy": lambda: numpy_int4(w),
    }
    if installed("onnxruntime"):
        peers["onnxruntime C++ kernel"] = onnxruntime_int4(w)
    return peers, None


def numpy_int4(w):
    blocks = w.reshape(-1, GROUP)
    low, high = blocks.min(1), blocks.max(1)
    scale = np.where(high > -low, high, low) / np.float32(-8)
    q = (np.clip(np.rint(blocks / scale[:, None]), -8, 7) + 8).astype(np.uint8)
    return q[:, ::2] | q[:, 1::2] << 4


def onnxruntime_int4(w):
    from onnxruntime.capi import _pybind_state

    # The kernel works down the columns of a [K, N] matrix.
    columns = np.ascontiguousarray(w.T)
    k, n = columns.shape
    blocks = -(-k // GROUP)
    packed = np.zeros((n, blocks, GROUP // 2), np.uint8)
    scales = np.zeros(n * blocks, np.float32)
    zeros = np.zeros(n * ((blocks + 1) // 2), np.uint8)

    def run():
        _pybind_state.quantize_matmul_4bits(packed, columns, scales, zeros, GROUP, n, k, True)

    return run


def case_minmax(w):
    """The range of the whole tensor."""
    peers = {
        "lepton": lambda: lk.minmax(w, threads=1),
        "lepton, 2 threads": lambda: lk.minmax(w, threads=2),
        "numpy": lambda: (w.min(), w.max()),
    }
    if installed("torch"):
        import torch

        tensor = torch.from_numpy(w)
        peers["torch"] = lambda: torch.aminmax(tensor)
    return peers, None


def case_error_metrics(w):
    """Largest, mean and relative error, SQNR and cosine of two arrays."""
    near = w.astype(np.float16).astype(np.float32)
    peers = {
        "lepton (with histogram)": lambda: lk.error_metrics(w, near, threads=1),
        "lepton, 2 threads": lambda: lk.error_metrics(w, near, threads=2),
        "numpy, float32 sums": lambda: numpy_metrics(w, near),
    }
    return peers, None


def numpy_metrics(r, a):
    r, a = r.ravel(), a.ravel()
    d = r - a
    error, signal, other = np.dot(d, d), np.dot(r, r), np.dot(a, a)
    size = np.abs(d)
    cosine = np.dot(r, a) / np.sqrt(signal * other)
    return size.max(), size.mean(), np.sqrt(error / signal), 10 * np.log10(signal / error), cosine


def case_float16(w):
    """float32 to float16, into fresh memory."""
    peers = {
        "lepton (with counts)": lambda: lk.cast_float(w, "float16", threads=1).values,
        "lepton, 2 threads": lambda: lk.cast_float(w, "float16", threads=2).values,
        "numpy": lambda: w.astype(np.float16),
        "probe: read once, fill fresh 16 bits": lambda: probe(w, np.uint16),
    }
    if installed("torch"):
        import torch

        tensor = torch.from_numpy(w)
        peers["torch"] = lambda: tensor.half().numpy()
    return peers, w.astype(np.float16)


def case_bfloat16(w):
    """float32 to bfloat16, into fresh memory."""
    peers = {
        "lepton (with counts)": lambda: lk.cast_float(w, "bfloat16", threads=1).values,
        "lepton, 2 threads": lambda: lk.cast_float(w, "bfloat16", threads=2).values,
        "probe: read once, fill fresh 16 bits": lambda: probe(w, np.uint16),
    }
    if installed("ml_dtypes"):
        import ml_dtypes

        peers["ml_dtypes"] = lambda: w.astype(ml_dtypes.bfloat16).view(np.uint16)
    if installed("torch"):
        import torch

        tensor = torch.from_numpy(w)
        peers["torch"] = lambda: tensor.bfloat16().view(torch.uint16).numpy()
    return peers, lk.reference.cast_bfloat16(w)[0]


def case_many_tensors(w):
    """int8 per row of the 200 tensors of a BERT-base model (109 M values)."""
    shapes = [(30522, 768), (512, 768), (2, 768), (768, 768)]
    for _ in range(12):
        shapes += [(768, 768)] * 4 + [(3072, 768), (768, 3072)] + [(768,)] * 10
    flat = w.ravel()
    tensors = [np.resize(flat[: np.prod(s)], s) for s in shapes]
    peers = {
        "lepton": lambda: [lk.quantize_symmetric(t, axis=0, threads=1) for t in tensors],
        "lepton, 2 threads": lambda: (
            [lk.quantize_symmetric(t, axis=0, threads=2) for t in tensors]
        ),
    }
    if installed("torch"):
        runs = [torch_int8(t) for t in tensors if t.ndim == 2]
        peers["torch, matrices only"] = lambda: [run() for run in runs]
    return peers, None
