"""Weights alone in few bits: methods, choice of layers, budgets, refusals, the same bytes again."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import lepton_kernels as lk
from lepton_compress import _inputs
from lepton_compress._graph import Graph
from lepton_compress._options import read_options
from lepton_compress._positive import round_blocks, round_gptq
from lepton_compress._products import choose_products
from lepton_compress._rounding import Rounded, round_group
from lepton_core import recipe as recipes
from lepton_core.errors import OptimizeError
from lepton_core.types import ConvertRequest, OpenRequest, OptimizeRequest
from lepton_onnx import pivot, qdq
from lepton_onnx.qdq import Blocks


def run(model, images, context, target="onnxruntime"):
    with context.hooks.open(model, OpenRequest(target, threads=1), context) as session:
        return next(iter(session.run({"image": images}).values()))


def optimize(model, context, target="onnxruntime", precision="int4", **more):
    request = OptimizeRequest(target, precision=precision, timing_seconds=0.0, **more)
    return context.hooks.optimize(model, request, context)


def chosen(base, **options):
    return choose_products(Graph(pivot.load(base.path)), read_options(options, "int4"))


@pytest.fixture(scope="module")
def seen_npz(tmp_path_factory, digits):
    """The digits that the networks were trained on: what int4 is calibrated on here."""
    path = tmp_path_factory.mktemp("seen") / "seen.npz"
    np.savez(path, image=digits[0][:300])
    return str(path)


# --- what it does to a trained transformer ------------------------------------------------------


@pytest.mark.parametrize(
    "methods",
    [("mse", "gptq"), pytest.param(("rtn", "mse", "awq", "gptq"), marks=pytest.mark.conformance)],
)
def test_methods_rank_on_rows_not_seen(trained, digits, seen_npz, context_of, methods):
    base, held = trained("wide"), digits[0][900:]
    work = context_of("run")
    expected = run(base, held, work)
    errors = {}
    for method in methods:
        samples = seen_npz if method in ("awq", "gptq") else None
        made = optimize(base, context_of(method), samples=samples, options={"method": method})
        actual = run(made.model, held, work)
        errors[method] = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
        assert (actual.argmax(1) == expected.argmax(1)).mean() > 0.98, method
    print(errors)
    assert errors["gptq"] < 0.6 * errors["mse"]
    assert errors.get("rtn", np.inf) > errors["mse"]


@pytest.mark.parametrize("method", ["mse", "gptq"])
def test_scales_that_float16_holds(graphs, context_of, tmp_path, method):
    """For LiteRT's kernels; the recipe keeps integers and scales, so that all targets read them."""
    base = deep(graphs, (64, 80))
    rows = np.random.default_rng(0).standard_normal((120, 64)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=rows)
    made = optimize(
        base, context_of(method), samples=str(tmp_path / "rows.npz"),
        options={"method": method, "ends": 4, "scales": "float16"},
    )  # fmt: skip
    stored = qdq.read_blocks(pivot.load(made.model.path))
    recipe = recipes.read(made.recipe)
    arrays = recipes.load_arrays(recipe, made.recipe)
    assert stored
    for name, blocks in stored.items():
        entry = recipe.blocks[name]
        assert (blocks.scale > 0).all()
        np.testing.assert_array_equal(blocks.scale, blocks.scale.astype("f2").astype("f4"))
        assert (blocks.codes.min(), blocks.codes.max()) == (-8, 7)
        np.testing.assert_array_equal(arrays[entry.scale], blocks.scale)
        values = Graph(pivot.load(base.path)).array(name)
        error = np.linalg.norm(np.moveaxis(blocks.values(), 1, entry.axis) - values)
        assert error / np.linalg.norm(values) < 0.15


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("inputs", "block"), [(256, 32), (200, 64), (80, 128)])
def test_scales_above_0_lose_no_more_than_absmax_in_any_block(bits, inputs, block):
    rng = np.random.default_rng(bits)
    weight = rng.standard_normal((48, inputs)).astype("f4")
    weight[3] = 0  # no range
    starts = np.arange(0, inputs, block)
    for clip in ("range", "mse"):
        made = round_blocks(weight, block, bits, clip)
        plain = lk.quantize_blocks(weight, block, bits=bits, scheme="absmax", clip=clip)
        own, theirs = (
            np.add.reduceat((f.values() - weight.astype("f8")) ** 2, starts, axis=1)
            for f in (made, Blocks.of(plain, block))
        )
        assert (made.scale > 0).all()
        assert (own <= theirs).all()
        assert own.sum() < 0.999 * theirs.sum()


