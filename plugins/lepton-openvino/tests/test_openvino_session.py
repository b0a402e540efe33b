"""Sessions: arrays in and out, precision, threads, and inputs that do not fit."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from lepton_core.environment import available_cpus, cpu_features
from lepton_core.errors import SessionError, SourceError
from lepton_core.types import Model, OpenRequest
from lepton_openvino import plugin
from lepton_openvino._telemetry import openvino

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 8)).astype("f4")


@pytest.fixture
def ir(graphs, to_pivot, convert):
    return convert(to_pivot(graphs.mlp())).model


def numbers(session, x=X):
    return session.run({"x": x})["y"]


def test_dynamic_batch(ir, opened):
    session = opened(ir)
    whole = numbers(session)
    for rows in (1, 2, 3, 1):
        np.testing.assert_allclose(numbers(session, X[:rows]), whole[:rows], rtol=1e-5)
    assert numbers(session, X[:0]).shape == (0, 4)


def test_outputs_belong_to_the_caller(ir, opened):
    session = opened(ir)
    first = numbers(session)
    copy = first.copy()
    numbers(session, 100 * X)
    np.testing.assert_array_equal(first, copy)
    first += 1
    session.close()
    assert first.flags.writeable


def test_inputs_are_not_changed_and_need_not_be_contiguous(ir, opened):
    session = opened(ir)
    wide = np.ascontiguousarray(np.repeat(X, 2, axis=1))
    kept = wide.copy()
    np.testing.assert_array_equal(numbers(session, wide[:, ::2]), numbers(session))
    np.testing.assert_array_equal(numbers(session, np.asfortranarray(X)), numbers(session))
    np.testing.assert_array_equal(numbers(session, X.astype(">f4")), numbers(session))
    np.testing.assert_array_equal(wide, kept)


def test_several_threads_share_a_session(ir, opened):
    session = opened(ir, threads=1)
    inputs = [RNG.normal(size=(n % 5 + 1, 8)).astype("f4") for n in range(200)]
    expected = [numbers(session, x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: numbers(session, x), inputs))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


# --- what does not fit ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "code", "says"),
    [
        ({}, "LPT-RUN-201", ["'x'", "float32[batch, 8]"]),
        ({"x": X, "z": X}, "LPT-RUN-202", ["'z'", "'x'"]),
        ({"x": X.astype("f8")}, "LPT-RUN-203", ["float64", "float32"]),
        ({"x": X[0]}, "LPT-RUN-204", ["[8]", "[batch, 8]"]),
        ({"x": X[:, :7]}, "LPT-RUN-204", ["[3, 7]", "[batch, 8]"]),
    ],
)
def test_wrong_inputs(ir, opened, inputs, code, says):
    session = opened(ir)
    with pytest.raises(SessionError) as caught:
        session.run(inputs)
    assert caught.value.code == code
    for text in says:
        assert text in str(caught.value)
    assert numbers(session).shape == (3, 4)


@pytest.mark.xdist_group("openvino-networks")
def test_symbols_must_agree(networks, convert, opened):
    network = networks("tokens")
    feed = {**network.feed, "mask": network.feed["mask"][:, :-1]}
    with pytest.raises(SessionError) as caught:
        opened(convert(network.pivot).model).run(feed)
    assert caught.value.code == "LPT-RUN-204"
    assert "'time'" in str(caught.value)


@pytest.mark.parametrize("threads", [1, 2])
def test_shapes_that_do_not_fit_together_are_never_answered(
    graphs, to_pivot, convert, opened, threads
):
    """With one thread OpenVINO itself answers with outputs of an earlier call."""
    proto = graphs.model(
        [graphs.node("MatMul", ["x", "y"], ["p"]), graphs.node("Relu", ["p"], ["z"])],
        [graphs.value("x", ["a", "b"]), graphs.value("y", ["c", "d"])],
        [graphs.value("z", ["a", "d"])],
    )
    session = opened(convert(to_pivot(proto)).model, threads=threads)
    one = np.ones
    for wrong in ((3, 7), (4, 9)), ((2, 2), (3, 2)):
        good = session.run({"x": one((2, 3), "f4"), "y": one((3, 5), "f4")})["z"]
        np.testing.assert_array_equal(good, np.full((2, 5), 3.0))
        for _ in range(2):
            with pytest.raises(SessionError) as caught:
                session.run({"x": one(wrong[0], "f4"), "y": one(wrong[1], "f4")})
            assert caught.value.code == "LPT-RUN-304"
            assert "MatMul" in caught.value.cause
        again = session.run({"x": one((4, 3), "f4"), "y": one((3, 1), "f4")})["z"]
        np.testing.assert_array_equal(again, np.full((4, 1), 3.0))


def test_a_closed_session(ir, opened):
    session = opened(ir)
    session.close()
    session.close()
    with pytest.raises(SessionError) as caught:
        numbers(session)
    assert caught.value.code == "LPT-RUN-305"


# --- precision --------------------------------------------------------------------------------


def test_f32_is_the_default_and_is_read_back(ir, opened):
    for facts in (opened(ir).facts, opened(ir, reference=True).facts):
        assert facts["inference_precision"] == "f32"
        assert set(facts["execution_layers"]) == {"fp32"}
        assert facts["execution_precision"].startswith("fp32")
        assert facts["storage_precision"] == "fp32"


def test_fp16_storage_is_computed_in_fp32(graphs, to_pivot, convert, opened):
    half = convert(to_pivot(graphs.mlp()), "fp16").model
    facts = opened(half).facts
    assert facts["storage_precision"] == "fp16"
    assert set(facts["execution_layers"]) == {"fp32"}
    assert "fp16 storage is converted" in facts["execution_precision"]


def test_bf16_only_when_asked_and_never_for_the_yardstick(ir, opened):
    exact = numbers(opened(ir, reference=True))
    np.testing.assert_allclose(numbers(opened(ir)), exact, rtol=1e-5, atol=1e-5)
    wanted = {"inference_precision": "bf16"}
    same = numbers(opened(ir, reference=True, options=wanted))
    np.testing.assert_array_equal(same, exact)
    if not {"avx512_bf16", "amx_bf16"} & set(cpu_features()):
        pytest.skip("this CPU does not compute in bfloat16")
    session = opened(ir, options=wanted)
    assert "bf16" in session.facts["execution_layers"]
    assert session.facts["inference_precision"] == "bf16"
    error = np.linalg.norm(numbers(session) - exact) / np.linalg.norm(exact)
    assert 1e-5 < error < 2e-2


def test_a_precision_that_the_device_would_replace_is_refused(ir, opened):
    """x86 CPUs without float16 arithmetic would quietly compute in bfloat16."""
    compiled = openvino().Core().compile_model(ir.path, "CPU", {"INFERENCE_PRECISION_HINT": "f16"})
    got = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if got == "f16":
        assert opened(ir, options={"inference_precision": "f16"})
        return
    with pytest.raises(SessionError) as caught:
        opened(ir, options={"inference_precision": "f16"})
    assert caught.value.code == "LPT-RUN-308"
    assert got in str(caught.value)


@pytest.fixture
def few_bits(graphs, to_pivot, convert):
    """A product whose weights have four bits, and the values that its inputs are compared by."""
    integers = np.random.default_rng(1).integers(-8, 8, (128, 16)).astype(np.int8)
    scales = np.full((4, 16), 0.1, np.float32)
    packed = helper.make_tensor("w", TensorProto.INT4, integers.shape, integers.ravel().tolist())
    nodes = [
        graphs.node("DequantizeLinear", ["w", "s"], ["d"], axis=0, block_size=32),
        graphs.node("MatMul", ["x", "d"], ["y"]),
    ]
    ports = [graphs.value("x", ["n", 128])], [graphs.value("y", ["n", 16])]
    proto = graphs.model(nodes, *ports, [packed, graphs.weight("s", scales)])
    x = np.random.default_rng(2).normal(size=(3, 128)).astype(np.float32)
    return convert(to_pivot(proto)).model, x, x @ (integers * np.float32(0.1))


def test_inputs_of_weights_in_few_bits_stay_floats_where_asked(few_bits, opened, tmp_path):
    model, x, wanted = few_bits
    size = np.linalg.norm(wanted)
    for options in ({}, {"cache": str(tmp_path)}):  # rounded and kept first, then as floats
        rounded = opened(model, options=options)
        off = np.linalg.norm(numbers(rounded, x) - wanted)
        assert rounded.facts["dynamic_quantization"] == 0 or 1e-4 * size < off < 0.02 * size
        exact = opened(model, options={"dynamic_quantization": "off", **options})
        assert exact.facts["dynamic_quantization"] == 0
        assert np.linalg.norm(numbers(exact, x) - wanted) < 1e-5 * size
    yardstick = opened(model, reference=True)
    assert np.linalg.norm(numbers(yardstick, x) - wanted) < 1e-5 * size


# --- threads ----------------------------------------------------------------------------------


def test_threads_follow_request_and_container(ir, opened):
    assert opened(ir).facts["threads"] == available_cpus()
    facts = opened(ir, threads=1).facts
    assert (facts["threads"], facts["streams"], facts["pinning"]) == (1, 1, False)
    with pytest.raises(SessionError) as caught:
        opened(ir, threads=0)
    assert caught.value.code == "LPT-RUN-310"


BUSY = """
import json, sys, time
from pathlib import Path
import numpy as np, psutil
from lepton_core.context import Context
from lepton_core.types import Model, OpenRequest
from lepton_openvino import plugin
path, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
session = plugin.lepton_open(
    Model("openvino", path), OpenRequest("openvino", threads=threads), Context(folder))
