"""The precision mixed on real runtimes: sensitivities, search, verification, going on, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest

import lepton_core as lepton
from lepton_compress import _search_measure
from lepton_core import recipe as recipes
from lepton_core.cli import main as run
from lepton_core.errors import OptimizeError, SampleError, UsageError
from lepton_onnx import pivot, qdq

pytestmark = pytest.mark.xdist_group("search")  # one worker trains

FIRST = "body.1/linear"


@pytest.fixture(scope="module")
def mlp(trained):
    return trained("mlp")


def optimized(model, samples, context, target="onnxruntime", **asked):
    options = {"recover": "none", **asked.pop("options", {})}  # tried in test_search_recover.py
    return lepton.optimize(
        model, target=target, precision="mixed", samples=samples, options=options,
        context=context, **{"timing_seconds": 0.0, **asked},
    )  # fmt: skip


def test_sensitivities_agree_with_what_is_quantized(mlp, held_npz, context):
    found = optimized(mlp, held_npz, context, options={"analyse": True})
    facts = found.facts["sensitivity"]
    units = {unit["name"]: unit for unit in facts["units"]}
    assert len(units) == 3
    assert units[next(iter(units))]["choices"] == ["fp32", "int8", "int8-weight", "int4"]
    assert found.recipe is None
    by = {(one["unit"], one["precision"]): one for one in facts["table"]}
    first = next(iter(units))
    errors = [by[first, p]["only"]["error"] for p in ("int8-weight", "int4")]
    assert 0 < errors[0] < errors[1] / 3  # 16 times fewer levels
    assert by[first, "int4"]["saved_bytes"] > by[first, "int8-weight"]["saved_bytes"] > 9000
    for one in facts["table"]:
        # Putting one back cannot leave more error than the whole has, beyond rounding luck.
        whole = facts["whole"][one["precision"]]["error"]
        assert one["back"]["error"] < 1.2 * whole
        assert one["only"]["sqnr_db"] == pytest.approx(-20 * np.log10(one["only"]["error"]))


def test_a_budget_leads_to_a_smaller_model_that_bears_it_out(mlp, held_npz, context):
    found = optimized(mlp, held_npz, context, max_drop=0.02)
    search = found.facts["search"]
    assert found.facts["verdict"] == "pass"
    assert search["proved"]
    assert search["bound"] <= 0.02
    assert search["chosen"]["rows"] == search["rows"]["held_out"] > 350
    parts = search["rows"]
    assert sum(parts.values()) == len(np.load(held_npz)["image"])
    recipe = recipes.read(found.recipe)
    assert recipe.digest == found.facts["recipe"]["digest"]
    from lepton_core.artifacts import artifact_size

    assert artifact_size(found.model) == search["chosen"]["size"]
    sizes = [p["size"] for p in search["pareto"]]
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes) <= search["chosen"]["size"] < max(sizes)


def test_a_mixture_has_the_same_integers_on_both_runtimes(mlp, held_npz, context_of):
    """int8 with integer inputs, few bits by block, and float in one recipe."""
    from lepton_compress._graph import Graph
    from lepton_compress._job import Job
    from lepton_compress._options import read_options
    from lepton_compress._search_space import Space
    from lepton_core.samples import load_samples
    from lepton_core.types import OptimizeRequest

    context = context_of("space")
    job = Job(
        Graph(pivot.load(mlp.path)), mlp, OptimizeRequest("onnxruntime", precision="mixed"),
        read_options({}, "mixed"), context, context,
    )  # fmt: skip
    space = Space(job, load_samples(held_npz).rows(np.arange(200)))
    space.prepare()
    one, two, three = space.units
    made, arrays = space.recipe({one: "int4", two: "int8", three: "fp32"})
    assert made.scheme == made.precision == "mixed"
    place = recipes.write(made, context.workdir / "recipe.json", integers=arrays)
    image = np.load(held_npz)["image"][:200]
    outputs, read = {}, {}
    for target in ("onnxruntime", "openvino"):
        built = lepton.convert(
            mlp, target=target, recipe=str(place), context=context_of(target)
        ).model
        assert built.metadata["precision"] == "mixed"
        with lepton.open(built, target=target) as session:
            outputs[target] = session.run({"image": image})["logits"]
        read[target] = built
    proto = pivot.load(read["onnxruntime"].path)
    weight = space.units[two].weight
    stored = qdq.read_back(proto)[weight]
    tensor = made.tensors[weight]
    assert (stored.integers == qdq.weight_integers(space.job.graph.array(weight), tensor)).all()
    assert np.allclose(stored.scale, np.asarray(tensor.scale, np.float32))
    assert any(node.op_type == "MatMulNBits" for node in proto.graph.node)
    assert _constants_of_ir(read["openvino"]) >= {
        np.ascontiguousarray(stored.integers).tobytes(),
    }
    gap = np.abs(outputs["onnxruntime"] - outputs["openvino"]).max()
    assert gap < 0.05 * np.abs(outputs["openvino"]).max()
    agree = (outputs["onnxruntime"].argmax(1) == outputs["openvino"].argmax(1)).mean()
    assert agree >= 0.98


def _constants_of_ir(model):
    import openvino

    graph = openvino.Core().read_model(model.path)
    found = set()
    for node in graph.get_ordered_ops():
        if node.get_type_name() == "Constant" and node.get_element_type() == openvino.Type.i8:
            found.add(np.ascontiguousarray(node.get_data()).tobytes())
    return found


def test_an_interrupted_search_goes_on(mlp, held_npz, context_of, tmp_path, monkeypatch):
    """After a stop nothing is measured twice; a run after that measures nothing at all."""
    monkeypatch.setenv("LEPTON_ISOLATION", "0")
    from lepton_core import hooks

    old = hooks.use(None)
    try:
        options = {"cache": str(tmp_path / "cache")}
        real, left = _search_measure.Meter._measure, [7]

        def stops(self, whole):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return real(self, whole)

        with monkeypatch.context() as patched:
            patched.setattr(_search_measure.Meter, "_measure", stops)
            with pytest.raises(KeyboardInterrupt):
                optimized(mlp, held_npz, context_of("one"), max_drop=0.02, options=options)
        second = optimized(mlp, held_npz, context_of("two"), max_drop=0.02, options=options)
        assert second.facts["search"]["from_cache"] >= 6
        third = optimized(mlp, held_npz, context_of("three"), max_drop=0.02, options=options)
        assert third.facts["search"]["measured"] == 0
        assert third.facts["search"]["chosen"] == second.facts["search"]["chosen"]
        assert recipes.read(third.recipe) == recipes.read(second.recipe)
    finally:
        hooks.use(old)


def test_a_size_is_kept_and_filled(mlp, held_npz, context_of):
    loose = optimized(mlp, held_npz, context_of("loose"), max_size=0.6)
    tight = optimized(mlp, held_npz, context_of("tight"), max_size=0.38)
    plain = loose.facts["sensitivity"]["float"]["size"]
    assert tight.facts["search"]["chosen"]["size"] <= 0.38 * plain
    assert loose.facts["search"]["chosen"]["size"] <= 0.6 * plain
    assert loose.facts["search"]["chosen"]["error"] <= tight.facts["search"]["chosen"]["error"]


def test_a_size_alone_is_judged_by_the_budget_of_a_passport(mlp, context, tmp_path):
    """On noise few bits change more answers than a passport accepts; the size is kept to."""
    noise = np.random.default_rng(0).normal(0, 1, (900, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "noise.npz", image=noise)
    found = optimized(mlp, str(tmp_path / "noise.npz"), context, max_size=0.33)
    search = found.facts["search"]
    assert search["budget"] == 0.01
    assert search["chosen"]["drop"] > 0.01
    assert search["bound"] > 0.01
    assert not search["proved"]
    assert found.facts["verdict"] == "fail"
    assert "over 0.01" in found.why


def test_what_cannot_be_met_names_the_closest_and_what_limits_it(mlp, held_npz, context_of):
    with pytest.raises(OptimizeError) as error:
        optimized(mlp, held_npz, context_of("size"), max_size=0.05)
    assert error.value.code == "LPT-OPT-031"
    closest = error.value.details["closest"]
    assert closest["size"] > error.value.details["max_size"]
    with pytest.raises(OptimizeError) as error:
        optimized(mlp, held_npz, context_of("both"), max_size=0.05, max_drop=0.05)
    assert error.value.code == "LPT-OPT-031"
    with pytest.raises(OptimizeError) as error:
        optimized(mlp, held_npz, context_of("drop"), max_drop=0.0,
                  options={"metric": "rel_l2"})  # fmt: skip
    assert error.value.code == "LPT-OPT-030"
    assert error.value.details["limited_by"]


def test_the_closest_to_a_budget_is_smaller_than_the_float_model(graphs, context_of, tmp_path):
    """A choice that loses nothing and is larger says nothing of what the budget would take."""
    wide = graphs.rand(40, 40)
    wide[0] = 0  # the range of the first input leaves the others, on which all rests, one integer
    nodes = [graphs.node("MatMul", ["x", "w"], ["h"]), graphs.node("MatMul", ["h", "v"], ["y"])]
    base = graphs.build(nodes, {"w": wide, "v": graphs.rand(40, 3)}, shape=("n", 40))
    rows = np.random.default_rng(0).normal(size=(300, 40)).astype(np.float32)
    rows[:, 0] *= 1e5
    np.savez(tmp_path / "rows.npz", x=rows)
    with pytest.raises(OptimizeError) as error:
        optimized(base, str(tmp_path / "rows.npz"), context_of("out"), max_drop=0.01,
                  options={"recover": "none"})  # fmt: skip
    assert error.value.code == "LPT-OPT-030"
    assert error.value.details["closest"]["chosen"]["h"] == "int8"
    assert error.value.details["closest"]["drop"] > 0.01


def test_what_a_search_needs_is_asked_for(mlp, held_npz, context_of, tmp_path):
    with pytest.raises(OptimizeError) as error:
        optimized(mlp, None, context_of("none"))
    assert error.value.code == "LPT-OPT-035"
    few = tmp_path / "few.npz"
    np.savez(few, image=np.load(held_npz)["image"][:8])
    with pytest.raises(OptimizeError) as error:
        optimized(mlp, str(few), context_of("few"))
    assert error.value.code == "LPT-OPT-032"
    # Equal rows stay together: what was searched on verified itself.
    np.savez(few, image=np.repeat(np.load(held_npz)["image"][:2], 50, axis=0))
    with pytest.raises(OptimizeError, match="2 of different content") as error:
        optimized(mlp, str(few), context_of("equal"))
    assert error.value.code == "LPT-OPT-032"
    with pytest.raises(OptimizeError) as error:
        lepton.optimize(mlp, target="onnxruntime", samples=held_npz, max_size=0.5,
                        context=context_of("int8"))  # fmt: skip
    assert error.value.code == "LPT-OPT-036"
    for options in ({"scheme": "static"}, {"method": "awq"}, {"rows": -1}, {"analyse": "perhaps"}):
        with pytest.raises(OptimizeError) as error:
            optimized(mlp, held_npz, context_of(next(iter(options))), options=options)
        assert error.value.code == "LPT-OPT-015"
    np.save(tmp_path / "slices.npy", np.zeros(3))
    with pytest.raises(SampleError) as error:
        optimized(mlp, held_npz, context_of("slices"),
                  options={"analyse": True, "slices": str(tmp_path / "slices.npy")})  # fmt: skip
    assert error.value.code == "LPT-OPT-033"


def test_slices_given_are_those_of_the_rows(mlp, held_npz, context, tmp_path):
    """Two slices of which one is too small to say anything."""
    names = np.where(np.arange(len(np.load(held_npz)["image"])) < 5, "few", "others")
    np.save(tmp_path / "slices.npy", names)
    found = optimized(
        mlp, held_npz, context,
        options={"analyse": True, "rows": 600, "slices": str(tmp_path / "slices.npy")},
    )  # fmt: skip
    table = found.facts["sensitivity"]["table"]
    assert {one["only"]["worst_slice"] for one in table} <= {"", "others"}
    assert all((one["only"]["slice_drop"] > 0) == (one["only"]["worst_slice"] == "others")
               for one in table)  # fmt: skip


def test_the_commands_show_it_and_write_a_page(mlp, held_npz, tmp_path, capsys):
    cache = ["--cache", str(tmp_path / "cache")]
    page = tmp_path / "page.html"
    assert run(["sensitivity", mlp.path, "--data", held_npz, "--page", str(page), *cache]) == 0
    text = capsys.readouterr().out
    assert "█" in text
    assert "costs most" in text
    html = page.read_text()
    assert "<svg" in html
    assert "What each weight costs" in html
    out = tmp_path / "out"
    assert run(["optimize", mlp.path, "--to", "onnxruntime", "--data", held_npz, "--max-size",
                "60%", "--out", str(out), "--json", *cache]) == 0  # fmt: skip
    data = json.loads(capsys.readouterr().out)
    plain = data["facts"]["sensitivity"]["float"]["size"]
    assert data["facts"]["search"]["max_size"] == 0.6 * plain
    assert "Size against error" in (out / "search.html").read_text()
    assert {p.name for p in out.iterdir()} >= {"lepton.json", "model.onnx", "recipe.json"}
    sure = ["sensitivity", mlp.path, "--data", held_npz, "--json", *cache, "--option", "analyse=no"]
    assert run(sure) == 0
    measured = json.loads(capsys.readouterr().out)
    assert "search" not in measured and "costs most" in measured["why"]  # nothing was compressed
    assert run([*sure, "--cache", held_npz]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "LPT-OPT-015"
    asked = ["--to", "onnxruntime:cpu", "--json", "--cache", "none"]
    with np.load(held_npz) as rows:
        odd = {"image": rows["image"].astype("f8"), "labels": rows["labels"] + 5}
    np.savez(tmp_path / "odd.npz", **odd)
    given = [mlp.path, "--data", str(tmp_path / "odd.npz")]
    assert run(["sensitivity", *given, *asked]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["from_cache"] == 0
    cast, labels = data["warnings"]
    assert cast == "input 'image' was cast from float64 to float32"
    assert "labels fit no output" in labels
    asked = ["--to", "onnxruntime", "--timing", "0", "--out", str(tmp_path / "int8")]
    assert run(["optimize", *given, *asked]) == 0
    assert f"warning: {cast}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["--recipe", "RECIPE", "--max-drop", "0.1"], "LPT-USE-112"),
        (["--recipe", "RECIPE", "--data", "DATA"], "LPT-USE-112"),
        (["--recipe", "RECIPE", "--precision", "int8"], "LPT-USE-112"),
        (["--data", "DATA", "--option", "recipe_only=yes"], "LPT-USE-113"),
        (["--data", "DATA", "--slices", "DATA"], "LPT-OPT-015"),
        (["--data", "DATA", "--cache", "here"], "LPT-OPT-015"),
    ],
)
def test_what_would_not_be_heeded_is_refused(mlp, held_npz, tmp_path, capsys, more, code):
    (tmp_path / "recipe.json").write_text("{}")
    names = {"RECIPE": str(tmp_path / "recipe.json"), "DATA": held_npz}
    given = [names.get(word, word) for word in more]
    out = ["--to", "onnxruntime", "--out", str(tmp_path / "out")]
    assert run(["optimize", mlp.path, *out, *given]) != 0
    assert code in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_marker_says_what_was_made(mlp, tmp_path, capsys):
    asked = ["optimize", mlp.path, "--to", "onnxruntime"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert run([*asked, "--precision", "int8-weight", "--out", str(first)]) == 0
    assert run([*asked, "--recipe", str(first / "recipe.json"), "--out", str(second)]) == 0
    for out in (first, second):
        assert json.loads((out / "lepton.json").read_text())["precision"] == "int8-weight"


@pytest.mark.parametrize("budget", [{"max_drop": 0.1}, {"max_size": 0.5}])
def test_a_recipe_takes_no_budget(mlp, context, tmp_path, budget):
    with pytest.raises(OptimizeError, match=next(iter(budget))) as failed:
        lepton.optimize(mlp, target="onnxruntime", recipe=str(tmp_path / "none.json"),
                        context=context, **budget)  # fmt: skip
    assert failed.value.code == "LPT-OPT-037"


def test_a_precision_beside_a_recipe_is_its_own(mlp, context_of):
    """Another one was passed over in silence."""
    made = lepton.optimize(
        mlp, target="onnxruntime", precision="int8-weight", context=context_of("made")
    )

    def again(name, **asked):
        return lepton.optimize(
            mlp, target="onnxruntime", recipe=made.recipe, context=context_of(name), **asked
        )

    for name, precision in (("left-out", {}), ("same", {"precision": "int8-weight"})):
        assert again(name, **precision).model.metadata["precision"] == "int8-weight"
    with pytest.raises(OptimizeError, match="the precision int4") as failed:
        again("other", precision="int4")
    assert failed.value.code == "LPT-OPT-037"


@pytest.mark.parametrize("text", ["130%", "0", "-1", "much"])
def test_a_size_that_is_none_is_refused(text):
    from lepton_core.cli._types import SHARE_OR_SIZE

    with pytest.raises(UsageError) as caught:
        SHARE_OR_SIZE.convert(text, None, None)
    assert text == "much" or "share" in caught.value.remedy


def test_shares_and_sizes_are_told_apart():
    from lepton_core.cli._types import SHARE_OR_SIZE

    found = [SHARE_OR_SIZE.convert(t, None, None) for t in ("30%", "0.3", "1", "2", "150K")]
    assert found == [0.3, 0.3, 1.0, 2.0, 150 * 1024.0]


@pytest.mark.conformance
def test_what_the_target_does_not_hold_is_left_out_of_the_choice(mlp, held_npz, context):
    """Weights with a scale for each block need iOS 18; the rest of the search goes on."""
    pytest.importorskip("lepton_coreml", reason="lepton-coreml is not installed")
    found = optimized(
        mlp, held_npz, context, "coreml", device="ios17",
        options={"analyse": True, "method": "mse", "threads": 2},
    )  # fmt: skip
    units = found.facts["sensitivity"]["units"]
    assert [unit["choices"] for unit in units] == [["fp32", "int8"]] * 3
    assert len(found.warnings) == 2
    assert all("is left out for" in text and "iOS 18" in text for text in found.warnings)
