"""The embedded engine: from a model to a version, an alias, a bundle that runs by itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lepton_core
from lepton_core import hooks as process_hooks
from lepton_core import types
from lepton_core.dispatch import Hooks
from lepton_core.errors import DeployError, LeptonError, UsageError
from lepton_core.registry import Registry
from lepton_core.store import Store


def has_onnxruntime():
    registry = Registry(environ={})
    return "onnxruntime" in registry.records and "onnx" in registry.records


needs_onnxruntime = pytest.mark.skipif(
    not has_onnxruntime(), reason="lepton-onnxruntime is not installed"
)


@pytest.fixture
def hooks(fake_registry):
    from lepton_core.embedded import plugin
    from lepton_core.embedded.info import INFO

    fake_registry.register(plugin, INFO)
    hooks = Hooks(fake_registry)
    process_hooks.use(hooks)
    return hooks


@pytest.fixture
def source(graph_file, hooks, context):
    folder = context.workdir / "source"
    folder.mkdir()
    model = types.Model("fake-graph", str(graph_file))
    from lepton_core.context import Context

    read = hooks.inspect(model, types.InspectRequest(), Context(folder)).model
    return hooks.adapt(read, types.AdaptRequest("fake"), Context(folder)).model


def request_for(tmp_path, **options):
    fields = {k: options.pop(k) for k in ("alias", "kind", "target") if k in options}
    fields = {"target": "fake", "alias": "production", **fields}
    return types.DeployRequest(name="N", options={"store": tmp_path / "store", **options}, **fields)


def test_the_engine_is_declared_and_found():
    record = Registry(environ={}).record("embedded")
    assert record.entry.distribution == "lepton-core"
    assert Hooks(Registry(environ={})).engine_owner("deploy", "embedded") == "embedded"


def test_a_source_is_converted_tried_stored_and_promoted(source, hooks, context, tmp_path):
    result = hooks.deploy(source, request_for(tmp_path, why="a test"), context)
    assert (result.name, result.facts["alias"], result.facts["generation"]) == (
        "N", "production", 1,
    )  # fmt: skip
    assert result.facts["golden"]["origin"] == "random"
    with Store(tmp_path / "store") as store:
        found = store.resolve("N@production")
        assert found.version.id == result.version
        assert found.version.model.format == "fake"
        assert [s.step for s in found.version.model.lineage][-1].startswith("convert")
        assert store.history("N")[0].why == "a test"
        assert store.verify().ok
    with lepton_core.deployment("N", store=tmp_path / "store", hooks=hooks) as deployed:
        assert deployed.run({"x": np.ones((1, 6), np.float32)})["y"].shape == (1, 3)
    assert not list(context.workdir.glob(".deploy-*"))


def test_the_same_artifact_gets_the_same_version(source, hooks, context, tmp_path):
    one = hooks.deploy(source, request_for(tmp_path), context)
    two = hooks.deploy(source, request_for(tmp_path), context)
    assert one.version == two.version
    assert two.facts["generation"] == 1


def test_a_stored_version_goes_on_under_another_name(source, hooks, context, tmp_path):
    np.savez(tmp_path / "real.npz", x=np.ones((4, 6), np.float32))
    asked = request_for(tmp_path, samples=str(tmp_path / "real.npz"))
    first = hooks.deploy(source, asked, context)
    options = {"store": str(tmp_path / "store")}
    second = lepton_core.deploy(
        "N@production", name="M", target="fake", alias="beta", options=options, context=context
    )
    assert second.version == first.version, "artifact, origin and real golden rows are the same"
    assert second.facts["golden"]["kept"]
    with Store(tmp_path / "store") as store:
        assert store.alias("M", "beta").version == first.version
        (row,) = store.ledger(name="M", kind="version.add")
        assert row.why == f"from N@production ({first.version})"
    refused = [
        ("N@v9999", {}, "LPT-STORE-008"),
        ("none@x", {}, "LPT-STORE-007"),
        ("N@production", {"precision": "fp16"}, "LPT-DEP-014"),
    ]
    for reference, more, code in refused:
        with pytest.raises(UsageError) as caught:
            lepton_core.deploy(
                reference, name="M", target="fake", options=options | more, context=context
            )
        assert caught.value.code == code


def test_real_samples_become_golden_only_when_asked(source, hooks, context, tmp_path):
    rows = np.arange(30, dtype=np.float32).reshape(5, 6)
    np.savez(tmp_path / "samples.npz", x=rows)
    result = hooks.deploy(
        source, request_for(tmp_path, samples=str(tmp_path / "samples.npz"), golden_rows=3), context
    )
    with Store(tmp_path / "store") as store:
        version = store.resolve("N").version
        with store.view(version) as view:
            kept = np.load(view.folder / "golden" / "input-000.npy")
    assert np.array_equal(kept, rows[:3])
    assert result.facts["golden"]["rows"] == 3


def test_an_artifact_that_answers_otherwise_is_not_opened(source, hooks, context, tmp_path):
    from lepton_core.deployment._golden import write_golden
    from lepton_core.types import ConvertRequest

    built = hooks.convert(source, ConvertRequest("fake"), context).model
    wrong = write_golden(
        tmp_path / "golden",
        {"x": np.ones((1, 6), np.float32)},
        {"y": np.full((1, 3), 9.0, np.float32)},
        origin="test",
        rel_l2=1e-3,
    )
    with Store(tmp_path / "store") as store:
        store.add("N", built, target="fake", golden=wrong, alias="production")
        with pytest.raises(DeployError, match="LPT-DEP-006"):
            lepton_core.deployment("N", store=store, hooks=hooks)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"kind": "server"}, "LPT-DEP-009"),
        ({"colour": "red"}, "LPT-DEP-005"),
        ({"golden_rows": "many"}, "LPT-DEP-005"),
        ({"kind": "bundle"}, "LPT-DEP-004"),
        ({"alias": "v0123"}, "LPT-STORE-006"),
        ({"expect": 7}, "LPT-STORE-010"),
    ],
)
def test_what_cannot_be_deployed_changes_nothing(source, hooks, context, tmp_path, change, code):
    with pytest.raises(LeptonError) as caught:
        hooks.deploy(source, request_for(tmp_path, **change), context)
    assert caught.value.code == code
    if (tmp_path / "store").exists():
        with Store(tmp_path / "store") as store:
            assert store.names() == ()


def test_a_file_that_changed_since_it_was_built_is_refused(source, hooks, context, tmp_path):
    built = hooks.convert(source, types.ConvertRequest("fake"), context).model
    path = Path(built.path)
    path.write_text(path.read_text().replace(" ", "") + "\n")
    with pytest.raises(LeptonError, match="is not the artifact"):
        hooks.deploy(built, request_for(tmp_path), context)
    assert not (tmp_path / "store").exists()


def linear_onnx(path, factor):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.full((4, 2), factor, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path)
    return str(path)


@needs_onnxruntime
def test_onnxruntime_deployed_swapped_and_rolled_back(tmp_path):
    options = {"store": str(tmp_path / "store")}
    for factor in (1.0, 2.0):
        lepton_core.deploy(
            linear_onnx(tmp_path / f"net{factor}.onnx", factor),
            name="net",
            target="onnxruntime",
            alias="production",
            options=options,
        )
    x = {"x": np.ones((3, 4), np.float32)}
    with (
        Store(tmp_path / "store") as store,
        lepton_core.deployment("net", store=store, poll_seconds=None) as deployed,
    ):
        assert deployed.run(x)["y"][0, 0] == 8.0
        store.rollback("net")
        assert deployed.check()
        assert deployed.run(x)["y"][0, 0] == 4.0
        assert store.verify().ok


@needs_onnxruntime
def test_a_variant_is_deployed_with_its_passport(tmp_path, pool):
    process_hooks.use(Hooks(Registry(environ={}), pool))
    source = linear_onnx(tmp_path / "net.onnx", 1.5)
    ported = lepton_core.port(
        source, targets=["onnxruntime"], out=tmp_path / "out", latency_seconds=0.0
    )
    result = lepton_core.deploy(
        ported["onnxruntime"].best,
        name="net",
        target="",
        alias="production",
        options={"store": str(tmp_path / "store")},
    )
    with Store(tmp_path / "store") as store:
        version = store.resolve("net").version
        passport = store.passport(version)
        assert version.id == result.version
        assert version.precision == "fp32"
        assert passport["variant"]["digest"] == version.model.digest
        assert store.verify().ok
    with pytest.raises(UsageError, match="LPT-USE-007"):
        lepton_core.deploy(types.Variant("onnxruntime", "fp16", None), name="net", target="")
    with pytest.raises(UsageError, match="LPT-USE-001"):
        lepton_core.deploy(source, name="net", target="")


@needs_onnxruntime
def test_a_bundle_runs_where_only_the_runtime_is(tmp_path):
    source = linear_onnx(tmp_path / "net.onnx", 1.5)
    out = tmp_path / "bundle"
    result = lepton_core.deploy(
        source,
        name="net",
        target="onnxruntime",
        kind="bundle",
        options={"store": str(tmp_path / "store"), "out": str(out)},
    )
    assert result.location == str(out)
    names = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert {
        "SHA256SUMS", "lepton.json", "signature.json", "preprocessing.json", "run.py",
        "runtime.py", "golden/golden.json",
    } <= names  # fmt: skip
    with Store(tmp_path / "store") as store:
        assert store.resolve(f"net@{result.version}").version.role("origin")
    assert not [name for name in names if name.startswith("origin/")], "a bundle only runs"
    about = json.loads((out / "lepton.json").read_text())
    assert about["version"] == result.version
    assert (out / about["model"]).is_file()
    said = run_bundle(out)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("ok: every file, golden pairs within")
    sums = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out, check=False)
    assert sums.returncode == 0


def run_bundle(out):
    """Run a bundle's program in a process that cannot import lepton."""
    code = (
        "import sys, runpy\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('lepton_core', 'lepton_onnx',\n"
        "                'lepton_onnxruntime', 'lepton_kernels', 'onnx', 'torch'):\n"
        "            raise ImportError(f'{name} must not be needed')\n"
        "sys.meta_path.insert(0, No())\n"
        "runpy.run_path('run.py', run_name='__main__')\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-B", "-P", "-c", code],
        cwd=out, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip


