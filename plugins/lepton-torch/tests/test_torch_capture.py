"""Capture: symbolic batch, names of outputs, and refusals with the user's line."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lepton_core.errors import ConversionError, StorageError
from lepton_core.files import digest_path
from lepton_core.types import ConvertRequest


def net(body: str, example: str = "torch.rand(2, 8)") -> str:
    lines = body.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    inner = "\n".join("        " + line[indent:] for line in lines)
    return (
        f"class Net(nn.Module):\n    def forward(self, x):\n{inner}\n"
        f"def net(): return Net(), {example}\n"
    )


def test_program_weights_and_recipe(hooks, digits, digits_program):
    model = digits_program.model
    assert str(model.signature) == (
        "(image: float32[batch, 1, 8, 8]) -> (logits: float32[batch, 10])"
    )
    assert model.metadata["batch_symbol"] == "batch"
    assert model.metadata["symbols"] == {"batch": [1, 65536]}
    folder = Path(model.path).parent
    recipe = json.loads((folder / "factory.json").read_text())
    assert recipe["entry"] == "net"
    assert recipe["digest"] == digest_path(digits.model.path)
    assert recipe["weights"]["digest"] == digest_path(folder / "weights.safetensors")
    trained = load_file(Path(digits.model.path).with_name("digits.safetensors"))
    kept = load_file(folder / "weights.safetensors")
    assert kept.keys() == trained.keys()
    assert all(np.array_equal(kept[k], trained[k]) for k in trained)
    assert model.digest == digest_path(model.path)
    assert model.lineage[-1].step == "materialise"
    assert model.lineage[-1].parent == recipe["digest"]


def test_same_source_and_seed_give_the_same_bytes(hooks, factory, tmp_path):
    source = "def net(): return nn.Sequential(nn.Linear(8, 4), nn.ReLU()), torch.rand(2, 8)"
    first = hooks.materialise(factory(source), seed=3)
    (tmp_path / "elsewhere").mkdir()
    moved = factory(source, name="elsewhere/user_net.py")
    second = hooks.materialise(moved, seed=3)
    assert first.model.digest == second.model.digest
    assert first.model.metadata["artifacts"] == second.model.metadata["artifacts"]
    other = hooks.materialise(factory(source), seed=4)
    assert other.model.digest != first.model.digest


def test_no_sample_and_no_path_of_this_machine_is_kept(hooks, factory, tmp_path):
    model = factory(net("return x * 2", "torch.full((2, 8), 1234.5)"))
    result = hooks.materialise(model)
    data = Path(result.model.path).read_bytes()
    assert np.float32(1234.5).tobytes() not in data
    assert str(tmp_path).encode() not in data
    assert b"user_net.py" in data


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("return x, x * 2", ["output_0", "output_1"]),
        ("return [x * 2]", ["output"]),
        ("return {'score': x.sum(1), 'deep': {'a': x * 2, 'b': [x + 1]}, 'none': None}",
         ["score", "deep_a", "deep_b_0"]),
        ("return {'x': x * 2}", ["x_out"]),
        ("""
         import collections
         return collections.namedtuple('Out', 'mean spread')(x.mean(1), x.std(1))
         """, ["mean", "spread"]),
        ("""
         import dataclasses
         made = dataclasses.make_dataclass('Out', ['logits', 'mask'])
         return made(x * 2, x > 0)
         """, ["logits", "mask"]),
    ],
)  # fmt: skip
def test_names_of_outputs(hooks, factory, body, names):
    result = hooks.materialise(factory(net(body)))
    assert [s.name for s in result.model.signature.outputs] == names
    with hooks.open(result.model) as session:
        assert list(session.run({"x": np.ones((3, 8), "float32")})) == names


def test_several_symbolic_inputs_and_integers(hooks, factory):
    model = factory("""
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.table = nn.Embedding(11, 6)
            def forward(self, ids, scale, offset):
                return self.table(ids).mean(1) * scale + offset
        def net(): return Net(), (torch.ones(4, 3, dtype=torch.long), torch.rand(4, 1), torch.rand(6))
    """)  # noqa: E501
    result = hooks.materialise(model)
    assert [str(s) for s in result.model.signature.inputs] == [
        "ids: int64[batch, 3]",
        "scale: float32[batch, 1]",
        "offset: float32[6]",
    ]


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("y = x + 1\nreturn y.view(2, -1)", 6),
        ("n = 0\nfor row in x:\n    n = n + row.sum()\nreturn x * n", 6),
    ],
)
def test_fixed_batch_falls_back_to_static_with_the_line(hooks, factory, body, line):
    result = hooks.materialise(factory(net(body)))
    assert result.model.signature.inputs[0].shape == (2, 8)
    assert f"user_net.py:{line} in forward" in result.warnings[0]
    assert result.model.metadata["dynamic_batch"] is False
    assert result.model.metadata["warnings"] == list(result.warnings)


def test_fixed_batch_is_an_error_where_it_must_be_dynamic(hooks, factory):
    model = factory(net("return x.view(2, -1)"))
    with pytest.raises(ConversionError) as caught:
        hooks.materialise(model, options={"require_dynamic_batch": True})
    assert caught.value.code == "LPT-CONV-102"
    assert caught.value.details["where"] == "user_net.py:5 in forward"


def test_static_shapes_on_request(hooks, factory):
    result = hooks.materialise(factory(net("return x * 2")), dynamic_batch=False)
    assert result.model.signature.inputs[0].shape == (2, 8)
    assert result.warnings == ()


def test_program_that_differs_at_another_batch_is_not_taken_for_dynamic(hooks, factory):
    model = factory("""
        class Net(nn.Module):
            def forward(self, x):
                return x * len(str(10 ** x.shape[0]))
        def net(): return Net(), torch.rand(2, 8)
    """)
    result = hooks.materialise(model)
    assert result.model.metadata["dynamic_batch"] is False
    assert result.warnings


@pytest.mark.parametrize(
    ("body", "line", "cause"),
    [
        ("y = x + 1\nif y.sum() > 0:\n    return y\nreturn x", 6, "values of a tensor"),
        ("return x[: int(x.max().item())]", 5, "values of a tensor"),
        ("return x + torch.from_numpy(x.numpy() * 2)", 5, "numpy"),
        ("while x.mean() < 1:\n    x = x + 1\nreturn x", 5, "values of a tensor"),
    ],
)
def test_what_cannot_be_exported_names_construct_and_line(hooks, factory, body, line, cause):
    with pytest.raises(ConversionError) as caught:
        hooks.materialise(factory(net(body)))
    error = caught.value
    assert error.code == "LPT-CONV-101"
    assert f"user_net.py:{line} in forward" in error.message
    assert cause in error.cause
    assert error.remedy


def test_line_is_found_below_library_modules(hooks, factory):
    model = factory("""
        class Gate(nn.Module):
            def forward(self, x):
                if x.sum() > 0:
                    return x
                return -x
        def net(): return nn.Sequential(nn.Linear(8, 8), Gate()), torch.rand(2, 8)
    """)
    with pytest.raises(ConversionError, match=r"user_net\.py:6 in forward"):
        hooks.materialise(model)


def test_changed_buffer_is_refused(hooks, factory):
    model = factory("""
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("calls", torch.zeros(1))
            def forward(self, x):
                self.calls += 1
                return x + self.calls
        def net(): return Net(), torch.rand(2, 8)
    """)
    with pytest.raises(ConversionError) as caught:
        hooks.materialise(model)
    assert caught.value.code == "LPT-CONV-104"
    assert caught.value.details == {"where": "user_net.py:9 in forward", "buffers": ["calls"]}


def test_output_that_is_no_tensor(hooks, factory):
    with pytest.raises(ConversionError) as caught:
        hooks.materialise(factory(net("return x, 3.0")))
    assert caught.value.code == "LPT-CONV-105"


def test_random_module_is_told(hooks, factory):
    result = hooks.materialise(factory(net("return nn.functional.dropout(x, 0.5)")))
    assert "different outputs for the same input" in result.warnings[0]


def test_writing_into_the_input_is_exported_as_it_computes(hooks, factory):
    result = hooks.materialise(factory(net("x[:, 0] = 0\nreturn x.relu_()")))
    x = -np.ones((3, 8), "float32")
    x[:, 1] = 2
    with hooks.open(result.model) as session:
        out = session.run({"x": x})["output"]
    assert out[0].tolist() == [0, 2, 0, 0, 0, 0, 0, 0]
    assert x[0, 0] == -1


def test_training_mode_is_left(hooks, factory):
    model = factory("def net(): return nn.Sequential(nn.Dropout(0.9)).train(), torch.ones(2, 8)")
    result = hooks.materialise(model)
    with hooks.open(result.model) as session:
        assert np.array_equal(
            session.run({"input": np.ones((1, 8), "float32")})["output"], np.ones((1, 8))
        )


def test_tied_weights_are_recorded(hooks, factory):
    model = factory("""
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a = nn.Linear(8, 8, bias=False)
                self.b = nn.Linear(8, 8, bias=False)
                self.b.weight = self.a.weight
            def forward(self, x):
                return self.b(self.a(x))
        def net(): return Net(), torch.rand(2, 8)
    """)
    folder = Path(hooks.materialise(model).model.path).parent
    recipe = json.loads((folder / "factory.json").read_text())
    assert recipe["shared"] == [["a.weight", "b.weight"]]
    assert set(load_file(folder / "weights.safetensors")) == {"a.weight", "b.weight"}


def test_full_disk_is_told_and_leaves_nothing(hooks, factory, monkeypatch):
    import shutil

    from lepton_torch import plugin

    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    context = hooks.context()
    request = ConvertRequest("torch", to_format="torch.export")
    with pytest.raises(StorageError) as caught:
        plugin.lepton_convert(factory(net("return x * 2")), request, context)
    assert caught.value.code == "LPT-IO-001"
    assert list(context.workdir.iterdir()) == []
