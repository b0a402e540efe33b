"""Fixtures: a small BERT in a Hugging Face cache, and the lines of the documentation, run once."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGES = (ROOT / "docs/how-to/adapt-convert-optimize.md", ROOT / "plugins/lepton-ai/README.md")


LINES = """\
from lepton_ai import ModelAdapter, ModelConverter, ModelOptimizer
adapter = ModelAdapter('bert-base-cased')
adapted_model = adapter.adapt()
converter = ModelConverter()
converted_model = converter.convert(adapted_model)
optimizer = ModelOptimizer(converted_model)
optimized_model = optimizer.optimize()
"""


def seed_lines() -> str:
    """The lines, which both pages show to the letter."""
    blocks = [
        block
        for page in PAGES
        for block in re.findall(r"^```python seed\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    ]
    assert len(blocks) == len(PAGES)
    assert set(blocks) == {LINES}
    return blocks[0]


@dataclass(frozen=True)
class Home:
    """A folder for ``HF_HOME`` with the model, and rows that it was not trained on."""

    path: Path
    accuracy: float

    @property
    def model(self) -> Path:
        """The model's own directory."""
        (snapshot,) = (self.path / "hub/models--bert-base-cased/snapshots").iterdir()
        return snapshot

    def tokens(self, rows: int | None = None) -> dict[str, np.ndarray]:
        with np.load(self.path / "samples.npz") as arrays:
            return {name: arrays[name][:rows] for name in arrays if name != "labels"}

    @property
    def labels(self) -> np.ndarray:
        with np.load(self.path / "samples.npz") as arrays:
            return arrays["labels"]


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """Train the small BERT of the documentation's examples (seconds)."""
    pytest.importorskip("transformers")
    spec = importlib.util.spec_from_file_location(
        "small_bert", ROOT / "docs/examples/small_bert.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = tmp_path_factory.mktemp("hf-home")
    return Home(path, module.train(path))


@dataclass(frozen=True)
class Seed:
    """What the lines left behind.

    Attributes:
        lines: The lines.
        folder: Where they ran.
        paths: Path of ``adapted_model``, ``converted_model`` and ``optimized_model``.
        out: What they printed.
        err: What they wrote to standard error.
    """

    lines: str
    folder: Path
    paths: dict[str, Path]
    out: str
    err: str


def run_python(code: str, folder: Path, home: Path):
    """Run a program as a user would: a process of its own, in its own folder."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="session")
def seed(home, tmp_path_factory):
    """Run the lines of the documentation to the letter."""
    folder = tmp_path_factory.mktemp("seed")
    names = ("adapted_model", "converted_model", "optimized_model")
    tell = f"import json\nprint(json.dumps({{n: globals()[n].path for n in {names}}}))\n"
    lines = seed_lines()
    done = run_python(lines + tell, folder, home.path)
    assert done.returncode == 0, done.stderr
    *printed, last = done.stdout.splitlines()
    paths = {name: Path(path) for name, path in json.loads(last).items()}
    return Seed(lines, folder, paths, "\n".join(printed), done.stderr)


@pytest.fixture
def small_onnx(tmp_path):
    """An ONNX file: a linear layer, a ReLU, a linear layer; 16 values to 4."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(3)
    weights = {
        "w1": rng.normal(size=(16, 64)), "b1": rng.normal(size=64),
        "w2": rng.normal(size=(64, 4)), "b2": rng.normal(size=4),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = tmp_path / "small.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def fresh_hooks():
    """A registry that reads the environment as the test has set it."""
    from lepton_core import hooks

    kept = hooks.use(None)
    yield lambda: hooks.use(None)
    hooks.use(kept)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