@needs_onnxruntime
def test_a_changed_bundle_refuses_to_run(tmp_path):
    out = tmp_path / "bundle"
    lepton_core.deploy(
        linear_onnx(tmp_path / "net.onnx", 1.5),
        name="net",
        target="onnxruntime",
        kind="bundle",
        options={"store": str(tmp_path / "store"), "out": str(out)},
    )
    for name in ("model", "golden", "signature.json", "runtime.py"):
        path = out / name
        if path.is_dir():
            path = next(p for p in sorted(path.rglob("*")) if p.is_file())
        path.chmod(0o644)
        saved = path.read_bytes()
        path.write_bytes(saved[:-1] + bytes([saved[-1] ^ 1]))
        said = run_bundle(out)
        assert said.returncode != 0, name
        assert "is not the file that was shipped" in said.stderr, (name, said.stderr)
        path.write_bytes(saved)
    assert run_bundle(out).returncode == 0


@needs_onnxruntime
def test_a_bundle_does_not_replace_what_is_not_ours(tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("dear")
    with pytest.raises(LeptonError, match="LPT-IO-003"):
        lepton_core.deploy(
            linear_onnx(tmp_path / "net.onnx", 1.5),
            name="net",
            target="onnxruntime",
            kind="bundle",
            options={"store": str(tmp_path / "store"), "out": str(out)},
        )
    assert (out / "thesis.txt").read_text() == "dear"
    assert not (tmp_path / "store").exists()


def test_an_unknown_option_names_what_there_is(source, hooks, context, tmp_path):
    with pytest.raises(UsageError) as caught:
        hooks.deploy(source, request_for(tmp_path, colour="red"), context)
    assert "golden_rows" in caught.value.remedy
