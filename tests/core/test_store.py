"""Versions, aliases, history, settings, collection and paths of a store."""

import os
import threading
import time
from pathlib import Path

import pytest

from lepton_core.errors import DeployError, LeptonError, StorageError, UsageError
from lepton_core.store import Store, default_path
from lepton_core.store._names import check_member
from lepton_core.types import LineageStep, Model, Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("y", "float32", ("batch", 2)),)
)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def build(tmp_path):
    def make(text, **fields):
        place = tmp_path / "artifacts" / f"{text}.bin"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(text.encode() * 100)
        return Model("fake", str(place), **{"signature": SIGNATURE, **fields})

    return make


def put(store, model, **options):
    return store.add("N", model, target="fake:cpu", **{"alias": "production", **options})


def test_what_goes_in_comes_out(store, build):
    step = LineageStep("convert", "test 1", parent=None, request={"a": 1}, tools={"t": "2"})
    model = build("one", lineage=(step,), metadata={"labels": ["a"], "nested": {"b": [1, 2.5]}})
    added = put(store, model, precision="fp16", facts={"note": "x"}, why="because")
    found = store.resolve("N@production").version
    assert found == added.version
    assert (found.target, found.precision, found.facts) == ("fake:cpu", "fp16", {"note": "x"})
    assert found.model.lineage == (step,)
    assert found.model.metadata == model.metadata
    assert found.size_bytes == 300
    with store.view(found) as view:
        assert Path(view.model.path).read_bytes() == Path(model.path).read_bytes()
        assert Path(view.model.path).name == "one.bin"
        assert not list(view.workdir.iterdir())
    assert not view.folder.exists()


def test_the_same_content_is_the_same_version_everywhere(store, build, tmp_path):
    one = put(store, build("one"))
    copy = tmp_path / "elsewhere" / "one.bin"
    copy.parent.mkdir()
    copy.write_bytes(Path(build("one").path).read_bytes())
    assert store.add("M", Model("fake", str(copy), signature=SIGNATURE), target="fake:cpu")
    assert store.versions("M")[0].id == one.version.id
    with Store(tmp_path / "other") as other:
        assert put(other, build("one")).version.id == one.version.id
    assert put(store, build("two")).version.id != one.version.id
    assert put(store, build("one"), precision="fp16").version.id != one.version.id


def test_folders_and_files_beside(store, tmp_path):
    folder = tmp_path / "net.mlpackage"
    (folder / "Data").mkdir(parents=True)
    (folder / "Data" / "weights.bin").write_bytes(b"w")
    (folder / "manifest.json").write_text("{}")
    version = put(store, Model("fake", str(folder))).version
    with store.view(version) as view:
        place = Path(view.model.path)
        assert place.name == "net.mlpackage"
        assert (place / "Data" / "weights.bin").read_bytes() == b"w"
    beside = tmp_path / "onnx"
    beside.mkdir()
    (beside / "net.onnx").write_bytes(b"graph")
    (beside / "net.onnx.data").write_bytes(b"weights")
    model = Model("fake", str(beside / "net.onnx"), metadata={"external_files": ["net.onnx.data"]})
    with store.view(put(store, model).version) as view:
        place = Path(view.model.path)
        assert place.with_name("net.onnx.data").read_bytes() == b"weights"


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "..", "a/../b", "a//b", "a/./b", "C:x", "a\\b", "a:b", "con", "NUL.txt",
     "a ", "a.", "x" * 300, "a\nb", "a/../../b"],
)  # fmt: skip
def test_paths_that_leave_their_folder_or_are_not_portable(path):
    with pytest.raises(StorageError) as caught:
        check_member(path)
    assert caught.value.code == "LPT-STORE-012"


def test_links_out_of_the_folder_are_not_followed(store, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"a")
    (folder / "b.bin").symlink_to(secret)
    with pytest.raises(StorageError, match="LPT-STORE-012"):
        put(store, Model("fake", str(folder)))
    (folder / "b.bin").unlink()
    (folder / "sub").symlink_to(tmp_path)
    with pytest.raises(StorageError, match="LPT-STORE-012"):
        put(store, Model("fake", str(folder)))
    model = Model("fake", str(folder / "a.bin"), metadata={"external_files": ["../secret"]})
    with pytest.raises(StorageError, match="LPT-STORE-012"):
        put(store, model)
    assert store.names() == ()


def test_a_manifest_cannot_lead_out_of_a_view(store, build):
    """Even one that was made by hand, with the right digest and its row in the ledger."""
    from lepton_core.store import _manifest

    version = put(store, build("one")).version
    data = store.cas.read(version.manifest, "it").replace(b'"model/one.bin"', b'"../../one.bin"')
    digest, _ = store.cas.put_bytes(data)
    with pytest.raises(StorageError, match="LPT-STORE-012"):
        _manifest.parse(data, digest)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a@b", "-x", "x" * 65, "ä", "a b", "a."])
