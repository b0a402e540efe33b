"""What an artifact was lowered from is kept beside it, in a port result, and with a version."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import lepton_core
from lepton_core import types
from lepton_core.context import Context
from lepton_core.dispatch import Hooks
from lepton_core.errors import StorageError, UsageError
from lepton_core.files import digest_path
from lepton_core.origins import INDEX, ORIGIN, PIVOT, find_origin, keep_origin, read_origin
from lepton_core.store import Store


@pytest.fixture
def hooks(fake_registry):
    from lepton_core.embedded import plugin
    from lepton_core.embedded.info import INFO

    fake_registry.register(plugin, INFO)
    return Hooks(fake_registry)


@pytest.fixture
def source(graph_file, hooks, context):
    folder = context.workdir / "source"
    folder.mkdir()
    read = hooks.inspect(
        types.Model("fake-graph", str(graph_file)), types.InspectRequest(), Context(folder)
    ).model
    return hooks.adapt(read, types.AdaptRequest("fake"), Context(folder)).model


def lowered(hooks, source, folder):
    folder.mkdir(parents=True)
    return hooks.lower(source, types.ConvertRequest("fake"), Context(folder))


def pivot_in(folder, text="graph", files=()):
    folder.mkdir(parents=True)
    path = folder / "net.onnx"
    path.write_text(text)
    for name in files:
        (folder / name).write_text(f"{text} {name}")
    metadata = {"external_files": list(files)} if files else {}
    digest = digest_path(path) if not files else "sha256:" + "1" * 64
    return types.Model(PIVOT, str(path), digest=digest, metadata=metadata)


def made_from(pivot, folder):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.bin"
    path.write_bytes(b"artifact")
    step = types.LineageStep("convert", "test 1", pivot.digest)
    return types.Model("t", str(path), digest=digest_path(path), lineage=(step,))


def test_an_origin_is_found_beside_its_artifact_with_all_its_files(tmp_path):
    pivot = pivot_in(tmp_path / "scratch", files=("net.data",))
    artifact = made_from(pivot, tmp_path / "out")
    assert find_origin(artifact) is None
    kept = keep_origin(pivot, tmp_path / "out" / ORIGIN)
    shutil.rmtree(tmp_path / "scratch")
    assert kept == pivot.evolve(path=str(tmp_path / "out" / ORIGIN / "net.onnx"))
    assert find_origin(artifact) == kept
    assert (tmp_path / "out" / ORIGIN / "net.data").read_text() == "graph net.data"


def test_it_moves_with_the_folder_and_is_the_same_wherever_it_is_kept(tmp_path):
    pivot = pivot_in(tmp_path / "scratch")
    keep_origin(pivot, tmp_path / "a" / ORIGIN)
    keep_origin(pivot, tmp_path / "b" / ORIGIN)
    texts = {(tmp_path / n / ORIGIN / INDEX).read_text() for n in "ab"}
    assert len(texts) == 1
    made_from(pivot, tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "moved")
    found = find_origin(made_from(pivot, tmp_path / "moved"))
    assert Path(found.path) == tmp_path / "moved" / ORIGIN / "net.onnx"


def test_an_artifact_with_the_bytes_of_its_origin_has_one(tmp_path):
    pivot = pivot_in(tmp_path / "from")
    made = made_from(pivot, tmp_path / "out")
    shutil.copy(pivot.path, made.path)  # as ONNX Runtime's fp32 files are
    made = made.evolve(digest=pivot.digest)
    kept = keep_origin(pivot, tmp_path / "out" / ORIGIN)
    assert find_origin(made) == kept
    assert find_origin(kept) is None


def test_the_pivot_of_a_port_result_is_found_from_each_variant(tmp_path):
    pivot = pivot_in(tmp_path / "scratch")
    artifact = made_from(pivot, tmp_path / "out" / "target" / "fp32")
    keep_origin(pivot, tmp_path / "out" / PIVOT)
    assert find_origin(artifact) is None, "nothing says that this is a port result"
    (tmp_path / "out" / "lepton.json").write_text("{}")
    assert find_origin(artifact).digest == pivot.digest


def test_an_artifact_with_the_bytes_of_its_pivot_has_it_as_origin(tmp_path):
    pivot = pivot_in(tmp_path / "scratch")
    artifact = made_from(pivot, tmp_path / "out")
    Path(artifact.path).write_bytes(Path(pivot.path).read_bytes())
    artifact = replace(artifact, digest=pivot.digest)
    keep_origin(pivot, tmp_path / "out" / ORIGIN)
    assert find_origin(artifact).format == PIVOT


def test_an_origin_of_another_lineage_is_not_taken(tmp_path):
    pivot = pivot_in(tmp_path / "scratch")
    other = pivot_in(tmp_path / "other", "another graph")
    artifact = made_from(pivot, tmp_path / "out")
    keep_origin(other, tmp_path / "out" / ORIGIN)
    assert find_origin(artifact) is None
    assert find_origin(replace(artifact, lineage=())).digest == other.digest


@pytest.mark.parametrize("what", ["byte", "gone", "json", "path", "schema", "digest"])
def test_a_damaged_origin_is_refused_with_the_reason(tmp_path, what):
    pivot = pivot_in(tmp_path / "scratch")
    artifact = made_from(pivot, tmp_path / "out")
    kept = keep_origin(pivot, tmp_path / "out" / ORIGIN)
    index = tmp_path / "out" / ORIGIN / INDEX
    data = json.loads(index.read_text())
    if what == "byte":
        Path(kept.path).write_text("graqh")
    elif what == "gone":
        Path(kept.path).unlink()
    elif what == "json":
        index.write_text(index.read_text()[:-9])
    elif what == "path":
        data["files"][0]["path"] = data["model"]["path"] = "../net.onnx"
    elif what == "schema":
        data["schema"] = 99
    else:
        data["files"][0]["digest"] = "sha256:" + "0" * 64
    if what in ("path", "schema", "digest"):
        index.write_text(json.dumps(data))
    with pytest.raises(StorageError) as caught:
        find_origin(artifact)
    assert caught.value.code == "LPT-ORIG-001"
    assert caught.value.cause


def test_code_is_no_origin(tmp_path):
    path = tmp_path / "net.py"
    path.write_text("def net(): ...")
    with pytest.raises(UsageError, match="cannot be kept") as caught:
        keep_origin(types.Model("torch.factory", str(path), "net", digest="sha256:1"), tmp_path)
    assert caught.value.code == "LPT-ORIG-002"
    assert read_origin(tmp_path) is None


def test_lowering_returns_what_it_was_lowered_from(hooks, source, tmp_path):
    done, before = lowered(hooks, source, tmp_path / "built")
    assert before == source
    assert done.model.lineage[-1].parent == before.digest
    assert hooks.lower(done.model, types.ConvertRequest("fake"), Context(tmp_path))[1] is None


def test_a_deployed_artifact_brings_its_origin_into_the_store_once(hooks, source, tmp_path):
    from lepton_core import hooks as process_hooks

    process_hooks.use(hooks)
    (tmp_path / "w").mkdir()
    options = {"store": str(tmp_path / "store")}
    for precision in ("fp32", "fp16"):
        lepton_core.deploy(
            source, name="N", target="fake", alias="production",
            options={**options, "precision": precision},
            context=Context(tmp_path / "w"),
        )  # fmt: skip
    with Store(tmp_path / "store") as store:
        versions = store.versions("N")
        origins = [{f.digest for f in v.role(ORIGIN)} for v in versions]
        assert len(versions) == 2
        assert len(origins[0]) == 2
        assert origins[0] == origins[1], "one origin, stored once"
        with store.view(versions[0], origin=True) as view:
            assert find_origin(view.model).digest == source.digest
        with store.view(versions[0]) as view:
            assert not (view.folder / ORIGIN).exists()
        assert store.verify().ok


def test_deploying_an_artifact_takes_the_origin_that_stands_beside_it(hooks, source, tmp_path):
    done, before = lowered(hooks, source, tmp_path / "built")
    keep_origin(before, tmp_path / "built" / ORIGIN)
    (tmp_path / "w").mkdir()
    request = types.DeployRequest("N", "fake", options={"store": str(tmp_path / "store")})
    result = hooks.deploy(done.model, request, Context(tmp_path / "w"))
    with Store(tmp_path / "store") as store:
        version = store.resolve(f"N@{result.version}").version
        assert [f.path for f in version.role(ORIGIN)] == [
            "origin/adapted.fake",
            "origin/origin.json",
        ]
