"""Weights as integers while operators take floats: what stands in the file, and how it runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import lepton_kernels as lk
from lepton_core import recipe as recipes
from lepton_core.errors import ConversionError, UnsupportedOperationError
from lepton_core.types import ConvertRequest
from lepton_onnx import pivot as pivots
from lepton_onnx import qdq
from lepton_tflite import _flatbuffer as flat
from lepton_tflite import plugin
from lepton_tflite._execution import computing_layers, file_nodes
from lepton_tflite._forms import TURNS, Form
from lepton_tflite._place import place
from lepton_tflite._proof import Runner, Trial, difference
from lepton_tflite._read import check_weights, every_tensor, read_back, read_blocks
from lepton_tflite._schema import schema
from lepton_tflite._weights import Weight

pytestmark = pytest.mark.xdist_group("tflite")


def entry(array, axis):
    other = tuple(i for i in range(array.ndim) if i != axis)
    scale = (np.abs(array).max(axis=other) / 127).astype("f4")
    return {"kind": "weight", "scale": [float(s) for s in scale], "axis": axis,
            "estimator": "absmax"}  # fmt: skip


def activation(scale, zero):
    return {"kind": "activation", "scale": scale, "zero_point": zero}


def layer(op, output, weight, mode, **more):
    return {"op": op, "output": output, "weight": weight, "mode": mode, **more}


def halves(values, block):
    """Return int4 codes with positive scales that float16 holds, outputs first."""
    outputs, inputs = values.shape
    tiles = values.reshape(outputs, -1, block)
    scale = np.abs(tiles).max(-1) / 7
    scale = scale.astype("f2").astype("f4")
    codes = np.clip(np.rint(tiles / scale[..., None]), -7, 7).astype("i1")
    return codes.reshape(outputs, inputs), scale


def network(graphs):
    """Every way in which a recipe stores a weight has an operator of its own here."""
    rng = np.random.default_rng(0)
    node, value, weight = graphs.node, graphs.value, graphs.weight

    def normal(*shape):
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype("f4")

    return graphs.model(
        [
            node("Conv", ["image", "first.weight"], ["c"], pads=[1, 1, 1, 1]),
            node("Relu", ["c"], ["r"]),
            node("Conv", ["r", "deep.weight"], ["d"], group=4),
            node("Tanh", ["d"], ["t"]),
            node("GlobalAveragePool", ["t"], ["g"]),
            node("Flatten", ["g"], ["f"]),
            node("MatMul", ["f", "wide.weight"], ["w0"]),
            node("Mul", ["w0", "half"], ["w"]),  # the converter would fold it into the weight
            node("Gather", ["table", "ids"], ["e"]),
            node("Add", ["w", "e"], ["a"]),
            node("MatMul", ["a", "blocks.weight"], ["b"]),
            node("Tanh", ["b"], ["bt"]),
            node("Gemm", ["bt", "odd.weight", "odd.bias"], ["o"], transB=1),
            node("MatMul", ["o", "signed.weight"], ["scores"]),
        ],
        [value("image", ["batch", 3, 8, 8]), value("ids", ["batch"], 7)],
        [value("scores", ["batch", 10])],
        [
            weight("first.weight", normal(4, 3, 3, 3)),
            weight("deep.weight", normal(4, 1, 3, 3)),
            weight("wide.weight", normal(4, 64)),
            weight("half", np.array(0.5, "f4")),
            weight("table", normal(20, 64)),
            weight("blocks.weight", normal(64, 48)),
            weight("odd.weight", normal(40, 48)),
            weight("odd.bias", normal(40)),
            weight("signed.weight", normal(40, 10)),
        ],
    )


def recipe_for(pivot, folder, values):
    """Write a recipe with a static layer, and one of each kind whose operator takes floats."""
    blocks, scale = halves(values["blocks.weight"].T, 32)
    save_file(
        {"blocks/integers": np.ascontiguousarray(blocks.T), "blocks/scale": scale},
        folder / "recipe.safetensors",
    )
    tensors = {
        "image": activation(0.031, 3),
        "first.weight": entry(values["first.weight"], 0),
        "r": activation(0.02, -128),
        "deep.weight": entry(values["deep.weight"], 0),
        "wide.weight": entry(values["wide.weight"], 1),
        "table": entry(values["table"], 1),
    }
    layers = {
        "c": layer("Conv", "r", "first.weight", "static", inputs=["image"], fused=["r"]),
        "d": layer("Conv", "d", "deep.weight", "weight"),
        "w0": layer("MatMul", "w0", "wide.weight", "dynamic", inputs=["f"]),
        "e": layer("Gather", "e", "table", "weight"),
        "b": layer("MatMul", "b", "blocks.weight", "weight"),
        "o": layer("Gemm", "o", "odd.weight", "weight"),
        "scores": layer("MatMul", "scores", "signed.weight", "weight"),
    }
    stored = {
        "blocks.weight": {"bits": 4, "block": 32, "axis": 0, "method": "gptq",
                          "integers": "blocks/integers", "scale": "blocks/scale"},
        "odd.weight": {"bits": 8, "block": 32, "axis": 1, "method": "rtn", "symmetric": False},
        "signed.weight": {"bits": 4, "block": 16, "axis": 0, "method": "mse"},
    }  # fmt: skip
    from lepton_core.files import digest_path

    for one in tensors.values():
        one |= {"dtype": "int8", "rounding": "half-even"}
        one.setdefault("estimator", "minmax")
    data = {
        "schema": 2, "rules": 1, "written_by": "test", "scheme": "mixed",
        "pivot": {"digest": pivot.digest, "opset": 21}, "requires": {}, "calibration": None,
        "sidecar": digest_path(folder / "recipe.safetensors"), "notes": [], "kept_float": {},
        "tensors": tensors, "blocks": stored, "layers": layers,
    }  # fmt: skip
    path = folder / "recipe.json"
    path.write_text(json.dumps(data))
    return str(path)


@pytest.fixture(scope="session")
def quantized(graphs, to_pivot, tmp_path_factory):
    from onnx import numpy_helper

    pivot = to_pivot(network(graphs))
    loaded = pivots.load(pivot.path).graph.initializer
    values = {t.name: numpy_helper.to_array(t) for t in loaded}
    return pivot, recipe_for(pivot, tmp_path_factory.mktemp("weights"), values)


@pytest.fixture(scope="session")
def mixed(quantized, convert):
    pivot, path = quantized
    return convert(pivot, recipe=path)


def wanted_of(quantized):
    pivot, path = quantized
    recipe = recipes.read(path)
    arrays = recipes.load_arrays(recipe, path)
    found = qdq.lower(
        pivots.load(pivot.path), recipe, digest=pivot.digest, arrays=arrays, dynamic=False
    ).model
    return recipe, found


def given(rows):
    rng = np.random.default_rng(1)
    return {
        "image": rng.normal(size=(rows, 3, 8, 8)).astype("f4"),
        "ids": rng.integers(0, 20, rows),
    }


def test_one_file_holds_every_kind_of_weight_with_the_recipes_numbers(mixed, quantized):
    recipe, proto = wanted_of(quantized)
    theirs, ours = qdq.read_back(proto), read_back(mixed.model.path)
    integers = {name: stored.integers for name, stored in theirs.items()}
    assert qdq.compare(recipe, ours, integers) == []
    assert {"first.weight", "deep.weight", "wide.weight", "table"} <= set(ours)
    blocks = read_blocks(mixed.model.path)
    assert qdq.compare_blocks(qdq.read_blocks(proto), blocks) == []
    assert set(blocks) == {"blocks.weight", "odd.weight", "signed.weight"}
    stored = mixed.facts["stored_values"]
    assert stored["int4"] == 64 * 48 + 10 * 48  # the last block is filled up
    assert mixed.facts["dynamic_weights"] == ["wide.weight", "blocks.weight"]
    assert mixed.facts["unpacked_weights"] == {
        "deep.weight": "",
        "odd.weight": "it has zero points",
        "signed.weight": "a scale is negative",
    }
    assert mixed.facts["batch"] == "open"
    root = flat.root_of(Path(mixed.model.path).read_bytes())
    layers = computing_layers(file_nodes(root))
    assert (layers["int8"], layers["int8 dynamic"], layers["int4 dynamic"]) == (1, 1, 1)


def test_it_gives_what_the_integers_stand_for(mixed, quantized, opened):
    """Beside the recipe's float form: inputs that are rounded at run time, and one static layer."""
    pytest.importorskip("onnxruntime")
    import onnxruntime

    _, proto = wanted_of(quantized)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    inputs = given(7)
    (wanted,) = session.run(None, inputs)
    found = opened(mixed.model).run(inputs)["scores"]
    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 0.03
    session = opened(mixed.model, reference=True)  # LiteRT's own kernels
    own = session.run(inputs)["scores"]
    assert np.linalg.norm(own - wanted) / np.linalg.norm(wanted) < 0.03
    assert "int4 dynamic" in session.facts["execution_layers"]


