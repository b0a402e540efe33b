"""Pruning and palettes on real runtimes: masks and tables against NumPy, files, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_core as lepton
from lepton_compress._options import read_options
from lepton_compress._palettes import weighed, with_zero
from lepton_compress._prunable import Site, find_sites
from lepton_core import recipe as recipes
from lepton_core.artifacts import artifact_size
from lepton_core.cli import main as run
from lepton_core.errors import OptimizeError
from lepton_core.recipe import PalettizedWeight
from lepton_onnx import pivot, qdq, sparse

pytestmark = pytest.mark.xdist_group("sparse")  # one worker trains

TARGETS = ("onnxruntime", "openvino")


def optimized(model, context, precision="sparse", target="onnxruntime", samples=None, **asked):
    return lepton.optimize(
        model, target=target, precision=precision, samples=samples, context=context,
        **{"timing_seconds": 0.0, **asked},
    )  # fmt: skip


def weights_of(model):
    """Weights of products with enough values, by name, as the pivot has them."""
    from lepton_compress._graph import Graph

    graph = Graph(pivot.load(model.path))
    sites, _ = find_sites(graph, ())
    return {name: (graph.array(name), site) for name, site in sites.items()}


def masks_of(result):
    recipe = recipes.read(result.recipe)
    arrays = recipes.load_arrays(recipe, result.recipe)
    return recipe, arrays


def rows(target, model, image):
    with lepton.open(model, target=target) as session:
        return session.run({"image": image})["logits"]


def kept_by_rank(scores, count):
    """The *count* largest magnitudes; of equal ones the first."""
    order = np.argsort(-np.abs(scores).reshape(-1), kind="stable")
    mask = np.zeros(scores.size, bool)
    mask[order[:count]] = True
    return mask.reshape(scores.shape)


@pytest.fixture(scope="module")
def wide(trained):
    return trained("wide")


@pytest.mark.parametrize("scope", ["layer", "row", "global"])
def test_magnitudes_go_from_the_smallest_on(wide, context, scope):
    result = optimized(wide, context, options={"sparsity": 0.6, "scope": scope})
    recipe, arrays = masks_of(result)
    weights = weights_of(wide)
    assert recipe.pruned.keys() == weights.keys()
    assert recipe.precision == result.model.metadata["precision"] == "sparse"
    total = sum(values.size for values, _ in weights.values())
    cut = np.sort(np.abs(np.concatenate([v.reshape(-1) for v, _ in weights.values()])))
    zeros = 0
    for name, (values, site) in weights.items():
        mask = sparse.unpack_mask(name, values.shape, recipe.pruned[name], arrays)
        zeros += (~mask).sum()
        if scope == "layer":
            wanted = kept_by_rank(values, values.size - round(0.6 * values.size))
        elif scope == "row":
            by_row = site.rows(values)
            count = by_row.shape[1] - round(0.6 * by_row.shape[1])
            wanted = site.restored(
                np.stack([kept_by_rank(row, count) for row in by_row]), values.shape
            )
        else:
            wanted = np.abs(values) >= cut[round(0.6 * total)]
        assert np.array_equal(mask, wanted)
        assert recipe.pruned[name].sparsity == pytest.approx((~mask).mean(), abs=1e-6)
    assert zeros == pytest.approx(0.6 * total, abs=len(weights) * 40)
    assert result.facts["pruning"]["sparsity"] == pytest.approx(0.6, abs=0.01)


def test_wanda_ranks_by_what_the_inputs_make_of_a_weight(wide, held_npz, context):
    """Against the activations that the model's own session gives out."""
    options = {"sparsity": 0.5, "prune": "wanda"}
    result = optimized(wide, context, samples=held_npz, options=options)
    recipe, arrays = masks_of(result)
    name, (values, site) = next(
        (n, v) for n, v in weights_of(wide).items() if "linear1" in n or "fc" in n
    )
    from lepton_core.samples import load_samples, split

    calibration, _ = split(load_samples(held_npz), seed=context.seed)
    proto = pivot.load(wide.path)
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(site.source))
    import onnxruntime as ort

    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    seen = session.run([site.source], {"image": calibration.inputs["image"]})[0]
    norm = np.sqrt((seen.reshape(-1, seen.shape[-1]).astype(np.float64) ** 2).mean(0))
    mask = site.rows(sparse.unpack_mask(name, values.shape, recipe.pruned[name], arrays))
    scores = np.abs(site.rows(values)) * norm
    half = scores.shape[1] // 2
    assert (mask.sum(1) == half).all()
    least_kept = np.where(mask, scores, np.inf).min(1)
    most_gone = np.where(mask, -np.inf, scores).max(1)
    assert (least_kept >= most_gone * (1 - 1e-5)).all()
    by_magnitude = np.stack([kept_by_rank(row, half) for row in site.rows(values)])
    assert (mask != by_magnitude).any()
    assert recipe.calibration.estimator == "wanda"
    assert recipe.pruned[name].scope == "row"


