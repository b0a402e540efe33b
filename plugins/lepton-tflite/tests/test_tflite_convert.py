"""From the pivot to a file: names, storage, batch, bytes, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from lepton_core.errors import ConversionError, SourceError, UnsupportedOperationError
from lepton_core.files import digest_path
from lepton_core.types import ConvertRequest, Model
from lepton_tflite import plugin
from lepton_tflite._flatbuffer import pack, read_notes, root_of, text, unpack
from lepton_tflite._proof import Trial, difference

pytestmark = pytest.mark.xdist_group("tflite")


def test_names_order_and_types_are_the_pivots(single, pivot, opened):
    made = single.model
    assert made.signature == pivot.signature
    root = root_of(Path(made.path).read_bytes())
    port = root.SignatureDefs(0)
    assert [text(port.Inputs(i).Name()) for i in range(port.InputsLength())] == ["image", "kind"]
    assert [text(port.Outputs(i).Name()) for i in range(2)] == ["scores", "best"]
    assert opened(made).signature == pivot.signature
    assert opened(Model("tflite", made.path)).signature == pivot.signature


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_an_open_batch_gives_the_models_numbers(single, pivot, opened, expected, graphs, rows):
    assert single.facts["batch"] == "open"
    inputs = graphs.inputs(rows, seed=rows)
    found, wanted = opened(single.model).run(inputs), expected(pivot, inputs)
    assert list(found) == ["scores", "best"]
    assert found["scores"].shape == (rows, 5)
    assert found["best"].dtype == np.int64
    np.testing.assert_allclose(found["scores"], wanted["scores"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["best"], wanted["best"])


def test_one_file_is_written_and_nothing_tells_of_the_run(single):
    folder = Path(single.model.path).parent
    assert [p.name for p in folder.iterdir()] == ["model.tflite"]
    assert single.model.digest == digest_path(single.model.path)
    root = root_of(Path(single.model.path).read_bytes())
    kept = {text(root.Metadata(i).Name()) for i in range(root.MetadataLength())}
    assert kept <= {"lepton", "min_runtime_version"}
    assert read_notes(root)["batch"] == "open"


def again(folder):
    """Run what a failed conversion left behind."""
    return subprocess.run(
        [sys.executable, str(folder / "convert.py")],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


PROGRAM = """
import sys
from pathlib import Path
from lepton_core.context import Context
from lepton_core.types import ConvertRequest, Model
from lepton_tflite import plugin
request = ConvertRequest("tflite")
context = Context(Path(sys.argv[2]))
print(plugin.lepton_convert(Model("pivot", sys.argv[1]), request, context).model.digest)
"""


@pytest.mark.conformance
def test_another_process_writes_the_same_bytes(single, pivot, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, pivot.path, str(tmp_path)],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == single.model.digest


def test_lineage_names_parent_and_tools(single, pivot):
    step = single.model.lineage[-1]
    assert single.model.lineage[:-1] == pivot.lineage
    assert step.parent == pivot.digest
    assert step.request == {"precision": "fp32", "batch": "open"}
    assert {"litert-torch", "ai-edge-litert", "torch"} <= set(step.tools)


def test_half_precision_is_stored_and_computed_as_float(pivot, convert, opened, expected, graphs):
    made = convert(pivot, precision="fp16", options={"batch": 3})
    assert made.facts["storage_precision"] == "fp16"
    assert made.model.signature.inputs[0].shape == (3, 1, 8, 8)
    session = opened(made.model)
    assert session.facts["execution_precision"].startswith("fp32")
    assert "fp16 storage is converted" in session.facts["execution_precision"]
    inputs = graphs.inputs(3)
    wanted = expected(pivot, inputs)["scores"]
    found = session.run(inputs)["scores"]
    assert 1e-7 < np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 2e-3


def test_what_half_precision_cannot_hold_is_said(graphs, to_pivot, convert):
    pivot = to_pivot(
        graphs.model(
            [graphs.node("Mul", ["x", "w"], ["m"]), graphs.node("Add", ["m", "b"], ["y"])],
            [graphs.value("x", [1, 4])],
            [graphs.value("y", [1, 4])],
            [
                graphs.weight("w", np.array([1, 1e-8, -2e-8, 0], "f4")),
                graphs.weight("b", np.array([1, 1, 1, 1e5], "f4")),
            ],
        )
    )
    made = convert(pivot, precision="fp16")
    assert len(made.facts["out_of_fp16_range"]) == 1
    assert list(made.facts["zero_in_fp16"].values()) == [2]
    assert "beyond float16" in made.warnings[0]
    assert "2 values in 1 constants are too small" in made.warnings[1]


def test_an_input_may_be_a_single_number(graphs, to_pivot, convert, opened):
    pivot = to_pivot(
        graphs.model(
            [graphs.node("Mul", ["x", "factor"], ["y"])],
            [graphs.value("x", [1, 4]), graphs.value("factor", [])],
            [graphs.value("y", [1, 4])],
        )
    )
    x = np.arange(8, dtype="f4").reshape(1, 8)[:, ::2]
    found = opened(convert(pivot).model).run({"x": x, "factor": np.array(3, "f4")})
    np.testing.assert_array_equal(found["y"], 3 * x)


def test_where_the_batch_cannot_open_rows_are_run_one_by_one(graphs, to_pivot, convert, opened):
    """A transposed convolution takes its output's size as a constant, the batch in it."""
    rng = np.random.default_rng(0)
    filters = rng.normal(size=(2, 3, 2, 2)).astype("f4")
    pivot = to_pivot(
        graphs.model(
            [graphs.node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])],
            [graphs.value("x", ["n", 2, 4, 4])],
            [graphs.value("y", ["n", 3, 8, 8])],
            [graphs.weight("w", filters)],
        )
    )
    made = convert(pivot)
    assert made.facts["batch"] == "rows"
    assert "TRANSPOSE_CONV" in made.warnings[0]
    x = rng.normal(size=(4, 2, 4, 4)).astype("f4")
    found = opened(made.model).run({"x": x})["y"]
    wanted = np.einsum("ncij,cokl->noikjl", x, filters).reshape(4, 3, 8, 8)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(ConversionError) as caught:
        convert(pivot, options={"batch": "open"})
    assert caught.value.code == "LPT-CONV-405"