@pytest.mark.conformance
@pytest.mark.parametrize("weights", ["float", "dynamic"])
def test_how_operators_compute_is_an_option(quantized, convert, opened, mixed, weights):
    pivot, path = quantized
    made = convert(pivot, recipe=path, options={"weights": weights, "batch": 7})
    if weights == "float":
        assert made.facts["dynamic_weights"] == []
        assert not any(made.facts["unpacked_weights"].values())
    else:
        assert made.facts["dynamic_weights"] == ["deep.weight", "wide.weight", "blocks.weight"]
        assert "odd.weight" in made.warnings[0]
        assert "zero points" in made.warnings[0]
    inputs = given(7)
    one, two = (opened(m.model).run(inputs)["scores"] for m in (made, mixed))
    assert np.linalg.norm(one - two) / np.linalg.norm(two) < 0.03
    stored = [read_blocks(m.model.path) for m in (made, mixed)]
    assert qdq.compare_blocks(*stored) == []


# --- weights that a file holds in several forms -------------------------------------------------


@pytest.fixture(scope="module")
def shared(graphs, to_pivot, convert, tmp_path_factory):
    """One weight for integer kernels, for hybrid ones and transposed; one turned over; one output.

    Returns the recipe, its ONNX lowering and what the conversion gave.
    """
    rng = np.random.default_rng(0)
    node, weight = graphs.node, graphs.weight
    arrays = {
        "turned": rng.normal(size=(3, 6, 5)).astype("f4"),
        "w": (rng.normal(size=(72, 24)) / 8).astype("f4"),
        "last": (rng.normal(size=(24, 1)) / 4).astype("f4"),
    }
    pivot = to_pivot(graphs.model(
        [
            node("ConvTranspose", ["x", "turned"], ["c"]),
            node("Tanh", ["c"], ["ct"]),
            node("Flatten", ["ct"], ["f"]),
            node("MatMul", ["f", "w"], ["h"]),
            node("Tanh", ["h"], ["t"]),
            node("Transpose", ["w"], ["wt"], perm=[1, 0]),
            node("MatMul", ["t", "wt"], ["u"]),
            node("Tanh", ["u"], ["ut"]),
            node("MatMul", ["ut", "w"], ["k"]),
            node("MatMul", ["k", "last"], ["y"]),
        ],
        [graphs.value("x", ["batch", 3, 8])],
        [graphs.value("y", ["batch", 1])],
        [weight(name, array) for name, array in arrays.items()],
    ))  # fmt: skip
    tensors = {"f": activation(0.008, 0), "h": activation(0.03, 1)}
    tensors |= {name: entry(array, 1) for name, array in arrays.items()}
    for one in tensors.values():
        one |= {"dtype": "int8", "rounding": "half-even"}
        one.setdefault("estimator", "minmax")
    layers = {
        "c": layer("ConvTranspose", "c", "turned", "weight"),
        "h": layer("MatMul", "h", "w", "static", inputs=["f"]),
        "k": layer("MatMul", "k", "w", "dynamic", inputs=["ut"]),
        "y": layer("MatMul", "y", "last", "dynamic", inputs=["k"]),
    }
    path = tmp_path_factory.mktemp("shared") / "recipe.json"
    path.write_text(json.dumps({
        "schema": 2, "rules": 1, "written_by": "test", "scheme": "mixed",
        "pivot": {"digest": pivot.digest, "opset": 21}, "requires": {}, "calibration": None,
        "sidecar": None, "notes": [], "kept_float": {}, "tensors": tensors, "blocks": {},
        "layers": layers,
    }))  # fmt: skip
    recipe, proto = wanted_of((pivot, str(path)))
    return recipe, proto, convert(pivot, recipe=str(path), options={"batch": 2})


