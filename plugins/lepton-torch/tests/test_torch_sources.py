"""Factories: what is accepted, and how each mistake is answered."""

import sys

import numpy as np
import pytest
import torch

from lepton_core.errors import ConversionError, SourceError
from lepton_core.types import Model

TWO_INPUTS = """
    class Net(nn.Module):
        def forward(self, x, bias):
            return x + bias
"""


def refuse(hooks, model, code):
    with pytest.raises(SourceError) as caught:
        hooks.materialise(model)
    assert caught.value.code == code
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    "example",
    [
        "(torch.rand(3, 4), torch.rand(3, 1))",
        "{'bias': torch.rand(3, 1), 'x': torch.rand(3, 4)}",
        "{'x': __import__('numpy').ones((3, 4), 'float32'), 'bias': torch.rand(3, 1)}",
    ],
)
def test_inputs_take_the_names_and_order_of_forwards_parameters(hooks, factory, example):
    result = hooks.materialise(factory(f"{TWO_INPUTS}\n    def net(): return Net(), {example}"))
    assert [str(s) for s in result.model.signature.inputs] == [
        "x: float32[batch, 4]",
        "bias: float32[batch, 1]",
    ]


def test_variable_positional_parameters_are_numbered(hooks, factory):
    model = factory("""
        class Net(nn.Module):
            def forward(self, *parts):
                return torch.cat(parts, 1)
        def net(): return Net(), (torch.rand(2, 3), torch.rand(2, 4))
    """)
    result = hooks.materialise(model)
    assert [s.name for s in result.model.signature.inputs] == ["parts_0", "parts_1"]
    with hooks.open(result.model) as session:
        a, b = np.ones((5, 3), "float32"), np.zeros((5, 4), "float32")
        assert session.run({"parts_0": a, "parts_1": b})["output"].shape == (5, 7)


def test_variable_keyword_parameters_keep_their_names(hooks, factory):
    model = factory("""
        class Net(nn.Module):
            def forward(self, x, **more):
                return x + sum(more.values())
        def net():
            return Net(), {"x": torch.rand(2, 3), "a": torch.rand(2, 3), "b": torch.rand(2, 3)}
    """)
    result = hooks.materialise(model)
    assert [str(s) for s in result.model.signature.inputs] == [
        f"{name}: float32[batch, 3]" for name in ("x", "a", "b")
    ]


def test_missing_file(hooks):
    refuse(hooks, Model("torch.factory", "nowhere/net.py", "net"), "LPT-SRC-101")


def test_import_error_names_the_line(hooks, factory):
    error = refuse(hooks, factory("x = 1\nraise ValueError('no data')"), "LPT-SRC-102")
    assert "user_net.py:4" in error.message
    assert "no data" in error.cause


def test_syntax_error_names_the_line(hooks, factory):
    assert "user_net.py:4" in refuse(hooks, factory("x = 1\ny = = 2"), "LPT-SRC-102").message


def test_sys_exit_at_import_is_no_exit(hooks, factory):
    error = refuse(hooks, factory("import sys\nsys.exit(3)"), "LPT-SRC-102")
    assert "__main__" in error.remedy


def test_missing_module_is_named(hooks, factory):
    error = refuse(hooks, factory("import no_such_package_at_all"), "LPT-SRC-102")
    assert "no_such_package_at_all" in error.remedy


def test_unknown_entry_suggests_near_names(hooks, factory):
    model = factory("def build_net(): pass", entry="biuld_net")
    error = refuse(hooks, model, "LPT-SRC-103")
    assert "user_net.py:build_net" in error.remedy


@pytest.mark.parametrize("source", ["net = 3", "net = nn.Linear(2, 2)", "net = nn.Identity"])
def test_entry_must_be_a_function(hooks, factory, source):
    assert "example_inputs" in refuse(hooks, factory(source), "LPT-SRC-104").cause


def test_factory_must_need_no_arguments(hooks, factory):
    refuse(hooks, factory("def net(width): pass"), "LPT-SRC-105")