@pytest.mark.parametrize(("bits", "block", "gain"), [(4, 32, 0.97), (3, 64, 0.99), (2, 256, 1)])
def test_gptq_under_scales_above_0_loses_no_more_than_under_absmax(bits, block, gain):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 200)).astype("f4")
    rows = rng.standard_normal((900, 200)) @ rng.standard_normal((200, 200))
    hessian = rows.T @ rows / len(rows)
    made = round_gptq(weight, hessian, block, bits)
    rule = {"bits": bits, "scheme": "absmax", "clip": "mse", "act_order": True}
    plain = Blocks.of(lk.gptq(weight, hessian, block, **rule), block)
    own, theirs = (((f.values() - weight) @ rows.T).std(axis=1) for f in (made, plain))
    assert (made.scale > 0).all()
    assert made.codes.shape == weight.shape
    assert (own <= theirs * 1.000001).all()
    assert np.square(own).sum() <= gain**2 * np.square(theirs).sum()


@pytest.mark.parametrize(("by", "halves"), [(1.0, True), (4e-6, False), (1e-9, False)])
def test_scales_that_float16_rounds_too_far_stay_float32(graphs, by, halves):
    """Below 6e-5 its steps are all 6e-8, so that small scales would be off by whole percents."""
    weight = graphs.rand(64, 80) * np.float32(by)
    if halves:
        weight[:, 0] *= np.float32(1e-5)  # a channel that hardly counts decides nothing
    base = graphs.build([graphs.node("MatMul", ["x", "w"], ["y"])], {"w": weight}, shape=("n", 64))
    graph = Graph(pivot.load(base.path))
    options = read_options({"scales": "float16", "method": "mse", "ends": 4}, "int4")
    rounded = Rounded()
    (product,) = choose_products(graph, options).products
    round_group(graph, [product], options, rounded, method="mse")
    (scale,) = (a for n, a in rounded.arrays.items() if n.endswith("/scale"))
    assert np.array_equal(scale, scale.astype("f2").astype("f4")) is halves
    assert any("beyond float16" in note for note in rounded.notes) is not halves
    error = np.linalg.norm(rounded.weights(graph, product.weight) - weight) / np.linalg.norm(weight)
    assert error < 0.12


@pytest.mark.parametrize(
    ("target", "shared_with", "options", "halves"),
    [
        ("tflite", (), {}, True),
        ("tflite", (), {"scales": "float32"}, False),
        ("onnxruntime", ("openvino",), {}, False),
        ("onnxruntime", ("openvino", "tflite:android-arm64"), {}, True),
        ("onnxruntime", ("tflite",), {"scales": "float32"}, False),
    ],
)
def test_targets_whose_kernels_want_such_scales_get_them(
    graphs, context_of, target, shared_with, options, halves
):
    pytest.importorskip("lepton_tflite")
    base = deep(graphs, (64, 80))
    asked = {"recipe_only": True, "ends": 4, **options}
    made = optimize(base, context_of("run"), target=target, options=asked, shared_with=shared_with)
    recipe = recipes.read(made.recipe)
    arrays = recipes.load_arrays(recipe, made.recipe)
    assert recipe.blocks
    for name, entry in recipe.blocks.items():
        values = Graph(pivot.load(base.path)).array(name)
        scale = qdq.block_integers(name, values, entry, arrays).scale
        assert bool((scale > 0).all()) is halves
    assert any("float16" in note for note in recipe.notes) is halves


