"""Models as exporters write them: ONNX's own collection, and fresh ones from torch."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

from lepton_core.types import ConvertRequest, Model, OpenRequest
from lepton_onnx import pivot as library
from lepton_onnx import plugin as onnx_plugin
from lepton_onnxruntime import plugin
from lepton_onnxruntime._runtime import onnxruntime

COLLECTION = Path(onnx.__file__).parent / "backend" / "test" / "data"


def relative(found, expected):
    found, expected = found.astype("f8"), expected.astype("f8")
    return np.linalg.norm(found - expected) / (np.linalg.norm(expected) or 1.0)


def run_with_runtime(path, inputs):
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, ["CPUExecutionProvider"]).run(None, inputs)


@pytest.mark.parametrize("group", ["pytorch-converted", "pytorch-operator"])
def test_raising_old_exports_keeps_their_numbers(tmp_path, group):
    """Every third model of ONNX's collection, from opset 6 and 9 to the pivot's."""
    models = sorted((COLLECTION / group).glob("*/model.onnx"))[::3]
    if not models:
        pytest.skip("this onnx ships without its collection of models")
    compared = 0
    rng = np.random.default_rng(0)
    for source in models:
        out, again = tmp_path / "p.onnx", tmp_path / "q.onnx"
        facts = library.freeze(source, out)
        assert facts.opset == 21, f"{source.parent.name}: {facts.opset_note}"
        library.freeze(out, again)
        assert out.read_bytes() == again.read_bytes(), source.parent.name
        inputs = {
            spec.name: rng.integers(0, 2, spec.shape).astype(spec.dtype)
            if "int" in spec.dtype
            else rng.normal(size=spec.shape).astype(spec.dtype)
            for spec in facts.signature.inputs
        }
        try:
            expected = run_with_runtime(source, inputs)
        except Exception:  # the runtime takes no longer what is that old, or not these numbers
            continue
        for found, value in zip(run_with_runtime(out, inputs), expected, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6)
        compared += 1
    assert compared > len(models) // 2


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("onnxscript")
    return pytest.importorskip("torch")


def build(torch, name):
    nn = torch.nn
    torch.manual_seed(0)
    if name == "cnn":
        layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(), nn.Linear(72, 10))
        return model.eval(), torch.randn(2, 1, 8, 8)
    if name == "encoder":
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        return nn.TransformerEncoder(layer, 2).eval(), torch.randn(2, 5, 32)

    class Lstm(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(8, 16, 2, batch_first=True)
            self.head = nn.Linear(16, 3)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    return Lstm().eval(), torch.randn(2, 5, 8)


def export(torch, module, example, path, *, dynamic):
    batch = {0: torch.export.Dim("batch")} if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=21,
            dynamic_shapes=(batch,) if dynamic else None,
            verbose=False,
        )
        program.save(str(path))


@pytest.mark.parametrize("name", ["cnn", "encoder", "lstm"])
def test_torch_models_keep_their_numbers_in_both_precisions(torch, tmp_path, context, name):
    module, example = build(torch, name)
    path = tmp_path / "model.onnx"
    export(torch, module, example, path, dynamic=name != "lstm")
    request = ConvertRequest("onnxruntime", "pivot")
    pivot = onnx_plugin.lepton_convert(Model("onnx", str(path)), request, context).model
    assert library.freeze(pivot.path, tmp_path / "again.onnx").renamed == 0
    expected = module(example).detach().numpy()
    for precision, limit in (("fp32", 1e-5), ("fp16", 5e-3)):
        request = ConvertRequest("onnxruntime", "onnxruntime", precision=precision)
        result = plugin.lepton_convert(pivot, request, context)
        assert result.facts["storage_precision"] == precision
        with plugin.lepton_open(result.model, OpenRequest("onnxruntime"), context) as session:
            spec = session.signature.inputs[0]
            (found,) = session.run({spec.name: example.numpy()}).values()
        assert relative(found, expected) < limit


def test_names_survive_another_export_with_fixed_shapes(torch, tmp_path):
    module, example = build(torch, "encoder")
    names = []
    for dynamic in (True, False):
        path, out = tmp_path / "model.onnx", tmp_path / "pivot.onnx"
        export(torch, module, example, path, dynamic=dynamic)
        library.freeze(path, out)
        graph = onnx.load(out).graph
        weights = {t.name for t in graph.initializer if len(t.dims) == 2}
        names.append({n.output[0] for n in graph.node if weights & set(n.input)})
    assert names[0] == names[1]
    assert "layers.0.self_attn/linear/MatMul" in names[0]