def test_names(store, build, name):
    with pytest.raises(UsageError, match="LPT-STORE-006"):
        store.add(name, build("one"), target="fake")
    with pytest.raises(UsageError, match="LPT-STORE-006"):
        put(store, build("one"), alias=name or "v0123")
    assert store.names() == ()


def test_files_that_are_missing_or_changed(store, build, tmp_path):
    with pytest.raises(UsageError, match="LPT-STORE-017"):
        put(store, Model("fake", str(tmp_path / "none.bin")))
    with pytest.raises(UsageError, match="LPT-STORE-017"):
        put(store, build("one"), recipe=[tmp_path / "none.json"])
    with pytest.raises(StorageError, match="LPT-STORE-013"):
        put(store, build("one", digest="sha256:" + "0" * 64))
    with pytest.raises(UsageError, match="LPT-STORE-018"):
        put(store, build("one", metadata={"x": float("nan")}))


def test_rollback_goes_back_step_by_step(store, build):
    one, two, three = (put(store, build(n)).version.id for n in ("one", "two", "three"))
    assert store.rollback("N", why="it burns").version == two
    assert store.rollback("N").version == one
    with pytest.raises(DeployError, match="LPT-STORE-011"):
        store.rollback("N")
    assert store.promote("N", three[:8]).version == three
    assert store.rollback("N").version == one
    store.promote("N", two)
    store.promote("N", three)
    assert store.rollback("N", to=one[:8]).version == one
    actions = [r.details["action"] for r in store.history("N")]
    assert actions.count("rollback") == 4
    assert store.history("N")[3].why == "it burns"
    assert store.alias("N").generation == len(actions)
    assert store.verify().ok


def test_promoting_what_stands_changes_nothing(store, build):
    put(store, build("one"))
    rows = len(store.ledger())
    state = store.alias("N")
    assert store.promote("N", state.version) == state
    assert len(store.ledger()) == rows


def test_the_loser_of_two_promotions_is_told_the_present_state(store, build):
    one, two = (put(store, build(n)).version.id for n in ("one", "two"))
    seen = store.alias("N").generation
    store.promote("N", one, expect=seen)
    with pytest.raises(DeployError) as caught:
        store.promote("N", two, expect=seen)
    assert caught.value.code == "LPT-STORE-010"
    assert caught.value.details["present"]["version"] == one
    with pytest.raises(DeployError, match="LPT-STORE-010"):
        store.rollback("N", expect=seen)
    with pytest.raises(DeployError, match="LPT-STORE-010"):
        put(store, build("three"), expect=seen)
    assert [v.id for v in store.versions("N")] == [two, one], "nothing half done"


def test_a_removed_alias_does_not_bring_old_tokens_back(store, build):
    one, two = (put(store, build(n)).version.id for n in ("one", "two"))
    store.remove_alias("N", "production")
    with pytest.raises(UsageError, match="LPT-STORE-009"):
        store.resolve("N@production")
    assert store.promote("N", one).generation == 3
    with pytest.raises(DeployError, match="LPT-STORE-010"):
        store.promote("N", two, expect=2)
    assert store.verify().ok


def test_unknown_things_name_what_there_is(store, build):
    put(store, build("one"))
    with pytest.raises(UsageError) as caught:
        store.resolve("N@producton")
    assert "production" in caught.value.remedy
    assert caught.value.details["present"] == ["production"]


def test_settings_move_by_compare_and_swap(store, build):
    put(store, build("one"))
    first = store.set_setting("N", "open", {"threads": 2}, why="measured")
    assert store.settings("N")["open"] == first
    store.set_setting("N", "open", {"threads": 4}, expect=1)
    with pytest.raises(DeployError, match="LPT-STORE-010"):
        store.set_setting("N", "open", {"threads": 8}, expect=1)
    assert store.settings("N")["open"].value == {"threads": 4}
    assert store.watch("N", "production")[2] == 2


def test_the_ledger_can_be_asked(store, build):
    put(store, build("one"))
    store.record("adjust.change", "N", details={"knob": "threads"}, why="p99")
    store.record("adjust.undo", "N")
    store.record("migrate.plan", "M")
    assert [r.kind for r in store.ledger(kind="adjust.")] == ["adjust.change", "adjust.undo"]
    assert [r.kind for r in store.ledger(name="M")] == ["migrate.plan"]
    assert [r.seq for r in store.ledger(limit=2)] == [5, 6]
    assert [r.seq for r in store.ledger(after=4)] == [5, 6]
    with pytest.raises(UsageError, match="LPT-STORE-015"):
        store.record("alias.set", "N")
    with pytest.raises(UsageError, match="LPT-STORE-018"):
        store.record("adjust.change", "N", details={"x": float("inf")})
    assert store.verify().rows == 6


# --- collection ---------------------------------------------------------------------------------


