"""``lepton bisect`` on real runtimes: no parting, a broken scale, an overflow, other pivots."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lepton_core as lepton
from lepton_compress._build import static_recipe
from lepton_compress._graph import Graph
from lepton_compress._job import Job
from lepton_compress._options import read_options
from lepton_compress._recover_recipe import Recovery
from lepton_compress._recover_scales import equalize
from lepton_compress._recover_sites import reader_sites
from lepton_core import hooks
from lepton_core import recipe as recipes
from lepton_core.bisecting import bisect
from lepton_core.bisecting._run import Runner
from lepton_core.built import find_built
from lepton_core.cli import main as run
from lepton_core.context import Context
from lepton_core.errors import UsageError
from lepton_core.recipe import Correction
from lepton_core.samples import load_samples
from lepton_core.types import OptimizeRequest
from lepton_onnx import pivot

pytestmark = pytest.mark.xdist_group("bisect")  # one worker trains and ports


@pytest.fixture(scope="module")
def ported(trained, held_npz, tmp_path_factory):
    out = tmp_path_factory.mktemp("bisect") / "out"
    lepton.port(
        trained("wide"), targets=["onnxruntime", "openvino"], latency_seconds=0,
        precisions=["fp32", "int8", "int4"], samples=held_npz, out=out,
    )  # fmt: skip
    return out


def found(first, second, samples, folder, **options):
    work = folder / "work"
    work.mkdir()
    context = Context(work, hooks=hooks.default())
    result = bisect(
        str(first), second and str(second), samples, hooks=hooks.default(), context=context,
        **options,
    )  # fmt: skip
    assert not list(work.iterdir()), "tapped pivots stay behind"
    return result


def converted(pivot, recipe, target, out):
    assert run(["convert", str(pivot), "--to", target, "--recipe", str(recipe), "--out", str(out),
                "-q"]) == 0  # fmt: skip
    return out


def test_two_runtimes_agree_in_float(ported, held_npz, tmp_path):
    result = found(ported / "onnxruntime/fp32", ported / "openvino/fp32", held_npz, tmp_path)
    assert result.parted is None
    assert len(result.values) > 40
    assert max(one.error for one in result.values) < 1e-5
    assert result.rows == 64


def test_a_scale_that_was_spoilt_is_found_and_made_there(ported, held_npz, tmp_path):
    """The first to part is the layer whose scale was spoilt, on another runtime, too."""
    recipe = json.loads((ported / "onnxruntime/int8/recipe.json").read_text())
    layers = recipe["layers"].values()
    read = {name for la in layers for name in la["inputs"]}
    spoilt = [la["output"] for la in layers if la.get("weight") and la["output"] in read][-1]
    recipe["tensors"][spoilt]["scale"] /= 16
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    broken = converted(
        ported / "pivot/model.onnx", tmp_path / "recipe.json", "openvino", tmp_path / "broken"
    )
    result = found(ported / "onnxruntime/fp32", broken, held_npz, tmp_path)
    assert result.parted.value == result.culprit.value == spoilt
    assert result.culprit.own > 0.15
    assert "clipped" in result.culprit.hint
    before = [one for one in result.values if one.own is not None and one.value != spoilt]
    assert before
    assert all(one.own < 0.15 for one in before)


def test_errors_that_add_up_are_not_blamed_on_one(ported, held_npz, tmp_path):
    """At a tolerance above every own error the operators that contribute most are listed."""
    pair = ported / "onnxruntime/fp32", ported / "onnxruntime/int8"
    (tmp_path / "all").mkdir()
    whole = found(*pair, held_npz, tmp_path / "all", tolerance=1e-3)
    assert whole.culprit is not None
    worst = max(one.error for one in whole.values)
    (tmp_path / "loose").mkdir()
    loose = found(*pair, held_npz, tmp_path / "loose", tolerance=0.999 * worst)
    assert loose.parted.error == worst
    owns = [one.own for one in loose.contributors]
    assert owns == sorted(owns, reverse=True)
    assert (loose.culprit is None) == (owns[0] <= 0.999 * worst)


def test_a_variant_without_its_card_is_known_by_its_passport(ported, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(ported, out)
    (out / "openvino/int8/lepton.json").unlink()
    (out / "openvino/int8/recipe.json").unlink()
    model = find_built(out / "openvino/int8").model
    wanted = recipes.read(ported / "openvino/int8/recipe.json").digest
    assert (model.metadata["precision"], model.metadata["recipe"]["digest"]) == ("int8", wanted)


def test_a_variant_that_was_not_kept_is_lowered_from_its_passport(
    ported, held_npz, tmp_path, capsys
):
    """Its recipe is that of the other runtime; the user's line comes with the pivot."""
    out = tmp_path / "out"
    shutil.copytree(ported, out)
    gone = out / "openvino/int8"
    for file in gone.iterdir():
        if not file.name.startswith("passport"):
            file.unlink()
    passport = json.loads((gone / "passport.json").read_text())
    passport["variant"]["path"] = str(gone / "model.xml")
    (gone / "passport.json").write_text(json.dumps(passport))
    code = run(["bisect", str(out / "openvino/fp32"), str(gone), "--data", held_npz,
                "--tolerance", "0.001", "--json"])  # fmt: skip
    data = json.loads(capsys.readouterr().out)
    assert code == 1
    assert data["second"]["precision"] == "int8"
    assert data["parted"]["value"] == "embed/linear"
    line = next(
        i for i, text in enumerate(Path(__file__).with_name("conftest.py").read_text().splitlines())
        if "self.head(self.body(self.embed" in text
    )  # fmt: skip
    assert data["parted"]["place"] == f"conftest.py:{line + 1} in forward"
    assert data["culprit"]["value"] == "embed/linear"
    assert run(["bisect", str(gone), "--data", held_npz, "--tolerance", "0.001"]) == 1
    assert "First to part: embed/linear (Add at conftest.py" in capsys.readouterr().out


