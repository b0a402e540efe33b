"""A deployment of a trained network moves between ONNX Runtime and OpenVINO, and stays the same."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

import lepton_core as lepton
from lepton_core import types
from lepton_core.context import Context
from lepton_core.errors import LeptonError, MigrateError
from lepton_core.origins import find_origin
from lepton_core.store import Store

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.xdist_group("migration-corpus"),  # one worker ports
]


@pytest.fixture(scope="module")
def ported(port_digits):
    """The digits network, trained here, as fp32 and int8 for both runtimes."""
    return port_digits(["onnxruntime", "openvino"])


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def deploy(ported, hooks, store, context):
    def put(name, target, precision, **options):
        model = ported[1][target, precision].model
        request = types.DeployRequest(
            name, target, "production", options={"store": str(store.path), **options}
        )
        return hooks.deploy(model, request, context)

    return put


@pytest.fixture
def migrate(ported, hooks, store, context):
    def run(name, target, **options):
        data = str(ported[0] / "digits.npz")
        options = {
            "store": str(store.path), "data": data, "watch": 0, "latency_seconds": 0, **options,
        }  # fmt: skip
        request = types.MigrateRequest(name, target, options=options)
        return hooks.migrate(types.Model("deployment", name), request, context)

    return run


def integers(version, store):
    """Return the int8 arrays of a stored version, read back from its file."""
    with store.view(version) as view:
        if version.target == "onnxruntime":
            import onnx
            from onnx import numpy_helper

            arrays = [
                numpy_helper.to_array(t) for t in onnx.load(view.model.path).graph.initializer
            ]
        else:
            from lepton_openvino._telemetry import openvino

            model = openvino().Core().read_model(view.model.path)
            constants = [op for op in model.get_ops() if op.get_type_name() == "Constant"]
            arrays = [np.array(op.data) for op in constants]
        return sorted(a.tobytes() for a in arrays if a.dtype == np.int8 and a.size > 1)


def test_the_pivot_is_kept_once_and_found_from_each_variant(ported):
    folder, variants = ported
    pivots = {find_origin(variant.model).path for variant in variants.values() if variant.model}
    assert pivots == {str(folder / "out" / "pivot" / "model.onnx")}


def test_an_openvino_variant_named_by_its_folder_brings_all_its_files(
    ported, hooks, store, context, monkeypatch
):
    from lepton_core.built import find_built

    built = find_built(str(ported[0] / "out" / "openvino" / "fp32"))
    assert built.model == ported[1]["openvino", "fp32"].model
    request = types.DeployRequest("d", "openvino", options={"store": str(store.path)})
    result = hooks.deploy(built.model, request, context)
    version = store.resolve(f"d@{result.version}").version
    assert {f.path for f in version.role("model")} == {"model/model.bin", "model/model.xml"}
    with lepton.deployment(f"d@{result.version}", store=store, hooks=hooks) as deployed:
        assert deployed.run({"image": np.zeros((1, 1, 8, 8), np.float32)})["logits"].shape == (
            1,
            10,
        )


def test_fp32_goes_over_and_comes_back_while_calls_go_on(ported, hooks, store, deploy, migrate):
    deploy("digits", "onnxruntime", "fp32")
    calls, failed, stop = [0], [], threading.Event()
    with np.load(ported[0] / "digits.npz") as data:
        image = data["image"][:1]

    def call(deployed):
        while not stop.is_set():
            try:
                deployed.run({"image": image})
            except LeptonError as error:
                failed.append(error)
            calls[0] += 1

    with lepton.deployment(
        "digits", store=store.path, hooks=hooks, poll_seconds=0.05, flush_seconds=0.2
    ) as deployed:
        before = deployed.run({"image": image})["logits"]
        threads = [threading.Thread(target=call, args=(deployed,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            there = migrate("digits", "openvino", watch=4.0)
            back = migrate("digits", "onnxruntime", watch=0.5)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        deployed.check()
        assert np.allclose(deployed.run({"image": image})["logits"], before, rtol=1e-4, atol=1e-4)
        assert deployed.swaps == 2
    assert (there.outcome, back.outcome) == ("done", "done"), (there.why, back.why)
    assert failed == []
    assert calls[0] > 500
    assert there.facts["claim"].startswith("0 of 899 changed")
    assert there.facts["outputs"]["logits"]["rel_l2"] < 1e-5
    assert there.facts["watch"]["measured"]["calls"] > 0
    assert store.verify().ok


def test_int8_keeps_its_recipe_and_every_integer(store, deploy, migrate):
    deploy("small", "onnxruntime", "int8")
    old = store.resolve("small").version
    result = migrate("small", "openvino")
    assert result.outcome == "done", result.why
    new = store.resolve("small").version
    assert new.precision == "int8"
    assert new.model.metadata["recipe"]["digest"] == old.model.metadata["recipe"]["digest"]
    assert {f.digest for f in new.role("recipe")} == {f.digest for f in old.role("recipe")}
    assert {f.digest for f in new.role("origin")} == {f.digest for f in old.role("origin")}
    assert len(integers(old, store)) >= 2
    assert integers(old, store) == integers(new, store)
    passport = store.passport(new)
    assert passport["source"]["path"] == f"small@{old.id}"
    assert passport["metric"]["name"] == "top1"
    assert passport["verdict"]["bound"]["n"] == 899
    assert json.loads(json.dumps(result.facts, allow_nan=False))["worst"]


def test_int8_without_its_recipe_is_refused(ported, hooks, store, migrate, tmp_path):
    model = ported[1]["onnxruntime", "int8"].model
    store.add("lost", model, target="onnxruntime", precision="int8", alias="production")
    with pytest.raises(MigrateError) as caught:
        migrate("lost", "openvino")
    assert caught.value.code == "LPT-MIG-004"
    assert "recipe.json" in caught.value.remedy


def test_dynamic_int8_is_refused_where_the_target_lacks_the_scheme(
    ported, hooks, store, migrate, tmp_path, context
):
    folder = tmp_path / "dynamic"
    folder.mkdir()
    pivot = find_origin(ported[1]["onnxruntime", "fp32"].model)
    made = hooks.optimize(pivot, types.OptimizeRequest("onnxruntime"), Context(folder))
    assert find_origin(made.model).digest == pivot.digest, "optimize keeps the pivot, too"
    request = types.DeployRequest(
        "dynamic", "onnxruntime", "production", options={"store": str(store.path)}
    )
    hooks.deploy(made.model, request, context)
    with pytest.raises(MigrateError) as caught:
        migrate("dynamic", "openvino")
    assert caught.value.code == "LPT-MIG-005"
    assert "onnxruntime" in caught.value.remedy


def test_a_stored_version_is_deployed_for_another_target_by_its_recipe(
    hooks, store, deploy, context
):
    first = store.resolve(f"digits@{deploy('digits', 'onnxruntime', 'int8').version}").version
    request = types.DeployRequest("other", "openvino", options={"store": str(store.path)})
    result = hooks.deploy(types.Model("deployment", "digits@production"), request, context)
    second = store.resolve(f"other@{result.version}").version
    assert (second.target, second.precision) == ("openvino", "int8")
    assert [f.digest for f in second.role("recipe")] == [f.digest for f in first.role("recipe")]
    assert integers(second, store) == integers(first, store)
    assert store.passport(second) is None, "nothing has compared it yet"


def test_another_precision_than_the_stored_recipes_is_converted_from_the_origin(
    hooks, store, deploy, context
):
    deploy("digits", "onnxruntime", "int8")
    options = {"store": str(store.path), "precision": "fp16"}
    request = types.DeployRequest("half", "openvino", options=options)
    result = hooks.deploy(types.Model("deployment", "digits@production"), request, context)
    found = store.resolve(f"half@{result.version}").version
    assert found.precision == found.model.metadata["precision"] == "fp16"
    assert not found.role("recipe")
