"""Sessions: facts that are found, threads that are counted, errors that say what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from lepton_core import environment
from lepton_core.errors import SessionError, SourceError
from lepton_core.types import ConvertRequest, OpenRequest
from lepton_onnxruntime import _runtime, bundle_runtime, plugin


def opened(model, context, **request):
    return plugin.lepton_open(model, OpenRequest("onnxruntime", **request), context)


@pytest.fixture
def pivot(graphs, to_pivot):
    return to_pivot(graphs.mlp())


@pytest.fixture
def half(pivot, context):
    request = ConvertRequest("onnxruntime", "onnxruntime", precision="fp16")
    return plugin.lepton_convert(pivot, request, context).model


def test_listing_and_loading_the_plugin_import_no_backend():
    code = (
        "import sys, lepton_onnxruntime.info, lepton_onnxruntime.plugin\n"
        "heavy = {'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)\n"
        "raise SystemExit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "code",
    [
        "from lepton_onnxruntime._runtime import onnxruntime; onnxruntime()",
        "from lepton_onnxruntime.bundle_runtime import load; load(sys.argv[1])",
    ],
)
def test_telemetry_writes_no_identifier_and_no_events(code, pivot, tmp_path):
    """ONNX Runtime's telemetry starts as it is imported, and begins with files of its own."""
    folders = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
    known = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environ = known | dict.fromkeys(folders, str(tmp_path))
    before = set(tmp_path.rglob("*"))
    code = f"import sys; {code}"
    subprocess.run([sys.executable, "-c", code, str(pivot.path)], check=True, env=environ)
    assert set(tmp_path.rglob("*")) == before


def test_it_computes_what_the_reference_evaluator_computes(pivot, context):
    from lepton_onnx import plugin as onnx_plugin

    x = np.random.default_rng(0).normal(size=(7, 8)).astype("f4")
    expected = onnx_plugin.lepton_open(pivot, OpenRequest("onnx"), context).run({"x": x})
    for reference in (True, False):
        with opened(pivot, context, reference=reference) as session:
            found = session.run({"x": x})
            assert list(found) == ["y"]
            np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-4, atol=1e-5)


