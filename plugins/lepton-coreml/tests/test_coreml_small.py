"""Palettes and pruned weights of a recipe in a package: the recipe's numbers, and smaller files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lepton_kernels as lk
from lepton_core.errors import LeptonError
from lepton_core.recipe import BlockWeight, Layer, PalettizedWeight, PivotId, PrunedWeight, Recipe
from lepton_core.recipe import Tensor as Stored
from lepton_coreml._integers import read_back, read_blocks
from lepton_coreml._mil._package import open_package
from lepton_coreml._same import Numbers, check_numbers
from lepton_coreml._same_small import compare_small, read_small
from lepton_coreml._small import Palette, Small
from lepton_onnx import pivot as pivots_of
from lepton_onnx import qdq
from lepton_onnx.sparse import pack_mask, palette_values

RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def product(graphs, tmp_path_factory):
    """Return pivots of one operator with one weight ``w``."""

    def make(kind, weight, shape, **attributes):
        rank = {"Conv": 4, "ConvTranspose": 4, "Gather": 3}.get(kind, 2)
        given = ["w", "x"] if kind == "Gather" else ["x", "w"]
        element = {"kind": 7} if kind == "Gather" else {}
        proto = graphs.model(
            [graphs.node(kind, given, ["y"], **attributes)],
            [graphs.value("x", ["n", *shape], **element)],
            [graphs.value("y", ["n", *(f"d{i}" for i in range(rank - 1))])],
            [graphs.weight("w", weight)],
        )
        return graphs.to_pivot(proto, tmp_path_factory.mktemp(kind))

    return make


def program_of(result):
    return open_package(Path(result.model.path)).program()


def palette_for(weight, bits, axis=None, group=None):
    """Return an entry, the sidecar's arrays, and the values that they give."""
    entry = PalettizedWeight(bits, "w/indices", "w/palette", axis, group)
    found = lk.palettize(weight, bits, axis=axis, group_size=group)
    tables = found.palette.reshape(-1, 2**bits)
    arrays = {"w/indices": found.indices, "w/palette": tables}
    return entry, arrays, palette_values(found.indices, tables, entry)


def pruning_for(weight, share=0.5):
    mask = np.abs(weight) >= np.quantile(np.abs(weight), share)
    entry = PrunedWeight("magnitude", float(1 - mask.mean()), "w/mask")
    return entry, {"w/mask": pack_mask(mask)}, mask


def near(made, wanted):
    return np.linalg.norm(made - wanted) <= 1e-5 * np.linalg.norm(wanted)


def drawn(*shape):
    return RNG.normal(size=shape).astype("f4")


FORMS = [(1, 16), (2, 1), (3, 5), (4, None), (4, 24), (5, 16), (6, None), (7, 16), (8, None)]
"""Bits, and channels of a group: 24 and 5 do not divide the 64 channels."""


