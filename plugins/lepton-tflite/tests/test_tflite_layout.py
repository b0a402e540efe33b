"""Inputs with the channels last in the file, while everything else keeps the source's order."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

import lepton_core
from lepton_core.errors import SessionError, UnsupportedOperationError
from lepton_core.types import ConvertRequest, InspectRequest, Model
from lepton_tflite import _flatbuffer as flat
from lepton_tflite import plugin
from lepton_tflite._execution import file_nodes, operator_names
from lepton_tflite._layout import take_nhwc
from lepton_tflite.bundle_files import files

pytestmark = pytest.mark.xdist_group("tflite")


@pytest.fixture(scope="session")
def turned(convert, pivot):
    return convert(pivot, options={"layout": "nhwc"})


def test_the_file_takes_channels_last_and_a_session_takes_both(
    turned, single, opened, graphs, expected, pivot
):
    assert turned.facts["nhwc_inputs"] == turned.model.metadata["nhwc_inputs"] == ["image"]
    assert turned.model.signature == single.model.signature
    model = flat.unpack(Path(turned.model.path).read_bytes())
    tensor = model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]]
    assert list(tensor.shapeSignature) == [-1, 8, 8, 1]
    inputs = graphs.inputs(3)
    wanted = expected(pivot, inputs)["scores"]
    session = opened(turned.model)
    np.testing.assert_allclose(session.run(inputs)["scores"], wanted, rtol=1e-4, atol=1e-4)
    raw = opened(turned.model, options={"layout": "nhwc"})
    assert raw.signature.inputs[0].shape == ("batch", 8, 8, 1)
    assert raw.signature.inputs[0].layout == "NHWC"
    last = {**inputs, "image": inputs["image"].transpose(0, 2, 3, 1)}
    np.testing.assert_array_equal(raw.run(last)["scores"], session.run(inputs)["scores"])


def test_a_bundle_says_so_and_runs_on_the_golden_pairs_of_the_source(turned, graphs, tmp_path):
    out = tmp_path / "bundle"
    lepton_core.deploy(
        turned.model, name="small-net", target="tflite:android-arm64", kind="bundle",
        options={"store": str(tmp_path / "store"), "out": str(out)},
    )  # fmt: skip
    assert json.loads((out / "layouts.json").read_text()) == {"image": "NHWC"}
    assert "image: float32[batch, 8, 8, 1], channels last" in (out / "SmallNet.kt").read_text()
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(out / "run.py"), run_name="__main__")
    assert ended.value.code == 0  # 1 where a golden pair differs
    call = runpy.run_path(str(out / "runtime.py"))["load"](out / "model" / "model.tflite", 1)
    with pytest.raises(ValueError, match="has the shape"):
        call({**graphs.inputs(2), "image": np.ones((2, 8, 8, 1), "f4")})


@pytest.mark.conformance
def test_integers_take_channels_last_too(graphs, to_pivot, convert, opened, context, tmp_path):
    """The int8 of the border has the order of the file, and no operator that changes it."""
    w = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype("f4")
    pivot = to_pivot(
        graphs.model(
            [graphs.node("Conv", ["image", "w"], ["c"]), graphs.node("Relu", ["c"], ["r"]),
             graphs.node("GlobalAveragePool", ["r"], ["g"])],
            [graphs.value("image", ["batch", 3, 8, 8])],
            [graphs.value("g", ["batch", 4, 1, 1])],
            [graphs.weight("w", w)],
        )
    )  # fmt: skip
    scale = [float(s) for s in (np.abs(w).max(axis=(1, 2, 3)) / 127).astype("f4")]
    rules = {"dtype": "int8", "estimator": "minmax", "rounding": "half-even"}
    data = {
        "schema": 1, "rules": 1, "written_by": "test", "scheme": "int8-static",
        "pivot": {"digest": pivot.digest, "opset": 21}, "requires": {}, "calibration": None,
        "sidecar": None, "notes": [], "kept_float": {},
        "tensors": {
            "image": {"kind": "activation", "scale": 0.03, "zero_point": 3, **rules},
            "w": {"kind": "weight", "scale": scale, "axis": 0, **rules},
            "r": {"kind": "activation", "scale": 0.1, "zero_point": -128, **rules},
        },
        "layers": {"c": {"op": "Conv", "inputs": ["image"], "output": "r", "weight": "w",
                         "fused": ["r"], "mode": "static"}},
    }  # fmt: skip
    path = str(tmp_path / "recipe.json")
    Path(path).write_text(json.dumps(data))
    x = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype("f4")
    found = []
    for options in ({}, {"layout": "nhwc:image", "io": "int8"}):
        made = convert(pivot, recipe=path, options=options)
        found.append(opened(made.model).run({"image": x})["g"])
    np.testing.assert_array_equal(*found)
    root = flat.root_of(Path(made.model.path).read_bytes())
    assert operator_names(file_nodes(root)).get("TRANSPOSE", 0) == 0
    assert made.facts["integer_ports"] == ["image"]
    raw = opened(made.model, options={"layout": "nhwc", "io": "int8"})
    spec = raw.signature.inputs[0]
    assert (spec.dtype, spec.shape) == ("int8", ("batch", 8, 8, 3))
    bare = plugin.lepton_inspect(Model("tflite", made.model.path), InspectRequest(), context).model
    for key in ("nhwc_inputs", "integer_ports", "port_grids"):
        assert bare.metadata[key] == made.model.metadata[key]


def test_a_bundle_of_the_file_alone_is_for_the_files_order_too(turned, context):
    """As `lepton deploy model.tflite` makes it, without a record of the conversion."""
    bare = plugin.lepton_inspect(
        Model("tflite", turned.model.path), InspectRequest(), context
    ).model
    assert files(bare, "small-net") == files(turned.model, "small-net")


def test_what_reads_an_input_reads_it_in_the_sources_order(graphs):
    from onnx.reference import ReferenceEvaluator

    proto = graphs.small()
    inputs = graphs.inputs(2)
    (wanted, _) = ReferenceEvaluator(proto).run(None, inputs)
    made = take_nhwc(proto, ["image"])
    inputs["image"] = inputs["image"].transpose(0, 2, 3, 1)
    (found, _) = ReferenceEvaluator(made).run(None, inputs)
    np.testing.assert_array_equal(found, wanted)
    assert take_nhwc(proto, ()) is proto


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ("channels-last", "cannot be 'channels-last'"),
        ("nhwc:kind", "Input 'kind' cannot be taken as NHWC"),
        ("nhwc:picture", "Name one of image"),
    ],
)
def test_what_cannot_be_turned_is_said(pivot, context, layout, says):
    with pytest.raises(UnsupportedOperationError, match=says) as caught:
        plugin.lepton_convert(pivot, ConvertRequest("tflite", options={"layout": layout}), context)
    assert caught.value.code == "LPT-CONV-408"


def test_without_images_there_is_nothing_to_turn(graphs, to_pivot, context):
    pivot = to_pivot(
        graphs.model(
            [graphs.node("Relu", ["x"], ["y"])],
            [graphs.value("x", ["n", 3])],
            [graphs.value("y", ["n", 3])],
        )
    )
    with pytest.raises(UnsupportedOperationError, match="no input has four axes"):
        plugin.lepton_convert(pivot, ConvertRequest("tflite", options={"layout": "nhwc"}), context)


@pytest.mark.parametrize("layout", ["nhwc", "nchw4"])
def test_a_session_refuses_a_layout_that_the_file_has_not(single, opened, layout):
    with pytest.raises(SessionError) as caught:
        opened(single.model, options={"layout": layout})
    assert caught.value.code == "LPT-RUN-413"


def test_the_kotlin_class_is_for_the_files_order():
    from lepton_core.types import Signature, TensorSpec

    spec = TensorSpec("x", "float32", (1, 3, 4, 5))
    model = Model("tflite", "/x/model.tflite", signature=Signature((spec,), (spec,)),
                  metadata={"nhwc_inputs": ["x"]})  # fmt: skip
    made = files(model, "net")
    assert (
        '"x" to buffer(240),  // float32, x: float32[1, 4, 5, 3], channels last' in made["Net.kt"]
    )
    assert '"x" to buffer(240),  // float32, x: float32[1, 3, 4, 5]\n' in made["Net.kt"]
