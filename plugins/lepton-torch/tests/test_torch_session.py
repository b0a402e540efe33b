"""Sessions: equal to the module, and clear about what does not fit."""

import runpy
import sys
import threading

import numpy as np
import pytest
import torch

from lepton_core.context import Session
from lepton_core.environment import available_cpus
from lepton_core.errors import SessionError
from lepton_core.types import Model
from lepton_torch._chatter import captured


@pytest.fixture(scope="module")
def session(hooks, digits_program):
    with hooks.open(digits_program.model, threads=1) as opened:
        yield opened


def refuse(code, function, *args, **kwargs):
    with pytest.raises(SessionError) as caught:
        function(*args, **kwargs)
    assert caught.value.code == code
    assert caught.value.remedy
    return caught.value


def test_outputs_equal_the_module_and_accuracy_is_kept(session, digits):
    module, _ = runpy.run_path(digits.model.path)["net"]()
    weights = digits.model.path.replace("digits.py", "digits.safetensors")
    from safetensors.torch import load_file

    module.load_state_dict(load_file(weights))
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(digits.images))["logits"].numpy()
    found = session.run({"image": digits.images})["logits"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (found.argmax(1) == digits.labels).mean() > 0.85
    assert np.array_equal(found, session.run({"image": digits.images})["logits"])


def test_facts(session, hooks, digits_program):
    assert isinstance(session, Session)
    assert session.facts["runtime"] == f"torch {torch.__version__.split('+')[0]}"
    assert session.facts["build"] == torch.__version__
    assert session.facts["threads"] == 1
    assert session.facts["storage_precision"] == session.facts["execution_precision"] == "fp32"
    with hooks.open(digits_program.model) as default:
        assert default.facts["threads"] == available_cpus()
        assert default.facts["device"] == "cpu"


def test_arrays_that_are_not_contiguous_or_read_only(session, digits):
    rows = digits.images[:6]
    expected = session.run({"image": np.ascontiguousarray(rows[::2])})["logits"]
    rows.setflags(write=False)
    assert np.array_equal(session.run({"image": rows[::2]})["logits"], expected)


def test_unknown_name_suggests_the_nearest(session):
    error = refuse("LPT-RUN-103", session.run, {"imgae": np.zeros((1, 1, 8, 8), "float32")})
    assert "'image'" in error.remedy


def test_missing_input(session):
    assert "image" in refuse("LPT-RUN-104", session.run, {}).message


def test_wrong_dtype_or_kind(session):
    error = refuse("LPT-RUN-105", session.run, {"image": np.zeros((1, 1, 8, 8))})
    assert "float64" in error.message
    assert "astype(numpy.float32)" in error.remedy
    refuse("LPT-RUN-105", session.run, {"image": [[1.0]]})


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 1, 8, 9), (0, 1, 8, 8)])
def test_wrong_shape(session, shape):
    error = refuse("LPT-RUN-106", session.run, {"image": np.zeros(shape, "float32")})
    assert "[batch, 1, 8, 8]" in error.message


def test_symbols_must_agree(hooks, factory):
    model = factory("""
        class Net(nn.Module):
            def forward(self, a, b):
                return a + b
        def net(): return Net(), (torch.rand(2, 3), torch.rand(2, 3))
    """)
    with hooks.open(hooks.materialise(model).model) as opened:
        inputs = {"a": np.zeros((4, 3), "float32"), "b": np.zeros((1, 3), "float32")}
        assert "batch is 1 here and 4" in refuse("LPT-RUN-106", opened.run, inputs).cause


def test_closed(hooks, digits_program):
    opened = hooks.open(digits_program.model)
    opened.close()
    opened.close()
    refuse("LPT-RUN-108", opened.run, {"image": np.zeros((1, 1, 8, 8), "float32")})


@pytest.mark.parametrize("device", ["tpu9", "meta", "cuda:99"])
def test_device_that_is_not_there(hooks, digits_program, device):
    refuse("LPT-RUN-101", hooks.open, digits_program.model, device=device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu(hooks, session, digits, digits_program):
    with hooks.open(digits_program.model, device="cuda") as opened:
        assert opened.facts["device"] == "cuda"
        found = opened.run({"image": digits.images})["logits"]
    expected = session.run({"image": digits.images})["logits"]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_thread_count_must_be_positive(hooks, digits_program):
    refuse("LPT-RUN-102", hooks.open, digits_program.model, threads=0)


def test_an_option_is_refused_and_not_dropped(hooks, digits_program):
    refuse("LPT-RUN-109", hooks.open, digits_program.model, options={"precision": "fp16"})


def test_other_formats_are_not_ours(hooks):
    assert hooks.open(Model("onnx", "model.onnx")) is None


def test_streams_come_back_where_two_threads_collect_what_torch_says():
    """The one that began last put back what it had found: the other's."""
    before, inside, left = (sys.stdout, sys.stderr), threading.Event(), threading.Event()

    def other():
        with captured():
            inside.set()
            left.wait(5)

    with captured():
        thread = threading.Thread(target=other)
        thread.start()
        assert not inside.wait(0.2)
    left.set()
    thread.join()
    assert (sys.stdout, sys.stderr) == before
