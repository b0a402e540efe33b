"""A deployment of a trained network moves from any runtime of this machine to any other one.

Core ML runs in its reference interpreter here, as every ML Program does away from Apple's devices;
it takes over only where it is named.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lepton_core as lepton
from lepton_core import types
from lepton_core.errors import MigrateError
from lepton_core.store import Store

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.xdist_group("migration-pairs"),  # one worker ports
]

RUNTIMES = ("onnxruntime", "openvino", "tflite", "coreml")
PAIRS = list(itertools.permutations(RUNTIMES, 2))
PLACES = {"coreml": "coreml:reference"}
# Largest relative L2 error between two runtimes: float32 sums in another order, and for int8 the
# rate of integers that requantization rounds the other way.
LIMITS = {"fp32": 1e-5, "int8": 2e-2}


@pytest.fixture(scope="module")
def ported(port_digits):
    """The digits network, trained here, as fp32 and int8 for every runtime."""
    folder, variants = port_digits(RUNTIMES)
    models = {key: variant.model for key, variant in variants.items()}
    needed = [*((runtime, "fp32") for runtime in RUNTIMES), (RUNTIMES[0], "int8")]
    assert all(models[one] for one in needed), [f"{v.target}: {v.why}" for v in variants.values()]
    return folder, models


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_any_runtime_to_any_other(ported, hooks, context, tmp_path, before, after, precision):
    folder, models = ported
    with np.load(folder / "digits.npz") as data:
        images = data["image"][:32]
    with Store(tmp_path / "store") as store:
        place = {"store": str(store.path)}
        # A compressed variant that is no smaller here is not kept; its recipe makes it again.
        model = models[before, precision] or models[RUNTIMES[0], precision]
        if models[before, precision] is None:
            first = types.DeployRequest("first", RUNTIMES[0], "production", options=place)
            hooks.deploy(model, first, context)
            model = types.Model("deployment", "first@production")
        deploy = types.DeployRequest("digits", before, "production", options=place)
        hooks.deploy(model, deploy, context)
        options = {
            **place, "data": str(folder / "digits.npz"), "watch": 0, "latency_seconds": 0,
        }  # fmt: skip
        with lepton.deployment("digits", store=store.path, hooks=hooks) as deployed:
            old = deployed.run({"image": images})["logits"]
            result = hooks.migrate(
                types.Model("deployment", "digits"),
                types.MigrateRequest("digits", PLACES.get(after, after), options=options),
                context,
            )
            assert result.outcome == "done", result.why
            deployed.check()
            new = deployed.run({"image": images})["logits"]
        version = store.resolve("digits").version
        assert (version.target, version.precision) == (PLACES.get(after, after), precision)
        assert store.passport(version)["verdict"]["verdict"] == "pass"
        assert store.verify().ok
    assert result.facts["outputs"]["logits"]["rel_l2"] < LIMITS[precision]
    error = np.linalg.norm(new - old) / np.linalg.norm(old)
    assert error < LIMITS[precision]
    assert (new.argmax(1) == old.argmax(1)).all()


def test_core_ml_gets_no_traffic_here_unless_its_interpreter_is_named(
    ported, hooks, context, tmp_path
):
    folder, models = ported
    with Store(tmp_path / "store") as store:
        place = {"store": str(store.path)}
        deploy = types.DeployRequest("digits", RUNTIMES[0], "production", options=place)
        hooks.deploy(models[RUNTIMES[0], "fp32"], deploy, context)
        before = store.alias("digits")
        options = {**place, "data": str(folder / "digits.npz"), "watch": 0}
        with pytest.raises(MigrateError, match="LPT-MIG-011"):
            hooks.migrate(
                types.Model("deployment", "digits"),
                types.MigrateRequest("digits", "coreml", options=options),
                context,
            )
        assert store.alias("digits") == before
        # What the error advises instead.
        bundle = types.DeployRequest(
            "app", "coreml", kind="bundle", options={**place, "out": str(tmp_path / "app")}
        )
        hooks.deploy(types.Model("deployment", "digits@production"), bundle, context)
        assert list((tmp_path / "app").rglob("*.mlpackage"))


def test_the_command_goes_round_all_of_them(ported, tmp_path):
    """``lepton migrate`` as users run it, from the first runtime over all others and back."""
    folder, models = ported
    store = tmp_path / "store"

    def lepton_says(*words):
        ended = subprocess.run(
            [sys.executable, "-m", "lepton_core.cli", *map(str, words), "--json"],
            env={**os.environ, "LEPTON_STORE": str(store)},
            cwd=folder, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return json.loads(ended.stdout)

    first, *others = RUNTIMES
    built = Path(models[first, "fp32"].path).parent
    lepton_says("deploy", built, "--name", "digits", "--to", first, "--alias", "production")
    for target in (*others, first):
        to = PLACES.get(target, target)
        said = lepton_says("migrate", "digits", "--to", to, "--data", "digits.npz", "--watch", "0s")
        assert said["outcome"] == "done"
    with Store(store) as opened:
        assert opened.resolve("digits").version.target == first
        assert opened.verify().ok