def test_no_weights_are_rounded_that_the_file_holds_as_float(graphs, to_pivot, context):
    """ONNX Runtime would give weights between pairs integers of its own, with one scale for all."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(4, 3, 2, 2)) * np.array([1, 10, 100])[None, :, None, None]
    constants = {
        "w": weights.astype("f4"), "b": rng.normal(size=3).astype("f4"),
        "s": np.float32(0.05), "z": np.uint8(128), "t": np.float32(5),
    }  # fmt: skip
    nodes = [
        graphs.node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        graphs.node("DequantizeLinear", ["xq", "s", "z"], ["xf"]),
        graphs.node("ConvTranspose", ["xf", "w", "b"], ["c"], strides=[2, 2]),
        graphs.node("QuantizeLinear", ["c", "t", "z"], ["cq"]),
        graphs.node("DequantizeLinear", ["cq", "t", "z"], ["y"]),
    ]
    model = graphs.model(
        nodes, [graphs.value("x", ["n", 4, 5, 5])],
        [graphs.value("c", ["n", 3, 10, 10]), graphs.value("y", ["n", 3, 10, 10])],
        [graphs.weight(name, array) for name, array in constants.items()],
    )  # fmt: skip
    pivot = to_pivot(model)
    x = rng.normal(size=(3, 4, 5, 5)).astype("f4")
    run = bundle_runtime.load(pivot.path)
    with opened(pivot, context, reference=True) as plain, opened(pivot, context) as fast:
        expected = plain.run({"x": x})["c"]
        for found in (fast.run({"x": x})["c"], run({"x": x})["c"]):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_weights_that_share_a_zero_point_are_opened(graphs, to_pivot, context, monkeypatch):
    """ONNX Runtime 1.32 fails on them when it is told to choose the kernels that are exact."""
    rng = np.random.default_rng(0)
    constants = {
        "a": rng.integers(-127, 128, (8, 8)).astype("i1"),
        "b": rng.integers(-127, 128, (8, 8)).astype("i1"),
        "scale": np.float32(0.01), "zero": np.int8(0),
    }  # fmt: skip
    node = graphs.node
    proto = graphs.model(
        [
            node("DequantizeLinear", ["a", "scale", "zero"], ["af"]),
            node("DequantizeLinear", ["b", "scale", "zero"], ["bf"]),
            node("MatMul", ["x", "af"], ["h"]),
            node("MatMul", ["h", "bf"], ["y"]),
        ],
        [graphs.value("x", ["n", 8])],
        [graphs.value("y", ["n", 8])],
        [graphs.weight(name, array) for name, array in constants.items()],
    )
    monkeypatch.setattr(_runtime, "sums_may_saturate", lambda: True)
    pivot = to_pivot(proto)
    x = rng.normal(size=(3, 8)).astype("f4")
    expected = x @ (constants["a"] * np.float32(0.01)) @ (constants["b"] * np.float32(0.01))
    with opened(pivot, context) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], expected, rtol=1e-4, atol=1e-5)
    bundled = bundle_runtime.load(pivot.path)
    np.testing.assert_allclose(bundled({"x": x})["y"], expected, rtol=1e-4, atol=1e-5)


def test_storage_and_execution_are_two_facts(pivot, half, context):
    with opened(pivot, context) as session:
        facts = session.facts
        assert facts["storage_precision"] == "fp32"
        nodes = facts["execution_nodes"]
        assert set(nodes) == {"fp32"}
        assert facts["execution_precision"] == f"fp32 ({nodes['fp32']} of {nodes['fp32']} nodes)"
    with opened(half, context) as session:
        facts = session.facts
        assert facts["storage_precision"] == "fp16"
        assert facts["execution_casts"] > 0
        # Which nodes have float16 kernels depends on the runtime; that it says so does not.
        main = facts["execution_precision"].split()[0]
        assert sum(facts["execution_nodes"].values()) >= 2
        if main == "fp32":
            assert "fp16 storage is cast" in facts["execution_precision"]
    with opened(half, context, options={"execution_facts": False}) as session:
        assert session.facts["execution_precision"] == "not looked at"
    with opened(half, context, without=("execution_facts", "of another runtime")) as session:
        assert session.facts["execution_precision"] == "not looked at"
    asked = {"execution_facts": True}
    with opened(half, context, without=("execution_facts",), options=asked) as session:
        assert session.facts["execution_nodes"], "an option prevails over a hint"
    assert [p.name for p in context.workdir.iterdir()] == ["model.onnx"]


def test_the_yardstick_is_not_optimized(pivot, context):
    with opened(pivot, context, reference=True) as plain, opened(pivot, context) as fast:
        assert plain.facts["optimizations"] == "disabled"
        assert sum(plain.facts["execution_nodes"].values()) == 4
        assert sum(fast.facts["execution_nodes"].values()) < 4  # MatMul and Add were fused


def test_threads_follow_the_request_and_the_container(pivot, context, monkeypatch):
    def threads():
        return len(list(Path("/proc/self/task").iterdir()))

    with opened(pivot, context, threads=1) as session:
        session.run({"x": np.ones((1, 8), "f4")})
        before = threads()
    with opened(pivot, context, threads=5) as session:
        session.run({"x": np.ones((1, 8), "f4")})
        assert threads() - before == 4  # the caller is the fifth
        assert session.facts["threads"] == 5
    monkeypatch.setattr(_runtime, "available_cpus", lambda: 3)
    with opened(pivot, context) as session:
        assert session.facts["threads"] == 3
    with pytest.raises(SessionError) as caught:
        opened(pivot, context, threads=0)
    assert caught.value.code == "LPT-RUN-210"


def test_spinning_is_off_unless_asked_for():
    for asked, value in ((None, "0"), (True, "1"), (False, "0"), ("off", "0"), ("on", "1")):
        options = {} if asked is None else {"spinning": asked}
        found = _runtime.session_options(OpenRequest("onnxruntime", options=options))
        assert found.get_session_config_entry("session.intra_op.allow_spinning") == value
        assert found.inter_op_num_threads == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [({"spinnig": True}, "spinning, plan_memory"), ({"spinning": "a bit"}, "true or false")],
)
def test_options_that_there_are_not(pivot, context, options, says):
    with pytest.raises(SessionError) as caught:
        opened(pivot, context, options=options)
    assert caught.value.code == "LPT-RUN-211"
    assert says in caught.value.remedy


def test_memory_is_planned_for_whole_runs_unless_it_is_short():
    for given, planned in (
        ({}, True),
        ({"plan_memory": False}, False),
        ({"plan_memory": "no"}, False),
    ):
        found = _runtime.session_options(OpenRequest("onnxruntime", options=given))
        assert found.enable_mem_pattern is planned


def test_nan_and_infinity_pass_through(pivot, half, context):
    x = np.ones((3, 8), "f4")
    x[1, 2] = np.nan
    for model in (pivot, half):
        with opened(model, context) as session:
            y = session.run({"x": x})["y"]
            assert np.isnan(y[1]).all()
            assert np.isfinite(y[[0, 2]]).all()


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({}, "LPT-RUN-201"),
        ({"image": np.ones((1, 8), "f4"), "x": np.ones((1, 8), "f4")}, "LPT-RUN-202"),
        ({"x": np.ones((1, 8), "f2")}, "LPT-RUN-203"),
        ({"x": np.ones((8,), "f4")}, "LPT-RUN-204"),
        ({"x": np.ones((1, 7), "f4")}, "LPT-RUN-204"),
    ],
)
def test_wrong_inputs(pivot, context, inputs, code):
    with opened(pivot, context) as session, pytest.raises(SessionError) as caught:
        session.run(inputs)
    assert caught.value.code == code
    assert caught.value.remedy


def test_a_failure_inside_names_the_operator(graphs, to_pivot, context):
    proto = graphs.model(
        [graphs.node("Reshape", ["x", "s"], ["y"], name="view")],
        [graphs.value("x", ["n"])],
        [graphs.value("y", None)],
        [graphs.weight("s", np.array([2, 2], "i8"))],
    )
    with opened(to_pivot(proto), context) as session, pytest.raises(SessionError) as caught:
        session.run({"x": np.ones(5, "f4")})
    assert caught.value.code == "LPT-RUN-205"
    assert "Reshape (node 'view')" in caught.value.message
    assert "/onnxruntime/" not in str(caught.value)


def test_a_file_that_it_refuses(graphs, context, tmp_path, pivot):
    with pytest.raises(SourceError):
        opened(pivot.evolve(path=str(tmp_path / "no.onnx")), context)
    proto = graphs.mlp()
    proto.graph.node[0].op_type = "Nonsense"
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(proto.SerializeToString())
    with pytest.raises(SessionError) as caught:
        opened(pivot.evolve(path=str(bad)), context)
    assert caught.value.code == "LPT-RUN-207"
    assert "Nonsense" in caught.value.cause


def test_a_device_that_is_not_there(pivot, context, monkeypatch):
    with pytest.raises(SessionError) as caught:
        opened(pivot, context, device="npu")
    assert caught.value.code == "LPT-RUN-206"
    ort = _runtime.onnxruntime()
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(SessionError) as caught:
        opened(pivot, context, device="cuda")
    assert "dist/lepton_onnxruntime-*.whl)[gpu]" in caught.value.remedy


def test_rival_distributions_are_named(monkeypatch):
    both = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.0"}
    monkeypatch.setattr(environment, "version_of", both.get)
    assert "onnxruntime 1.32.0 and onnxruntime-gpu 1.31.0" in _runtime.distribution_conflict()
    monkeypatch.setattr(environment, "version_of", {"onnxruntime": "1.32.0"}.get)
    assert _runtime.distribution_conflict() == ""


def test_closed_twice_and_used_from_threads(pivot, context):
    session = opened(pivot, context)
    x = np.random.default_rng(0).normal(size=(16, 8)).astype("f4")
    expected = session.run({"x": x})["y"]
    failures = []

    def work():
        for _ in range(50):
            if not np.array_equal(session.run({"x": x})["y"], expected):
                failures.append(1)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures
    session.close()
    session.close()
    with pytest.raises(SessionError) as caught:
        session.run({"x": x})
    assert caught.value.code == "LPT-RUN-208"


def test_nothing_is_printed(pivot, half, context, capfd):
    for model in (pivot, half):
        with opened(model, context) as session:
            session.run({"x": np.ones((1, 8), "f4")})
    assert capfd.readouterr() == ("", "")
