"""What ``port`` makes of LiteRT beside other targets: one recipe for all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lepton_core as lepton
from lepton_core import recipe as recipes
from lepton_core.dispatch import Hooks
from lepton_core.errors import ConversionError
from lepton_core.registry import Registry
from lepton_core.types import ConvertRequest, Signature, TensorSpec
from lepton_onnx import pivot as pivots
from lepton_onnx import qdq
from lepton_onnx._narrow import _OF_INPUTS
from lepton_tflite._ports import OPTIONS, parse_options
from lepton_tflite._read import read_blocks
from lepton_tflite.info import INFO

pytestmark = pytest.mark.xdist_group("tflite")


def port(source, out, targets, **more):
    """Build in this process, which has the converter imported already."""
    pytest.importorskip("litert_torch")
    found = lepton.port(
        source, targets=targets, out=out, latency_seconds=0, hooks=Hooks(Registry()), **more
    )
    return {(one.target, one.precision): one for one in found.variants}


def test_every_option_of_a_conversion_is_declared():
    (edge,) = INFO.edges
    assert edge.options == OPTIONS
    assert set(edge.input_options) == set(_OF_INPUTS)


def test_a_dimension_without_a_name_is_refused_where_the_batch_has_none_either():
    """A part of a model, cut where shapes are not known, has such inputs."""
    fixed, unnamed = TensorSpec("a", "float32", (2, 4)), TensorSpec("b", "float32", (None, 4))
    options = parse_options(ConvertRequest("tflite"))
    with pytest.raises(ConversionError) as caught:
        options.settle(Signature((fixed, unnamed), (fixed,)), dynamic=True)
    assert caught.value.code == "LPT-CONV-410"


def images(graphs):
    rng = np.random.default_rng(0)
    nodes = [
        graphs.node("Conv", ["image", "w0"], ["c"], pads=[1, 1, 1, 1]),
        graphs.node("Relu", ["c"], ["r"]), graphs.node("Conv", ["r", "w1"], ["d"]),
        graphs.node("Sigmoid", ["d"], ["y"]),
    ]  # fmt: skip
    shapes = {"w0": (8, 3, 3, 3), "w1": (4, 8, 1, 1)}
    weights = [graphs.weight(n, rng.normal(size=s).astype("f4") / 4) for n, s in shapes.items()]
    return graphs.model(nodes, [graphs.value("image", ["batch", 3, 8, 8])],
                        [graphs.value("y", ["batch", 4, 8, 8])], weights)  # fmt: skip


@pytest.fixture(scope="module")
def channels_last(graphs, tmp_path_factory):
    """A network on images on two runtimes, with options for one of them."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("port")
    (folder / "net.onnx").write_bytes(images(graphs).SerializeToString())
    rows = np.random.default_rng(1).normal(size=(60, 3, 8, 8)).astype("f4")
    np.savez(folder / "rows.npz", image=rows)
    return folder, port(
        folder / "net.onnx", folder / "out", ["onnxruntime", "tflite"],
        precisions=["fp16"], samples=folder / "rows.npz",
        options={"tflite": {"layout": "nhwc", "batch": 2}},
    )  # fmt: skip


def test_options_reach_the_conversion_and_the_passport(channels_last, opened):
    """The proof is on rows in the source's order; the file has the other one."""
    litert, onnx = (channels_last[1][name, "fp16"] for name in ("tflite", "onnxruntime"))
    assert litert.verdict == "pass", litert.why
    assert litert.model.metadata["nhwc_inputs"] == ["image"]
    (image,) = opened(litert.model, options={"layout": "nhwc"}).signature.inputs
    assert image.shape == (2, 8, 8, 3)
    lineage = litert.passport["variant"]["lineage"]
    assert lineage[-1]["request"]["options"] == {"layout": "nhwc", "batch": 2}
    assert not onnx.model.lineage[-1].request.get("options")


@pytest.mark.conformance
def test_bisect_lowers_it_with_the_same_options(channels_last, context, monkeypatch):
    """Parts of it have other inputs, of which such options do not speak."""
    from lepton_core.bisecting import bisect

    folder, made = channels_last
    hooks, asked = Hooks(Registry()), []
    step = hooks.convert_step

    def convert_step(model, one, request, where):
        asked.append((one.edge.result, dict(request.options)))
        return step(model, one, request, where)

    monkeypatch.setattr(hooks, "convert_step", convert_step)
    variant = str(Path(made["tflite", "fp16"].model.path).parent)
    found = bisect(
        variant, None, str(folder / "rows.npz"), hooks=hooks,
        context=replace(context, hooks=hooks), tolerance=1e-6, rows=6,
    )  # fmt: skip
    assert found.culprit is not None, found.notes
    given = [options for result, options in asked if result == "tflite"]
    assert given[0] == {"layout": "nhwc", "batch": 2}
    assert {} in given