def test_failure_inside_the_factory_names_its_line(hooks, factory):
    error = refuse(hooks, factory("def net():\n    return {}['weights']"), "LPT-SRC-106")
    assert error.details["where"] == "user_net.py:4 in net"
    assert "run_path('user_net.py')['net']()" in error.remedy


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("None", "None"),
        ("nn.Linear(2, 2)", "the module Linear"),
        ("(nn.Linear(2, 2), torch.rand(1, 2), 3)", "a tuple of 3"),
        ("(torch.rand(1, 2), nn.Linear(2, 2))", "a tensor of shape (1, 2)"),
        ("(nn.Linear(2, 2), None)", "None"),
        ("(nn.Linear(2, 2), {})", "empty"),
        ("(nn.Linear(2, 2), ['a'])", "a str"),
        ("(torch.jit.script(nn.ReLU()), torch.rand(1, 2))", "TorchScript"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wrong_return_is_told(hooks, factory, returned, says):
    error = refuse(hooks, factory(f"def net(): return {returned}"), "LPT-SRC-107")
    assert says in error.cause


def test_wrong_input_name_suggests_the_right_one(hooks, factory):
    body = "def net(): return Net(), {'x': torch.rand(2, 3), 'bais': torch.rand(2, 1)}"
    error = refuse(hooks, factory(f"{TWO_INPUTS}\n    {body}"), "LPT-SRC-108")
    assert "'bias'" in error.remedy


def test_module_that_cannot_run_its_example_names_the_line(hooks, factory):
    model = factory("""
        class Net(nn.Module):
            def forward(self, x):
                return x @ torch.ones(3, 3)
        def net(): return Net(), torch.rand(2, 8)
    """)
    error = refuse(hooks, model, "LPT-SRC-109")
    assert error.details["where"] == "user_net.py:6 in forward"
    assert "x: [2, 8] of torch.float32" in error.remedy


def test_helpers_beside_the_file_do_not_leak_into_the_next_source(hooks, tmp_path):
    for folder, width in (("one", 3), ("two", 5)):
        place = tmp_path / folder
        place.mkdir()
        (place / "helper_sizes.py").write_text(f"WIDTH = {width}\n")
        (place / "net.py").write_text(
            "import torch\nfrom helper_sizes import WIDTH\n"
            "def net(): return torch.nn.Linear(2, WIDTH), torch.zeros(1, 2)\n"
        )
    path = list(sys.path)
    shapes = [
        hooks.materialise(Model("torch.factory", str(tmp_path / f / "net.py"), "net"))
        .model.signature.outputs[0]
        .shape
        for f in ("one", "two")
    ]
    assert shapes == [("batch", 3), ("batch", 5)]
    assert sys.path == path
    assert "helper_sizes" not in sys.modules


def test_random_state_of_the_process_is_put_back(hooks, factory):
    model = factory("def net(): return nn.Linear(2, 2), torch.rand(1, 2)")
    torch.manual_seed(7)
    np.random.seed(7)
    expected = float(torch.rand(1)), float(np.random.rand())
    torch.manual_seed(7)
    np.random.seed(7)
    hooks.materialise(model)
    assert (float(torch.rand(1)), float(np.random.rand())) == expected


def test_line_in_an_installed_package_is_named(hooks, tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "lepton_test_zoo"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n"
        "        return x if x.sum() > 0 else -x\n"
    )
    (tmp_path / "user").mkdir()
    path = tmp_path / "user" / "net.py"
    path.write_text(
        "import torch\nfrom lepton_test_zoo import Net\ndef net(): return Net(), torch.rand(2, 3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    with pytest.raises(ConversionError, match=r"lepton_test_zoo/__init__\.py:4 in forward"):
        hooks.materialise(Model("torch.factory", str(path), "net"))


def test_half_precision_is_exported_in_float32_and_said(hooks, factory):
    model = factory(
        "def net(): return nn.Linear(4, 2).to(torch.bfloat16), torch.ones(1, 4).bfloat16()"
    )
    result = hooks.materialise(model)
    assert result.model.signature.inputs[0].dtype == "float32"
    assert "bfloat16" in result.warnings[0]


def test_unknown_option_is_refused(hooks, factory):
    model = factory("def net(): return nn.Linear(4, 2), torch.ones(1, 4)")
    with pytest.raises(ConversionError) as caught:
        hooks.materialise(model, options={"dynamic": True})
    assert caught.value.code == "LPT-CONV-109"