def test_a_model_that_mixes_rows_gets_an_open_batch(graphs, to_pivot, convert, opened):
    pivot = to_pivot(
        graphs.model(
            [
                graphs.node("ReduceMax", ["x", "axes"], ["m"], keepdims=1),
                graphs.node("Sub", ["x", "m"], ["y"]),
            ],
            [graphs.value("x", ["n", 3])],
            [graphs.value("y", ["n", 3])],
            [graphs.weight("axes", np.array([0]))],
        )
    )
    made = convert(pivot)
    assert made.facts["batch"] == "open"  # a maximum over rows is right at every batch
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("f4")
    np.testing.assert_allclose(opened(made.model).run({"x": x})["y"], x - x.max(0), rtol=1e-6)


def test_a_model_that_mixes_rows_is_not_run_row_by_row(graphs, to_pivot, context):
    """A transposed convolution keeps the batch from opening; row by row, y would be 0."""
    pivot = to_pivot(
        graphs.model(
            [
                graphs.node("ConvTranspose", ["x", "w"], ["c"], strides=[2, 2]),
                graphs.node("ReduceMax", ["c", "axes"], ["m"], keepdims=1),
                graphs.node("Sub", ["c", "m"], ["y"]),
            ],
            [graphs.value("x", ["n", 2, 4, 4])],
            [graphs.value("y", ["n", 3, 8, 8])],
            [
                graphs.weight("w", np.random.default_rng(0).normal(size=(2, 3, 2, 2)).astype("f4")),
                graphs.weight("axes", np.array([0])),
            ],
        )
    )
    with pytest.raises(ConversionError) as caught:
        plugin.lepton_convert(pivot, ConvertRequest("tflite"), context)
    assert caught.value.code == "LPT-CONV-406"
    assert "row by row" in caught.value.message
    assert not list(context.workdir.iterdir())