def test_a_weight_in_several_forms_has_the_recipes_numbers_in_each(shared):
    recipe, proto, made = shared
    integers = {name: stored.integers for name, stored in qdq.read_back(proto).items()}
    assert qdq.compare(recipe, read_back(made.model.path), integers) == []
    held = list(every_tensor(Path(made.model.path).read_bytes()))
    assert len([name for name, _ in held if name == "w"]) == 2
    for name, stored in held:
        if name in integers and stored.integers is not None:
            np.testing.assert_array_equal(stored.integers, integers[name])
    assert made.facts["dynamic_weights"] == ["w", "last"]  # integer kernels do not speak for others
    assert list(made.facts["unpacked_weights"]) == ["turned", "w"]


@pytest.mark.parametrize("place_", [0, 1])
@pytest.mark.parametrize("what", ["integers", "scale"])
def test_a_file_does_not_pass_if_one_tensor_of_a_weight_differs(shared, place_, what):
    recipe, proto, made = shared
    model = flat.unpack(Path(made.model.path).read_bytes())
    tensors = [t for t in model.subgraphs[0].tensors if flat.text(t.name) == "w/int8"]
    tensor = tensors[place_]
    codes = flat.array_of(model, tensor)
    numbers = np.array(tensor.quantization.scale)
    if what == "scale":
        numbers[3] = np.nextafter(numbers[3], np.float32(1))
        tensor.quantization.scale = numbers
    else:
        other = codes.copy()
        other.reshape(-1)[5] ^= 1
        flat.set_array(model, tensor, other)
    integers = qdq.read_back(proto)["w"].integers
    weight = Weight("w", integers, np.asarray(recipe.tensors["w"].scale, "f4"), 1, (0, 1))
    check_weights(Path(made.model.path).read_bytes(), [weight])
    with pytest.raises(ConversionError, match="other integers") as caught:
        check_weights(flat.pack(model), [weight])
    assert caught.value.code == "LPT-CONV-411"


