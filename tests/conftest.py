"""Fixtures and guards for all tests.

The guards fail a test that leaves an environment variable, a thread or a child process behind,
or that reaches for the network.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import psutil
import pytest

DATA = Path(__file__).parent / "data"
FAKES = DATA / "fake_plugins"

# Before anything imports stevedore, which remembers its cache folder at import.
_HOME = tempfile.TemporaryDirectory(prefix="lepton-tests-", ignore_cleanup_errors=True)
atexit.register(_HOME.cleanup)
for _name in [name for name in os.environ if name.startswith("LEPTON_")]:
    del os.environ[_name]
os.environ["XDG_CACHE_HOME"] = str(Path(_HOME.name, "cache"))

# A shell starts what runs in the background with Ctrl-C ignored, which programs under test inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_CONNECT = socket.socket.connect


@pytest.fixture(autouse=True)
def no_network(request, monkeypatch):
    """Refuse connections except to this machine; tests marked integration may connect."""
    if request.node.get_closest_marker("integration"):
        return

    def connect(self, address):
        if self.family == getattr(socket, "AF_UNIX", None) or (
            isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1", "localhost")
        ):
            return _CONNECT(self, address)
        raise AssertionError(f"a test reaches for the network: {address}")

    monkeypatch.setattr(socket.socket, "connect", connect)


def _children():
    # The list of all processes costs milliseconds, for each test; most have no child to ask for.
    with contextlib.suppress(AttributeError):  # not on Windows
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # leaves it as it is
        except ChildProcessError:
            return set()
    return {child.pid for child in psutil.Process().children(recursive=True)}


def _lepton_threads():
    return {t for t in threading.enumerate() if t.name.startswith("lepton-") and t.is_alive()}


@pytest.fixture(autouse=True)
def no_leftovers():
    """Fail a test that leaves variables, jobs' threads or child processes behind."""
    before, children = dict(os.environ), _children()
    yield
    changed = {
        name
        for name in before.keys() | os.environ.keys()
        if before.get(name) != os.environ.get(name)
        # Libraries set their own when they are imported.
        and name.startswith(("LEPTON_", "PATH", "PYTHONPATH", "HOME", "XDG_", "HF_", "TMPDIR"))
    }
    until = time.monotonic() + 3
    while time.monotonic() < until and (_children() - children or _lepton_threads()):
        time.sleep(0.02)
    assert not changed, f"environment variables left behind: {changed}"
    assert not _lepton_threads(), "threads left behind"
    left = _children() - children
    assert not left, f"child processes left behind: {left}"


@pytest.fixture(autouse=True)
def fresh_hooks(no_leftovers):
    """Give every test its own default registry behind ``lepton_core.hooks``.

    Its workers end before the guard looks for processes.
    """
    from lepton_core import hooks

    hooks.use(None)
    yield
    used = hooks.use(None)
    if used is not None and used.pool is not None:
        used.pool.close()


@pytest.fixture
def fakes(monkeypatch):
    """Put fake distributions on the path; returns a function of their names.

    The function returns a registry that sees these distributions and no others, so that
    plugins installed beside the tests do not matter. Keywords become its environment.
    """
    from lepton_core._discovery import list_entries
    from lepton_core.registry import Registry

    known = set(sys.modules)

    def use(*cases, **environ):
        for case in cases:
            assert (FAKES / case).is_dir(), case
            monkeypatch.syspath_prepend(str(FAKES / case))
        entries = [e for e in list_entries() if e.distribution.startswith("fake-")]
        return Registry(environ=environ, entries=entries)

    yield use
    for name in set(sys.modules) - known:
        if name.partition(".")[0].startswith("fake_"):
            del sys.modules[name]


@pytest.fixture
def registry():
    """A registry without installed plugins."""
    from lepton_core.registry import Registry

    return Registry(environ={}, entries=())


@pytest.fixture
def fake_registry(registry):
    """A registry that holds the in-memory fake target."""
    from lepton_core.testing import fake_target

    registry.register(fake_target, fake_target.INFO)
    return registry


@pytest.fixture
def reporter():
    """A reporter that remembers."""
    from lepton_core.testing import RecordingReporter

    return RecordingReporter()


@pytest.fixture
def context(tmp_path, reporter):
    """A context that writes under the test's directory."""
    from lepton_core.context import Context

    workdir = tmp_path / "work"
    workdir.mkdir()
    return Context(workdir, reporter=reporter)


@pytest.fixture
def pool():
    """Worker processes, ended after the test."""
    from lepton_core.workers import WorkerPool

    with WorkerPool() as pool:
        yield pool


@pytest.fixture
def graph_file(tmp_path):
    """A source graph of the fake target: linear, scale, relu, linear."""
    import numpy as np

    from lepton_core.testing.fake_target import write_graph

    rng = np.random.default_rng(7)
    return write_graph(
        tmp_path / "net.fake",
        6,
        [
            {"op": "linear", "weight": rng.normal(size=(8, 6)), "bias": rng.normal(size=8)},
            {"op": "scale", "factor": 0.5},
            {"op": "relu"},
            {"op": "linear", "weight": rng.normal(size=(3, 8)), "bias": rng.normal(size=3)},
        ],
    )


@pytest.fixture
def plugin_warnings():
    """Collect every PluginWarning that is raised while the block runs."""
    from lepton_core.registry import PluginWarning

    @contextlib.contextmanager
    def collect():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = []
            yield found
        found.extend(w for w in caught if issubclass(w.category, PluginWarning))

    return collect