def test_awq_protects_the_weights_of_large_inputs(graphs, context_of, tmp_path):
    base = deep(graphs, (64, 80))
    rng = np.random.default_rng(0)
    large = np.where(np.arange(64) % 32 == 3, 30.0, 1.0)
    rows = (rng.standard_normal((300, 64)) * large).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=rows[:200])
    errors, work = {}, context_of("run")
    expected = run_x(base, rows[200:], work)
    for method in ("mse", "awq"):
        made = optimize(
            base, context_of(method), samples=str(tmp_path / "rows.npz"),
            options={"method": method, "ends": 4},
        )  # fmt: skip
        actual = run_x(made.model, rows[200:], work)
        errors[method] = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
    entries = recipes.read(made.recipe).blocks
    assert entries["w0"].method == "awq"
    assert "Mul" in [node.op_type for node in pivot.load(made.model.path).graph.node]
    assert errors["awq"] < 0.9 * errors["mse"]


def run_x(model, rows, context):
    with context.hooks.open(model, OpenRequest("onnxruntime", threads=1), context) as session:
        return session.run({"x": rows})["y"]


@pytest.mark.parametrize("precision", ["int4", "int8-weight"])
@pytest.mark.parametrize("symmetric", ["yes", "no"])
def test_both_files_hold_the_integers_of_the_recipe(
    trained, seen_npz, context_of, precision, symmetric
):
    openvino = pytest.importorskip("lepton_openvino._telemetry").openvino()
    base = trained("wide")
    made = optimize(
        base, context_of("one"), precision=precision, samples=seen_npz,
        options={"symmetric": symmetric},
    )  # fmt: skip
    recipe = recipes.read(made.recipe)
    arrays = recipes.load_arrays(recipe, made.recipe)
    graph = Graph(pivot.load(base.path))
    wanted = {
        name: qdq.block_integers(name, graph.array(name), entry, arrays)
        for name, entry in recipe.blocks.items()
    }
    assert len(wanted) == 8
    assert {entry.method for entry in recipe.blocks.values()} == {"gptq"}
    stored = qdq.read_blocks(pivot.load(made.model.path))
    assert qdq.compare_blocks(wanted, stored) == []

    other = context_of("two")
    asked = ConvertRequest("openvino", recipe=made.recipe)
    lowered = other.hooks.convert(base, asked, other).model
    found = {}
    for op in openvino.Core().read_model(lowered.path).get_ops():
        name = op.get_friendly_name()
        if op.get_type_name() == "Constant" and name.rpartition("/")[0] in wanted:
            found[name] = (op.get_output_element_type(0).get_type_name(), np.array(op.data))
    width = 4 if precision == "int4" else 8
    for name, blocks in wanted.items():
        kind, codes = found[f"{name}/uint{width}"]
        assert kind == f"u{width}"
        packed = np.asarray(codes, np.uint8).reshape(len(blocks.codes), -1)
        flat = _whole(packed, width).reshape(blocks.codes.shape)
        half = 2 ** (width - 1) if blocks.zero_point is None else 0
        assert np.array_equal(flat.astype(np.int16) - half, blocks.codes.astype(np.int16))
        assert np.array_equal(found[f"{name}/scale"][1].ravel(), blocks.scale.ravel())
    assert lowered.metadata["storage_precision"] == f"int{width}"
    images = np.load(seen_npz)["image"][:50]
    work = context_of("run")
    ours, theirs = run(made.model, images, work), run(lowered, images, work, "openvino")
    assert np.linalg.norm(ours - theirs) < 0.02 * np.linalg.norm(ours)


def _whole(codes, width):
    """Return one integer a byte: OpenVINO gives 4-bit constants packed or not, by version."""
    if width == 8 or codes.max() < 16:
        return codes
    return np.stack([codes & 15, codes >> 4], axis=-1)