def test_outputs_that_are_no_floats_are_said_to_be_left_out(graphs, tmp_path):
    nodes = [
        graphs.node("MatMul", ["x", "w"], ["h"]),
        graphs.node("ArgMax", ["h"], ["y"], axis=1, keepdims=0),
    ]
    infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.INT64, ["n"])]
    weight = numpy_helper.from_array(graphs.rand(64, 8), "w")
    model = helper.make_model(
        helper.make_graph(nodes, "g", infos, outputs, [weight]),
        opset_imports=[helper.make_opsetid("", 21)], ir_version=10,
    )  # fmt: skip
    onnx.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "x.npz", x=graphs.rand(40, 64, seed=3))
    for precision in ("fp32", "fp16"):
        asked = ["--precision", precision, "--out", str(tmp_path / precision), "-q"]
        assert run(["convert", str(tmp_path / "model.onnx"), "--to", "onnxruntime", *asked]) == 0
    result = found(
        tmp_path / "fp32", tmp_path / "fp16", str(tmp_path / "x.npz"), tmp_path, tolerance=1e-6
    )
    assert result.parted.value == "h" and not result.outputs_part
    assert result.faithful is None, "no output was compared with the artifact's"
    (note,) = result.notes
    assert note.endswith("left out: y.")


def test_outputs_need_no_rows_to_be_compared_with_the_artifacts(graphs, tmp_path):
    """A mean over everything, and an output whose rows are last, over more than one batch."""
    nodes = [
        graphs.node("MatMul", ["x", "w"], ["h"]),
        graphs.node("ReduceMean", ["h"], ["mean"], keepdims=0),
        graphs.node("Transpose", ["h"], ["turned"], perm=[1, 0]),
    ]
    pivot = graphs.build(
        nodes, {"w": graphs.rand(16, 8)}, shape=("n", 16), outputs=("mean", "turned")
    )
    np.savez(tmp_path / "x.npz", x=graphs.rand(50, 16, seed=3))
    for precision in ("fp32", "fp16"):
        asked = ["--precision", precision, "--out", str(tmp_path / precision), "-q"]
        assert run(["convert", pivot.path, "--to", "onnxruntime", *asked]) == 0
    result = found(tmp_path / "fp32", tmp_path / "fp16", str(tmp_path / "x.npz"), tmp_path)
    assert result.faithful is not None
    assert {one.value for one in result.values} >= {"h", "mean", "turned"}


def test_outputs_that_cannot_be_compared_are_not_said_to_be_unchanged():
    """With batches of their own, a mean over each has no rows to align."""
    plain = [{"y": np.ones((12, 2)), "mean": np.float32(n)} for n in range(3)]
    tapped = [{"y": np.ones((25, 2)), "mean": np.float32(9)}]
    side = SimpleNamespace(name="A", artifact="artifact", target="target")

    def changed(outputs, made):
        runner = SimpleNamespace(outputs=outputs, _plain={"A": plain}, changed={})
        Runner._compare_outputs(runner, side, made)
        return runner.changed

    assert changed(["mean"], tapped) == {}
    assert changed(["y", "mean"], tapped) == {"A": 0.0}
    assert changed(["y"], [{"y": np.zeros((25, 2))}])["A"] == 1.0