x = np.ones((512, 1024), "f4")
session.run({"x": x})
def used():
    return {t.id: t.user_time for t in psutil.Process().threads()}
before, end = used(), time.monotonic() + 2
while time.monotonic() < end:
    session.run({"x": x})
spent = [value - before.get(key, 0.0) for key, value in used().items()]
print(json.dumps(sum(t > 0.03 * sum(spent) for t in spent)))
"""


def test_as_many_threads_work_as_were_asked_for(graphs, to_pivot, convert, run_python, tmp_path):
    weights = [graphs.weight("w", RNG.normal(size=(1024, 1024)).astype("f4"))]
    nodes = [graphs.node("MatMul", ["x", "w"], ["h"]), graphs.node("MatMul", ["h", "w"], ["y"])]
    ends = [graphs.value("x", ["n", 1024])], [graphs.value("y", ["n", 1024])]
    made = convert(to_pivot(graphs.model(nodes, *ends, weights))).model
    assert run_python(BUSY, made.path, tmp_path, 1) == 1
    if available_cpus() > 1:
        assert run_python(BUSY, made.path, tmp_path, 2) == 2


# --- files ------------------------------------------------------------------------------------


def test_a_pivot_opens_as_it_is(graphs, to_pivot, ir, opened):
    pivot = to_pivot(graphs.mlp(), "again")
    session = opened(pivot)
    np.testing.assert_allclose(numbers(session), numbers(opened(ir)), rtol=1e-5, atol=1e-6)
    assert session.facts["storage_precision"] == "fp32"
    assert session.signature == pivot.signature


def test_the_file_alone_tells_its_signature(ir, opened):
    assert opened(Model("openvino", ir.path)).signature == ir.signature


def test_an_ir_that_lepton_did_not_write(ir, opened, tmp_path):
    network = openvino().Core().read_model(ir.path)
    network.set_rt_info("", ["lepton"])
    path = tmp_path / "plain.xml"
    openvino().save_model(network, path)
    session = opened(Model("openvino", str(path)))
    assert str(session.signature) == "(x: float32[?, 8]) -> (y: float32[?, 4])"
    assert numbers(session).shape == (3, 4)


@pytest.mark.parametrize("place", [0, 500, -1])
def test_a_flipped_bit_in_the_values_is_refused(ir, opened, place):
    values = Path(ir.path).with_suffix(".bin")
    content = bytearray(values.read_bytes())
    content[place] ^= 1
    values.write_bytes(content)
    with pytest.raises(SessionError) as caught:
        opened(ir)
    assert caught.value.code == "LPT-RUN-303"


def test_missing_and_foreign_files(ir, opened, tmp_path):
    cases = [
        (b"<net", "LPT-RUN-302"),
        (b"<html></html>", "LPT-RUN-302"),
        (b'<!DOCTYPE net [<!ENTITY a "b">]><net name="&a;"/>', "LPT-RUN-302"),
        (Path(ir.path).read_bytes()[:2000], "LPT-RUN-302"),
    ]
    for number, (content, code) in enumerate(cases):
        path = tmp_path / f"bad{number}.xml"
        path.write_bytes(content)
        path.with_suffix(".bin").write_bytes(b"")
        with pytest.raises(SessionError) as caught:
            opened(Model("openvino", str(path)))
        assert caught.value.code == code, content[:20]
    with pytest.raises(SessionError) as caught:
        opened(Model("openvino", str(tmp_path / "none.xml")))
    assert caught.value.code == "LPT-RUN-302"
    Path(ir.path).with_suffix(".bin").unlink()
    with pytest.raises(SessionError) as caught:
        opened(ir)
    assert caught.value.code == "LPT-RUN-303"
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"hello")
    with pytest.raises(SourceError):
        opened(Model("pivot", str(broken)))


def test_an_ir_that_openvino_refuses(ir, opened):
    path = Path(ir.path)
    path.write_text(path.read_text().replace('type="MatMul"', 'type="NoSuchOperator"'))
    with pytest.raises(SessionError) as caught:
        opened(ir)
    assert caught.value.code == "LPT-RUN-311"
    assert "NoSuchOperator" in caught.value.cause


# --- devices and options ----------------------------------------------------------------------


def test_devices(ir, opened):
    assert opened(ir, device="auto").facts["inference_precision"] == "f32"
    available = openvino().Core().available_devices
    for device in ("gpu", "npu"):
        if not any(name.startswith(device.upper()) for name in available):
            with pytest.raises(SessionError) as caught:
                opened(ir, device=device)
            assert caught.value.code == "LPT-RUN-306"
            assert "CPU" in caught.value.cause
    with pytest.raises(SessionError) as caught:
        opened(ir, device="cuda")
    assert caught.value.code == "LPT-RUN-306"


def test_auto_runs_with_the_same_settings(ir, opened):
    if openvino().Core().available_devices != ["CPU"]:
        pytest.skip("another device would be chosen")
    session = opened(ir, device="auto", threads=1)
    assert session.facts["threads"] == 1
    assert session.facts["execution_devices"] == ["CPU"]
    np.testing.assert_allclose(numbers(session), numbers(opened(ir)), rtol=1e-5, atol=1e-6)


BAD_OPTIONS = [
    {"spinning": True},
    {"inference_precision": "int8"},
    {"hint": "speed"},
    {"cache": 5},
    {"cache": __file__},
    {"streams": 0},
    {"streams": "many"},
    {"streams": True},
    {"pinning": "perhaps"},
    {"dynamic_quantization": "on"},
]


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_unknown_options(ir, opened, options):
    with pytest.raises(SessionError) as caught:
        opened(ir, options=options)
    assert caught.value.code == "LPT-RUN-307"


def test_nothing_is_cached_unless_asked(ir, opened, context):
    numbers(opened(ir))
    assert not list(context.workdir.rglob("*"))
    cached = opened(ir, options={"cache": True})
    assert list(context.workdir.rglob("*.blob"))
    np.testing.assert_allclose(numbers(cached), numbers(opened(ir)), rtol=1e-6)
    second = opened(ir, options={"cache": True})
    np.testing.assert_array_equal(numbers(second), numbers(cached))


def test_switches_may_be_words(ir, opened, context):
    facts = opened(ir, options={"cache": "off", "pinning": "False"}).facts
    assert not facts["cache"]
    assert not facts["pinning"]
    assert not list(context.workdir.rglob("*"))
    assert opened(ir, options={"cache": "on"}).facts["cache"]
    assert list(context.workdir.rglob("*.blob"))


def test_a_cache_keeps_the_yardstick_apart(ir, opened, tmp_path):
    options = {"cache": str(tmp_path)}
    opened(ir, options=options)
    assert opened(ir, options=options, reference=True).facts["loaded_from_cache"] is False


def test_a_cache_that_is_named_is_kept_there(ir, opened, tmp_path):
    options = {"cache": str(tmp_path / "compiled")}
    first = opened(ir, options=options)
    assert first.facts["cache"] is True
    assert first.facts["loaded_from_cache"] is False
    assert list((tmp_path / "compiled").glob("*.blob"))
    again = opened(ir, options=options)
    assert again.facts["loaded_from_cache"] is True
    np.testing.assert_array_equal(numbers(again), numbers(first))


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_streams_share_the_threads(ir, opened, device):
    if openvino().Core().available_devices != ["CPU"]:
        pytest.skip("another device would be chosen")
    plain = opened(ir, device=device, threads=2)
    assert (plain.facts["hint"], plain.facts["streams"]) == ("latency", 1)
    two = opened(ir, device=device, threads=2, options={"streams": 2})
    assert two.facts["streams"] == 2
    wide = opened(ir, device=device, threads=2, options={"hint": "throughput"})
    assert wide.facts["hint"] == "throughput"
    assert wide.facts["streams"] >= 1
    with ThreadPoolExecutor(4) as pool:
        for session in (two, wide):
            for found in pool.map(lambda _, s=session: numbers(s), range(20)):
                np.testing.assert_allclose(found, numbers(plain), rtol=1e-5, atol=1e-6)


def test_a_cancelled_context_stops(ir, context):
    from dataclasses import replace

    from lepton_core.errors import OperationCancelledError

    event = threading.Event()
    event.set()
    with pytest.raises(OperationCancelledError):
        plugin.lepton_open(ir, OpenRequest("openvino"), replace(context, cancelled=event))