def test_quantized_matrices_are_over_four_times_smaller_in_both_files(
    trained, seen_npz, context_of
):
    base = trained("wide")
    made = optimize(base, context_of("one"), samples=seen_npz)
    recipe = recipes.read(made.recipe)
    graph = Graph(pivot.load(base.path))
    values = sum(graph.array(name).size for name in recipe.blocks)
    other = context_of("two")
    ours = pivot.graph_facts(pivot.load(made.model.path))
    asked = ConvertRequest("openvino", recipe=made.recipe)
    lowered = other.hooks.convert(base, asked, other).model
    for weights in (ours["weights"], lowered_values(lowered)):
        assert weights.get("uint4", weights.get("u4")) >= values
    tensors = pivot.load(made.model.path).graph.initializer
    parts = [t for t in tensors if t.name.rpartition("/")[0] in recipe.blocks]
    small = sum(len(t.raw_data) for t in parts)
    assert 4 * values > 6 * small
    saved = 4 * values - small
    sizes = [Path(m.path).with_suffix(s).stat().st_size
             for m, s in ((made.model, ".onnx"), (lowered, ".bin"))]  # fmt: skip
    before = [Path(base.path).stat().st_size, plain_size(base, context_of("three"))]
    for size, was in zip(sizes, before, strict=True):
        assert was - size > 0.95 * saved


def lowered_values(model):
    from lepton_openvino import _ir

    return _ir.stored_values(_ir.read_graph(Path(model.path)))


def plain_size(base, context):
    plain = context.hooks.convert(base, ConvertRequest("openvino"), context).model
    return Path(plain.path).with_suffix(".bin").stat().st_size


def test_a_recipe_reproduces_the_same_bytes(graphs, context_of, tmp_path):
    base = deep(graphs)
    seen_npz = str(tmp_path / "rows.npz")
    np.savez(seen_npz, x=graphs.rand(100, 64))
    for method in ("gptq", "awq", "mse"):
        options = {"method": method}
        first = optimize(base, context_of(f"{method}-1"), samples=seen_npz, options=options)
        again = optimize(base, context_of(f"{method}-2"), samples=seen_npz, options=options)
        lowered = optimize(base, context_of(f"{method}-3"), recipe=first.recipe)
        results = (first, again, lowered)
        assert len({Path(r.recipe).read_bytes() for r in results}) == 1
        assert len({Path(r.model.path).read_bytes() for r in results}) == 1
        sidecar = Path(first.recipe).with_suffix(".safetensors")
        assert sidecar.is_file() == (method != "mse")
        if method != "mse":
            assert sidecar.read_bytes() == lowered_sidecar(lowered)


def lowered_sidecar(result):
    return Path(result.recipe).with_suffix(".safetensors").read_bytes()


def test_an_edited_recipe_is_what_is_lowered(trained, seen_npz, context_of, tmp_path):
    base = trained("wide")
    made = optimize(base, context_of("one"), samples=seen_npz)
    data = json.loads(Path(made.recipe).read_text())
    first, second, *_ = data["blocks"]
    data["blocks"] = {
        first: {"bits": 3, "block": 16, "axis": data["blocks"][first]["axis"], "method": "rtn"}
    }
    data["layers"] = {n: e for n, e in data["layers"].items() if e["weight"] == first}
    data["sidecar"] = None
    (tmp_path / "edited.json").write_text(json.dumps(data))
    again = optimize(base, context_of("two"), recipe=str(tmp_path / "edited.json"))
    stored = qdq.read_blocks(pivot.load(again.model.path))
    assert list(stored) == [first]
    assert stored[first].block == 16
    assert stored[first].codes.min() == -4
    names = {t.name for t in pivot.load(again.model.path).graph.initializer}
    assert second in names


def test_without_samples_it_goes_by_rule_and_says_weak(trained, context_of):
    made = optimize(trained("wide"), context_of("one"))
    recipe = recipes.read(made.recipe)
    assert recipe.calibration is None
    assert recipe.sidecar is None
    assert {entry.method for entry in recipe.blocks.values()} == {"mse"}
    assert made.facts["verdict"] == "weak"
    assert any("No samples" in text for text in made.warnings)


