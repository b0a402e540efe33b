"""One change to a store, in a process of its own, for tests that end it half way."""

import json
import os
import sys
import traceback
from pathlib import Path

from lepton_core.store import Store, _failpoints
from lepton_core.types import Model, Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("y", "float32", ("batch", 2)),)
)


def artifact(path):
    return Model("fake", str(path), signature=SIGNATURE, metadata={"labels": ["a", "b"]})


def deploy(root, extra):
    folder = Path(extra)
    with Store(root) as store:
        store.add(
            "N",
            artifact(folder / "third.bin"),
            target="fake",
            recipe=[folder / "recipe.json"],
            alias="production",
        )


def promote(root, extra):
    with Store(root) as store:
        store.promote("N", store.versions("N")[-1].id)


def rollback(root, extra):
    with Store(root) as store:
        store.rollback("N")


def setting(root, extra):
    with Store(root) as store:
        store.set_setting("N", "open", {"threads": 2})


def gc(root, extra):
    with Store(root) as store:
        store.gc(grace=0, keep=0)


def adjust(root, extra):
    """Adjust a deployment of two variants that differ widely."""
    import tempfile

    import sleepy_target

    from lepton_core.adjusting import _effect
    from lepton_core.context import Context
    from lepton_core.dispatch import Hooks
    from lepton_core.embedded import info as embedded_info
    from lepton_core.embedded import plugin as embedded
    from lepton_core.policy import info as policy_info
    from lepton_core.policy import plugin as policy
    from lepton_core.registry import Registry
    from lepton_core.types import AdjustRequest

    _effect.PAIRS, _effect.PAIR_SECONDS = 25, 0.0  # what is tested is how it ends, not the numbers
    registry = Registry(environ={}, entries=())
    registry.register(embedded, embedded_info.INFO)
    registry.register(policy, policy_info.INFO)
    registry.register(sleepy_target, sleepy_target.INFO)
    options = {"store": root, "seconds": 0.0, "settle": 0.0}
    with tempfile.TemporaryDirectory() as workdir:
        request = AdjustRequest("N", options=options)
        result = Hooks(registry).adjust(Model("deployment", "N"), request, Context(Path(workdir)))
    assert result.changes[0]["state"] == "kept", result.changes


def race(root, extra):
    """Wait for the start signal, then promote with a token that several hold."""
    from lepton_core.errors import LeptonError

    generation, version, go = extra.split(",")
    with Store(root) as store:
        print("ready", flush=True)
        while not Path(go).exists():
            pass
        try:
            store.promote("N", version, expect=int(generation))
            print("won")
        except LeptonError as error:
            print(error.code, json.dumps(error.details))


def churn(root, extra):
    """Deploy many versions, each read back at once."""
    folder, who, rounds = extra.split(",")
    with Store(root) as store:
        for number in range(int(rounds)):
            path = Path(folder, f"{who}.bin")
            path.write_bytes(f"{number % 3}".encode() * 100)
            added = store.add(f"N{who}", artifact(path), target="fake", alias="production")
            with store.view(added.version) as view:
                assert Path(view.model.path).read_bytes() == path.read_bytes()
        print("done")


def server(root, extra):
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


JOBS = {
    f.__name__: f for f in (deploy, promote, rollback, setting, gc, adjust, race, churn, server)
}

if __name__ == "__main__":
    JOBS[sys.argv[1]](sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "")
    if os.environ.get("LEPTON_FAILPOINT") == "trace":
        print(json.dumps(_failpoints.REACHED))