def test_other_dimensions_need_a_size(graphs, to_pivot, convert, context):
    pivot = to_pivot(
        graphs.model(
            [graphs.node("Relu", ["x"], ["y"])],
            [graphs.value("x", ["n", "time", 2])],
            [graphs.value("y", ["n", "time", 2])],
        )
    )
    with pytest.raises(ConversionError) as caught:
        plugin.lepton_convert(pivot, ConvertRequest("tflite"), context)
    assert caught.value.code == "LPT-CONV-410"
    assert "shapes=time=128" in caught.value.remedy
    made = convert(pivot, options={"shapes": "time=6", "batch": 2})
    assert made.model.signature.inputs[0].shape == (2, 6, 2)


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "code", "says"),
    [
        ({"precision": "int8"}, "LPT-CONV-407", "fp32 or fp16"),
        ({"options": {"input": 1}}, "LPT-CONV-408", "'input'"),
        ({"options": {"batch": 0}}, "LPT-CONV-408", "batch"),
        ({"options": {"io": "uint8"}}, "LPT-CONV-408", "io"),
        ({"options": {"shapes": "a"}}, "LPT-CONV-408", "shapes"),
        ({"options": {"shapes": "tokens=7"}}, "LPT-CONV-408", "dimensions are batch"),
        ({"options": {"shapes": "batch=7", "batch": 2}}, "LPT-CONV-408", "it is 7"),
        ({"options": {"shapes": "batch=7", "batch": "open"}}, "LPT-CONV-408", "open and fixed"),
        ({"options": {"batch": "open"}, "dynamic_batch": False}, "LPT-CONV-408", "open and fixed"),
        ({"options": {"io": "int8"}}, "LPT-CONV-408", "without a recipe"),
        ({"precision": "fp16", "recipe": "r.json"}, "LPT-CONV-413", "r.json"),
    ],
)
def test_what_is_not_done_is_said(pivot, context, wanted, code, says):
    with pytest.raises(UnsupportedOperationError) as caught:
        plugin.lepton_convert(pivot, ConvertRequest("tflite", **wanted), context)
    assert caught.value.code == code
    assert says in str(caught.value)
    assert caught.value.remedy
    assert not list(context.workdir.iterdir())


@pytest.mark.parametrize(
    ("options", "error", "code"),
    [
        ({"batch": "open"}, ConversionError, "LPT-CONV-405"),
        ({"batch": 2}, UnsupportedOperationError, "LPT-CONV-408"),
        ({"shapes": "n=4"}, UnsupportedOperationError, "LPT-CONV-408"),
    ],
)
def test_a_fixed_batch_stays_what_it_is(graphs, to_pivot, context, options, error, code):
    pivot = to_pivot(
        graphs.model(
            [graphs.node("Relu", ["x"], ["y"])],
            [graphs.value("x", [4, 3])],
            [graphs.value("y", [4, 3])],
        )
    )
    with pytest.raises(error) as caught:
        plugin.lepton_convert(pivot, ConvertRequest("tflite", options=options), context)
    assert caught.value.code == code


def test_other_edges_are_not_ours(context):
    assert plugin.lepton_convert(Model("onnx", "x"), ConvertRequest("tflite"), context) is None


@pytest.mark.conformance
def test_the_largest_values_and_their_places(graphs, to_pivot, context, opened, expected):
    """By the runtime's own kernel, the first of equal values first."""
    pivot = to_pivot(
        graphs.model(
            [
                graphs.node("TopK", ["x", "k"], ["y", "i"]),
                graphs.node("TopK", ["x", "k"], ["z", "j"], largest=0, axis=0),
            ],
            [graphs.value("x", [4, 9])],
            [
                graphs.value("y", [4, 3]), graphs.value("i", [4, 3], TensorProto.INT64),
                graphs.value("z", [3, 9]), graphs.value("j", [3, 9], TensorProto.INT64),
            ],
            [graphs.weight("k", np.array([3]))],
        )
    )  # fmt: skip
    inputs = {"x": np.random.default_rng(0).integers(0, 5, (4, 9)).astype("f4")}
    made = plugin.lepton_convert(pivot, ConvertRequest("tflite"), context).model
    found = opened(made).run(inputs)
    for name, array in expected(pivot, inputs).items():
        assert np.array_equal(found[name], array), name