def test_the_order_of_walking_is_sequential(trained, seen_npz, context_of, monkeypatch):
    """Every product sees what the products before it, in few bits, make of the samples."""
    from lepton_compress import _weights

    sums = {}
    observe = _inputs.observe_inputs

    def spy(graph, value, *args, **named):
        sums[value] = (
            {n: float(np.abs(graph.array(n)).sum()) for n in graph.weights},
            observe(graph, value, *args, **named),
        )
        return sums[value][1]

    monkeypatch.setattr(_weights, "observe_inputs", spy)
    base = trained("wide")
    in_process = context_of("one")
    from lepton_compress._optimize import optimize as direct

    made = direct(base, OptimizeRequest("onnxruntime", precision="int4", samples=seen_npz),
                  in_process)  # fmt: skip
    order = list(recipes.read(made.recipe).blocks)
    states = [state for state, _ in sums.values()]
    changed = [[n for n in order if states[i][n] != states[0][n]] for i in range(len(states))]
    assert changed[0] == []
    assert all(len(a) < len(b) for a, b in itertools.pairwise(changed))
    assert changed[-1] == order[: len(changed[-1])]


def test_inputs_are_summed_in_memory_of_fixed_size():
    rng = np.random.default_rng(0)
    found = _inputs.Inputs(16, seed=0)
    rows = rng.standard_normal((4000, 16)).astype(np.float32)
    for part in np.split(rows, 40):
        found.update(part.reshape(10, 10, 16))
        assert len(found.rows) <= _inputs.KEPT_ROWS
    assert np.allclose(found.hessian.result(), rows.T.astype(float) @ rows / 4000, rtol=1e-4)
    kept = {row.tobytes() for row in found.rows}
    assert len(kept) == _inputs.KEPT_ROWS
    places = [i for i, row in enumerate(rows) if row.tobytes() in kept]
    assert 1500 < np.mean(places) < 2500


# --- which weights ------------------------------------------------------------------------------


def test_what_stays_float_is_named_with_its_reason(trained):
    found = chosen(trained("wide"))
    reasons = " | ".join(found.kept_float.values())
    assert "fewer than a block" in reasons  # 8 inputs
    assert "fewer than 4096 values" in reasons  # 64 x 10
    assert "a norm has few weights" in reasons
    assert "its weight is computed" in reasons  # attention
    assert {p.bits for p in found.products} == {4}


def test_convolutions_are_left_to_int8(graphs):
    nodes = [
        graphs.conv("x", "w1", "b1", "c"), graphs.node("Flatten", ["c"], ["f"]),
        graphs.node("MatMul", ["f", "w"], ["y"]),
    ]  # fmt: skip
    weights = {"w1": graphs.convs["w1"], "b1": graphs.convs["b1"], "w": graphs.rand(2048, 8)}
    found = chosen(graphs.build(nodes, weights))
    assert [p.name for p in found.products] == ["y"]
    assert found.kept_float == {"c": "convolutions are left to int8"}


def deep(graphs, widths=(64, 80, 96, 64)):
    nodes, weights, value = [], {}, "x"
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        weights[f"w{i}"] = graphs.rand(a, b, seed=i)
        nodes += [graphs.node("MatMul", [value, f"w{i}"], [f"m{i}"]),
                  graphs.node("Relu", [f"m{i}"], [f"r{i}"])]  # fmt: skip
        value = f"r{i}"
    nodes.append(graphs.node("Identity", [value], ["y"]))
    return graphs.build(nodes, weights, shape=("n", widths[0]))


def test_the_first_and_the_last_matrix_get_more_bits(graphs, context_of):
    base = deep(graphs)
    assert [p.bits for p in chosen(base).products] == [8, 4, 8]
    assert [p.bits for p in chosen(base, ends=4).products] == [4, 4, 4]
    assert [p.bits for p in chosen(base, bits=3, ends=6).products] == [6, 3, 6]
    two = deep(graphs, (64, 80, 64))
    assert [p.bits for p in chosen(two).products] == [4, 4]
    made = optimize(base, context_of("one"))
    kinds = pivot.graph_facts(pivot.load(made.model.path))["weights"]
    assert kinds["uint4"] == 96 * 96  # 80 inputs, filled up to three blocks
    assert kinds["uint8"] == 64 * 80 + 96 * 64


