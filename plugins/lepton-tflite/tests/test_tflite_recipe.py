"""A recipe becomes integer kernels with exactly its integers, scales and zero points."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lepton_core import recipe as recipes
from lepton_core.errors import ConversionError, OptimizeError, UnsupportedOperationError
from lepton_core.types import ConvertRequest
from lepton_onnx import pivot as pivots
from lepton_onnx import qdq
from lepton_tflite import _flatbuffer as flat
from lepton_tflite import plugin
from lepton_tflite._execution import file_nodes, operator_names
from lepton_tflite._finish import float_ports, integer_ports, port_types
from lepton_tflite._integers import INTEGER_OPS, check_border, check_integers
from lepton_tflite._read import read_back
from lepton_tflite._reproduce import reproducer
from lepton_tflite.bundle_files import files

pytestmark = pytest.mark.xdist_group("tflite")


def integer_net(graphs):
    """Convolution, activation, pool, product without and with bias: integers from end to end."""
    rng = np.random.default_rng(0)
    node = graphs.node
    return graphs.model(
        [
            node("Conv", ["image", "conv.weight", "conv.bias"], ["c"], pads=[1, 1, 1, 1]),
            node("Relu", ["c"], ["r"]),
            node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Flatten", ["p"], ["f"]),
            node("MatMul", ["f", "mix.weight"], ["m"]),
            node("Gemm", ["m", "fc.weight", "fc.bias"], ["scores"], transB=1),
        ],
        [graphs.value("image", ["batch", 3, 8, 8])],
        [graphs.value("scores", ["batch", 5])],
        [
            graphs.weight("conv.weight", rng.normal(size=(4, 3, 3, 3)).astype("f4")),
            graphs.weight("conv.bias", rng.normal(size=4).astype("f4")),
            graphs.weight("mix.weight", (rng.normal(size=(64, 6)) / 8).astype("f4")),
            graphs.weight("fc.weight", (rng.normal(size=(5, 6)) / 2).astype("f4")),
            graphs.weight("fc.bias", rng.normal(size=5).astype("f4")),
        ],
    )


def weight_entry(array, axis):
    other = tuple(i for i in range(array.ndim) if i != axis)
    scale = (np.abs(array).max(axis=other) / 127).astype("f4")
    return {
        "kind": "weight", "scale": [float(s) for s in scale], "zero_point": 0, "dtype": "int8",
        "axis": axis, "observed": [float(array.min()), float(array.max())],
        "estimator": "absmax", "rounding": "half-even",
    }  # fmt: skip


def activation(scale, zero, same_as=None):
    entry = {
        "kind": "activation", "scale": scale, "zero_point": zero, "dtype": "int8",
        "observed": [-1.0, 1.0], "estimator": "minmax", "rounding": "half-even",
    }  # fmt: skip
    return entry | ({"same_as": same_as} if same_as else {})


def static(op, inputs, output, **more):
    return {"op": op, "output": output, "inputs": inputs, "mode": "static", **more}


def recipe_of(pivot, tensors, layers, folder):
    data = {
        "schema": 1, "rules": 1, "written_by": "test", "scheme": "int8-static",
        "pivot": {"digest": pivot.digest, "opset": 21}, "requires": {}, "calibration": None,
        "sidecar": None, "notes": [], "kept_float": {}, "tensors": tensors, "layers": layers,
    }  # fmt: skip
    path = folder / "recipe.json"
    path.write_text(json.dumps(data))
    return str(path)


@pytest.fixture(scope="session")
def quantized(graphs, to_pivot, tmp_path_factory):
    """A pivot, and a recipe for it."""
    from onnx import numpy_helper

    pivot = to_pivot(integer_net(graphs))
    loaded = pivots.load(pivot.path)
    values = {t.name: numpy_helper.to_array(t) for t in loaded.graph.initializer}
    data = {
        "tensors": {
            "image": activation(0.031, 3),
            "conv.weight": weight_entry(values["conv.weight"], 0),
            "r": activation(0.057, -128),
            "p": activation(0.057, -128, "r"),
            "f": activation(0.057, -128, "r"),
            "mix.weight": weight_entry(values["mix.weight"], 1),
            "m": activation(0.11, 5),
            "fc.weight": weight_entry(values["fc.weight"], 0),
            "scores": activation(0.23, -7),
        },
        "layers": {
            "c": static("Conv", ["image"], "r", weight="conv.weight", bias="conv.bias",
                        fused=["r"]),
            "p": static("MaxPool", ["r"], "p"),
            "f": static("Flatten", ["p"], "f"),
            "m": static("MatMul", ["f"], "m", weight="mix.weight"),
            "scores": static("Gemm", ["m"], "scores", weight="fc.weight", bias="fc.bias"),
        },
    }  # fmt: skip
    return pivot, recipe_of(pivot, **data, folder=tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="session")
def lowered(quantized, convert):
    pivot, path = quantized
    return convert(pivot, recipe=path)


def onnx_lowering(quantized):
    pivot, path = quantized
    recipe = recipes.read(path)
    proto = qdq.lower(
        pivots.load(pivot.path), recipe, digest=pivot.digest, integer_ops=INTEGER_OPS,
        float_outputs=False,
    ).model  # fmt: skip
    return recipe, proto


def test_every_layer_is_an_integer_kernel(lowered):
    assert lowered.facts["batch"] == "open"
    assert lowered.facts["storage_precision"] == "int8"
    root = flat.root_of(Path(lowered.model.path).read_bytes())
    from lepton_tflite._execution import computing_layers, file_nodes, operator_names

    graphs = file_nodes(root)
    assert computing_layers(graphs) == {"int8": 4}
    names = operator_names(graphs)
    assert names["QUANTIZE"] == names["DEQUANTIZE"] == 1  # at the border, and nowhere else
    assert set(names) <= {
        "QUANTIZE", "TRANSPOSE", "CONV_2D", "MAX_POOL_2D", "RESHAPE", "FULLY_CONNECTED",
        "DEQUANTIZE", "PAD",
    }  # fmt: skip


def test_integers_scales_and_zero_points_are_the_recipes_and_the_onnx_files(lowered, quantized):
    recipe, proto = onnx_lowering(quantized)
    ours, theirs = read_back(lowered.model.path), qdq.read_back(proto)
    integers = {name: stored.integers for name, stored in theirs.items()}
    assert qdq.compare(recipe, ours, integers) == []
    weights = {"conv.weight", "mix.weight", "fc.weight", "c/bias", "scores/bias"}
    assert weights <= set(ours)
    assert {"image", "r", "m", "scores"} <= set(ours)
    for name in weights:
        assert ours[name].integers.dtype == theirs[name].integers.dtype
        np.testing.assert_array_equal(ours[name].integers, theirs[name].integers)
        np.testing.assert_array_equal(ours[name].scale, theirs[name].scale)


def test_outputs_are_those_of_the_onnx_lowering_within_a_unit(lowered, quantized, opened):
    onnxruntime = pytest.importorskip("onnxruntime")
    _, proto = onnx_lowering(quantized)
    x = np.random.default_rng(1).normal(size=(50, 3, 8, 8)).astype("f4")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (wanted,) = session.run(None, {"image": x})
    found = opened(lowered.model).run({"image": x})["scores"]
    units = np.rint(np.abs(found - wanted) / 0.23)
    assert units.max() <= 1
    assert (units == 0).mean() > 0.98


def test_the_border_is_integer_on_request_and_a_session_passes_both(
    quantized, convert, opened, lowered
):
    pivot, path = quantized
    made = convert(pivot, recipe=path, options={"io": "int8", "batch": 2})
    assert made.facts["border"] == "int8"
    assert (
        made.facts["integer_ports"] == made.model.metadata["integer_ports"] == ["image", "scores"]
    )
    (page,) = files(made.model, "net").values()
    assert '"image" to buffer(384)' in page  # 2 x 3 x 8 x 8 of one byte
    assert '"scores" to buffer(10)' in page
    grids = {"image": (0.031, 3), "scores": (0.23, -7)}
    for name, (scale, zero) in grids.items():  # what an app needs to fill and read them
        assert f'"{name}" to Grid({np.float32(scale):.9g}f, {zero}),' in page
    x = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype("f4")
    codes = np.clip(np.rint(x / np.float32(0.031)) + 3, -128, 127).astype("i1")
    raw = opened(made.model, options={"io": "int8"})
    assert (raw.signature.inputs[0].dtype, raw.signature.outputs[0].dtype) == ("int8", "int8")
    wanted = opened(lowered.model).run({"image": x})["scores"]
    got = raw.run({"image": codes})["scores"]
    np.testing.assert_allclose((got.astype("f4") + 7) * np.float32(0.23), wanted, rtol=1e-6)
    as_floats = opened(made.model)
    assert as_floats.signature == made.model.signature
    np.testing.assert_allclose(as_floats.run({"image": x})["scores"], wanted, rtol=1e-6)


@pytest.mark.parametrize("fault", ["integer", "scale", "zero", "floats", "moved", "input"])
def test_a_file_with_other_numbers_does_not_pass(lowered, quantized, fault):
    recipe, proto = onnx_lowering(quantized)
    model = flat.unpack(Path(lowered.model.path).read_bytes())
    passed = flat.unpack(flat.pack(model))
    check_integers(passed, proto, recipe)  # passes as it is
    check_border(passed, proto, recipe)
    tensor = next(t for t in model.subgraphs[0].tensors if t.name == b"conv.weight/int8")
    if fault == "integer":
        values = flat.array_of(model, tensor).copy()
        values[1, 2, 0, 1] += 1
        flat.set_array(model, tensor, values)
    elif fault == "scale":
        scale = np.array(tensor.quantization.scale, "f4")
        scale[2] = np.nextafter(scale[2], np.float32(1))
        tensor.quantization.scale = scale
    elif fault == "floats":
        for tensor in model.subgraphs[0].tensors:
            if flat.array_of(model, tensor) is None and tensor.type == flat.TYPES["int8"]:
                tensor.type, tensor.quantization = flat.TYPES["float32"], None
    elif fault == "moved":  # behind the pool, the numbers of another value of the recipe
        codes = model.operatorCodes
        pool = next(o for o in model.subgraphs[0].operators
                    if flat.operator_name(codes[o.opcodeIndex]) == "MAX_POOL_2D")  # fmt: skip
        behind = model.subgraphs[0].tensors[pool.outputs[0]].quantization
        behind.scale, behind.zeroPoint = np.array([0.11], "f4"), np.array([5])
    elif fault == "input":
        act = next(t for t in model.subgraphs[0].tensors if t.name == b"image/int8")
        act.quantization.scale, act.quantization.zeroPoint = np.array([0.11], "f4"), np.array([5])
    else:
        act = next(t for t in model.subgraphs[0].tensors if t.name == b"r/int8")
        act.quantization.zeroPoint = np.array([-127])
    with pytest.raises(ConversionError) as caught:
        check_integers(model, proto, recipe)
        check_border(model, proto, recipe)
    assert caught.value.code == "LPT-CONV-411"


@pytest.mark.parametrize("end", ["inputs", "outputs"])
def test_a_border_of_other_integers_or_of_none_does_not_pass(lowered, quantized, end):
    recipe, proto = onnx_lowering(quantized)
    model = flat.unpack(Path(lowered.model.path).read_bytes())
    integer_ports(model)  # the converter may write such a file, without a QUANTIZE at the border
    with pytest.raises(ConversionError, match="LPT-CONV-411"):
        check_border(model, proto, recipe)
    graph = model.subgraphs[0]
    own = graph.tensors[getattr(graph, end)[0]].quantization
    assert float_ports(model, lowered.model.signature) == 2
    check_border(model, proto, recipe)
    own.scale, own.zeroPoint = np.array([0.11], "f4"), np.array([5])
    with pytest.raises(ConversionError, match="LPT-CONV-411"):
        check_border(model, proto, recipe)


def test_an_equal_weight_does_not_stand_for_one_that_is_missing(lowered, quantized):
    recipe, proto = onnx_lowering(quantized)
    tensors = {**recipe.tensors, "twin": recipe.tensors["mix.weight"]}
    twin = next(t for t in proto.graph.initializer if t.name == "mix.weight/int8")
    proto.graph.initializer.add().CopyFrom(twin)
    proto.graph.initializer[-1].name = "twin/int8"
    model = flat.unpack(Path(lowered.model.path).read_bytes())
    with pytest.raises(ConversionError, match="'twin' does not stand"):
        check_integers(model, proto, replace(recipe, tensors=tensors))


def test_values_that_float_operators_or_two_outputs_take_run_with_an_integer_border(
    graphs, to_pivot, convert, opened, tmp_path
):
    node, value = graphs.node, graphs.value
    w = np.random.default_rng(0).normal(size=(8, 6)).astype("f4")
    pivot = to_pivot(
        graphs.model(
            [node("MatMul", ["x", "w"], ["a"]), node("Tanh", ["a"], ["t"]),
             node("Identity", ["a"], ["b"])],
            [value("x", ["batch", 8])],
            [value(name, ["batch", 6]) for name in ("a", "b", "t")],
            [graphs.weight("w", w)],
        )
    )  # fmt: skip
    tensors = {"x": activation(0.03, 3), "w": weight_entry(w, 1), "a": activation(0.11, 5)}
    path = recipe_of(pivot, tensors, {"a": static("MatMul", ["x"], "a", weight="w")}, tmp_path)
    made = convert(pivot, recipe=path, options={"io": "int8"})
    assert made.facts["float_ports"] == ["t"]
    assert set(made.facts["integer_ports"]) == {"x", "a", "b"}
    x = np.random.default_rng(1).normal(size=(3, 8)).astype("f4")
    found = opened(made.model).run({"x": x})
    assert np.abs(found["a"] - x @ w).max() < 0.3
    np.testing.assert_array_equal(found["a"], found["b"])
    np.testing.assert_allclose(found["t"], np.tanh(found["a"]), atol=1e-5)


def test_layers_with_equal_weights_keep_their_own_numbers(
    graphs, to_pivot, convert, opened, expected, tmp_path
):
    """The converter merges the weights; two of the layers differ in their bias alone."""
    node, value, rng = graphs.node, graphs.value, np.random.default_rng(0)
    w = rng.normal(size=(6, 6)).astype("f4")
    biases = {name: rng.normal(size=6).astype("f4") for name in ("b1", "b2")}
    layers = {"two": ("z", "w2", "b2"), "one": ("x", "w1", "b1"), "y": ("one", "w3", None)}
    pivot = to_pivot(
        graphs.model(
            [node("Gemm", [n for n in inputs if n], [name]) for name, inputs in layers.items()],
            [value(name, ["batch", 6]) for name in ("x", "z")],
            [value(name, ["batch", 6]) for name in ("one", "two", "y")],
            [graphs.weight(f"w{i}", w) for i in (1, 2, 3)]
            + [graphs.weight(name, bias) for name, bias in biases.items()],
        )
    )
    tensors = {f"w{i}": weight_entry(w, 1) for i in (1, 2, 3)}
    tensors |= {"x": activation(0.03, 3), "z": activation(0.03, 3), "y": activation(0.3, -5)}
    tensors |= {name: activation(0.11, 5) for name in ("one", "two")}
    entries = {
        name: static("Gemm", [x], name, weight=weight, **({"bias": bias} if bias else {}))
        for name, (x, weight, bias) in sorted(layers.items())
    }
    path = recipe_of(pivot, tensors, entries, tmp_path)
    made = convert(pivot, recipe=path)
    recipe, proto = onnx_lowering((pivot, path))
    ours, theirs = read_back(made.model.path), qdq.read_back(proto)
    assert qdq.compare(recipe, ours, {n: stored.integers for n, stored in theirs.items()}) == []
    for name in ("w1", "w2", "w3", "one/bias", "two/bias"):
        np.testing.assert_array_equal(ours[name].integers, theirs[name].integers)
    given = {name: rng.normal(size=(3, 6)).astype("f4") for name in ("x", "z")}
    found, wanted = opened(made.model).run(given), expected(pivot, given)
    for name, unit in (("one", 0.11), ("two", 0.11), ("y", 0.3)):
        assert np.abs(found[name] - wanted[name]).max() < 2 * unit


def test_a_transposed_convolution_stays_float_with_the_integers_of_the_recipe(
    graphs, to_pivot, convert, opened, expected, tmp_path
):
    """The converter turns its weight over, twice in the end."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(3, 4, 2, 2)).astype("f4")
    pivot = to_pivot(
        graphs.model(
            [graphs.node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])],
            [graphs.value("x", ["batch", 3, 4, 4])],
            [graphs.value("y", ["batch", 4, 8, 8])],
            [graphs.weight("w", w)],
        )
    )
    tensors = {"x": activation(0.03, 3), "w": weight_entry(w, 1), "y": activation(0.06, 5)}
    layers = {"y": static("ConvTranspose", ["x"], "y", weight="w")}
    path = recipe_of(pivot, tensors, layers, tmp_path)
    made = convert(pivot, recipe=path)
    given = {"x": rng.normal(size=(2, 3, 4, 4)).astype("f4")}
    found = opened(made.model).run(given)["y"]
    assert np.abs(found - expected(pivot, given)["y"]).max() < 0.12
    recipe, proto = onnx_lowering((pivot, path))
    ours, theirs = read_back(made.model.path), qdq.read_back(proto)
    assert made.facts["unpacked_weights"] == {"w": ""}
    np.testing.assert_array_equal(ours["w"].integers, theirs["w"].integers)
    np.testing.assert_array_equal(ours["w"].scale, np.float32(recipe.tensors["w"].scale))