def test_palettes_stand_in_the_file_as_in_the_recipe(graphs, convert, opened, tmp_path):
    """Nine weights in one graph, each with a palette of its own."""
    names = [f"w{number}" for number in range(len(FORMS))]
    weights, x = {name: drawn(256, 64) for name in names}, drawn(3, 256)
    proto = graphs.model(
        [graphs.node("MatMul", ["x", name], [f"{name}_y"]) for name in names],
        [graphs.value("x", ["n", 256])],
        [graphs.value(f"{name}_y", ["n", 64]) for name in names],
        [graphs.weight(name, array) for name, array in weights.items()],
    )
    palettes, arrays, values = {}, {}, {}
    for name, (bits, group) in zip(names, FORMS, strict=True):
        axis = None if group is None else 1
        entry, own, values[name] = palette_for(weights[name], bits, axis, group)
        arrays |= {key.replace("w/", f"{name}/"): array for key, array in own.items()}
        palettes[name] = replace(entry, indices=f"{name}/indices", palette=f"{name}/palette")
    pivot = graphs.to_pivot(proto, tmp_path / "pivot")
    result = convert(pivot, "palette", arrays, palettes=palettes)
    found, made = read_small(program_of(result)).palettes, opened(result.model).run({"x": x})
    for name, (bits, group) in zip(names, FORMS, strict=True):
        indices, tables, axis = found[name]
        assert np.array_equal(indices, arrays[f"{name}/indices"]), name
        width = {5: 6, 7: 8}.get(bits, bits)
        assert tables.shape[1] == 2**width
        own = np.arange(64) // (group or 64)
        there = np.repeat(tables, 64 // len(tables), axis=0)[:, : 2**bits]
        assert there.tobytes() == arrays[f"{name}/palette"][own].tobytes(), name
        assert axis == (0 if group is None else 1)
        facts = result.facts["small_weights"][name]
        assert (facts["form"], facts["bits"], facts["recipe_bits"]) == ("palette", width, bits)
        assert near(made[f"{name}_y"], x @ values[name]), name
    assert result.facts["integers"]["palettes"] == len(FORMS)


@pytest.mark.parametrize("bits", [1, 3, 5, 8])
def test_ios_17_has_one_table_for_a_weight(bits, product, convert, opened):
    weight, x = drawn(96, 61), drawn(3, 96)
    pivot = product("MatMul", weight, [96])
    entry, arrays, values = palette_for(weight, bits)
    result = convert(pivot, "palette", arrays, "ios17", palettes={"w": entry})
    kinds = {op.kind for op in program_of(result).block.operations}
    assert "constexpr_lut_to_dense" in kinds
    width = {3: 4, 5: 6}.get(bits, bits)
    indices, tables, _ = read_small(program_of(result)).palettes["w"]
    assert np.array_equal(indices, arrays["w/indices"])
    assert np.array_equal(tables[:, : 2**bits], arrays["w/palette"])
    session = opened(result.model)
    assert session.facts["storage_precision"] == f"palette{width}"
    assert near(session.run({"x": x})["y"], x @ values)


def test_ios_17_refuses_several_tables_and_says_what_is_possible(product, convert):
    weight = drawn(64, 64)
    entry, arrays, _ = palette_for(weight, 4, 1, 16)
    with pytest.raises(LeptonError) as caught:
        convert(product("MatMul", weight, [64]), "palette", arrays, "ios17", palettes={"w": entry})
    assert caught.value.code == "LPT-CONV-508"
    assert "4 tables" in caught.value.message
    assert "coreml:ios18" in caught.value.remedy
    assert "--group" in caught.value.remedy


LAYERS = [  # operator, shapes of weight and input, attributes, axis of its outputs
    ("Gemm", (96, 80), (80,), {"transB": 1}, 0),
    ("Conv", (32, 24, 3, 3), (24, 6, 6), {"pads": [1, 1, 1, 1]}, 0),
    ("Conv", (48, 16, 3, 3), (32, 6, 6), {"group": 2}, 0),
    ("ConvTranspose", (24, 32, 3, 3), (24, 5, 5), {}, 1),
    ("Gather", (120, 64), (5,), {}, 1),
]


CASES = [(layer, form, "ios18") for layer in LAYERS for form in ("palette", "sparse", "both")]
CASES += [(layer, form, "ios17") for layer in LAYERS[1::3] for form in ("palette", "sparse")]


@pytest.mark.parametrize(("layer", "form", "device"), CASES)
def test_every_operator_reads_them(layer, form, device, product, convert, opened):
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    kind, shape, inputs, attributes, axis = layer
    weight, arrays, parts, mask = drawn(*shape), {}, {}, None
    pivot = product(kind, weight, inputs, **attributes)
    if form != "palette":
        parts["pruned"], more, mask = pruning_for(weight, 0.6)
        parts["pruned"] = {"w": parts["pruned"]}
        arrays |= more
        weight = np.where(mask, weight, np.float32(0))
    if form != "sparse":
        group = (axis, 8) if device == "ios18" else (None, None)
        entry, more, weight = palette_for(weight, 4, *group)
        if form == "both":  # one of the values is 0 where the recipe says so
            tables = more["w/palette"]
            rows = np.arange(len(tables)), np.abs(tables).argmin(1)
            tables[rows] = 0
            weight = np.where(mask, palette_values(more["w/indices"], tables, entry), 0)
            zero = rows[1][np.arange(shape[axis]) // (entry.group or shape[axis])]
            zero = zero.reshape([-1 if i == axis else 1 for i in range(len(shape))])
            more["w/indices"] = np.where(mask, more["w/indices"], zero).astype(np.uint8)
        parts["palettes"] = {"w": entry}
        arrays |= more
    scheme = "sparse" if form == "sparse" else "palette"
    result = convert(pivot, scheme, arrays, device, **parts)
    facts = result.facts["small_weights"]["w"]
    both = "sparse palette" if device == "ios18" else "palette"
    assert facts["form"] == {"palette": "palette", "sparse": "sparse", "both": both}[form]
    proto = pivots_of.load(pivot.path)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight.astype("f4"), "w"))
    x = RNG.integers(0, 120, (3, 5)) if kind == "Gather" else drawn(3, *inputs)
    wanted = ReferenceEvaluator(proto).run(None, {"x": x})[0]
    assert near(opened(result.model).run({"x": x})["y"], wanted)
    small = read_small(program_of(result))
    if mask is not None:
        assert np.array_equal(small.masks["w"], mask)
    assert set(result.facts["weights"]["derived"]) <= {"matmul_bias_0"}, "zeros of coremltools"