# --- each kernel that is said to be there -------------------------------------------------------


def one_operator(name, x, weight_shape, y_shape, options):
    """Return a file with one operator that reads its weight from a tensor without values."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.operatorCodes = 3, [schema.BufferT()], []
    model.metadata, model.subgraphs, model.signatureDefs = [], [graph], []
    graph.tensors, graph.operators, graph.name = [], [], b"main"
    ends = [flat.add_tensor(graph, n, "float32", s)
            for n, s in (("x", x), ("w", weight_shape), ("y", y_shape))]  # fmt: skip
    inputs = ends[:2]
    if name == "TRANSPOSE_CONV":
        index = flat.add_tensor(graph, "size", "int32", (4,))
        flat.set_array(model, graph.tensors[index], np.array(y_shape, np.int32))
        inputs = [index, ends[1], ends[0]]
    if "CONV" in name:  # as the converter writes them
        index = flat.add_tensor(graph, "bias", "float32", (y_shape[-1],))
        flat.set_array(model, graph.tensors[index], np.zeros(y_shape[-1], "f4"))
        inputs.append(index)
    code = flat.operator_code(model, getattr(schema.BuiltinOperator, name))
    operator = flat.make_operator(code, inputs, [ends[2]])
    kind, values = options
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
    operator.builtinOptions = getattr(schema, f"{kind}T")()
    for key, number in values.items():
        setattr(operator.builtinOptions, key, number)
    graph.operators.append(operator)
    graph.inputs, graph.outputs = np.array([ends[0]]), np.array([ends[2]])
    port = schema.SignatureDefT()
    port.inputs, port.outputs = [schema.TensorMapT()], [schema.TensorMapT()]
    port.inputs[0].name, port.inputs[0].tensorIndex = b"x", ends[0]
    port.outputs[0].name, port.outputs[0].tensorIndex = b"y", ends[2]
    port.signatureKey, port.subgraphIndex = b"serving_default", 0
    model.signatureDefs = [port]
    return model, ends[1]


STEP = {"strideW": 1, "strideH": 1, "padding": 1}
WIDE = {**STEP, "dilationWFactor": 1, "dilationHFactor": 1}
CASES = {
    "FULLY_CONNECTED": ((3, 64), (8, 64), (3, 8), 0, ("FullyConnectedOptions", {})),
    "CONV_2D": ((2, 5, 5, 4), (6, 3, 3, 4), (2, 3, 3, 6), 0, ("Conv2DOptions", WIDE)),
    "DEPTHWISE_CONV_2D": ((2, 5, 5, 4), (1, 3, 3, 4), (2, 3, 3, 4), 3,
                          ("DepthwiseConv2DOptions", {**WIDE, "depthMultiplier": 1})),
    "TRANSPOSE_CONV": ((2, 5, 5, 4), (6, 3, 3, 4), (2, 7, 7, 6), 0,
                       ("TransposeConvOptions", STEP)),
    "BATCH_MATMUL": ((2, 3, 64), (64, 8), (2, 3, 8), 1, ("BatchMatMulOptions", {})),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_hybrid_kernels_and_unpacked_weights_give_the_same(name):
    x_shape, shape, y_shape, axis, options = CASES[name]
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, size=shape).astype("i1")
    scale = rng.uniform(0.005, 0.02, size=shape[axis]).astype("f4")
    weight = Weight("w", codes, scale, axis, tuple(range(len(shape))))
    x = rng.normal(size=x_shape).astype("f4")
    found = {}
    for kind in ("dynamic", "float"):
        model, index = one_operator(name, x_shape, shape, y_shape, options)
        placed = place(model, {"w": index}, [weight], kind)
        assert (placed.hybrid, placed.unpacked) == ((["w"], {}) if kind == "dynamic" else
                                                    ([], {"w": ""}))  # fmt: skip
        data = flat.pack(model)
        layers = computing_layers(file_nodes(flat.root_of(data)))
        assert layers == {"int8 dynamic" if kind == "dynamic" else "fp32": 1}
        trial = Trial({"x": x}, {"y": np.empty(y_shape, "f4")})
        found[kind] = Runner(data).run(trial)["y"]
    if name in ("FULLY_CONNECTED", "BATCH_MATMUL"):  # what is unpacked is a float product
        plain = x @ (weight.values().T if name == "FULLY_CONNECTED" else weight.values())
        np.testing.assert_allclose(found["float"], plain, rtol=1e-4, atol=1e-5)
    distance, _ = difference({"y": found["dynamic"]}, Trial({}, {"y": found["float"]}))
    assert 1e-5 < distance < 0.02


def test_a_convolution_without_a_bias_computes_in_float():
    """The runtime's hybrid kernels crash on it."""
    x_shape, shape, y_shape, axis, options = CASES["CONV_2D"]
    weight = Weight("w", np.ones(shape, "i1"), np.full(6, 0.1, "f4"), axis, (0, 1, 2, 3))
    model, index = one_operator("CONV_2D", x_shape, shape, y_shape, options)
    model.subgraphs[0].operators[0].inputs = model.subgraphs[0].operators[0].inputs[:2]
    placed = place(model, {"w": index}, [weight], "dynamic")
    assert placed.unpacked == {"w": "CONV_2D has no bias"}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"signed": True}, "a scale is negative"),
        ({"zero": True}, "it has zero points"),
        ({"fine": True}, "float16 does not hold"),
        ({"block": 16}, "multiple of 32"),
        ({"inputs": 80}, "divides the inputs"),
        ({"block": 128}, ""),
    ],
)
def test_blocks_run_in_hybrid_kernels_where_there_are_any(bits, change, why):
    """One block an output is a scale for each output; more of them have kernels for 4 bits."""
    rng = np.random.default_rng(0)
    block, inputs, outputs = change.get("block", 32), change.get("inputs", 128), 8
    count = -(-inputs // block)
    half = 2 ** (bits - 1)
    codes = rng.integers(-half, half, size=(outputs, inputs)).astype("i1")
    scale = rng.uniform(0.01, 0.1, size=(outputs, count)).astype("f2").astype("f4")
    if "fine" in change:
        scale[3, 1] = np.nextafter(scale[3, 1], np.float32(1))
    if "signed" in change:
        scale[2] *= -1
    zero = rng.integers(-half, half, size=scale.shape).astype("i1") if "zero" in change else None
    weight = Weight(
        "w", codes, scale, 0, (0, 1), block, zero, half if "zero" in change else 0, bits
    )
    options = CASES["FULLY_CONNECTED"][4]
    model, index = one_operator("FULLY_CONNECTED", (3, inputs), codes.shape, (3, outputs), options)
    placed = place(model, {"w": index}, [weight], "auto")
    if count > 1 and bits == 8:
        why = why if why in ("a scale is negative", "it has zero points") else "blocks of 8 bits"
    assert placed.hybrid == ([] if why else ["w"])
    assert why in placed.unpacked.get("w", "")
    x = rng.normal(size=(3, inputs)).astype("f4")
    trial = Trial({"x": x}, {"y": x @ weight.values().T})
    distance, _ = difference(Runner(flat.pack(model)).run(trial), trial)
    assert distance < (1e-5 if why else 0.02)
    tensor = next(t for t in model.subgraphs[0].tensors if t.name == f"w/int{bits}".encode())
    raw = np.asarray(model.buffers[tensor.buffer].data)
    if bits == 4 and inputs % block == 0:
        np.testing.assert_array_equal(raw, lk.pack_int4(codes.reshape(-1)))


def test_scales_go_along_when_a_weight_is_turned():
    """The converter puts such operators behind the weight of a one-dimensional convolution."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, size=(6, 3, 5)).astype("i1")
    scale = rng.uniform(0.01, 0.1, size=6).astype("f4")
    weight = Weight("w", codes, scale, 0, (0, 1, 2))
    form = TURNS["RESHAPE"](Form(weight, codes, 0), [6, 3, 1, 5])
    form = TURNS["TRANSPOSE"](form, [1, 2, 3, 0])
    form = TURNS["REVERSE_V2"](form, [2])
    assert form.axis == 3
    wanted = weight.values().reshape(6, 3, 1, 5).transpose(1, 2, 3, 0)[:, :, ::-1]
    np.testing.assert_array_equal(form.codes.astype("f4") * scale, wanted)
    assert TURNS["REVERSE_V2"](form, [3]) is None  # scales would run backwards
    assert TURNS["RESHAPE"](form, [90]) is None


def test_integers_of_products_without_a_way_to_float_have_no_use_for_the_option(
    quantized, context, tmp_path
):
    pivot, path = quantized
    data = json.loads(Path(path).read_text())
    data["layers"] = {"c": data["layers"]["c"]}
    (tmp_path / "recipe.json").write_text(json.dumps({**data, "blocks": {}, "sidecar": None}))
    for recipe, options, says in (
        (str(tmp_path / "recipe.json"), {"weights": "float"}, "no effect"),
        (path, {"weights": "int8"}, "cannot be 'int8'"),
        (None, {"weights": "float"}, "needs a recipe"),
    ):
        request = ConvertRequest("tflite", recipe=recipe, options=options)
        with pytest.raises(UnsupportedOperationError, match=says) as caught:
            plugin.lepton_convert(pivot, request, context)
        assert caught.value.code == "LPT-CONV-408"