def test_an_operator_that_the_runtime_lacks_is_named_and_leaves_a_reproducer(
    graphs, to_pivot, context
):
    pivot = to_pivot(
        graphs.model(
            [graphs.node("Col2Im", ["x", "size", "block"], ["y"])],
            [graphs.value("x", [1, 5, 5])],
            [graphs.value("y", [1, 1, 5, 5])],
            [graphs.weight("size", np.array([5, 5])), graphs.weight("block", np.array([1, 5]))],
        )
    )
    with pytest.raises(ConversionError) as caught:
        plugin.lepton_convert(pivot, ConvertRequest("tflite"), context)
    assert caught.value.code == "LPT-CONV-404"
    assert "STABLEHLO_IOTA" in caught.value.cause
    assert not list(context.workdir.iterdir())
    folder = Path(caught.value.details["reproducer"])
    assert sorted(p.name for p in folder.iterdir()) == ["convert.py", "model.onnx"]
    assert digest_path(folder / "model.onnx") == pivot.digest
    done = again(folder)
    assert done.returncode
    assert "LPT-CONV-404" in done.stderr
    assert "STABLEHLO_IOTA" in done.stderr


def test_what_the_converter_refuses_is_named(graphs, to_pivot, context):
    """The size of NonZero's result depends on values."""
    pivot = to_pivot(
        graphs.model(
            [graphs.node("NonZero", ["x"], ["y"])],
            [graphs.value("x", [2, 3])],
            [graphs.value("y", [2, "n"], TensorProto.INT64)],
        )
    )
    with pytest.raises(ConversionError) as caught:
        plugin.lepton_convert(pivot, ConvertRequest("tflite"), context)
    assert caught.value.code == "LPT-CONV-402"
    assert "nonzero" in str(caught.value).lower()
    assert not list(context.workdir.iterdir())


def test_strings_cannot_be_passed(graphs, to_pivot, context):
    pivot = to_pivot(
        graphs.model(
            [graphs.node("Identity", ["s"], ["t"])],
            [graphs.value("s", ["n"], TensorProto.STRING)],
            [graphs.value("t", ["n"], TensorProto.STRING)],
        )
    )
    with pytest.raises(ConversionError) as caught:
        plugin.lepton_convert(pivot, ConvertRequest("tflite"), context)
    assert caught.value.code == "LPT-CONV-409"


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_a_corrupt_pivot_is_a_source_error(context, tmp_path, content):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(SourceError):
        plugin.lepton_convert(Model("pivot", str(path)), ConvertRequest("tflite"), context)


def test_facts_are_plain_data(single, opened):
    json.dumps(dict(single.facts))
    json.dumps(dict(opened(single.model).facts))


def test_without_the_converter_the_extra_is_named(pivot, context, monkeypatch):
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    from lepton_core.errors import PluginDependencyError

    with pytest.raises(PluginDependencyError) as caught:
        plugin.lepton_convert(pivot, ConvertRequest("tflite"), context)
    assert caught.value.code == "LPT-CONV-401"
    assert "dist/lepton_tflite-*.whl)[convert]" in caught.value.remedy
    assert not list(context.workdir.iterdir())


def test_a_file_beyond_what_the_format_holds_is_refused(single, monkeypatch):
    from flatbuffers import Builder

    model = unpack(Path(single.model.path).read_bytes())
    monkeypatch.setattr(Builder, "MAX_BUFFER_SIZE", 4096)
    with pytest.raises(ConversionError) as caught:
        pack(model)
    assert caught.value.code == "LPT-CONV-416"


@pytest.mark.parametrize(("found", "wanted"), [("nan", "inf"), ("-inf", "inf"), ("inf", "nan")])
def test_values_that_are_not_finite_are_compared_too(found, wanted):
    arrays = [{"y": np.array([float(v), 1.0])} for v in (found, wanted)]
    assert difference(arrays[0], Trial({}, arrays[1])) == (float("inf"), "y")
    assert difference(arrays[1], Trial({}, arrays[1])) == (0.0, "")
