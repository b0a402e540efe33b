"""Inspection: operators with the user's lines, problems in words, nothing written."""

import pytest

from lepton_core.errors import SourceError
from lepton_core.files import digest_path
from lepton_core.types import CheckRequest, InspectRequest, InspectResult, Model
from lepton_torch import plugin


def verdict(hooks, inspection, target="torch"):
    return plugin.lepton_check(inspection.model, CheckRequest(target, inspection))


def test_trained_model(hooks, digits):
    context = hooks.context()
    found = plugin.lepton_inspect(digits.model, InspectRequest(), context)
    assert found.domain == "aten"
    assert found.parameters == 8 * 9 + 8 + 16 + 1280 + 10
    assert found.model.digest == digest_path(digits.model.path)
    assert str(found.model.signature).endswith("(logits: float32[batch, 10])")
    uses = {use.name: use for use in found.operators}
    assert uses["aten.conv2d.default"].count == 1
    assert uses["aten.conv2d.default"].where == "digits.py:18 in forward"
    assert all(use.convertible for use in found.operators)
    assert found.problems == ()
    assert found.facts["dtypes"] == {"float32": found.parameters}
    assert list(context.workdir.iterdir()) == []
    assert verdict(hooks, found).verdict == "fits"
    assert verdict(hooks, found, "openvino") is None


def test_program_says_the_same_as_its_source(hooks, digits, digits_program):
    source, program = hooks.inspect(digits.model), hooks.inspect(digits_program.model)
    assert program.operators == source.operators
    assert program.parameters == source.parameters
    assert program.model.signature == source.model.signature
    assert program.model.digest == digits_program.model.digest


def test_signature_alone(hooks, digits):
    request = InspectRequest(operators=False)
    found = plugin.lepton_inspect(digits.model, request, hooks.context())
    assert found.operators == ()
    assert found.model.signature is not None


def test_operator_without_translation_is_a_problem(hooks, factory):
    model = factory("""
        class Net(nn.Module):
            def forward(self, x):
                return torch.linalg.eigh(x @ x.mT)[0].relu().relu()
        def net(): return Net(), torch.rand(2, 4, 4)
    """)
    found = hooks.inspect(model)
    uses = {use.name: use for use in found.operators}
    assert uses["aten.linalg_eigh.default"].convertible is False
    assert "aten._linalg_eigh.default" in uses["aten.linalg_eigh.default"].note
    assert uses["aten.relu.default"].count == 2
    assert uses["aten.relu.default"].convertible is True
    assert len(found.problems) == 1
    assert "user_net.py:6 in forward" in found.problems[0]
    assert verdict(hooks, found).verdict == "fits"  # torch itself runs it


def test_module_that_cannot_be_exported_is_a_problem_not_an_error(hooks, factory):
    model = factory("""
        class Net(nn.Module):
            def forward(self, x):
                if x.sum() > 0:
                    return x
                return -x
        def net(): return Net(), torch.rand(2, 4)
    """)
    found = hooks.inspect(model)
    assert isinstance(found, InspectResult)
    assert "user_net.py:6 in forward" in found.problems[0]
    assert found.facts["exported"] is False
    judged = verdict(hooks, found)
    assert judged.verdict == "impossible"
    assert judged.reasons == found.problems


def test_fixed_batch_is_a_warning(hooks, factory):
    model = factory("""
        class Net(nn.Module):
            def forward(self, x):
                return x.view(2, 4)
        def net(): return Net(), torch.rand(2, 4)
    """)
    found = hooks.inspect(model)
    assert found.facts["dynamic_batch"] is False
    assert "user_net.py:6 in forward" in found.facts["warnings"][0]


def test_other_sources(hooks):
    assert hooks.inspect(Model("onnx", "model.onnx")) is None
    onnx = InspectResult(Model("onnx", "model.onnx"))
    assert verdict(hooks, onnx).verdict == "fits", "by way of the bridge"
    other = InspectResult(Model("tensorflow", "model.pb"))
    assert verdict(hooks, other).verdict == "impossible"
    with pytest.raises(SourceError):
        hooks.inspect(Model("torch.factory", "nowhere.py", "net"))
