"""Where ai-edge-litert is missing, sessions and bundles run on tflite-runtime and NumPy 1."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

import lepton_core
from lepton_core.types import Model

pytestmark = [pytest.mark.xdist_group("tflite"), pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[3]
NOT_THERE = re.compile(r"No matching distribution found for tflite-runtime")

OPEN = """
import json, sys
from pathlib import Path
import numpy as np
from lepton_core.context import Context
from lepton_core.errors import SessionError
from lepton_core.types import Model, OpenRequest
from lepton_tflite import plugin
folder, facts = Path(sys.argv[1]), {}
for file in sorted(folder.glob("*.tflite")):
    name = file.stem
    def opened(**options):
        request = OpenRequest("tflite", threads=1, options=options)
        return plugin.lepton_open(Model("tflite", str(file)), request, Context(folder))
    found = {}
    with opened() as session:
        facts[name] = dict(session.facts)
        for rows in (3, 1):
            given = dict(np.load(folder / f"{name}-{rows}.npz"))
            found |= {f"{key}-{rows}": a for key, a in session.run(given).items()}
        try:
            session.run({key: a[..., :1] for key, a in given.items()})
        except SessionError as error:
            facts[name]["wrong shape"] = error.code
    with opened(xnnpack="off") as session:
        facts[name]["without"] = session.facts["delegate"]
    try:
        opened(api="compiled")
    except SessionError as error:
        facts[name]["compiled"] = error.code
    np.savez(folder / f"{name}-found.npz", **found)
facts["numpy"] = np.__version__
facts["modules"] = sorted(m for m in sys.modules if m in ("onnx", "ai_edge_litert", "torch"))
print(json.dumps(facts, default=str))
"""


def program(folder):
    """Return how a command in the environment begins."""
    place = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    return [str(folder / place), "-B"]


@pytest.fixture(scope="session")
def older(tmp_path_factory):
    """Make an environment with tflite-runtime; returns the beginning of a command in it."""
    folder = tmp_path_factory.mktemp("older") / "env"
    venv.create(folder, with_pip=True)
    wanted = Path(__file__).with_name("tflite-runtime.txt")
    # The project's versions, but for what the file itself pins.
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    kept = [line for line in pins if not line.startswith("numpy==")]
    limits = folder / "constraints.txt"
    limits.write_text("\n".join(kept))
    done = subprocess.run(
        [*program(folder), "-m", "pip", "install", "-q", "-r", str(wanted), "-c", str(limits)],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    if done.returncode and NOT_THERE.search(done.stderr):
        pytest.skip(f"tflite-runtime has no build for Python {sys.version.split()[0]} here")
    assert done.returncode == 0, done.stderr
    return program(folder)


def sources():
    """Return PYTHONPATH for the project's own packages, which want NumPy 2 when installed."""
    places = (ROOT, ROOT / "plugins/lepton-onnx/src", ROOT / "plugins/lepton-tflite/src")
    return os.pathsep.join(map(str, places))


@pytest.fixture(scope="session")
def integers(graphs, tmp_path_factory):
    """The small network as int8, made as users make it."""
    folder = tmp_path_factory.mktemp("int8")
    (folder / "small.onnx").write_bytes(graphs.small().SerializeToString())
    np.savez(folder / "rows.npz", **graphs.inputs(64))
    found = lepton_core.port(
        folder / "small.onnx", targets=["tflite"], samples=str(folder / "rows.npz"),
        precisions=["int8"], out=folder / "out",
    )  # fmt: skip
    (made,) = (v for v in found["tflite"].variants if v.precision == "int8")
    return made.model


@pytest.mark.conformance
def test_float_and_int8_files_run_as_on_the_newer_runtime(
    older, single, integers, opened, graphs, tmp_path
):
    models = {"float": single.model, "int8": integers}
    for name, model in models.items():
        (tmp_path / f"{name}.tflite").write_bytes(Path(model.path).read_bytes())
        for rows in (3, 1):
            np.savez(tmp_path / f"{name}-{rows}.npz", **graphs.inputs(rows, seed=rows))
    env = {**os.environ, "PYTHONPATH": sources()}
    done = subprocess.run(
        [*older, "-c", OPEN, str(tmp_path)],
        env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["numpy"].startswith("1.")
    assert facts["modules"] == []
    for name in models:
        own = facts[name]
        assert (own["runtime"], own["runtime_version"]) == ("tflite-runtime", "2.14.0")
        assert own["delegate"]["name"] == "XNNPACK"
        assert own["without"] == {}
        assert (own["wrong shape"], own["compiled"]) == ("LPT-RUN-204", "LPT-RUN-415")
        session = opened(Model("tflite", str(tmp_path / f"{name}.tflite")), threads=1)
        assert session.facts["runtime"] == "litert"
        assert session.facts["execution_layers"] == own["execution_layers"]
        found = dict(np.load(tmp_path / f"{name}-found.npz"))
        for rows in (3, 1):
            wanted = session.run(graphs.inputs(rows, seed=rows))
            theirs = found[f"scores-{rows}"]
            assert theirs.dtype == wanted["scores"].dtype
            assert found[f"best-{rows}"].dtype == np.int64
            scale = float(np.abs(wanted["scores"]).max())
            limit = 1e-6 if name == "float" else 1 / 64  # there one unit of the border's grid
            np.testing.assert_allclose(theirs, wanted["scores"], atol=limit * scale)
    assert "int8" in facts["int8"]["execution_layers"]


@pytest.mark.conformance
def test_a_bundle_runs_there_too(older, single, opened, graphs, tmp_path):
    out = tmp_path / "bundle"
    lepton_core.deploy(
        single.model, name="small-net", target="tflite:android-arm64", kind="bundle",
        options={"store": str(tmp_path / "store"), "out": str(out)},
    )  # fmt: skip
    inputs = graphs.inputs(3)
    np.savez(tmp_path / "inputs.npz", **inputs)
    code = (
        "import sys, numpy as np; sys.path.insert(0, '.'); from run import load\n"
        "np.savez('../outputs.npz', **load(threads=1)(dict(np.load('../inputs.npz'))))"
    )
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    for command in (["-c", code], ["run.py"]):
        done = subprocess.run(
            [*older, *command], cwd=out, env=env,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    wanted = opened(single.model).run(inputs)
    found = dict(np.load(tmp_path / "outputs.npz"))
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)


BESIDE = """
import sys
from pathlib import Path
sys.modules["ai_edge_litert"] = None
sys.path.insert(0, sys.argv[1])
from lepton_core.errors import PluginDependencyError
from lepton_tflite._runtime import make_interpreter
try:
    make_interpreter("model.tflite")
except PluginDependencyError as error:
    print(error.code, error.message)
"""


def test_beside_numpy_2_it_is_refused_by_name(tmp_path):
    # There its import ends well, and the first interpreter in a SystemError.
    package = tmp_path / "tflite_runtime"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "interpreter.py").write_text("raise AssertionError('imported')")
    done = subprocess.run(
        [sys.executable, "-c", BESIDE, str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("LPT-RUN-401 tflite-runtime works with NumPy 1")
