"""Threads, signals and instruction sets."""

import hashlib
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import lepton_kernels as lk

STOPPED = """
import signal, sys, time
import numpy as np
import lepton_kernels as lk

# 2^36 values that take no memory: minutes of work unless it is stopped.
endless = np.broadcast_to(np.float32(1), (2**18, 2**18))

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
start = time.monotonic()
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    lk.minmax(endless, threads=int(sys.argv[1]))
except KeyboardInterrupt:
    print(time.monotonic() - start)
"""


@pytest.mark.parametrize(
    "make",
    [
        lk.AgreementAccumulator,
        lk.ErrorAccumulator,
        lk.HistogramObserver,
        lk.RangeObserver,
        lambda: lk.HessianAccumulator(3),
    ],
)
def test_accumulators_merge_with_their_own_kind_alone(make):
    for other in (3, None, {}):
        with pytest.raises(lk.KernelTypeError, match="merges with its own kind, got"):
            make().merge(other)


@pytest.mark.skipif(sys.platform == "win32", reason="signal.setitimer is POSIX")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_signal_stops_a_long_call(threads):
    """In a process of its own: an interrupt that misses the call must not end the test run."""
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, str(threads)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert 0.1 < float(done.stdout) < 20


def test_other_python_threads_run_meanwhile():
    x = np.zeros(30_000_000, np.float32)
    seen = []
    stop = threading.Event()

    def watch():
        while not stop.is_set():
            seen.append(time.monotonic())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    while not seen:
        time.sleep(0.001)
    start = time.monotonic()
    while time.monotonic() - start < 0.2:
        lk.error_metrics(x, x, threads=1)
    end = time.monotonic()
    stop.set()
    watcher.join()
    # With the GIL held the watcher would run between calls only: a few times in all.
    calls = sum(start < at < end for at in seen)
    assert calls > 20


SCRIPT = """
import hashlib, sys
import numpy as np
import lepton_kernels as lk
assert lk.simd_level() in sys.argv[1:], lk.simd_level()
rng = np.random.default_rng(3)
x = rng.standard_normal((37, 1003)).astype(np.float32)
x[3, 5:9] = [np.inf, -np.inf, 0.0, -0.0]
digest = hashlib.sha256()
for y in (x, x.astype(np.float16), x.T):
    for axis in (None, 0, 1):
        scale = np.linspace(0.01, 0.02, 1 if axis is None else y.shape[axis], dtype=np.float32)
        q = lk.quantize(y, scale, 3, axis=axis)
        back = lk.dequantize(q, scale, 3, axis=axis)
        digest.update(lk.fake_quantize(y, scale, 3, axis=axis).tobytes())
        for part in (q, back, *lk.minmax(y, axis=axis), lk.absmax(y, axis=axis)):
            digest.update(np.ascontiguousarray(part).tobytes())
        digest.update(repr(lk.error_metrics(y, back)).encode())
    for dtype in ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"):
        digest.update(lk.cast_float(y, dtype).values.tobytes())
    observer = lk.HistogramObserver().update(y)
    digest.update(repr(observer.to_dict()).encode())
    for found in (observer.mse_threshold(), observer.entropy_threshold()):
        digest.update(repr(found).encode())
z = np.where(np.isfinite(x), x, 1)
for rounding in ("half_away", "stochastic"):
    digest.update(lk.quantize(z, 0.01, rounding=rounding).tobytes())
for scheme in ("signed_max", "asymmetric"):
    for part in lk.quantize_blocks(z, 32, scheme=scheme, clip="mse")[:2]:
        digest.update(part.tobytes())
for found in (
    lk.quantize_blocks(z, 32, scheme="asymmetric", zero_point="float", clip="mse"),
    lk.quantize_blocks(z, 32, scheme="asymmetric", rounding="stochastic", seed=5),
    lk.quantize_blocks(z, 1003, bits=8, scheme="asymmetric", clip="mse"),
):
    for part in found:
        digest.update(part.tobytes())
for part in lk.scale_mse(np.resize(z, 400_000)):
    digest.update(part.tobytes())
for block in ((4, 1), (2, 4), (3, 9)):
    digest.update(lk.block_mask(z, 0.5, block).tobytes())
wide = np.resize(z, (1100, 1000)) * np.linspace(1, 2, 1000, dtype=np.float32)
digest.update(lk.prune_mask(wide, 0.5).tobytes())
digest.update(lk.nm_mask(wide).tobytes())
digest.update(lk.palettize(wide, 4).indices.tobytes())
hessian = lk.HessianAccumulator(37).update(z.T).result()
digest.update(hessian.tobytes())
for part in lk.gptq(z.T, hessian, 16, clip="mse")[:2]:
    digest.update(part.tobytes())
digest.update(repr(lk.output_error(z, z + 1, z)).encode())
digest.update(repr(lk.row_agreement(z, z * z, 5)).encode())
print(digest.hexdigest())
"""


def test_every_instruction_set_gives_the_same_bits():
    levels = ["baseline", "avx2", "avx512"]
    digests = set()
    for i, level in enumerate(levels):
        environment = {**os.environ, "LEPTON_KERNELS_SIMD": level}
        # A processor without a level uses the best below it.
        command = [sys.executable, "-c", SCRIPT, *levels[: i + 1]]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        digests.add(done.stdout.strip())
    assert len(digests) == 1 and len(digests.pop()) == hashlib.sha256().digest_size * 2
