"""Recovery without labels: functions stay the same, and what int8 lost comes back."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import ModelProto, numpy_helper

import lepton_core as lepton
from lepton_compress._balanced import balanced_error
from lepton_compress._bench import Trial
from lepton_compress._build import static_recipe
from lepton_compress._calibrate import Range
from lepton_compress._channels import Channels, observe_axes, observe_channels
from lepton_compress._diagnose import (
    Finding,
    channel_findings,
    concat_findings,
    range_findings,
    sum_findings,
    weight_findings,
)
from lepton_compress._diagnose_cpu import _places, saturation_findings
from lepton_compress._graph import Graph
from lepton_compress._options import RECOVERIES, read_options
from lepton_compress._recover import Recoverer
from lepton_compress._recover_bias import analytic, empirical
from lepton_compress._recover_judge import saves_time
from lepton_compress._recover_recipe import Recovery
from lepton_compress._recover_scales import WIDE_STEPS, balance, equalize, merged, smooth
from lepton_compress._recover_sites import output_sites, reader_sites
from lepton_compress._recover_text import lines
from lepton_core import recipe as recipes
from lepton_core.environment import sums_may_saturate
from lepton_core.errors import OptimizeError
from lepton_core.recipe import Correction, Layer, PivotId, Recipe, Rescaled, Tensor
from lepton_core.samples import Samples, match
from lepton_core.types import ConvertRequest, OpenRequest, OptimizeRequest
from lepton_onnx import pivot, qdq

TARGETS = ("onnxruntime", "openvino")
trained_once = pytest.mark.xdist_group("standing")  # one worker trains
CASES = Path(__file__).parents[3] / "tests" / "bench" / "_standing_cases.py"


def run(model, inputs, context, target="onnxruntime"):
    with context.hooks.open(model, OpenRequest(target, threads=1), context) as session:
        return next(iter(session.run(inputs).values()))


def samples_of(model, images, name="x"):
    return match(Samples({name: images}), pivot.signature(model.path))


@pytest.fixture
def chain(graphs):
    """Return a pivot: conv, ReLU, pooling, conv, depthwise conv, ReLU, flatten, matrix."""
    rand, node = graphs.rand, graphs.node
    nodes = [
        graphs.conv("x", "w1", "b1", "c1"), node("Relu", ["c1"], ["r1"]),
        node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        graphs.conv("p1", "w2", "b2", "c2"), node("Relu", ["c2"], ["r2"]),
        node("Conv", ["r2", "wd", "bd"], ["d"], pads=[1, 1, 1, 1], group=8),
        node("Relu", ["d"], ["r3"]), node("Flatten", ["r3"], ["f"]),
        node("Gemm", ["f", "wg", "bg"], ["y"]),
    ]  # fmt: skip
    weights = {
        **{k: graphs.convs[k] for k in ("w1", "b1", "w2", "b2")},
        "wd": rand(8, 1, 3, 3, seed=7), "bd": rand(8, seed=8),
        "wg": rand(512, 5, seed=9), "bg": rand(5, seed=10),
    }  # fmt: skip
    uneven = 2.0 ** np.random.default_rng(3).integers(-5, 6, 8)
    weights["w1"] = (weights["w1"] * uneven[:, None, None, None]).astype(np.float32)
    weights["b1"] = (weights["b1"] * uneven).astype(np.float32)
    weights["w2"] = (weights["w2"] / uneven[None, :, None, None]).astype(np.float32)
    return graphs.build(nodes, weights)


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((48, 3, 16, 16)).astype(np.float32)


def naive(model, images, context):
    graph = Graph(pivot.load(model.path))
    seen = samples_of(model, images)
    return graph, static_recipe(graph, model.digest, 21, seen, context)[0]


def test_sites_are_found_through_activations_pooling_and_flatten(chain, images, context):
    graph, recipe = naive(chain, images, context)
    sites = {s.value: s for s in reader_sites(graph, recipe.layers)}
    assert sites["p1"].divided == {"w1": 0, "b1": 0}
    assert sites["p1"].multiplied == {"w2": 1}
    assert sites["r2"].multiplied == {"wd": 0}
    assert sites["f"].divided == {"wd": 0, "bd": 0}
    assert (sites["f"].channels, sites["f"].multiplied) == (8, {"wg": 0})


def test_equalization_undoes_what_was_rescaled_and_changes_no_bit(chain, images, context):
    graph, recipe = naive(chain, images, context)
    entries = equalize(graph, reader_sites(graph, recipe.layers))
    assert set(entries) == {"p1", "r2", "f"}
    copy = ModelProto()
    copy.CopyFrom(graph.model)
    qdq.rescale(copy, entries)
    path = Path(context.workdir) / "rescaled.onnx"
    pivot.save(copy, path)
    changed = replace(chain, path=str(path), digest="")
    one, other = (run(m, {"x": images}, context) for m in (chain, changed))
    assert one.tobytes() == other.tobytes()
    first, second = (numpy_helper.to_array(t) for t in copy.graph.initializer if t.name in "w1 w2")
    ratio = np.abs(first).max((1, 2, 3)) / np.abs(second).max((0, 2, 3))
    assert ratio.max() / ratio.min() < 4.1  # a factor of sqrt(2) on either side of both


@pytest.mark.parametrize("target", TARGETS)
def test_a_rescaled_recipe_loses_less_and_reproduces_its_bytes(
    chain, images, context_of, tmp_path, target
):
    context = context_of("calibrate")
    graph, plain = naive(chain, images, context)
    job = _job(chain, graph, context)
    recovery = Recovery(rescaled=equalize(graph, reader_sites(graph, plain.layers)))
    recipe, _ = recovery.recipe(job, samples_of(chain, images), "minmax")
    assert recipe.schema == 3
    expected = run(chain, {"x": images}, context)
    errors, files = [], []
    for name, one in (("plain", plain), ("first", recipe), ("second", recipe)):
        place = recipes.write(one, tmp_path / f"{name}.json")
        assert recipes.read(place) == one
        work = context_of(name)
        built = work.hooks.convert(chain, ConvertRequest(target, recipe=str(place)), work).model
        files.append(sorted(Path(built.path).parent.glob("model.*"))[-1].read_bytes())
        actual = run(built, {"x": images}, work, target)
        errors.append(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
    assert files[1] == files[2]
    assert errors[1] < 0.5 * errors[0]


def test_outputs_of_different_scales_keep_their_names_and_values(graphs, images, context_of):
    head = graphs.rand(6, 8, 1, 1, seed=5)
    head[:2] *= 2000
    nodes = [
        graphs.conv("x", "w1", "b1", "c1"), graphs.node("Relu", ["c1"], ["r1"]),
        graphs.node("Conv", ["r1", "wh", "bh"], ["y"]),
    ]  # fmt: skip
    weights = {"w1": graphs.convs["w1"], "b1": graphs.convs["b1"], "wh": head, "bh": graphs.rand(6)}
    model = graphs.build(nodes, weights)
    context = context_of("calibrate")
    graph, plain = naive(model, images, context)
    sites = output_sites(graph, plain.layers)
    seen = observe_channels(graph, {"y": 1}, samples_of(model, images), context)
    found = channel_findings(graph, sites, seen, head=True)
    assert [(f.mechanism, f.value) for f in found] == [("mixed-head", "y")]
    assert not channel_findings(graph, sites, seen, head=True, steps=WIDE_STEPS)
    entries, _ = balance(sites, seen)
    recovery = Recovery(rescaled=entries)
    recipe, _ = recovery.recipe(_job(model, graph, context), samples_of(model, images), "minmax")
    assert "y" in recipe.layers
    assert "y" in recipe.rescaled
    expected = {"y": run(model, {"x": images}, context)}
    errors = []
    for name, one in (("plain", plain), ("balanced", recipe)):
        work = context_of(name)
        place = recipes.write(one, work.workdir / "recipe.json")
        asked = ConvertRequest("onnxruntime", recipe=str(place))
        built = work.hooks.convert(model, asked, work).model
        errors.append(balanced_error(expected, {"y": run(built, {"x": images}, work)}))
    assert errors[0] > 0.6
    assert errors[1] < 0.03
    # A layer that is deleted by hand takes its rescaling with it.
    alone = replace(recipe, layers={k: v for k, v in recipe.layers.items() if k != "y"})
    work = context_of("alone")
    place = recipes.write(alone, work.workdir / "recipe.json")
    built = work.hooks.convert(model, ConvertRequest("onnxruntime", recipe=str(place)), work).model
    assert balanced_error(expected, {"y": run(built, {"x": images}, work)}) < 0.03


def test_two_balanced_heads_keep_their_names(graphs, images, context_of):
    def head(seed):
        weight = graphs.rand(6, 8, 1, 1, seed=seed)
        weight[:2] *= 2000
        return weight

    nodes = [graphs.conv("x", "w1", "b1", "c1"), graphs.node("Relu", ["c1"], ["r1"])]
    nodes += [graphs.node("Conv", ["r1", f"wh{n}", f"bh{n}"], [f"y{n}"]) for n in (1, 2)]
    weights = {"w1": graphs.convs["w1"], "b1": graphs.convs["b1"], "wh1": head(5), "wh2": head(6),
               "bh1": graphs.rand(6), "bh2": graphs.rand(6, seed=2)}  # fmt: skip
    model = graphs.build(nodes, weights, outputs=("y1", "y2"))
    context = context_of("calibrate")
    graph, plain = naive(model, images, context)
    seen = observe_channels(graph, {"y1": 1, "y2": 1}, samples_of(model, images), context)
    entries, _ = balance(output_sites(graph, plain.layers), seen)
    assert set(entries) == {"y1", "y2"}
    recovery = Recovery(rescaled=entries)
    recipe, _ = recovery.recipe(_job(model, graph, context), samples_of(model, images), "minmax")
    assert {"y1", "y2"} <= set(recipe.layers)
    work = context_of("balanced")
    place = recipes.write(recipe, work.workdir / "recipe.json")
    built = work.hooks.convert(model, ConvertRequest("onnxruntime", recipe=str(place)), work).model
    outputs = []
    for one in (model, built):
        with work.hooks.open(one, OpenRequest("onnxruntime", threads=1), work) as session:
            outputs.append(session.run({"x": images}))
    assert list(outputs[0]) == list(outputs[1]) == ["y1", "y2"]
    assert balanced_error(*outputs) < 0.03


def test_scales_and_weights_belong_together_where_readers_stay_float(chain, images, context):
    graph, plain = naive(chain, images, context)
    entries = equalize(graph, reader_sites(graph, plain.layers))
    recovery = Recovery(rescaled={"p1": entries["p1"]}, keep=("c2",))
    recipe, _ = recovery.recipe(_job(chain, graph, context), samples_of(chain, images), "minmax")
    assert "w1" in recipe.tensors
    assert "w2" not in recipe.tensors
    copy = ModelProto()
    copy.CopyFrom(graph.model)
    qdq.rescale(copy, recipe.rescaled)
    lowered = next(numpy_helper.to_array(t) for t in copy.graph.initializer if t.name == "w1")
    assert np.allclose(recipe.tensors["w1"].scales, np.abs(lowered).max((1, 2, 3)) / 127)


def test_smoothing_takes_norms_that_others_read_as_well(graphs, context_of):
    rand, node = graphs.rand, graphs.node
    gamma = np.ones(16, np.float32)
    gamma[3] = 256
    weight = rand(16, 16, seed=2)
    weight[3] /= 256
    nodes = [
        node("LayerNormalization", ["x", "gamma", "beta"], ["norm"], axis=-1),
        node("MatMul", ["norm", "w"], ["m"]), node("Add", ["m", "b"], ["a"]),
        node("Mul", ["norm", "small"], ["scaled"]), node("Add", ["a", "scaled"], ["y"]),
    ]  # fmt: skip
    weights = {"gamma": gamma, "beta": rand(16), "w": weight, "b": rand(16, seed=4),
               "small": np.full(16, 0.001, np.float32)}  # fmt: skip
    model = graphs.build(nodes, weights, shape=("n", 5, 16))
    rows = np.random.default_rng(1).standard_normal((40, 5, 16)).astype(np.float32)
    context = context_of("calibrate")
    graph, plain = naive(model, rows, context)
    sites = reader_sites(graph, plain.layers)
    assert [(s.value, dict(s.divided)) for s in sites] == [("norm", {})]  # "scaled" reads it too
    seen = observe_channels(graph, {"norm": 2}, samples_of(model, rows), context)
    assert [f.mechanism for f in channel_findings(graph, sites, seen, head=False)] == [
        "outlier-channel"
    ]
    entries, left = smooth(graph, sites, seen)
    assert left["norm"] < 0.01
    recovery = Recovery(rescaled=entries)
    recipe, _ = recovery.recipe(_job(model, graph, context), samples_of(model, rows), "minmax")
    assert recipe.tensors["norm"].scales[0] < 0.2 * plain.tensors["norm"].scales[0]
    expected = run(model, {"x": rows}, context)
    errors = []
    for name, one in (("plain", plain), ("smooth", recipe)):
        work = context_of(name)
        place = recipes.write(one, work.workdir / "recipe.json")
        asked = ConvertRequest("onnxruntime", recipe=str(place))
        built = work.hooks.convert(model, asked, work).model
        lost = run(built, {"x": rows}, work) - expected
        errors.append(np.linalg.norm(lost) / np.linalg.norm(expected))
    assert errors[1] < 0.3 * errors[0]


def test_biases_take_back_what_rounding_moves(chain, images, context):
    graph, recipe = naive(chain, images, context)
    rows = samples_of(chain, images)
    axes = {"x": 1, "p1": 1, "r2": 1, "f": 1}
    seen = observe_axes(graph, axes.items(), rows, context)
    means = {place: channels.mean for place, channels in seen.items()}
    by_rule = analytic(graph, recipe, means)
    assert set(by_rule) == {"c1", "c2", "d", "y"}
    overflowed = means | {("p1", 1): means["p1", 1] * np.inf}
    assert set(analytic(graph, recipe, overflowed)) == {"c1", "d", "y"}
    weight, tensor = graph.array("wg"), recipe.tensors["wg"]
    actual = qdq.weight_integers(weight, tensor) * np.asarray(tensor.scale, np.float32)
    assert np.allclose(by_rule["y"].values, means["f", 1] @ (weight - actual), atol=1e-6)
    measured = empirical(graph.model, graph, recipe, rows, context)
    moved = []
    for corrections in ({}, measured):
        one = replace(recipe, corrections=corrections)
        lowered = Graph(qdq.lower(graph.model, one, digest=chain.digest, unsigned=True).model)
        found = observe_channels(lowered, {"y": 1}, rows, context)["y"].mean
        wanted = observe_channels(graph, {"y": 1}, rows, context)["y"].mean
        moved.append(np.abs(found - wanted).max())
    assert moved[1] < 0.2 * moved[0]


@pytest.mark.parametrize(
    ("key", "entry", "says"),
    [
        ("rescaled", {"by": "magic"}, "is none of"),
        ("rescaled", {"exponents": [99] * 8}, "larger than 60"),
        ("rescaled", {"exponents": []}, "is empty"),
        ("rescaled", {"divided": {}, "multiplied": {}}, "nothing is divided"),
        ("rescaled", {"wrong": 1}, "unknown field"),
        ("rescaled", {"multiplied": {"w2": 3}}, "do not fit"),
        ("rescaled", {"multiplied": {"b2": 0, "nothing": 0}}, "nothing"),
        ("rescaled", {"divided": {"wg": 0}}, "leads to it"),
        ("corrections", {"by": "magic"}, "is none of"),
        ("corrections", {"bias": "b2"}, "the layer's bias"),
        ("corrections", {"values": [1.0]}, "1 values"),
    ],
)
def test_entries_that_contradict_the_pivot_are_refused(
    chain, images, context, tmp_path, key, entry, says
):
    _, recipe = naive(chain, images, context)
    axes = {"divided": {"w1": 0, "b1": 0}, "multiplied": {"w2": 1}}
    good = {
        "rescaled": {"p1": {"by": "equalize", "axis": 1, "exponents": [1] * 8, **axes}},
        "corrections": {"c1": {"by": "analytic", "bias": "b1", "values": [0.5] * 8}},
    }
    data = json.loads(recipes.dumps(recipe)) | {"schema": 3, key: good[key]}
    data[key][next(iter(data[key]))] |= entry
    place = tmp_path / "recipe.json"
    place.write_text(json.dumps(data))
    with pytest.raises(OptimizeError) as failed:
        asked = ConvertRequest("onnxruntime", recipe=str(place))
        context.hooks.convert(chain, asked, context)
    assert failed.value.code in ("LPT-OPT-001", "LPT-OPT-004", "LPT-OPT-005")
    assert says in f"{failed.value.message} {failed.value.cause}"


def test_a_recipe_without_recovery_is_written_as_before():
    recipe = Recipe(PivotId("sha256:1", 21), "int8-static", {}, {})
    text = recipes.dumps(recipe)
    assert recipe.schema == 1
    assert "rescaled" not in text and "corrections" not in text
    entry = Correction("analytic", "b", (0.5,))
    layer = Layer("Gemm", "y", ("x",), "w", "b")
    tensors = {n: Tensor("activation", 0.1) for n in ("x", "y")} | {"w": Tensor("weight", 0.1)}
    more = replace(recipe, tensors=tensors, layers={"y": layer}, corrections={"y": entry})
    assert replace(more).schema == 3
    assert recipes.loads(recipes.dumps(more)) == more


def test_rescalings_add_up_and_cancel():
    one = {"v": Rescaled("equalize", 1, (1, -2), {"w": 0}, {"u": 1})}
    other = {"v": Rescaled("smooth", 1, (2, 0), {"w": 0}, {"u": 1})}
    assert merged(one, other)["v"].exponents == (3, -2)
    assert merged(one, other)["v"].by == "equalize+smooth"
    back = {"v": Rescaled("equalize", 1, (-1, 2), {"w": 0}, {"u": 1})}
    assert merged(one, back) == {}


@pytest.mark.parametrize(
    ("given", "read"),
    [("auto", RECOVERIES), ("none", ()), ("bias,equalize", ("equalize", "bias")), (None, ())],
)
def test_ways_of_recovery_are_options(given, read):
    assert read_options({"recover": given}).recover == read
    assert read_options({}).recover is None
    with pytest.raises(OptimizeError, match="magic"):
        read_options({"recover": "equalize,magic"})
    with pytest.raises(OptimizeError, match="int8 and auto"):
        read_options({"recover": "auto"}, "int4")


@pytest.mark.parametrize("scheme", ["dynamic", "weight-only"])
def test_only_static_integers_are_recovered(scheme):
    with pytest.raises(OptimizeError, match="no option of the scheme") as failed:
        read_options({"recover": "auto", "scheme": scheme})
    assert failed.value.code == "LPT-OPT-015"
    assert read_options({"recover": "none", "scheme": scheme}).recover == ()
    with pytest.raises(OptimizeError, match="recover cannot be 5") as failed:
        read_options({"recover": 5})
    assert failed.value.code == "LPT-OPT-015"


def test_the_balanced_error_sees_small_channels_beside_large_ones():
    random = np.random.default_rng(0)
    reference = random.standard_normal((100, 4)) * [1000, 1, 1, 1]
    actual = np.where([True, False, False, False], reference, 0.0)
    whole = np.linalg.norm(actual - reference) / np.linalg.norm(reference)
    assert whole < 0.01
    assert balanced_error({"y": reference}, {"y": actual}) == pytest.approx(0.75, abs=0.01)
    assert balanced_error({"y": reference}, {"y": reference}) == 0
    assert balanced_error({"y": reference}, {"y": reference * np.nan}) == np.inf
    assert balanced_error({"y": reference}, {"y/restored": reference}) == np.inf


# --- mechanisms --------------------------------------------------------------------------------


def channels_of(peaks, rms=None):
    peaks = np.asarray(peaks, np.float64)
    power = peaks**2 / 9 if rms is None else np.full(peaks.shape, rms**2)
    return Channels(-peaks, peaks, np.zeros(peaks.shape), power)


def test_mechanisms_are_named_where_numbers_show_them(graphs):
    rand, node = graphs.rand, graphs.node
    uneven = rand(8, 4, 2, 2, seed=1)
    uneven[0] *= 1000
    nodes = [
        graphs.conv("x", "w1", "b1", "a"), graphs.conv("x", "w1b", "b1", "b"),
        node("Add", ["a", "b"], ["s"]), node("Concat", ["s", "a"], ["j"], axis=1),
        node("ConvTranspose", ["s", "wt"], ["t"], group=2),
        node("Conv", ["j", "wj"], ["y"]),
    ]  # fmt: skip
    weights = {"w1": rand(8, 3, 3, 3), "w1b": -rand(8, 3, 3, 3), "b1": rand(8), "wt": uneven,
               "wj": rand(4, 16, 1, 1)}  # fmt: skip
    model = graphs.build(nodes, weights, outputs=("t", "y"))
    graph = Graph(pivot.load(model.path))
    layers = {
        "s": Layer("Add", "s", ("a", "b")), "j": Layer("Concat", "j", ("s", "a")),
        "t": Layer("ConvTranspose", "t", ("s",), "wt"),
    }  # fmt: skip
    tensors = {"wt": Tensor("weight", 0.1)}
    recipe = Recipe(PivotId(model.digest, 21), "int8-static", tensors, layers)
    seen = {n: channels_of(np.ones(8), rms) for n, rms in (("a", 9), ("b", 9), ("s", 0.5))}
    assert [f.mechanism for f in sum_findings(graph, recipe, seen)] == ["cancelling-residual"]
    assert not sum_findings(graph, recipe, seen | {"s": channels_of(np.ones(8), 5)})
    chosen = {n: Range(-high, high, -high, high) for n, high in (("s", 0.5), ("a", 40.0))}
    assert [f.value for f in concat_findings(graph, recipe, chosen)] == ["j"]
    assert not concat_findings(graph, recipe, chosen | {"s": chosen["a"]})
    assert not concat_findings(graph, recipe, chosen, steps=WIDE_STEPS)
    assert [f.mechanism for f in weight_findings(graph, recipe)] == ["uneven-weights"]
    far = {"a": Range(-40, 70.0, -40, 70.0), "s": Range(-0.5, 7e4, 0, 0)}
    kinds = [(f.mechanism, f.value) for f in range_findings(graph, recipe, chosen, far)]
    assert kinds == [("clipped-range", "a"), ("clipped-range", "s"), ("fp16-overflow", "s")]
    assert not range_findings(graph, recipe, chosen, chosen)


def test_saturation_is_shown_where_the_cpu_sums_in_16_bits(graphs, context):
    weight = np.full((16, 4), 0.5, np.float32)
    weight[:, 3] = np.tile([0.5, -0.5], 8)  # neighbours cancel: no pair of this column saturates
    model = graphs.build([graphs.node("MatMul", ["x", "w"], ["y"])], {"w": weight}, shape=("n", 16))
    rows = np.linspace(0, 1, 160, dtype=np.float32).reshape(10, 16)
    graph, recipe = naive(model, rows, context)
    seen = samples_of(model, rows)
    found = saturation_findings(graph, recipe, seen, context, features=("avx2",))
    codes = np.rint(rows * 255).astype(np.int64)  # low 0, high 1: zero point 0 as uint8
    sums = 127 * (codes[:, ::2] + codes[:, 1::2])
    pairs = 3 * int((sums > 32767).sum())
    assert [(f.mechanism, f.numbers["pairs"]) for f in found] == [("u8s8-saturation", pairs)]
    assert pairs > 0
    assert saturation_findings(graph, recipe, seen, context, features=("avx_vnni",)) == []


@pytest.mark.parametrize("stride", [1, 2])
def test_what_a_convolution_multiplies_is_what_the_emulator_sees(graphs, stride):
    random = np.random.default_rng(0)
    inputs = random.integers(0, 255, (2, 3, 7, 6)).astype(np.uint8)
    node = graphs.node(
        "Conv", ["x", "w"], ["y"], pads=[1, 0, 2, 1], strides=[stride, 1], dilations=[1, 2]
    )
    weight = random.integers(-9, 9, (4, 3, 3, 2))
    places = _places(inputs, node, (3, 2), 100)
    actual = places.astype(np.float32) @ weight.reshape(4, -1).T
    padded = np.pad(inputs, [(0, 0), (0, 0), (1, 2), (0, 1)], constant_values=100)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(padded.astype(np.float32)), torch.from_numpy(weight.astype(np.float32)),
        stride=(stride, 1), dilation=(1, 2),
    ).numpy()  # fmt: skip
    assert np.array_equal(actual.reshape(2, *expected.shape[2:], 4).transpose(0, 3, 1, 2), expected)


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ((0.87, 0.002, 0.95, 0.023), (0.002, 0.0, 0.023, 0.017), "equalize"),
        ((0.10, 0.09, 0.95, 0.90), (0.09, 0.0, 0.90, 0.02), "smooth"),
        ((None, None, 0.95, 0.023), (None, None, 0.023, 0.017), "equalize"),
        ((None, None, None, 0.9), (None, None, 0.9, 0.1), "equalize"),
    ],
)
def test_of_two_ways_the_one_that_gave_back_most_is_the_cure(first, second, named):
    found = Finding("uneven-channels", "v", "v", "", {}, "", "")
    recoverer = Recoverer(*[None] * 5, findings=[found, replace(found, value="other")])
    names = ("drop_before", "drop_after", "error_before", "error_after")
    for method, numbers in (("equalize", first), ("smooth", second)):
        recoverer._credit(method, {"values": ["v"], **dict(zip(names, numbers, strict=True))})
    assert recoverer.findings[0].gave_back["method"] == named
    assert not recoverer.findings[1].gave_back


# --- trained networks --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def standing(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("standing_cases", CASES)
    module = importlib.util.module_from_spec(spec)
    sys.modules["standing_cases"] = module
    spec.loader.exec_module(module)
    made = {}

    def get(name):
        if name not in made:
            made[name] = module.build(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


@trained_once
@pytest.mark.parametrize(
    ("name", "mechanism", "method"),
    [("tabular", "uneven-channels", "smooth"), ("rescaled", "uneven-channels", "equalize")],
)
def test_collapsed_networks_come_back_without_labels(
    standing, context_of, tmp_path, name, mechanism, method
):
    case = standing(name)

    def accuracy(model):
        work = context_of(f"run-{len(list(tmp_path.iterdir()))}")
        return case.accuracy(run(model, {case.input: case.inputs}, work))

    def optimize(folder, **more):
        work = context_of(folder)
        return work.hooks.optimize(case.pivot, OptimizeRequest("onnxruntime", **more), work)

    plain = optimize("plain", samples=case.calibration)
    result = optimize("recovered", samples=case.calibration, max_drop=0.01)
    before, lost, back = map(accuracy, (case.pivot, plain.model, result.model))
    assert before - lost >= 0.2
    assert before - back <= 0.005
    found = {f["mechanism"]: f for f in result.facts["diagnosis"]}
    assert found[mechanism]["gave_back"]["method"] == method
    assert "_standing_cases.py" in found[mechanism]["place"]
    kept = [s["method"] for s in result.facts["recovery"]["steps"] if s["kept"]]
    assert method in kept
    again = optimize("again", recipe=result.recipe)
    assert Path(again.model.path).read_bytes() == Path(result.model.path).read_bytes()


@trained_once
def test_a_port_gets_back_what_int8_loses_and_says_so(standing, tmp_path):
    case = standing("tabular")
    rows = np.concatenate([np.load(case.calibration)[case.input], case.inputs])
    np.savez(tmp_path / "cells.npz", **{case.input: rows})
    built = lepton.port(
        case.pivot.path, targets=["onnxruntime"], precisions=["fp32", "int8"], max_drop=0.01,
        samples=str(tmp_path / "cells.npz"), out=tmp_path / "out",
    )  # fmt: skip
    variant = next(v for v in built.variants if v.precision == "int8")
    assert variant.verdict == "pass"
    assert "smooth gave back" in variant.why
    warnings = variant.passport["warnings"]
    assert any("uneven-channels: cells" in w and "cured by smooth" in w for w in warnings)


@trained_once
def test_ways_that_are_asked_for_need_no_budget(standing, context_of):
    case = standing("tabular")

    def optimize(recover):
        work = context_of(recover)
        options = {"recover": recover}
        asked = OptimizeRequest("onnxruntime", samples=case.calibration, options=options)
        return work.hooks.optimize(case.pivot, asked, work)

    def accuracy(result):
        work = context_of(f"run-{result.facts['recipe']['digest'][-8:]}")
        return case.accuracy(run(result.model, {case.input: case.inputs}, work))

    none, back = optimize("none"), optimize("smooth")
    assert "recovery" not in none.facts
    assert [s["method"] for s in back.facts["recovery"]["steps"]] == ["smooth"]
    assert accuracy(back) - accuracy(none) > 0.2


@trained_once
@pytest.mark.parametrize(
    ("name", "method", "less"),
    [
        ("rescaled", "equalize", 0.95),
        pytest.param("outliers", "smooth", 0.6, marks=pytest.mark.conformance),
    ],
)
def test_a_search_gets_smaller_by_what_is_recovered(
    standing, context, tmp_path, name, method, less
):
    """At the same budget, verified on rows that neither recovery nor search has seen."""
    case = standing(name)
    rows = np.concatenate([np.load(case.calibration)[case.input], case.inputs])
    np.savez(tmp_path / "rows.npz", **{case.input: rows})
    result = context.hooks.optimize(
        case.pivot,
        OptimizeRequest(
            "onnxruntime", precision="mixed", samples=str(tmp_path / "rows.npz"), max_drop=0.01,
            options={"trials": 12, "rows": 64, "recover": "equalize,smooth,bias"},
        ),
        context,
    )  # fmt: skip
    search, recovery = result.facts["search"], result.facts["recovery"]
    assert recovery["taken"]
    assert recovery["with"]["size"] < less * recovery["without"]["size"]
    assert search["proved"]
    assert search["chosen"]["rows"] == search["rows"]["held_out"] > 800
    kept = {s["method"]: s for s in recovery["steps"] if s["kept"]}
    assert kept[method]["drop_before"] - kept[method]["drop_after"] > 0.5
    recipe = recipes.read(result.recipe)
    assert {entry.by for entry in recipe.rescaled.values()} == {method}
    assert any(
        f["gave_back"]["method"] == method for f in result.facts["diagnosis"] if f["gave_back"]
    )


def test_what_was_recovered_survives_a_cache(chain, images, context):
    graph, recipe = naive(chain, images, context)
    entries = equalize(graph, reader_sites(graph, recipe.layers))
    correction = Correction("analytic", "b1", (0.5, -0.25))
    made = Recovery(entries, {"c1": correction}, keep=("j",), narrow=("w1",))
    assert Recovery.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert not made.empty
    assert made.moves_ranges
    assert Recovery().empty


def _job(model, graph, context):
    from lepton_compress._job import Job
    from lepton_compress._options import Options

    request = OptimizeRequest("onnxruntime")
    return Job(graph, model, request, Options(), context, context)


def test_narrow_weights_fit_sums_of_16_bits(graphs, context):
    weight = graphs.rand(16, 4, seed=1)
    nodes = [graphs.node("MatMul", ["x", "w"], ["y"])]
    model = graphs.build(nodes, {"w": weight}, shape=("n", 16))
    rows = np.random.default_rng(0).random((64, 16)).astype(np.float32)
    graph, plain = naive(model, rows, context)
    seen, job = samples_of(model, rows), _job(model, graph, context)
    recipe, _ = Recovery(narrow=("w",)).recipe(job, seen, "minmax")
    entry = recipe.tensors["w"]
    assert entry.scales == tuple(2 * s for s in plain.tensors["w"].scales)
    assert np.abs(qdq.weight_integers(weight, entry)).max() <= 64
    assert saturation_findings(graph, plain, seen, context, features=())
    assert saturation_findings(graph, recipe, seen, context, features=()) == []


def raced(speedup, low, high):
    return {"speedup": speedup, "interval": [low, high], "before_ms": 9, "after_ms": 9 / speedup}


@pytest.mark.parametrize(
    ("changes", "budgeted", "kept"),
    [
        ({}, False, True),
        ({"race": raced(1.01, 0.97, 1.04)}, False, False),  # the same, as far as can be told
        ({"race": raced(1.5, 0.9, 2.0)}, False, False),
        ({"race": {}}, False, False),
        ({"verdict": "fail"}, True, False),
        ({"drop": 0.05}, True, False),
        ({"balanced": 0.2}, False, False),
        ({"balanced": 0.2}, True, True),
    ],
)
def test_time_counts_where_nothing_is_lost(changes, budgeted, kept):
    race = raced(1.0, 0.98, 1.02)
    old = Trial("a", None, "minmax", (), "pass", "", 0.01, 0.02, 100, race, balanced=0.1)
    new = replace(old, **{"race": raced(2.0, 1.9, 2.1), **changes})
    assert saves_time(new, old, 1000, budgeted=budgeted) is kept
    assert not saves_time(new, replace(old, race={}), 1000, budgeted=True)


@pytest.mark.skipif(not sums_may_saturate(), reason="this CPU sums products in 32 bits")
def test_narrow_weights_bring_the_fast_kernels_back(graphs, context, tmp_path):
    """They are tried where exact products take slow kernels, and what is kept runs on fast ones."""
    weights = {"w0": graphs.rand(32, 3, 3, 3), "b0": graphs.rand(32)}
    weights |= {"w1": graphs.rand(32, 32, 3, 3) / 4, "b1": graphs.rand(32, seed=1)}
    nodes = [
        graphs.conv("x", "w0", "b0", "c0"), graphs.node("Relu", ["c0"], ["r0"]),
        graphs.conv("r0", "w1", "b1", "c1"), graphs.node("Relu", ["c1"], ["y"]),
    ]  # fmt: skip
    model = graphs.build(nodes, weights, shape=("n", 3, 32, 32))
    rows = np.random.default_rng(0).random((64, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=rows)
    request = OptimizeRequest(
        "openvino", precision="int8", samples=str(tmp_path / "rows.npz"), max_drop=0.1
    )
    result = context.hooks.optimize(model, request, context)
    step = result.facts["recovery"]["steps"][-1]
    assert step["method"] == "narrow (faster kernels)"
    assert step["p50_ms_before"] and step["p50_ms_after"]
    with context.hooks.open(result.model, OpenRequest("openvino"), context) as session:
        slow = "slower" in session.facts["integers"]
    assert slow is not step["kept"]


def test_what_gave_back_nothing_is_not_told():
    def step(method, drops, errors, **more):
        names = ("drop_before", "drop_after", "error_before", "error_after")
        return {"method": method, "kept": True, **dict(zip(names, (*drops, *errors), strict=True)),
                **more}  # fmt: skip

    assert lines([
        step("smooth", (0.05, 0.01), (0.2, 0.1)),
        step("bias (empirical)", (0.01, 0.01), (0.1, 0.0999)),
        step("equalize", (0.01, 0.01), (0.1, 0.06)),
        step("fixed", (None, None), (0.06, 0.0599)),
        step("narrow", (0.01, 0.01), (0.1, 0.1), **{
            "for": "time", "p50_ms_before": 2.0, "p50_ms_after": 1.0}),
        {**step("lost", (0.01, 0.0), (0.1, 0.01)), "kept": False},
    ]) == [
        "smooth gave back +0.04 of the metric, error of the outputs 0.2 -> 0.1",
        "equalize gave back: error of the outputs 0.1 -> 0.06",
        "narrow: 2 -> 1 ms a request, error of the outputs 0.1 -> 0.1",
    ]  # fmt: skip