@pytest.mark.parametrize("device", ["ios18", "ios17"])
def test_zeros_that_stay_are_kept_apart_from_those_that_are_pruned(device, product, convert):
    weight = drawn(80, 50)
    weight[::7] = 0
    entry, _, mask = pruning_for(weight, 0.5)
    mask[0] = True  # zeros that stay
    entry = replace(entry, sparsity=float(1 - mask.mean()))
    result = convert(
        product("MatMul", weight, [80]), "sparse", {"w/mask": pack_mask(mask)}, device,
        pruned={"w": entry},
    )  # fmt: skip
    found = read_small(program_of(result))
    assert np.array_equal(found.masks["w"], mask)
    assert np.array_equal(found.values["w"], np.where(mask, weight, 0))
    assert opened_precision(result) == "fp32"


def opened_precision(result):
    return result.facts["storage_precision"]


def test_pruned_integers_are_stored_with_a_mask(product, convert, opened):
    weight, x = drawn(32, 16, 3, 3), drawn(2, 16, 6, 6)
    entry, arrays, mask = pruning_for(weight, 0.5)
    scale = np.abs(weight).max(axis=(1, 2, 3)) / np.float32(127)
    tensor = Stored("weight", tuple(float(s) for s in scale), axis=0, estimator="absmax")
    layers = {"y": Layer("Conv", "y", (), "w", mode="weight")}
    pivot = product("Conv", weight, [16, 6, 6])
    sizes = {}
    for device, form in (("ios18", "sparse integers"), ("ios17", None)):
        result = convert(
            pivot, "int8-weight-only", arrays, device,
            tensors={"w": tensor}, layers=layers, pruned={"w": entry},
        )  # fmt: skip
        program = program_of(result)
        kept = np.where(mask, weight, 0)
        codes = qdq.weight_integers(kept, tensor)
        assert np.array_equal(read_back(program)["w"].integers, codes)
        assert result.facts["small_weights"].get("w", {}).get("form") == form
        sizes[device] = Path(result.model.path, "Data/com.apple.CoreML/weights/weight.bin")
        if form:
            assert np.array_equal(read_small(program).integer_masks["w"], mask)
            assert {"constexpr_sparse_blockwise_shift_scale", "constexpr_sparse_to_dense"} <= {
                op.kind for op in program.block.operations
            }
    assert sizes["ios18"].stat().st_size < 0.7 * sizes["ios17"].stat().st_size
    from onnx.reference import ReferenceEvaluator

    model = qdq.lower(
        pivots_of.load(pivot.path),
        Recipe(PivotId(pivot.digest, 21), "int8-weight-only", {"w": tensor}, layers,
               pruned={"w": entry}),
        digest=pivot.digest, arrays=arrays,
    ).model  # fmt: skip
    wanted = ReferenceEvaluator(model).run(None, {"x": x})[0]
    assert near(opened(result.model).run({"x": x})["y"], wanted)


@pytest.mark.parametrize(("bits", "symmetric", "inputs"), [(4, True, 128), (4, False, 100)])
def test_pruned_blocks_are_stored_with_a_mask(bits, symmetric, inputs, product, convert, opened):
    weight, x = drawn(inputs, 96), drawn(3, inputs)
    entry, arrays, mask = pruning_for(weight, 0.6)
    pivot = product("MatMul", weight, [inputs])
    parts = {
        "layers": {"y": Layer("MatMul", "y", (), "w", mode="weight")},
        "blocks": {"w": BlockWeight(bits, 32, 0, symmetric, "mse")},
        "pruned": {"w": entry},
    }
    result = convert(pivot, "int4-weight-only", arrays, **parts)
    recipe = Recipe(PivotId(pivot.digest, 21), "int4-weight-only", {}, **parts)
    lowered = qdq.lower(
        pivots_of.load(pivot.path), recipe, digest=pivot.digest, arrays=arrays
    ).model
    blocks = qdq.read_blocks(lowered)
    program = program_of(result)
    assert qdq.compare_blocks(blocks, read_blocks(program)) == []
    assert result.facts["small_weights"]["w"]["form"] == "sparse integers"
    assert np.array_equal(read_small(program).integer_masks["w"][:inputs], mask)
    found = blocks["w"]
    values = lk.dequantize_blocks(found.codes, found.scale, found.zero_point, found.block)
    assert not values.T[~mask].any()
    assert near(opened(result.model).run({"x": x})["y"], x @ values.T)