def test_a_port_that_the_recipe_keeps_in_float_stays_float(quantized, convert, tmp_path):
    pivot, path = quantized
    data = json.loads(Path(path).read_text())
    del data["layers"]["scores"], data["tensors"]["scores"], data["tensors"]["fc.weight"]
    data["kept_float"] = {"scores": "for this test"}
    (tmp_path / "recipe.json").write_text(json.dumps(data))
    made = convert(pivot, recipe=str(tmp_path / "recipe.json"), options={"io": "int8", "batch": 1})
    assert (made.facts["border"], made.facts["float_ports"]) == ("mixed", ["scores"])
    assert made.model.metadata["integer_ports"] == ["image"]
    assert "scores" in made.warnings[0]
    (page,) = files(made.model, "net").values()
    assert '"image" to buffer(192)' in page
    assert '"scores" to buffer(20)' in page


def test_the_border_is_recorded_as_the_file_has_it(lowered, single):
    for made, wanted in ((lowered, ["image", "scores"]), (single, ["image", "scores"])):
        model = flat.unpack(Path(made.model.path).read_bytes())
        assert port_types(model, made.model.signature) == ({}, wanted)
        assert made.facts["border"] == "float"
        assert "integer_ports" not in made.model.metadata


def test_other_schemes_are_refused(quantized, tmp_path, context):
    pivot, path = quantized
    data = json.loads(Path(path).read_text())
    data["scheme"] = "sparse"
    data["layers"] = {}
    other = tmp_path / "recipe.json"
    other.write_text(json.dumps(data))
    with pytest.raises(UnsupportedOperationError) as caught:
        plugin.lepton_convert(pivot, ConvertRequest("tflite", recipe=str(other)), context)
    assert caught.value.code == "LPT-CONV-412"


