"""What ``port`` makes of LiteRT beside other targets: one recipe for all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lepton_core as lepton
from lepton_core import recipe as recipes
from lepton_core.dispatch import Hooks
from lepton_core.registry import Registry
from lepton_onnx import pivot as pivots
from lepton_onnx import qdq
from lepton_tflite._read import read_blocks

pytestmark = pytest.mark.xdist_group("tflite")


def port(source, out, targets, **more):
    """Build in this process, which has the converter imported already."""
    pytest.importorskip("litert_torch")
    found = lepton.port(
        source, targets=targets, out=out, latency_seconds=0, hooks=Hooks(Registry()), **more
    )
    return {(one.target, one.precision): one for one in found.variants}


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