def test_a_pattern_keeps_n_of_m_inputs(wide, context):
    result = optimized(wide, context, options={"pattern": "2:4"})
    recipe, arrays = masks_of(result)
    for name, (values, site) in weights_of(wide).items():
        entry = recipe.pruned[name]
        assert (entry.pattern, entry.axis) == ((2, 4), site.inputs)
        mask = sparse.unpack_mask(name, values.shape, entry, arrays)
        groups = np.moveaxis(mask, site.inputs, -1).reshape(-1, 4)
        assert (groups.sum(1) == 2).all()
        sizes = np.abs(np.moveaxis(values, site.inputs, -1).reshape(-1, 4))
        kept = np.where(groups, sizes, np.inf).min(1)
        assert (kept >= np.where(groups, -np.inf, sizes).max(1)).all()


@pytest.mark.parametrize(("kind", "share"), [("cnn", 0.85), ("wide", 0.7)])
def test_both_runtimes_compute_with_the_zeros(trained, digits, context_of, kind, share):
    """And their files are smaller; the smaller network has 38 KB, of which nodes take more."""
    model, image = trained(kind), digits[0][:64]
    outputs = {}
    for target in TARGETS:
        result = optimized(model, context_of(target), target=target, options={"sparsity": 0.8})
        outputs[target] = rows(target, result.model, image)
        assert artifact_size(result.model) < share * artifact_size(
            lepton.convert(model, target=target, context=context_of(f"{target}-float")).model
        )
        outputs["zeros"] = rows("onnxruntime", with_zeros(model, result, context_of), image)
    for target in TARGETS:
        assert np.allclose(outputs[target], outputs["zeros"], atol=1e-4)


def with_zeros(model, result, context_of):
    """Return the model with zeros set by NumPy, as a file of its own."""
    recipe, arrays = masks_of(result)
    proto = pivot.load(model.path)
    for tensor in proto.graph.initializer:
        if tensor.name in recipe.pruned:
            values = onnx.numpy_helper.to_array(tensor)
            bits = np.unpackbits(arrays[recipe.pruned[tensor.name].mask], bitorder="little")
            kept = np.where(bits[: values.size].reshape(values.shape), values, 0)
            tensor.CopyFrom(onnx.numpy_helper.from_array(kept.astype(np.float32), tensor.name))
    folder = Path(result.recipe).parent / "by-numpy"
    folder.mkdir(exist_ok=True)
    onnx.save(proto, folder / "zeros.onnx")
    return lepton.convert(
        str(folder / "zeros.onnx"),
        target="onnxruntime",
        context=context_of(f"z{folder.parent.name}"),
    ).model