def test_a_reproducer_takes_recipe_and_options_along(quantized):
    pivot, path = quantized
    request = ConvertRequest("tflite", recipe=path, options={"io": "int8", "batch": 2})
    with reproducer(Path(pivot.path), "sha256:another", request) as saved:
        with pytest.raises(OptimizeError) as caught:
            runpy.run_path(str(saved.folder / "convert.py"))
        assert caught.value.code == "LPT-OPT-003"  # the recipe is for another graph
        assert "'batch': 2" in (saved.folder / "convert.py").read_text()
        assert (saved.folder / "recipe.json").read_bytes() == Path(path).read_bytes()


def test_an_edge_tpu_gets_integers_alone(quantized, convert, context, single, pivot):
    wanted, path = quantized
    made = convert(wanted, recipe=path, device="edgetpu")
    assert made.model.signature.inputs[0].shape == (1, 3, 8, 8)
    assert made.model.metadata["border"] == "int8"
    root = flat.root_of(Path(made.model.path).read_bytes())
    assert set(flat.stored_values(root)) == {"int8", "int32"}
    profile = made.facts["edgetpu"]
    assert profile["mapped"] == profile["of"] > 4
    assert profile["products_as_convolutions"] == 2
    assert "FULLY_CONNECTED" not in operator_names(file_nodes(root))
    recipe = recipes.read(path)  # and its integers stand in them as they do in a product
    held = read_back(made.model.path)
    for name in ("mix.weight", "fc.weight"):
        np.testing.assert_array_equal(held[name].scale, np.float32(recipe.tensors[name].scale))
    assert profile["first_cut"] is None
    assert not any("Edge TPU" in said for said in made.warnings)
    with pytest.raises(UnsupportedOperationError) as caught:
        plugin.lepton_convert(pivot, ConvertRequest("tflite", device="edgetpu"), context)
    assert caught.value.code == "LPT-CONV-414"
    for options in ({"batch": "open"}, {"io": "float"}):
        request = ConvertRequest("tflite", recipe=path, device="edgetpu", options=options)
        with pytest.raises(UnsupportedOperationError) as caught:
            plugin.lepton_convert(wanted, request, context)
        assert caught.value.code == "LPT-CONV-408"
    from lepton_tflite._edgetpu import refuse_floats

    model = flat.unpack(Path(made.model.path).read_bytes())
    refuse_floats(model)
    model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].shapeSignature = np.array(
        [-1, 3, 8, 8]
    )
    with pytest.raises(ConversionError) as caught:
        refuse_floats(model)
    assert (caught.value.code, "open" in caught.value.details) == ("LPT-CONV-415", True)
    model = flat.unpack(Path(single.model.path).read_bytes())
    with pytest.raises(ConversionError) as caught:
        refuse_floats(model)
    assert caught.value.code == "LPT-CONV-415"
    assert "FULLY_CONNECTED" in caught.value.cause


def test_constants_whose_names_differ_by_a_dot_stay_two(graphs):
    from lepton_tflite._build import Plan, _Source, _tensors

    proto = graphs.model(
        [
            graphs.node("DequantizeLinear", ["one", "s", "z"], ["fc.weight"]),
            graphs.node("DequantizeLinear", ["two", "s", "z"], ["fc_weight"]),
            graphs.node("Mul", ["x", "fc.weight"], ["m"]),
            graphs.node("Add", ["m", "fc_weight"], ["y"]),
        ],
        [graphs.value("x", [1, 2])],
        [graphs.value("y", [1, 2])],
        [
            graphs.weight("one", np.array([1, 2], "i1")),
            graphs.weight("two", np.array([30, 40], "i1")),
            graphs.weight("s", np.array(1, "f4")),
            graphs.weight("z", np.array(0, "i1")),
        ],
    )
    plan = Plan(proto, pivots.signature(proto), None, lambda model, _: flat.pack(model),
                integer=True)  # fmt: skip
    inputs = _tensors(plan.signature, {})
    (found,) = _Source.of(plan, inputs)(*inputs)
    wanted = inputs[0].numpy() * np.array([1, 2]) + np.array([30, 40])
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6)
