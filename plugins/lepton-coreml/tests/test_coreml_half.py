"""Compressed weights in float16 programs: the recipe's numbers rounded once, and smaller files.

Every form stands beside the others in one graph, and is converted once for each device.
"""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto

from lepton_core.context import Context
from lepton_core.errors import LeptonError
from lepton_core.recipe import Layer, PivotId, Recipe, Tensor
from lepton_core.types import ConvertRequest, OpenRequest
from lepton_coreml import plugin
from lepton_coreml._half import holds_scales
from lepton_coreml._integers import read_back, read_blocks
from lepton_coreml._mil._package import open_package
from lepton_coreml._mil._program import Name
from lepton_coreml._mil._write import WEIGHTS
from lepton_coreml._same import Numbers, check_numbers
from lepton_coreml._same_small import read_small
from lepton_coreml._small import Palette, Small

pytestmark = pytest.mark.xdist_group("coreml-half")  # both conversions are shared

COMPRESSED = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("compressed.py"))))
ROWS, COLUMNS, GROUP = COMPRESSED.ROWS, COMPRESSED.COLUMNS, COMPRESSED.GROUP
half, palette, sparse = COMPRESSED.half, COMPRESSED.palette, COMPRESSED.sparse
integers, blocks = COMPRESSED.integers, COMPRESSED.blocks
RNG = np.random.default_rng(18)

IOS18 = {
    "palette": lambda: palette("palette", 4, GROUP),
    "sparse": lambda: sparse("sparse"),
    "both": lambda: COMPRESSED.sparse_palette("both"),
    "int8": lambda: integers("int8"),
    "sparse8": lambda: integers("sparse8", masked=True),
    "int4": lambda: blocks("int4"),
    "kept": lambda: palette("kept", 4, GROUP),
    "tiny": lambda: integers("tiny", 1e-5),
    "beyond": lambda: palette("beyond", 4, GROUP, 1e5),
}
IOS17 = {
    "palette": lambda: palette("palette", 6),
    "sparse": lambda: sparse("sparse"),
    "int8": lambda: integers("int8"),
}
DEVICES = [
    pytest.param("ios18", IOS18, id="ios18"),
    pytest.param("ios17", IOS17, id="ios17", marks=pytest.mark.conformance),
]
FULL = {"kept", "tiny", "beyond"}
"""Weights that stay float32: asked for, a scale that float16 does not hold, a table beyond it."""


@pytest.fixture(scope="module")
def built(graphs, tmp_path_factory):
    """One package for each device, with all forms; each is made once."""
    made = {}

    def call(device, forms):
        if device not in made:
            weights = {name: make() for name, make in forms.items()}
            folder = tmp_path_factory.mktemp(device)
            pivot = graphs.to_pivot(COMPRESSED.graph_of(graphs, weights), folder / "pivot")
            recipe, path = COMPRESSED.recipe_of(pivot, weights, folder / "recipe.json")
            options = {"compute": "fp16"}
            if "kept" in forms:  # coremltools' own name of the product
                options["keep"] = [f"matmul_{list(forms).index('kept')}"]
            request = ConvertRequest("coreml", recipe=path, device=device, options=options)
            result = plugin.lepton_convert(pivot, request, Context(folder))
            program = open_package(Path(result.model.path)).program()
            made[device] = SimpleNamespace(
                result=result, weights=weights, recipe=recipe, program=program, folder=folder
            )
        return made[device]

    return call


@pytest.fixture
def ios18(built):
    return built("ios18", IOS18)


def made_by(built, name):
    """Return the product that reads a weight, and the operation that restores it."""
    operations = built.program.block.operations
    own = re.compile(rf"(dense_)?[a-z]+_\d+_\d+_{name}(_half)?")
    weight = [op for op in operations if own.fullmatch(op.name)][-1]  # a mask's parts are two
    readers = [op for op in operations
               for given in op.inputs.values() if any(a.name == weight.name for a in given
                                                      if isinstance(a, Name))]  # fmt: skip
    (product,) = readers
    return product, weight