@pytest.mark.parametrize(("bits", "group"), [(1, 0), (2, 0), (3, 8), (4, 0), (4, 16), (6, 0)])
def test_palettes_yield_the_values_of_their_tables(wide, digits, context_of, bits, group):
    options = {"palette": bits} | ({"group": group} if group else {})
    result = optimized(wide, context_of("made"), "palette", options=options)
    recipe, arrays = masks_of(result)
    assert recipe.precision == result.model.metadata["precision"] == f"palette{bits}"
    stored = sparse.read_palettes(pivot.load(result.model.path))
    proto = pivot.load(wide.path)
    for tensor in proto.graph.initializer:
        entry = recipe.palettes.get(tensor.name)
        if entry is None:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        indices, tables = arrays[entry.indices], arrays[entry.palette]
        back = stored[tensor.name]
        assert np.array_equal(back[0], indices)
        assert np.array_equal(back[1][:, : 2**bits], tables)
        channel = np.zeros(values.shape, int)
        if entry.axis is not None:
            axes = [-1 if a == entry.axis else 1 for a in range(values.ndim)]
            channel += (np.arange(values.shape[entry.axis]) // group).reshape(axes)
        restored = tables[channel, indices]
        for number, table in enumerate(tables):  # nothing in the table is nearer
            own = values[channel == number]
            best = np.abs(own[:, None] - table).min(1)
            assert np.allclose(np.abs(restored[channel == number] - own), best, atol=1e-6)
        tensor.CopyFrom(onnx.numpy_helper.from_array(restored, tensor.name))
    folder = Path(result.recipe).parent
    onnx.save(proto, folder / "restored.onnx")
    dense = lepton.convert(
        str(folder / "restored.onnx"), target="onnxruntime", context=context_of("dense")
    ).model
    image = digits[0][:64]
    wanted = rows("onnxruntime", dense, image)
    assert np.allclose(rows("onnxruntime", result.model, image), wanted, atol=1e-5)
    other = lepton.convert(
        wide, target="openvino", recipe=result.recipe, context=context_of("openvino")
    ).model
    assert np.allclose(rows("openvino", other, image), wanted, atol=1e-3)
    plain = lepton.convert(wide, target="openvino", context=context_of("plain")).model
    assert artifact_size(other) < artifact_size(plain)


def test_a_palette_within_a_budget_is_measured_against_the_model_as_it_was(wide, held_npz, context):
    result = optimized(
        wide, context, "palette", samples=held_npz, max_drop=0.02, options={"palette": 6}
    )
    assert result.facts["verdict"] == "pass"
    assert "smaller" in result.why
    plain, *tried = result.facts["trials"]
    assert len(tried) == 2  # as the weights are, and weighed by inputs
    best = min(tried, key=lambda one: one["relative_error"])
    assert result.facts["palettes"]["weighed"] is ("weighed" in best["name"])
    assert plain["size_bytes"] > 2 * best["size_bytes"]
    assert best["drop"] <= 0.02
    assert result.facts["measured_on"] > 100
    assert result.facts["recipe"]["digest"] == recipes.read(result.recipe).digest


def test_a_budget_that_is_not_met_names_what_was_closest(wide, held_npz, context_of):
    for precision, options in (("palette", {"palette": 1}), ("sparse", {"sparsity": 0.97})):
        with pytest.raises(OptimizeError) as failed:
            optimized(wide, context_of(precision), precision, samples=held_npz, max_drop=0.001,
                      options=options)  # fmt: skip
        assert failed.value.code == "LPT-OPT-014"
        assert failed.value.details["closest"]["drop"] > 0.001
        assert not list(context_of(f"{precision}-after").workdir.iterdir())


def test_a_result_that_does_not_hold_is_warned_of(wide, held_npz, context):
    result = optimized(wide, context, "sparse", samples=held_npz, options={"sparsity": 0.97})
    assert result.facts["verdict"] == "fail"
    rows = result.facts["measured_on"]
    assert result.warnings[0].startswith(f"It does not hold on {rows} rows held out: ")


@pytest.mark.parametrize("precision", ["int8", "int16", "int4", "int8-weight"])
def test_zeros_stay_zeros_as_integers(wide, held_npz, context, precision):
    """And weights are those of the pruned model: scales of its rows, integers of its values."""
    result = optimized(wide, context, precision, samples=held_npz, options={"sparsity": 0.75})
    recipe, arrays = masks_of(result)
    assert recipe.precision == f"{precision}-sparse"
    assert recipe.schema == 4
    assert result.facts["pruning"]["sparsity"] == pytest.approx(0.75, abs=0.01)
    proto = pivot.load(result.model.path)
    back, blocks = sparse.read_sparse(proto), qdq.read_blocks(proto)
    compared = 0
    for name, (values, site) in weights_of(wide).items():
        mask = sparse.unpack_mask(name, values.shape, recipe.pruned[name], arrays)
        pruned = np.where(mask, values, np.float32(0))
        if name in recipe.tensors and f"{name}/int8" in back:
            integers = back[f"{name}/int8"]
            wanted = qdq.weight_integers(pruned, recipe.tensors[name])
            assert np.array_equal(integers, wanted)
            assert not integers[~mask].any()
            compared += 1
        elif name in blocks:
            real = blocks[name].values()
            assert not real[~site.rows(mask)].any()
            lost = np.abs(real - site.rows(pruned)).max()
            assert 0 < lost < 0.2 * np.abs(pruned).max()
            compared += 1
    assert compared >= 2
    if recipe.blocks:
        assert {entry.method for entry in recipe.blocks.values()} == {"mse"}


def test_pruned_int8_is_smaller_than_int8_and_as_good_on_both_runtimes(
    trained, digits, held_npz, context_of
):
    cnn = trained("cnn")
    plain = optimized(cnn, context_of("int8"), "int8", samples=held_npz)
    both = optimized(cnn, context_of("both"), "int8", samples=held_npz,
                     options={"sparsity": 0.7})  # fmt: skip
    assert artifact_size(both.model) < artifact_size(plain.model)
    stored = sparse.read_sparse(onnx.load(both.model.path))
    assert stored.keys() == {f"{name}/int8" for name in recipes.read(both.recipe).pruned}
    image, labels = digits[0][900:], digits[1][900:]
    ops = {n.op_type for n in onnx.load(both.model.path).graph.node}
    assert ops >= {"QuantizeLinear", "DequantizeLinear", "CumSum"}
    other = lepton.convert(
        cnn, target="openvino", recipe=both.recipe, context=context_of("openvino")
    ).model
    before = (rows("onnxruntime", cnn, image).argmax(1) == labels).mean()
    for target, model in (("onnxruntime", both.model), ("openvino", other)):
        right = (rows(target, model, image).argmax(1) == labels).mean()
        assert right > before - 0.03


def test_pruned_palettes_keep_zeros(wide, context):
    result = optimized(wide, context, "palette", options={"palette": 3, "sparsity": 0.5})
    recipe, arrays = masks_of(result)
    assert recipe.precision == "palette3-sparse"
    for name, (values, _) in weights_of(wide).items():
        mask = sparse.unpack_mask(name, values.shape, recipe.pruned[name], arrays)
        entry = recipe.palettes[name]
        restored = sparse.palette_values(arrays[entry.indices], arrays[entry.palette], entry)
        assert not restored[~mask].any()
        assert np.count_nonzero(restored[mask]) > 0.8 * mask.sum()


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 8), st.integers(1, 12), st.integers(1, 40), st.none() | st.integers(1, 5),
    st.sampled_from([-3.0, -0.5, 0.0, 0.5, 3.0]), st.integers(0, 2**16),
)  # fmt: skip
def test_a_table_with_zero_is_ordered_and_nearest(bits, rows_, columns, group, shift, seed):
    import lepton_kernels as lk

    random = np.random.default_rng(seed)
    values = (random.standard_normal((rows_, columns)) + shift).astype(np.float32)
    values[random.random(values.shape) < 0.4] = 0
    entry = PalettizedWeight(bits, "i", "p", None if group is None else 0, group)
    found = lk.palettize(values, bits, axis=entry.axis, group_size=group)
    indices, tables = with_zero(values, found.palette.reshape(-1, 2**bits), entry)
    assert (np.diff(tables, axis=1) >= 0).all()
    assert (tables == 0).any(1).all()
    size = group or rows_
    for number, table in enumerate(tables):
        own = slice(number * size, (number + 1) * size)
        restored = table[indices[own]]
        assert not restored[values[own] == 0].any()
        nearest = np.abs(values[own][..., None].astype(np.float64) - table).min(-1)
        assert np.allclose(np.abs(restored - values[own]), nearest, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(50, 400), st.integers(0, 2**16))