def test_collection_keeps_what_is_needed(store, build):
    ids = [put(store, build(f"number{n}")).version.id for n in range(6)]
    pinned = store.add("M", build("pinned"), target="fake").version.id
    lost = store.add("M", build("lost"), target="fake").version.id
    store.pin("M", pinned, "migration 7")
    assert store.gc(grace=3600, keep=0).versions == ()
    plan = store.gc(grace=0, keep=2, dry_run=True)
    assert set(plan.versions) == {*ids[:3], lost}
    assert store.resolve(f"M@{lost}")
    done = store.gc(grace=0, keep=2)
    assert (done.versions, done.files, done.bytes) == (plan.versions, plan.files, plan.bytes)
    assert [v.id for v in store.versions("N")] == ids[:2:-1]
    assert store.rollback("N").version == ids[4]
    assert store.rollback("N").version == ids[3]
    with pytest.raises(DeployError, match="collection"):
        store.rollback("N")
    assert store.verify().ok
    assert store.gc(grace=3600, keep=2).files == 0, "a rollback may have been a mistake"
    assert set(store.gc(grace=0, keep=2).versions) == set(ids[4:])
    assert store.gc(grace=0, keep=2).files == 0
    store.unpin("M", pinned, "migration 7")
    assert store.gc(grace=0, keep=2).versions == (pinned,)
    again = put(store, build("lost"), alias="back").version.id
    assert again == put(store, build("lost"), alias="back").version.id
    assert store.verify().ok


def test_collection_leaves_files_that_others_share(store, build):
    one = put(store, build("one")).version
    other = store.add("M", build("one"), target="another").version
    assert {f.digest for f in one.files} == {f.digest for f in other.files}
    assert store.gc(grace=0, keep=0).versions == (other.id,)
    assert store.verify().ok
    assert store.view(one).close() is None


def test_collection_removes_old_leftovers_only(store, build):
    put(store, build("one"))
    folder = store.path / "cas" / "sha256" / "ab"
    folder.mkdir(exist_ok=True)
    old, new = folder / ".new-old", folder / ".new-new"
    view = store.view(store.resolve("N").version)
    stale = store.view(store.resolve("N").version)
    for path in (old, new):
        path.write_bytes(b"half")
    ago = time.time() - 3 * 86_400
    for path in (old, stale.folder):
        os.utime(path, (ago, ago))
    assert store.verify().leftovers == 2
    assert store.gc(grace=0).leftovers == 2
    assert (old.exists(), new.exists(), stale.folder.exists()) == (False, True, False)
    assert Path(view.model.path).is_file()
    view.close()


# --- places and processes -----------------------------------------------------------------------


def test_the_default_place(monkeypatch, tmp_path):
    monkeypatch.setenv("LEPTON_STORE", str(tmp_path / "mine"))
    assert default_path() == tmp_path / "mine"
    monkeypatch.delenv("LEPTON_STORE")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_path().name == "store"


def test_a_folder_of_someone_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(StorageError, match="LPT-STORE-001"):
        Store(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_store_of_a_later_version(tmp_path):
    Store(tmp_path / "store").close()
    marker = tmp_path / "store" / "lepton-store.json"
    marker.write_text('{"kind":"lepton.store","schema":2}\n')
    with pytest.raises(StorageError, match="LPT-STORE-014"):
        Store(tmp_path / "store")


def test_a_closed_store_says_so(tmp_path):
    store = Store(tmp_path / "store")
    store.close()
    store.close()
    with pytest.raises(StorageError, match="closed"):
        store.names()


def test_a_busy_store_says_so(tmp_path, build):
    import sqlite3

    with Store(tmp_path / "store", timeout=0.1) as store:
        other = sqlite3.connect(tmp_path / "store" / "ledger.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="LPT-STORE-005"):
            put(store, build("one"))
        assert store.names() == ()
        other.execute("ROLLBACK")
        other.close()
        put(store, build("one"))


def test_many_threads_share_one_store(store, build):
    models = [build(f"number{n}") for n in range(4)]
    problems = []

    def work(number):
        try:
            for _ in range(5):
                store.add(f"N{number}", models[number], target="fake", alias="production")
                store.record("note", f"N{number}")
                assert store.resolve(f"N{number}").version.model.format == "fake"
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert store.verify().ok


def test_text_that_is_no_unicode_is_refused(store, build):
    put(store, build("one"))
    with pytest.raises(UsageError, match="LPT-STORE-018"):
        store.record("note", "N", why="\udcff")
    with pytest.raises(UsageError, match="LPT-STORE-018"):
        put(store, build("two", metadata={"labels": ["\udcff"]}))
    assert store.verify().ok


def test_a_place_under_a_file(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(StorageError, match="LPT-STORE-001"):
        Store(tmp_path / "f" / "store")


def test_a_file_in_the_place_of_a_store(tmp_path):
    (tmp_path / "store").write_text("dear")
    with pytest.raises(StorageError, match="LPT-STORE-001"):
        Store(tmp_path / "store")


def test_no_error_leaves_a_transaction_open(store, build):
    put(store, build("one"))
    with pytest.raises(LeptonError):
        store.promote("N", store.alias("N").version[:8], expect=99)
    put(store, build("two"))


def test_a_store_never_unpickles():
    import lepton_core.store as package

    for file in Path(package.__file__).parent.glob("*.py"):
        assert "pickle" not in file.read_text().replace("allow_pickle=False", ""), file