def test_named_layers_stay_float(graphs):
    found = chosen(deep(graphs), keep="m1")
    assert found.kept_float["m1"] == "asked for"
    assert [p.name for p in found.products] == ["m0", "m2"]


def test_a_weight_with_other_readers_stays_float(graphs):
    base = graphs.build(
        [graphs.node("MatMul", ["x", "w"], ["a"]), graphs.node("MatMul", ["a", "v"], ["b"]),
         graphs.node("ReduceSum", ["w"], ["s"], keepdims=1), graphs.node("Add", ["b", "s"], ["y"])],
        {"w": graphs.rand(64, 64), "v": graphs.rand(64, 64, seed=1)},
        shape=("n", 64),
    )  # fmt: skip
    found = chosen(base)
    assert [p.weight for p in found.products] == ["v"]
    assert "another operator reads 'w' as well" in found.kept_float.values()


def test_tables_become_int8_where_asked(graphs, context_of):
    nodes = [
        graphs.node("Cast", ["x"], ["i"], to=7), graphs.node("Gather", ["t", "i"], ["e"]),
        graphs.node("MatMul", ["e", "w"], ["h"]), graphs.node("MatMul", ["h", "v"], ["y"]),
    ]  # fmt: skip
    weights = {"t": graphs.rand(50, 64), "w": graphs.rand(64, 64), "v": graphs.rand(64, 64)}
    base = graphs.build(nodes, weights, shape=("n", 4))
    plain = chosen(base)
    assert any("embedding tables stay float" in r for r in plain.kept_float.values())
    made = optimize(base, context_of("one"), options={"tables": "int8"})
    recipe = recipes.read(made.recipe)
    assert list(recipe.tensors) == ["t"]
    assert list(recipe.blocks) == ["w", "v"]
    work = context_of("run")
    x = np.random.default_rng(0).integers(0, 50, (6, 4)).astype(np.float32)
    outputs = []
    for model in (base, made.model):
        with work.hooks.open(model, OpenRequest("onnxruntime", threads=1), work) as session:
            outputs.append(session.run({"x": x})["y"])
    assert np.linalg.norm(outputs[1] - outputs[0]) < 0.25 * np.linalg.norm(outputs[0])


def test_inputs_that_are_always_zero_are_rounded_by_rule(graphs, context_of, tmp_path):
    base = deep(graphs)
    np.savez(tmp_path / "zeros.npz", x=np.zeros((20, 64), np.float32))
    made = optimize(base, context_of("one"), samples=str(tmp_path / "zeros.npz"))
    recipe = recipes.read(made.recipe)
    assert {entry.method for entry in recipe.blocks.values()} == {"mse"}
    assert any("was 0 for every sample" in note for note in recipe.notes)


# --- budgets ------------------------------------------------------------------------------------


def test_a_budget_that_holds_is_met_with_the_fewest_bits(trained, held_npz, context_of):
    made = optimize(trained("wide"), context_of("one"), samples=held_npz, max_drop=0.02)
    assert "smaller" in made.why
    trials = made.facts["trials"]
    assert trials[0]["name"] == "fp32"
    assert trials[-1]["verdict"] != "fail"
    assert made.facts["calibrated_on"] + made.facts["measured_on"] == 897


def test_weights_cost_what_their_rounding_loses_where_no_inputs_were_seen(graphs, context):
    from lepton_compress._choose_weights import _cost
    from lepton_compress._job import Job
    from lepton_compress._weights import build

    base = deep(graphs)
    graph = Graph(pivot.load(base.path))
    request = OptimizeRequest("onnxruntime", precision="int4")
    job = Job(graph, base, request, read_options({"method": "rtn"}, "int4"), context, context)
    made = build(job, None, choose_products(graph, job.options))
    costs = {name: _cost(job, made, name) for name in made.recipe.blocks}
    assert 0.05 < costs["w1"] < 0.15  # 4 bits
    assert 0 < costs["w0"] < 0.01  # 8 bits
    assert 0 < costs["w2"] < 0.01


