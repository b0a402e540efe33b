"""OpenVINO's telemetry is off: no child process, no connection, no file in the user's home.

A program runs under a watcher in every process it starts: an audit hook, loaded through
``sitecustomize``, that writes down each start of a process and each use of the network, and lets
no use of the network through. That the watcher sees telemetry is shown on a plain
``import openvino``, which has it on. Where strace is installed, the kernel's own record says the
same.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

HOOK = '''
"""Written by the tests of lepton-openvino: notes processes and network use, blocks the latter."""
import os, sys

_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto",
            "socket.sendmsg", "socket.bind", "urllib.Request")
_PROCESS = ("os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system",
            "os.startfile", "subprocess.Popen", "_winapi.CreateProcess")
_log = os.open(os.environ["LEPTON_WATCH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def _hook(event, arguments):
    if event in _NETWORK or event in _PROCESS:
        os.write(_log, f"{os.getpid()} {event}\\n".encode())
    if event in _NETWORK:
        raise ConnectionRefusedError("the network is switched off by a test")

sys.addaudithook(_hook)
'''

IMPORT_ONLY = """
import openvino
import time
time.sleep(1.5)  # events are sent from a thread
"""

USE = """
import os, sys
from pathlib import Path
import numpy as np
from lepton_core.context import Context
from lepton_core.types import ConvertRequest, Model, OpenRequest
from lepton_openvino import plugin
folder = Path(sys.argv[2])
for precision in ("fp32", "fp16"):
    (folder / precision).mkdir()
    context = Context(folder / precision)
    request = ConvertRequest("openvino", precision=precision)
    made = plugin.lepton_convert(Model("pivot", sys.argv[1]), request, context).model
    with plugin.lepton_open(made, OpenRequest("openvino"), context) as session:
        assert session.run({"x": np.ones((2, 8), "f4")})["y"].shape == (2, 4)