def test_what_is_drawn_by_weight_has_the_table_of_least_weighed_error(bits, count, seed):
    """No step of a weighed Lloyd iteration in NumPy finds a table that is much better."""
    import lepton_kernels as lk

    random = np.random.default_rng(seed)
    values = random.standard_normal(count).astype(np.float32)
    weights = random.exponential(1.0, count) ** 3

    def error(table):
        return float((weights * np.abs(values[:, None] - table).min(1) ** 2).sum())

    found = np.asarray(lk.palettize(weighed(values, weights), bits).palette, np.float64)
    table = found.copy()
    for _ in range(20):
        near = np.abs(values[:, None] - table).argmin(1)
        heaps = np.bincount(near, weights, len(table))
        sums = np.bincount(near, weights * values, len(table))
        table = np.where(heaps > 0, sums / np.where(heaps > 0, heaps, 1), table)
    scale = float((weights * values**2).sum())
    assert error(found) <= error(table) + 2e-3 * scale
    plain = np.asarray(lk.palettize(values, bits).palette, np.float64)
    assert error(found) <= error(plain) + 2e-3 * scale
    assert np.array_equal(weighed(values, np.zeros(count)), values)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_every_value_of_a_weight_knows_its_input(op):
    site = Site("w", op, "x", 1, *((0, 1) if op == "Conv" else (1, 0)), groups=2)
    numbers = np.arange(8.0)
    shape = (6, 4, 3) if op == "Conv" else (8, 5, 3)
    found = site.per_input(numbers, shape)
    for place in np.ndindex(shape):
        wanted = numbers[place[0] // 3 * 4 + place[1]] if op == "Conv" else numbers[place[0]]
        assert found[place] == wanted


@settings(max_examples=40, deadline=None)
@given(st.permutations([3, 4, 2, 5]), st.permutations([0, 1]), st.integers(0, 99))
def test_rows_and_back(shape, axes, seed):
    values = np.random.default_rng(seed).standard_normal(shape)
    site = Site("w", "Conv", "x", 1, *axes)
    by_row = site.rows(values)
    assert by_row.shape == (shape[axes[0]], values.size // shape[axes[0]])
    assert np.array_equal(by_row[1].reshape(-1), np.moveaxis(values, axes, (0, 1))[1].reshape(-1))
    assert np.array_equal(site.restored(by_row, values.shape), values)


def test_groups_of_a_convolution_have_inputs_of_their_own():
    from lepton_compress._pruning import _scores

    random = np.random.default_rng(0)
    values = random.standard_normal((6, 2, 3, 3)).astype(np.float32)  # 3 groups of 2 channels
    norms = random.uniform(0.1, 5, 6)
    site = Site("w", "Conv", "x", 1, 0, 1, groups=3)
    found = site.restored(_scores(site.rows(values), norms, site), values.shape)
    for output in range(6):
        for channel in range(2):
            norm = norms[output // 2 * 2 + channel]
            wanted = np.abs(values[output, channel]) * np.float32(norm)
            assert np.allclose(found[output, channel], wanted, rtol=1e-6)


def test_what_is_small_or_asked_for_stays_whole(wide, context_of):
    first = next(iter(weights_of(wide)))
    result = optimized(wide, context_of("keep"), options={"sparsity": 0.5, "keep": first})
    assert first not in recipes.read(result.recipe).pruned
    assert result.facts["pruning"]["whole"][first] == "asked for"
    assert any("fewer than" in why for why in result.facts["pruning"]["whole"].values())
    with pytest.raises(OptimizeError) as failed:
        optimized(wide, context_of("all"), options={"sparsity": 0.5, "keep": "MatMul,Gemm"})
    assert failed.value.code == "LPT-OPT-012"
    with pytest.raises(OptimizeError) as failed:
        optimized(wide, context_of("odd"), options={"pattern": "2:7"})
    assert failed.value.code == "LPT-OPT-012"
    assert "whole groups of 7" in str(failed.value.cause)


@pytest.mark.parametrize(
    ("precision", "options", "says"),
    [
        ("mixed", {"prune": "wanda"}, "how much"),
        ("palette", {"scope": "layer"}, "how much"),
        ("sparse", {"sparsity": 0.5, "pattern": "2:4"}, "both"),
        ("sparse", {"pattern": "2:4", "scope": "row"}, "no scope"),
        ("sparse", {"sparsity": 1}, "sparsity cannot be"),
        ("sparse", {"sparsity": "nan"}, "sparsity cannot be"),
        ("sparse", {"pattern": "4:2"}, "pattern cannot be"),
        ("sparse", {"pattern": "2:65"}, "pattern cannot be"),
        ("sparse", {"sparsity": 0.5, "prune": "guess"}, "prune cannot be"),
        ("sparse", {"sparsity": 0.5, "palette": 4}, "no option of sparse"),
        ("sparse", {"sparsity": 0.5, "bits": 4}, "no option of sparse"),
        ("sparse", {"sparsity": 0.5, "scheme": "static"}, "no option of sparse"),
        ("palette", {"palette": 9}, "palette cannot be"),
        ("palette", {"group": 0}, "group cannot be"),
        ("int8", {"palette": 4}, "no option of int8"),
        ("int8", {"sparsity": "auto"}, "cannot be 'auto' for int8"),
        ("auto", {"sparsity": 0.5}, "no option of auto"),
        ("int4", {"sparsity": 0.5, "method": "gptq"}, "not rounded by gptq"),
    ],
)
def test_options_that_do_not_fit_are_refused(precision, options, says):
    with pytest.raises(OptimizeError, match=says) as failed:
        read_options(options, precision)
    assert failed.value.code == "LPT-OPT-015"


def test_a_share_is_not_searched_for_without_a_budget(wide, context_of):
    with pytest.raises(OptimizeError, match="how much is pruned") as failed:
        optimized(wide, context_of("none"), options={})
    assert failed.value.code == "LPT-OPT-015"
    assert "there is no budget" in failed.value.cause


def test_options_are_read():
    assert read_options({"sparsity": "70%"}, "sparse").sparsity == pytest.approx(0.7)
    assert read_options({"pattern": (1, 4)}, "int8").pattern == (1, 4)
    assert read_options({"pattern": [2, 8]}, "sparse").pattern == (2, 8)
    assert read_options({}, "palette").palette == 4
    assert read_options({"palette": "2", "group": 16}, "palette").group == 16
    nothing = dict.fromkeys(("sparsity", "pattern", "prune", "scope", "palette", "group"))
    assert read_options(nothing, "int8") == read_options({}, "int8")


def test_wanda_needs_samples(wide, context):
    with pytest.raises(OptimizeError) as failed:
        optimized(wide, context, options={"sparsity": 0.5, "prune": "wanda"})
    assert failed.value.code == "LPT-OPT-017"


def test_without_samples_nothing_is_claimed(trained, wide, context_of):
    result = optimized(wide, context_of("wide"), options={"sparsity": 0.5}, max_drop=0.01)
    assert result.facts["verdict"] == "weak"
    assert any("not checked" in text for text in result.warnings)
    assert not any("neither smaller" in text for text in result.warnings)
    little = optimized(wide, context_of("little"), options={"sparsity": 0.02})
    assert any("neither smaller" in text for text in little.warnings)


def test_the_command_prunes_and_makes_palettes(wide, held_npz, tmp_path, capsys):
    first, second, third = (tmp_path / name for name in ("sparse", "palette", "again"))
    asked = ["optimize", wide.path, "--to", "onnxruntime"]
    assert run([*asked, "--sparsity", "60%", "--prune", "wanda", "--data", held_npz, "--json",
                "--out", str(first)]) == 0  # fmt: skip
    data = json.loads(capsys.readouterr().out)
    assert data["facts"]["pruning"]["method"] == "wanda"
    assert json.loads((first / "lepton.json").read_text())["precision"] == "sparse"
    assert run([*asked, "--palette", "4", "--group", "16", "--pattern", "2:4",
                "--out", str(second)]) == 0  # fmt: skip
    recipe = recipes.read(second / "recipe.json")
    assert recipe.precision == "palette4-sparse"
    assert {entry.group for entry in recipe.palettes.values()} <= {None, 16}
    assert run([*asked, "--recipe", str(second / "recipe.json"), "--out", str(third)]) == 0
    for name in ("model.onnx", "recipe.json", "recipe.safetensors"):
        assert (second / name).read_bytes() == (third / name).read_bytes()
    assert run([*asked, "--recipe", str(second / "recipe.json"), "--sparsity", "0.5",
                "--out", str(tmp_path / "no")]) != 0  # fmt: skip
    assert "LPT-USE-112" in capsys.readouterr().err