def test_layers_get_more_bits_until_the_budget_holds(trained, held_npz, context_of):
    # At 2 bits by rounding alone this network loses answers; some weights need 8 bits.
    options = {"bits": 2, "method": "rtn"}
    made = optimize(
        trained("wide"), context_of("one"), samples=held_npz, max_drop=0.004, options=options
    )
    bits = [entry.bits for entry in recipes.read(made.recipe).blocks.values()]
    assert 8 in bits
    assert len(made.facts["trials"]) > 2


def test_a_budget_that_cannot_be_met_is_an_error(trained, held_npz, context_of):
    with pytest.raises(OptimizeError) as caught:
        optimize(
            trained("wide"), context_of("one"), samples=held_npz, max_drop=-0.5,
            options={"method": "rtn"},
        )  # fmt: skip
    assert caught.value.code == "LPT-OPT-014"
    assert caught.value.details["limited_by"]


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "options"),
    [
        ("int4", {"bits": 5}),
        ("int4", {"bits": 1}),
        ("int4", {"scales": "bfloat16"}),
        ("int4", {"scales": "float16", "symmetric": "no"}),
        ("int4", {"scales": "float16", "method": "awq"}),
        ("int8", {"scales": "float16"}),
        ("int8-weight", {"bits": 4}),
        ("int8-weight", {"bits": 9}),
        ("int4", {"bits": "four"}),
        ("int4", {"block": 24}),
        ("int4", {"block": 8}),
        ("int4", {"method": "magic"}),
        ("int4", {"ends": 1}),
        ("int4", {"symmetric": "perhaps"}),
        ("int4", {"tables": "int4"}),
        ("int4", {"estimator": "mse"}),
        ("int4", {"scheme": "static"}),
        ("int8", {"bits": 4}),
        ("int8", {"method": "gptq"}),
    ],
)
def test_wrong_options(precision, options):
    with pytest.raises(OptimizeError) as caught:
        read_options(options, precision)
    assert caught.value.code == "LPT-OPT-015"


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_methods_that_need_samples_say_so(graphs, context, method):
    with pytest.raises(OptimizeError) as caught:
        optimize(deep(graphs), context, options={"method": method})
    assert caught.value.code == "LPT-OPT-017"


def test_a_quantized_model_is_refused(graphs, context_of):
    made = optimize(deep(graphs), context_of("one"))
    with pytest.raises(OptimizeError) as caught:
        optimize(made.model, context_of("two"))
    assert caught.value.code == "LPT-OPT-010"


def test_a_recipe_for_another_pivot_is_refused(graphs, context_of):
    made = optimize(deep(graphs), context_of("one"))
    other = deep(graphs, (64, 96, 80, 64))
    with pytest.raises(OptimizeError) as caught:
        optimize(other, context_of("two"), recipe=made.recipe)
    assert caught.value.code == "LPT-OPT-003"


def test_a_target_without_the_scheme_is_refused(graphs, context):
    with pytest.raises(OptimizeError) as caught:
        optimize(deep(graphs), context, target="torch")
    assert caught.value.code == "LPT-OPT-016"
    assert "int4-weight-only" in str(caught.value)


def test_a_model_without_matrices_is_refused(graphs, context):
    base = graphs.build([graphs.conv("x", "w1", "b1", "y")], graphs.convs)
    with pytest.raises(OptimizeError) as caught:
        optimize(base, context)
    assert caught.value.code == "LPT-OPT-012"


def test_values_that_overflow_are_refused(graphs, context, tmp_path):
    rows = np.full((20, 64), 1e38, np.float32)  # the second product overflows
    np.savez(tmp_path / "odd.npz", x=rows)
    with pytest.raises(OptimizeError) as caught:
        optimize(deep(graphs), context, samples=str(tmp_path / "odd.npz"))
    assert caught.value.code == "LPT-OPT-013"
