"""The pivot: equal to torch on ONNX Runtime at every batch size, with the same names."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from lepton_core.errors import ConversionError, SourceError, UnsupportedOperationError
from lepton_core.files import digest_path
from lepton_core.types import ConvertRequest, Model
from lepton_torch import plugin
from lepton_torch._operators import random_operators


def run(model, inputs):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.path, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(inputs)), strict=True))


def compare(hooks, program, inputs_by_batch):
    """Convert to the pivot and hold it against the torch session."""
    pivot = hooks.pivot(program).model
    names = [s.name for s in program.signature.inputs + program.signature.outputs]
    assert [s.name for s in pivot.signature.inputs + pivot.signature.outputs] == names
    with hooks.open(program) as session:
        for inputs in inputs_by_batch:
            expected, found = session.run(inputs), run(pivot, inputs)
            assert list(found) == list(expected)
            for name, value in expected.items():
                assert found[name].shape == value.shape
                assert found[name].dtype == value.dtype
                np.testing.assert_allclose(found[name], value, atol=1e-5)
    return pivot


@pytest.fixture(scope="module")
def digits_pivot(hooks, digits_program):
    return hooks.pivot(digits_program.model)


def test_trained_model_at_several_batch_sizes(hooks, digits, digits_program):
    rows = [{"image": digits.images[:n]} for n in (1, 2, 5, len(digits.images))]
    pivot = compare(hooks, digits_program.model, rows)
    logits = run(pivot, rows[-1])["logits"]
    assert (logits.argmax(1) == digits.labels).mean() > 0.85


def test_opset_is_read_back_and_recorded(digits_pivot, digits_program):
    proto = onnx.load(digits_pivot.model.path)
    onnx.checker.check_model(proto, full_check=True)
    assert {o.domain: o.version for o in proto.opset_import} == {"": 21}
    assert digits_pivot.model.metadata["opset"] == digits_pivot.facts["opset"] == 21
    assert digits_pivot.model.format == "pivot"
    assert str(digits_pivot.model.signature) == str(digits_program.model.signature)
    steps = [step.step for step in digits_pivot.model.lineage]
    assert steps == ["materialise", "convert torch.export -> pivot"]
    assert digits_pivot.model.lineage[-1].parent == digits_program.model.digest
    assert digits_pivot.model.digest == digest_path(digits_pivot.model.path)


def test_only_the_model_is_left_in_the_work_directory(digits_pivot):
    assert [p.name for p in Path(digits_pivot.model.path).parent.iterdir()] == ["model.onnx"]


def test_same_program_gives_the_same_bytes_without_paths(
    hooks, digits, digits_program, digits_pivot
):
    first, second = digits_pivot.model, hooks.pivot(digits_program.model).model
    assert first.digest == second.digest
    data = Path(first.path).read_bytes()
    for place in (Path(digits.model.path).parent, Path(digits_program.model.path).parent):
        assert str(place).encode() not in data


def test_weights_in_a_file_of_their_own_give_the_same_pivot(
    hooks, digits_program, digits_pivot, monkeypatch
):
    from lepton_torch import _pivot

    monkeypatch.setattr(_pivot, "_EXTERNAL_ABOVE", 0)
    assert hooks.pivot(digits_program.model).model.digest == digits_pivot.model.digest


def test_other_opset_on_request(hooks, digits_program):
    result = hooks.pivot(digits_program.model, opset=22)
    assert result.model.metadata["opset"] == 22
    assert result.warnings == ()


def test_integers_ranks_and_several_outputs(hooks, factory):
    model = factory("""
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.table = nn.Embedding(11, 6)
                self.mix = nn.Conv3d(2, 3, 3, padding=1)
            def forward(self, ids, volume, mask):
                volume = self.mix(volume).mean((2, 3, 4))
                words = (self.table(ids) * mask.unsqueeze(-1)).sum(1)
                return {"words": words, "volume": volume, "best": words.argmax(1)}
        def net():
            return Net(), {
                "ids": torch.ones(1, 3, dtype=torch.int32),
                "volume": torch.rand(1, 2, 4, 5, 6),
                "mask": torch.ones(1, 3, dtype=torch.bool),
            }
    """)
    rng = np.random.default_rng(0)
    batches = [
        {
            "ids": rng.integers(0, 11, (n, 3)).astype("int32"),
            "volume": rng.random((n, 2, 4, 5, 6), "float32"),
            "mask": rng.random((n, 3)) > 0.3,
        }
        for n in (1, 2, 5)
    ]
    compare(hooks, hooks.materialise(model).model, batches)


def test_recurrent_and_attention_layers(hooks, factory):
    model = factory("""
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.memory = nn.LSTM(6, 16, batch_first=True)
                self.attend = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            def forward(self, steps):
                hidden, _ = self.memory(steps)
                return self.attend(hidden).mean(1)
        def net(): return Net(), torch.rand(1, 7, 6)
    """)
    batches = [{"steps": np.random.default_rng(n).random((n, 7, 6), "float32")} for n in (1, 2, 5)]
    compare(hooks, hooks.materialise(model).model, batches)


def test_outputs_that_are_inputs_or_each_other(hooks, factory):
    model = factory("""
        class Net(nn.Module):
            def forward(self, x):
                y = x * 2
                return {"x": x, "y": y, "again": y}
        def net(): return Net(), torch.rand(2, 3)
    """)
    program = hooks.materialise(model).model
    compare(hooks, program, [{"x": np.float32([[1, 2, 3]])}])


def test_averages_by_a_divisor_of_ones_own(hooks, factory):
    source = """
        class Net(nn.Module):
            def forward(self, x):
                pool = nn.functional.avg_pool2d
                y = pool(x, (2, 3), (1, 2), (1, 0), {more}divisor_override=5)
                return y, pool(y, 2, count_include_pad=False, divisor_override=2)
        def net(): return Net(), torch.rand(2, 3, 5, 7)
    """
    program = hooks.materialise(factory(source.format(more=""))).model
    x = np.random.default_rng(0).random((2, 3, 5, 7), "float32")
    compare(hooks, program, [{"x": x}])
    hanging = hooks.materialise(factory(source.format(more="ceil_mode=True, "))).model
    with pytest.raises(ConversionError) as caught:
        hooks.pivot(hanging)
    assert caught.value.code == "LPT-CONV-106"
    assert caught.value.details["where"] == "user_net.py:7 in forward"


def test_static_shapes(hooks, factory):
    model = factory("def net(): return nn.Linear(4, 2), torch.rand(3, 4)")
    program = hooks.materialise(model, dynamic_batch=False).model
    pivot = compare(hooks, program, [{"input": np.ones((3, 4), "float32")}])
    assert pivot.signature.inputs[0].shape == (3, 4)


def test_operator_without_translation_names_it_and_the_line(hooks, factory):
    model = factory("""
        class Net(nn.Module):
            def forward(self, x):
                square = x @ x.mT
                return torch.linalg.eigh(square)[0]
        def net(): return Net(), torch.rand(2, 4, 4)
    """)
    program = hooks.materialise(model).model
    with pytest.raises(ConversionError) as caught:
        hooks.pivot(program)
    error = caught.value
    assert error.code == "LPT-CONV-103"
    assert error.details == {
        "operators": ["aten.linalg_eigh.default"],
        "where": "user_net.py:7 in forward",
    }


def test_a_graph_that_the_exporter_gets_wrong_is_no_fault_of_the_source(hooks, factory):
    """ONNX counts a window that starts behind the image, and torch does not."""
    model = factory("""
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.pool = nn.MaxPool2d(2, 3, 1, ceil_mode=True)
            def forward(self, x):
                return self.pool(x) * 2
        def net(): return Net(), torch.rand(1, 3, 10, 8)
    """)
    with pytest.raises(ConversionError) as caught:
        hooks.pivot(hooks.materialise(model).model)
    assert caught.value.code == "LPT-CONV-106"
    assert "pool/max_pool2d" in caught.value.cause
    assert "Export the model again" not in caught.value.remedy


def test_custom_operator_is_named(hooks, factory):
    model = factory("""
        @torch.library.custom_op("lepton_test_ops::twice", mutates_args=())
        def twice(x: torch.Tensor) -> torch.Tensor:
            return x * 2
        @twice.register_fake
        def _(x):
            return torch.empty_like(x)
        class Net(nn.Module):
            def forward(self, x):
                return twice(x)
        def net(): return Net(), torch.rand(2, 4)
    """)
    with pytest.raises(ConversionError) as caught:
        hooks.pivot(hooks.materialise(model).model)
    assert caught.value.details["operators"] == ["lepton_test_ops.twice.default"]
    assert caught.value.details["where"] == "user_net.py:12 in forward"


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # torch's, about its own layers
@pytest.mark.parametrize(
    ("make", "train", "told"),
    [
        (lambda: nn.LSTM(4, 4), True, False),
        (lambda: nn.GRU(4, 4, 2, dropout=0.5), False, False),
        (lambda: nn.GRU(4, 4, 2, dropout=0.5), True, True),
        (lambda: nn.Dropout(0.5), True, True),
    ],
)
def test_recurrent_layers_draw_numbers_only_to_drop_some(make, train, told):
    exported = torch.export.export(make().train(train), (torch.zeros(3, 2, 4),))
    assert bool(random_operators(exported)) is told


@pytest.mark.parametrize(("dropout", "told"), [("", False), ("0.0", False), ("0.5", True)])
def test_attention_draws_numbers_only_to_drop_some(hooks, factory, dropout, told):
    source = f"""
    class Net(nn.Module):
        def forward(self, x):
            mask = torch.ones(3, 3, dtype=torch.bool)
            return nn.functional.scaled_dot_product_attention(x, x, x, mask{"," if dropout else ""}
                {dropout})

    def net():
        return Net(), torch.zeros(2, 1, 3, 4)
    """
    result = hooks.pivot(hooks.materialise(factory(source)).model)
    assert any("draws random numbers" in warning for warning in result.warnings) is told


def test_random_operator_is_told(hooks, factory):
    model = factory("""
        class Net(nn.Module):
            def forward(self, x):
                return x + torch.randn_like(x)
        def net(): return Net(), torch.rand(2, 4)
    """)
    result = hooks.pivot(hooks.materialise(model).model)
    assert "aten.randn_like.default (user_net.py:6 in forward)" in result.warnings[0]


def test_damaged_program(hooks, tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"PK")
    with pytest.raises(SourceError):
        hooks.pivot(Model("torch.export", str(tmp_path / "model.pt2")))


def test_other_precisions_and_edges_are_not_ours(hooks, digits_program):
    with pytest.raises(UnsupportedOperationError) as caught:
        hooks.pivot(digits_program.model, precision="fp16")
    assert caught.value.code == "LPT-CONV-108"
    request = ConvertRequest("x", to_format="tflite")
    assert plugin.lepton_convert(digits_program.model, request, hooks.context()) is None


def test_nothing_is_printed(hooks, digits, capfd):
    hooks.pivot(hooks.materialise(digits.model).model)
    assert capfd.readouterr() == ("", "")
