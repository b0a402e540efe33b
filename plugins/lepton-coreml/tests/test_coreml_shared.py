"""Weights that are stored twice or once for two, and those that coremltools computes with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import lepton_kernels as lk
from lepton_core.recipe import BlockWeight, Layer, PalettizedWeight, PrunedWeight
from lepton_core.recipe import Tensor as Stored
from lepton_coreml._integers import read_blocks
from lepton_coreml._mil._package import open_package
from lepton_coreml._same_small import compare_small, read_small
from lepton_coreml._small import Small
from lepton_onnx import pivot as pivots_of
from lepton_onnx.sparse import pack_mask, palette_values

RNG = np.random.default_rng(11)


def drawn(*shape):
    return RNG.normal(size=shape).astype("f4")


def pruning(weight, share, name="w"):
    """Return an entry, the sidecar's arrays, and which values stay."""
    mask = np.abs(weight) >= np.quantile(np.abs(weight), share)
    entry = PrunedWeight("magnitude", float(1 - mask.mean()), f"{name}/mask")
    return entry, {f"{name}/mask": pack_mask(mask)}, mask


def palette(weight, bits, axis, group, name="w"):
    entry = PalettizedWeight(bits, f"{name}/indices", f"{name}/palette", axis, group)
    found = lk.palettize(weight, bits, axis=axis, group_size=group)
    tables = found.palette.reshape(-1, 2**bits)
    arrays = {entry.indices: found.indices, entry.palette: tables}
    return entry, arrays, palette_values(found.indices, tables, entry)


def by_channel(weight, axis):
    scale = np.abs(weight).max(axis=1 - axis) / np.float32(127)
    return Stored("weight", tuple(float(s) for s in scale), axis=axis, estimator="absmax")


def program_of(result):
    return open_package(Path(result.model.path)).program()


def counted(result, kind):
    return sum(op.kind == kind for op in program_of(result).block.operations)


def near(made, wanted, most=1e-5):
    return np.linalg.norm(made - wanted) <= most * np.linalg.norm(wanted)


# --- folded --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "behind"), [("palette", "BatchNormalization"), ("sparse", "Mul")])
def test_a_weight_stored_whole_may_take_in_what_follows(
    form, behind, graphs, convert, opened, tmp_path
):
    """Tables, or a mask, would be larger than the values: coremltools folds as without a recipe."""
    weight, x = drawn(16, 8, 3, 3), drawn(2, 8, 6, 6)
    scales = {n: RNG.uniform(0.5, 2, 16).astype("f4") for n in ("scale", "bias", "mean", "var")}
    scales = scales if behind != "Mul" else {"scale": scales["scale"].reshape(1, 16, 1, 1)}
    proto = graphs.model(
        [
            graphs.node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            graphs.node(behind, ["c", *scales], ["y"]),
        ],
        [graphs.value("x", ["n", 8, 6, 6])],
        [graphs.value("y", ["n", 16, 6, 6])],
        [graphs.weight("w", weight), *(graphs.weight(n, v) for n, v in scales.items())],
    )
    pivot = graphs.to_pivot(proto, tmp_path / "pivot")
    if form == "palette":
        entry, arrays, weight = palette(weight, 8, 0, 4)
        result = convert(pivot, "palette", arrays, palettes={"w": entry})
    else:
        entry, arrays, mask = pruning(weight, 0.02)
        weight = np.where(mask, weight, np.float32(0))
        result = convert(pivot, "sparse", arrays, pruned={"w": entry})
    assert result.facts["small_weights"]["w"]["form"] == "values"
    assert result.facts["integers"]["folded"] == ["w"]
    assert result.facts["weights"]["derived"]
    proto = pivots_of.load(pivot.path)
    held = next(t for t in proto.graph.initializer if t.name == "w")
    held.CopyFrom(numpy_helper.from_array(weight, "w"))
    wanted = ReferenceEvaluator(proto).run(None, {"x": x})[0]
    assert near(opened(result.model).run({"x": x})["y"], wanted)
    program = program_of(result)
    assert compare_small(program, Small(values={"w": weight})) == []
    weight[3, 2, 1, 0] += np.float32(0.01)
    (found,) = compare_small(program, Small(values={"w": weight}))
    assert "nor multiples of its channels" in found