@pytest.mark.parametrize(("device", "forms"), DEVICES)
def test_every_form_is_float16_and_computes_in_it(device, forms, built):
    made = built(device, forms)
    kinds = {"palette": "lut_to_dense", "sparse": "sparse_to_dense", "both": "sparse_to_dense",
             "int8": "blockwise_shift_scale", "sparse8": "sparse_to_dense",
             "int4": "blockwise_shift_scale"}  # fmt: skip
    if device == "ios17":
        kinds["int8"] = "affine_dequantize"
    for name in set(forms) - FULL:
        product, weight = made_by(made, name)
        assert weight.kind == f"constexpr_{kinds[name]}", name
        assert weight.outputs[0][1].dtype == product.outputs[0][1].dtype == "fp16", name
    for name in set(forms) & FULL:
        product, weight = made_by(made, name)
        assert weight.kind.startswith("constexpr_")
        assert weight.outputs[0][1].dtype == product.outputs[0][1].dtype == "fp32", name
    rounded = sorted(set(forms) - FULL)
    assert made.result.facts["integers"]["rounded"] == rounded
    assert made.result.facts["compute"] == "fp16"


@pytest.mark.parametrize(("device", "forms"), DEVICES)
def test_what_comes_out_is_what_float16_gives(device, forms, built):
    made = built(device, forms)
    x = RNG.normal(size=(5, ROWS)).astype("f4")
    with plugin.lepton_open(made.result.model, OpenRequest("coreml"), Context(made.folder)) as one:
        found = one.run({"x": x})
        assert one.facts["execution_precision"].startswith("fp16 ")
    for name, weight in made.weights.items():
        if weight.values is None or name in FULL:
            continue
        wanted = half(half(x) @ weight.values)
        np.testing.assert_allclose(found[f"{name}_y"], wanted, rtol=2e-3, atol=2e-3, err_msg=name)
        full = x @ weight.values
        assert np.linalg.norm(found[f"{name}_y"] - full) < 2e-3 * np.linalg.norm(full)


def test_the_recipes_numbers_stand_there_rounded_once(ios18):
    small, stored = read_small(ios18.program), read_back(ios18.program)
    for name in ("palette", "both"):
        _, tables, axis = small.palettes[name]
        wanted = ios18.weights[name].arrays[f"{name}/palette"]
        assert (axis, tables.dtype) == (1, np.float16)
        assert tables.tobytes() == wanted.astype("f2").tobytes()
    assert small.palettes["palette"][1][0, 7] == 0
    assert small.palettes["kept"][1].dtype == np.float32
    for name in ("int8", "sparse8"):
        scales = np.array(ios18.recipe.tensors[name].scale, "f4")
        assert stored[name].scale.tobytes() == scales.astype("f2").tobytes()
    assert stored["tiny"].scale.dtype == np.float32
    found = read_blocks(ios18.program)["int4"]
    assert found.scale.dtype == np.float16
    wanted = found.codes * np.repeat(half(found.scale), 32, axis=1)
    assert np.abs(wanted.T - ios18.weights["int4"].weight).max() < 0.1


def test_files_are_as_small_as_forms_say(ios18):
    """All floats in 2 bytes: a half of the values and a mask, places of 4 bits, and so on."""
    count, size = ROWS * COLUMNS, (Path(ios18.result.model.path) / WEIGHTS).stat().st_size
    shares = {"palette": 1 / 4, "sparse": 9 / 16, "both": 3 / 16, "int8": 1 / 2, "sparse8": 5 / 16,
              "int4": 1 / 4, "kept": 1 / 4, "tiny": 1 / 2, "beyond": 1 / 4}  # fmt: skip
    wanted = sum(2 * count * share for share in shares.values())
    tables = 2 * 2 * 8 * 16 + 4 * 2 * 8 * 16 + 2 * 2 * COLUMNS + 4 * COLUMNS + 2 * 3 * COLUMNS
    assert size < 1.05 * (wanted + tables) + 2048
    facts = ios18.result.facts["small_weights"]
    assert facts["sparse"]["bytes"] < 0.6 * 2 * count
    assert facts["palette"]["of"] == 4 * count