import openvino, openvino.tools.ovc.telemetry_utils as utils
assert utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub", utils.tm
assert "openvino_telemetry" not in sys.modules
openvino.convert_model(sys.argv[1])  # the application's own calls are silent as well
assert "CI" not in os.environ
import time
time.sleep(1.5)
"""

AFTER_THE_APPLICATION = """
import openvino, os, time
time.sleep(1.5)
os.write(os.open(os.environ["LEPTON_WATCH_LOG"], os.O_WRONLY | os.O_APPEND), b"0 mark\\n")
"""

KEEPS_IT_FOR_OTHERS = """
import os, sys
import openvino_telemetry
from lepton_openvino._telemetry import openvino
openvino()
assert sys.modules["openvino_telemetry"] is openvino_telemetry
import openvino_telemetry.backend
"""


@pytest.fixture
def watched(tmp_path):
    """Run a program under the watcher; returns the events and the files in its home."""
    hooks, home, log = tmp_path / "hooks", tmp_path / "home", tmp_path / "events"
    hooks.mkdir()
    home.mkdir()
    (hooks / "sitecustomize.py").write_text(HOOK)
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "PYTHONSTARTUP")}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(hooks), *sys.path]),
        "LEPTON_WATCH_LOG": str(log),
        "HOME": str(home),
        "LOCALAPPDATA": str(home),
        # A second wall, should an event pass the first: nothing listens on this port.
        "https_proxy": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }

    def call(program, *arguments, prefix=()):
        log.write_text("")
        done = subprocess.run(
            [*prefix, sys.executable, "-c", program, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=environment,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        events = [line.split(" ", 1) for line in log.read_text().splitlines()]
        return events, sorted(str(p.relative_to(home)) for p in home.rglob("*"))

    return call


@pytest.fixture
def pivot(graphs, to_pivot):
    return to_pivot(graphs.mlp()).path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "results"
    path.mkdir()
    return path


def test_the_watcher_sees_telemetry_where_it_is_on(watched):
    events, files = watched(IMPORT_ONLY)
    kinds = {event for _, event in events}
    assert kinds & {"os.fork", "os.posix_spawn", "subprocess.Popen"}, "no process was started"
    assert kinds & {"socket.getaddrinfo", "socket.connect", "urllib.Request"}, "nothing was sent"
    assert len({pid for pid, _ in events}) > 1, "the watcher does not reach child processes"
    assert files, "no identifier was written"


def test_converting_and_running_starts_nothing_and_sends_nothing(watched, pivot, folder):
    events, files = watched(USE, pivot, folder)
    assert events == []
    assert files == []


def test_nothing_is_sent_after_an_application_imported_openvino_itself(watched, pivot, folder):
    without_checks = USE[: USE.index("import openvino, openvino.tools")]
    events, _ = watched(AFTER_THE_APPLICATION + without_checks, pivot, folder)
    kinds = [event for _, event in events]
    assert kinds[:-1], "the application's own import has telemetry on"
    assert kinds[-1] == "mark", f"sent by lepton's calls: {kinds[kinds.index('mark') + 1 :]}"


def test_the_package_stays_importable_for_others(watched):
    events, files = watched(KEEPS_IT_FOR_OTHERS)
    assert events == []
    assert files == []


def test_workers_are_silent_too(watched, pivot, folder):
    """Through the registry, in the plugin's worker process, as `lepton port` does it."""
    program = """
import sys
from pathlib import Path
from lepton_core.context import Context
from lepton_core.dispatch import Hooks
from lepton_core.registry import Registry
from lepton_core.types import ConvertRequest, Model
from lepton_core.workers import WorkerPool
with WorkerPool() as pool:
    hooks = Hooks(Registry(), pool)
    request = ConvertRequest("openvino", precision="fp16")
    made = hooks.convert(Model("pivot", sys.argv[1]), request, Context(Path(sys.argv[2])))
    assert made.facts["storage_precision"] == "fp16"
assert "openvino" not in sys.modules
"""
    events, files = watched(program, pivot, folder)
    # The one process is the worker; subprocess reports it under two names.
    assert {event for _, event in events} <= {"subprocess.Popen", "os.posix_spawn"}
    assert len({pid for pid, _ in events}) == 1, "the worker itself started or sent something"
    # The registry keeps a cache of entry points under .cache; OpenVINO would write under intel.
    assert not [name for name in files if not name.startswith(".cache")]


def _can_trace():
    strace = shutil.which("strace")
    if strace is None:
        return False
    done = subprocess.run(
        [strace, "-o", os.devnull, sys.executable, "-c", ""], capture_output=True, check=False
    )
    return done.returncode == 0


def _kernel_events(text):
    """Return started processes (not threads) and internet connections from a record of strace."""
    started = [
        line
        for line in text.splitlines()
        if re.search(r"\b(v?fork|clone3?)\(", line) and "CLONE_THREAD" not in line
    ]
    connected = re.findall(r"connect\(\d+, \{sa_family=AF_INET6?,[^}]*\}", text)
    return started, connected


@pytest.mark.skipif(not _can_trace(), reason="strace is not installed or may not trace")
def test_the_kernel_says_the_same(watched, pivot, folder, tmp_path):
    record = tmp_path / "trace"
    trace = ("strace", "-f", "-qq", "-e", "trace=process,network", "-o", str(record))
    watched(IMPORT_ONLY, prefix=trace)
    started, _ = _kernel_events(record.read_text())
    assert started, "the record does not show child processes"
    watched(USE, pivot, folder, prefix=trace)
    assert _kernel_events(record.read_text()) == ([], [])


def test_describing_the_target_imports_no_openvino(run_python):
    program = """
import json, sys
from lepton_openvino.info import INFO
import lepton_openvino.plugin
print(json.dumps(sorted({"openvino", "onnx", "numpy"} & set(sys.modules))))
"""
    assert run_python(program) == []