# --- equal, or read twice ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def products(graphs, tmp_path_factory):
    """Return a pivot of two products: of one weight, or of two that are equal."""

    def make(weight, second):
        weights = [graphs.weight(n, weight) for n in dict.fromkeys(("w", second))]
        proto = graphs.model(
            [
                graphs.node("MatMul", ["x", "w"], ["h"]),
                graphs.node("Relu", ["h"], ["r"]),
                graphs.node("MatMul", ["r", second], ["y"]),
            ],
            [graphs.value("x", ["n", len(weight)])],
            [graphs.value("y", ["n", len(weight)])],
            weights,
        )
        return graphs.to_pivot(proto, tmp_path_factory.mktemp("products"))

    return make


def twice(x, weight):
    return np.maximum(x @ weight, 0) @ weight


@pytest.mark.parametrize(("form", "second"), [("palette", "v"), ("int8", "v"), ("int4", "w")])
def test_equal_weights_with_masks_are_stored_once(form, second, products, convert, opened):
    weight, x = drawn(64, 64), drawn(3, 64)
    pivot, names = products(weight, second), tuple(dict.fromkeys(("w", second)))
    found = {name: pruning(weight, 0.6, name) for name in names}
    mask = found["w"][2]
    kept = np.where(mask, weight, np.float32(0))
    arrays = {key: array for _, own, _ in found.values() for key, array in own.items()}
    parts = {"pruned": {name: entry for name, (entry, *_) in found.items()}}
    layers = {"h": Layer("MatMul", "h", (), "w", mode="weight"),
              "y": Layer("MatMul", "y", (), second, mode="weight")}  # fmt: skip
    kind = "constexpr_sparse_blockwise_shift_scale"
    if form == "palette":
        scheme, kind = "palette", "constexpr_lut_to_sparse"
        entries = {name: palette(kept, 4, None, None, name) for name in names}
        for name, (_, more, _) in entries.items():
            nought = np.abs(more[f"{name}/palette"]).argmin()
            more[f"{name}/palette"][0, nought] = 0
            more[f"{name}/indices"] = np.where(mask, more[f"{name}/indices"], nought).astype("u1")
            arrays |= more
            wanted = palette_values(*more.values(), entries[name][0])
        parts["palettes"] = {name: entry for name, (entry, *_) in entries.items()}
    elif form == "int8":
        scheme = "int8-weight-only"
        parts |= {"layers": layers, "tensors": {name: by_channel(kept, 1) for name in names}}
        scale = np.array(parts["tensors"]["w"].scale, "f4")
        wanted = np.rint(kept / scale) * scale
    else:
        scheme = "int4-weight-only"
        block = BlockWeight(4, 32, 0, True, "mse")
        parts |= {"layers": layers, "blocks": dict.fromkeys(names, block)}
    result = convert(pivot, scheme, arrays, **parts)
    if form == "int4":
        (one,) = read_blocks(program_of(result)).values()
        wanted = lk.dequantize_blocks(one.codes, one.scale, one.zero_point, one.block).T
        assert near(wanted, kept, 0.2)
    assert counted(result, kind) == 1
    assert counted(result, "constexpr_sparse_to_dense") == 1
    assert near(opened(result.model).run({"x": x})["y"], twice(x, wanted))


def test_a_pruned_weight_that_stands_in_two_forms_has_a_mask_in_both(products, convert, opened):
    """One product reads it as integers with a scale for each block, the other as floats."""
    weight, x = drawn(100, 100), drawn(3, 100)
    entry, arrays, mask = pruning(weight, 0.6)
    kept = np.where(mask, weight, np.float32(0))
    result = convert(
        products(weight, "w"), "int4-weight-only", arrays,
        layers={"h": Layer("MatMul", "h", (), "w", mode="weight")},
        blocks={"w": BlockWeight(4, 32, 0, True, "mse")}, pruned={"w": entry},
    )  # fmt: skip
    facts, small = result.facts["small_weights"], read_small(program_of(result))
    assert {n: f["form"] for n, f in facts.items()} == {
        "w": "sparse", "w/int8": "sparse integers",
    }  # fmt: skip
    assert result.facts["integers"]["masks"] == 2
    assert np.array_equal(small.masks["w"], mask)
    assert np.array_equal(small.integer_masks["w"][:100], mask)
    one = read_blocks(program_of(result))["w"]
    first = lk.dequantize_blocks(one.codes, one.scale, one.zero_point, one.block).T
    wanted = np.maximum(x @ first, 0) @ kept
    assert near(opened(result.model).run({"x": x})["y"], wanted)