@pytest.mark.conformance
def test_artifacts_with_a_batch_of_their_own_are_compared_by_rows(graphs, tmp_path):
    """The tapped pivot takes any batch; the artifact fills up its last one."""
    pytest.importorskip("lepton_tflite", reason="lepton-tflite is not installed")
    nodes = [graphs.node("MatMul", ["x", "w"], ["h"]), graphs.node("Relu", ["h"], ["y"])]
    pivot = graphs.build(nodes, {"w": graphs.rand(16, 8)}, shape=("n", 16))
    np.savez(tmp_path / "x.npz", x=graphs.rand(50, 16, seed=3))
    for target, options in (("onnxruntime", []), ("tflite", ["--option", "batch=12"])):
        asked = ["--to", target, *options, "--out", str(tmp_path / target), "-q"]
        assert run(["convert", pivot.path, *asked]) == 0
    pair = tmp_path / "onnxruntime", tmp_path / "tflite"
    result = found(*pair, str(tmp_path / "x.npz"), tmp_path)
    assert result.parted is None
    assert result.faithful is not None
    assert result.rows == 50


def test_variants_of_two_pivots_are_refused(ported, graphs, held_npz, tmp_path):
    pivot = graphs.build(
        [graphs.node("MatMul", ["x", "w"], ["y"])], {"w": graphs.rand(4, 3)}, shape=("n", 4)
    )
    assert run(["convert", pivot.path, "--to", "onnxruntime", "--out", str(tmp_path / "o"),
                "-q"]) == 0  # fmt: skip
    with pytest.raises(UsageError) as error:
        found(ported / "onnxruntime/fp32", tmp_path / "o", held_npz, tmp_path)
    assert error.value.code == "LPT-BIS-004"


def test_a_recipe_that_is_gone_is_refused(ported, held_npz, tmp_path):
    recipe = ported / "onnxruntime/int8/recipe.json"
    alone = converted(ported / "pivot/model.onnx", recipe, "onnxruntime", tmp_path / "a/b/alone")
    assert found(alone, None, held_npz, tmp_path).first.target is None
    (alone / "recipe.json").unlink()
    (tmp_path / "again").mkdir()
    with pytest.raises(UsageError) as error:
        found(alone, None, held_npz, tmp_path / "again")
    assert error.value.code == "LPT-BIS-003"


def test_few_bits_are_compared_between_runtimes(ported, held_npz, tmp_path):
    first, second = ported / "onnxruntime/int4", ported / "openvino/int4"
    result = found(first, second, held_npz, tmp_path)
    assert result.parted is None
    assert any("4 bits" in one.hint for one in result.values)
    assert np.median([one.error for one in result.values]) < 0.02


def test_a_recipe_with_rescaled_channels_and_corrections(graphs, tmp_path, context):
    """Taps show values as they were; alone, an operator multiplies what it is fed."""
    uneven = 2.0 ** np.random.default_rng(3).integers(-5, 6, 8)
    weights = {k: graphs.convs[k] for k in ("w1", "b1", "w2", "b2")}
    weights["w1"] = (weights["w1"] * uneven[:, None, None, None]).astype(np.float32)
    weights["b1"] = (weights["b1"] * uneven).astype(np.float32)
    weights["w2"] = (weights["w2"] / uneven[None, :, None, None]).astype(np.float32)
    node = graphs.node
    model = graphs.build(
        [
            graphs.conv("x", "w1", "b1", "c1"), node("Relu", ["c1"], ["r1"]),
            node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
            graphs.conv("p1", "w2", "b2", "c2"), node("Relu", ["c2"], ["y"]),
        ], weights,
    )  # fmt: skip
    samples = tmp_path / "x.npz"
    x = np.random.default_rng(0).standard_normal((48, 3, 16, 16)).astype(np.float32)
    np.savez(samples, x=x)
    graph = Graph(pivot.load(model.path))
    job = Job(
        graph, model, OptimizeRequest("onnxruntime"), read_options({}, "int8"), context, context
    )  # fmt: skip
    seen = load_samples(str(samples))
    plain, _ = static_recipe(graph, model.digest, 21, seen, context)
    entries = equalize(graph, reader_sites(graph, plain.layers))
    recipe, _ = Recovery(rescaled=entries).recipe(job, seen, "minmax")
    assert list(recipe.rescaled) == ["p1"]
    recipe = replace(recipe, corrections={"c2": Correction("empirical", "b2", tuple([0.001] * 8))})
    path = recipes.write(recipe, tmp_path / "recipe.json")
    for target in ("onnxruntime", "openvino"):
        built = converted(model.path, path, target, tmp_path / target)
        (tmp_path / f"work-{target}").mkdir()
        result = found(built, None, str(samples), tmp_path / f"work-{target}", tolerance=1e-4)
        assert [one.value for one in result.values] == ["p1", "y"]  # r1 has other scales
        assert result.culprit.value == "p1"
        assert not result.notes
        p1, y = result.values
        # int8 with even channels; values that were left divided would be off by 1.
        assert 0 < p1.own < 0.03
        assert p1.error < y.error < 0.05
        (tmp_path / f"late-{target}").mkdir()
        later = found(built, None, str(samples), tmp_path / f"late-{target}",
                      tolerance=(p1.error + y.error) / 2)  # fmt: skip
        assert later.parted.value == "y"
        assert 0 < later.values[1].own < 0.03
