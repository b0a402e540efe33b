"""A migration in a process of its own, for tests that end it half way."""

import importlib
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "fake_plugins" / "faulty"))

from fake_faulty import info as faulty_info
from fake_faulty import plugin as faulty_plugin

from lepton_core import types
from lepton_core.context import Context
from lepton_core.dispatch import Hooks
from lepton_core.embedded import plugin as embedded
from lepton_core.embedded.info import INFO
from lepton_core.errors import LeptonError
from lepton_core.registry import Registry
from lepton_core.store import Store, _failpoints
from lepton_core.testing import fake_target

for _name in (
    "lepton_core.deployment",
    "lepton_core.embedded._deploy",
    "lepton_core.environment",
    "lepton_core.metrics",
    "lepton_core.migration",
    "lepton_core.passport",
    "lepton_core.recipe",
    "lepton_core.samples",
    "lepton_core.testing._fake_graph",
    "lepton_kernels",
    "psutil",
):
    importlib.import_module(_name)  # before the fork, so that no child pays for it

if __name__ != "__main__":  # a test that imports this must not find the plugin afterwards
    sys.path.remove(str(Path(__file__).parent / "fake_plugins" / "faulty"))
    for _name in [name for name in sys.modules if name.partition(".")[0] == "fake_faulty"]:
        del sys.modules[_name]


def make_hooks():
    registry = Registry(environ={}, entries=())
    registry.register(fake_target, fake_target.INFO)
    registry.register(faulty_plugin, faulty_info.INFO)
    registry.register(embedded, INFO)
    return Hooks(registry)


def migrate(root, extra, **options):
    """Migrate N; ``extra`` is the file of samples."""
    options = {"store": root, "data": extra, "watch": 0.01, "latency_seconds": 0, **options}
    target = "" if options.get("resume") else "faulty"
    with tempfile.TemporaryDirectory(dir=Path(root).parent) as scratch:
        request = types.MigrateRequest("N", target, options=options)
        return make_hooks().migrate(types.Model("deployment", "N"), request, Context(Path(scratch)))


def resume(root, extra):
    """Take up what is left; nothing to take up is as good."""
    try:
        migrate(root, extra, resume=True)
    except LeptonError as error:
        if error.code != "LPT-MIG-010":
            raise


def alarmed(root, extra):
    """Migrate while something speaks against the new version, so that it comes back."""

    def probe(*_):
        return "it does not do its work"

    from lepton_core.migration import _steps

    _steps.probe = probe
    assert migrate(root, extra).outcome == "returned"


def unequal(root, extra):
    """Migrate to what turns out not to be equivalent."""
    os.environ["FAULTY_FILE"] = f"{extra}.fault"
    assert migrate(root, extra).outcome == "returned"


def server():
    """Run one job per line of standard input in a fork, and print how it ended."""
    for line in sys.stdin:
        job, where, what, failpoint = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                _failpoints.arm(failpoint)
                JOBS[job](where, what)
                if failpoint == "trace":
                    print(json.dumps(_failpoints.REACHED), flush=True)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


JOBS = {f.__name__: f for f in (migrate, resume, alarmed, unequal)}

if __name__ == "__main__":
    if sys.argv[1] == "server":
        server()
    else:
        JOBS[sys.argv[1]](sys.argv[2], sys.argv[3])
        with Store(sys.argv[2]) as store:
            print(store.alias("N").version)
