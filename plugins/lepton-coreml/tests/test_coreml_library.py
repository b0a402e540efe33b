"""The torch operators of quantized graphs: a search converts in several threads at once."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from lepton_coreml._library import library

sys.setswitchinterval(1e-6)
start = Barrier(8)

def define(_):
    start.wait()
    return id(library())

with ThreadPoolExecutor(8) as threads:
    assert len(set(threads.map(define, range(8)))) == 1
"""


def test_threads_define_the_operators_once():
    """Torch refuses a namespace's second definition; only a fresh process has not made it."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