def test_a_recipe_that_litert_refuses_is_made_again_for_what_it_loads(
    graphs, tmp_path, monkeypatch
):
    """Its converter is slow to import: it is asked only then, and others keep their recipe."""
    from lepton_tflite import _convert

    pytest.importorskip("onnxruntime")
    real = _convert.convert

    def without_kernel(model, request, context):
        layers = recipes.read(request.recipe).layers if request.recipe else {}
        if any(one.op == "Conv" and one.inputs for one in layers.values()):
            raise ConversionError("LPT-CONV-404", "It does not load", cause="no kernel for CONV_2D")
        return real(model, request, context)

    monkeypatch.setattr(_convert, "convert", without_kernel)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng, node = np.random.default_rng(0), graphs.node
    nodes = [
        node("Conv", ["image", "w0"], ["c"], pads=[1, 1, 1, 1]), node("Relu", ["c"], ["r"]),
        node("Flatten", ["r"], ["f"]), node("MatMul", ["f", "w1"], ["y"]),
    ]  # fmt: skip
    weights = [graphs.weight("w0", rng.normal(size=(8, 3, 3, 3)).astype("f4") / 4),
               graphs.weight("w1", rng.normal(size=(512, 64)).astype("f4") / 16)]  # fmt: skip
    net = graphs.model(nodes, [graphs.value("image", ["batch", 3, 8, 8])],
                       [graphs.value("y", ["batch", 64])], weights)  # fmt: skip
    (tmp_path / "net.onnx").write_bytes(net.SerializeToString())
    np.savez(tmp_path / "rows.npz", image=rng.normal(size=(60, 3, 8, 8)).astype("f4"))
    made = port(
        tmp_path / "net.onnx", tmp_path / "out", ["onnxruntime", "tflite"],
        precisions=["fp32", "int8"], samples=tmp_path / "rows.npz",
    )  # fmt: skip
    kept = {}
    for target in ("onnxruntime", "tflite"):
        one = made[target, "int8"]
        assert one.verdict == "pass", one.why
        kept[target] = recipes.read(Path(one.model.path).parent / "recipe.json")
    ops = {name: {layer.op for layer in one.layers.values()} for name, one in kept.items()}
    assert ops["onnxruntime"] >= {"Conv", "MatMul"}
    assert "MatMul" in ops["tflite"]
    assert "Conv" not in ops["tflite"]
    assert "no kernel for CONV_2D" in " ".join(kept["tflite"].kept_float.values())
    assert "no kernel for CONV_2D" in " ".join(made["tflite", "int8"].passport["warnings"])


def products(graphs):
    rng = np.random.default_rng(0)
    sizes = ((64, 128), (128, 64), (64, 96))
    weights = [graphs.weight(f"w{n}", (rng.normal(size=s) / 8).astype("f4"))
               for n, s in enumerate(sizes)]  # fmt: skip
    nodes = [
        graphs.node("MatMul", ["x", "w0"], ["a"]), graphs.node("Relu", ["a"], ["b"]),
        graphs.node("MatMul", ["b", "w1"], ["c"]), graphs.node("Relu", ["c"], ["d"]),
        graphs.node("MatMul", ["d", "w2"], ["y"]),
    ]  # fmt: skip
    return graphs.model(nodes, [graphs.value("x", ["batch", 64])],
                        [graphs.value("y", ["batch", 96])], weights)  # fmt: skip


@pytest.mark.conformance
def test_a_recipe_that_both_share_is_quick_in_litert(graphs, opened, tmp_path):
    """ONNX Runtime comes first and takes any scales; LiteRT's kernels of four bits do not."""
    pytest.importorskip("lepton_compress")
    pytest.importorskip("onnxruntime")
    (tmp_path / "net.onnx").write_bytes(products(graphs).SerializeToString())
    np.savez(tmp_path / "rows.npz", x=np.random.default_rng(1).normal(size=(200, 64)).astype("f4"))
    made = port(
        tmp_path / "net.onnx", tmp_path / "out", ["onnxruntime", "tflite"], precisions=["int4"],
        samples=tmp_path / "rows.npz",
    )  # fmt: skip
    onnx, litert = made["onnxruntime", "int4"], made["tflite", "int4"]
    assert onnx.kept, onnx.why
    assert litert.kept, litert.why
    place = Path(onnx.model.path).parent / "recipe.json"
    recipe = recipes.read(place)
    assert onnx.model.metadata["recipe"]["digest"] == recipe.digest
    assert litert.model.metadata["recipe"]["digest"] == recipe.digest
    assert {entry.method for entry in recipe.blocks.values()} == {"gptq"}
    ours = qdq.read_blocks(pivots.load(onnx.model.path))
    theirs = read_blocks(litert.model.path)
    assert set(ours) == set(theirs) == {"w0", "w1", "w2"}
    for name, blocks in ours.items():
        assert (blocks.scale > 0).all()
        np.testing.assert_array_equal(blocks.scale, blocks.scale.astype("f2").astype("f4"))
        np.testing.assert_array_equal(theirs[name].codes, blocks.codes)
        np.testing.assert_array_equal(theirs[name].scale, blocks.scale)
    layers = opened(litert.model).facts["execution_layers"]
    assert layers["int4 dynamic"] == 1, layers  # the first and the last product have 8 bits
    errors = [one.passport["outputs"]["y"]["rel_l2"] for one in (onnx, litert)]
    assert max(errors) < 0.12, errors