def test_what_no_form_makes_smaller_stays_as_it_is(product, convert):
    weight = drawn(40, 30)
    pivot = product("MatMul", weight, [40])
    entry, arrays, values = palette_for(weight, 8, 1, 1)  # tables of 256 for 40 values
    result = convert(pivot, "palette", arrays, palettes={"w": entry})
    assert result.facts["small_weights"]["w"]["form"] == "values"
    assert result.facts["integers"]["folded"] == []
    held = [c.value for _, c in program_of(result).constants()]
    assert any(np.array_equal(np.sort(np.ravel(v)), np.sort(values.reshape(-1))) for v in held
               if isinstance(v, np.ndarray))  # fmt: skip
    pruned, arrays, _ = pruning_for(weight, 0.01)
    result = convert(pivot, "sparse", arrays, pruned={"w": pruned})
    assert result.facts["small_weights"]["w"]["form"] == "values"


# --- faults --------------------------------------------------------------------------------------


@pytest.fixture
def both(product, convert):
    """A weight with a palette and a mask, and one that is pruned, each in a package of its own."""
    weight = drawn(96, 128)
    pivot = product("MatMul", weight, [96])
    pruned, masks, mask = pruning_for(weight, 0.5)
    entry, arrays, _ = palette_for(np.where(mask, weight, np.float32(0)), 4, 1, 16)
    arrays["w/palette"][np.arange(8), np.abs(arrays["w/palette"]).argmin(1)] = 0
    zero = np.abs(arrays["w/palette"]).argmin(1)[np.arange(128) // 16]
    arrays["w/indices"] = np.where(mask, arrays["w/indices"], zero).astype(np.uint8)
    one = convert(pivot, "palette", arrays | masks, palettes={"w": entry}, pruned={"w": pruned})
    assert one.facts["small_weights"]["w"]["form"] == "sparse palette"
    two = convert(pivot, "sparse", masks, pruned={"w": pruned})
    palette = Palette(arrays["w/indices"], arrays["w/palette"], 1, 16)
    return one, Small({"w": palette}, {"w": mask}), two, Small({}, {"w": mask}, {"w": weight})


def test_every_flipped_bit_of_indices_tables_and_masks_is_found(both):
    """Each blob of both files in turn; a bit that is only padding does not count."""
    caught = 0
    for result, wanted in (both[:2], both[2:]):
        assert compare_small(program_of(result), wanted) == []
        place = Path(result.model.path, "Data/com.apple.CoreML/weights/weight.bin")
        clean = place.read_bytes()
        for name, constant in program_of(result).constants():
            if constant.blob is None:
                continue
            start = constant.blob.offset + 64
            for bit in (0, 7):
                damaged = bytearray(clean)
                damaged[start] ^= 1 << bit
                place.write_bytes(damaged)
                try:
                    found = compare_small(program_of(result), wanted)
                except (LeptonError, IndexError, ValueError) as error:
                    found = [str(error)]
                assert found, (name, bit)
                caught += 1
        place.write_bytes(clean)
    assert caught >= 10


def test_a_conversion_fails_where_a_number_differs(both, product):
    result, wanted, *_ = both
    recipe = Recipe(PivotId("sha256:0", 21), "palette", {}, {})
    palette = wanted.palettes["w"]
    kept = np.flatnonzero(wanted.masks["w"])[0]
    indices, tables, mask = (a.copy() for a in
                             (palette.indices, palette.tables, wanted.masks["w"]))  # fmt: skip
    indices.flat[kept] ^= 1
    tables[2, 5] = np.nextafter(tables[2, 5], np.float32(1))
    mask.flat[kept] = False
    wrong = (
        (replace(wanted, palettes={"w": replace(palette, indices=indices)}), "1 indices differ"),
        (replace(wanted, palettes={"w": replace(palette, tables=tables)}), "values of its tables"),
        (replace(wanted, palettes={"w": replace(palette, axis=0)}), "another axis"),
        (replace(wanted, masks={"w": mask}), "other values are pruned"),
    )
    for small, what in wrong:
        with pytest.raises(LeptonError) as caught:
            check_numbers(program_of(result), Numbers({}, {}, small), recipe)
        assert caught.value.code == "LPT-CONV-511"
        assert what in caught.value.cause