def test_what_stays_float32_is_said_with_a_reason(ios18):
    kept = ios18.result.facts["kept_in_fp32"]
    reasons = {name: text for name, text in kept.items() if text.startswith("constexpr_")}
    assert len(reasons) == len(FULL)
    assert all("float16 does not hold" in text for text in reasons.values())
    assert kept["kept_y"].startswith("matmul: a constant of it stays float32")
    assert ios18.result.model.metadata["precision"] == "mixed-sparse"


def test_scales_are_held_or_not():
    assert holds_scales(np.array([2e-5, 0.5, 0.0]))
    assert not holds_scales(np.array([0.5, 1e-7]))


def test_a_table_that_is_one_float16_off_is_none_of_the_recipe(ios18):
    arrays = ios18.weights["palette"].arrays
    tables = arrays["palette/palette"].copy()
    recipe = Recipe(PivotId("sha256:0", 21), "palette", {}, {})

    def check():
        entry = Palette(arrays["palette/indices"], tables, 1, GROUP)
        numbers = Numbers({}, {}, Small({"palette": entry}))
        return check_numbers(ios18.program, numbers, recipe)

    assert check()["equal"]
    tables[3, 2] = np.nextafter(tables[3, 2].astype("f2"), np.float16(9))
    with pytest.raises(LeptonError) as caught:
        check()
    assert caught.value.code == "LPT-CONV-511"


def test_integers_between_layers_need_float32(convert, pivots):
    tensors = {
        "r": Tensor("activation", 0.05, -128, observed=(0.0, 9.0)),
        "y": Tensor("activation", 0.1, 3, observed=(-9.0, 9.0)),
        "fc2.weight": Tensor("weight", (0.1,) * 4, axis=0, estimator="absmax"),
    }
    layers = {"y": Layer("Gemm", "y", ("r",), "fc2.weight", "fc2.bias")}
    with pytest.raises(LeptonError) as caught:
        convert(pivots("perceptron"), "int8-static", {}, options={"compute": "fp16"},
                tensors=tensors, layers=layers)  # fmt: skip
    assert caught.value.code == "LPT-CONV-502"
    assert "int8-weight" in caught.value.remedy


def test_a_table_of_integers_is_a_weight(graphs, convert, opened, tmp_path):
    """Its rows are restored behind the lookup, and are no integers between layers."""
    one = integers("t")
    proto = graphs.model(
        [graphs.node("Gather", ["t", "ids"], ["y"])],
        [graphs.value("ids", ["n"], TensorProto.INT64)],
        [graphs.value("y", ["n", COLUMNS])],
        [graphs.weight("t", one.weight)],
    )
    parts = one.parts | {"layers": {"y": Layer("Gather", "y", (), "t", mode="weight")}}
    result = convert(graphs.to_pivot(proto, tmp_path / "pivot"), "int8-weight-only", {},
                     options={"compute": "fp16"}, **parts)  # fmt: skip
    assert result.facts["integers"]["rounded"] == ["t"]
    ids = np.array([3, 95, 3])
    found = opened(result.model).run({"ids": ids})["y"]
    np.testing.assert_allclose(found, one.values[ids], rtol=2e-3)


@pytest.mark.parametrize("options", [{"compute": "fp8"}, {"compute": True}, {"keep": ["relu"]}])
def test_other_words_are_refused(options, pivots, convert):
    with pytest.raises(LeptonError) as caught:
        convert(pivots("perceptron"), "palette", {}, options=options)
    assert caught.value.code == "LPT-CONV-503"
