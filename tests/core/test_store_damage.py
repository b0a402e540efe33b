"""Whatever is flipped in a store is noticed, and what is damaged is never used."""

import random
import re
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from lepton_core.deployment._routes import Dispatch, Route
from lepton_core.errors import DeployError, LeptonError, StorageError
from lepton_core.files import digest_path
from lepton_core.origins import keep_origin
from lepton_core.passport import make_passport
from lepton_core.samples import random_samples
from lepton_core.store import Store
from lepton_core.types import Model, Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("y", "float32", ("batch", 2)),)
)


def passport_of(model):
    y = np.ones((8, 2), np.float32)
    return make_passport(
        source=model,
        variant=model,
        target="fake",
        precision="fp32",
        reference={"y": y},
        actual={"y": y},
        held_out=random_samples(SIGNATURE, 8, 0),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A closed store with something of every kind in it."""
    folder = tmp_path_factory.mktemp("damage")
    (folder / "golden").mkdir()
    np.save(folder / "golden" / "x.npy", np.ones((1, 4), np.float32))
    (folder / "recipe.json").write_text('{"steps": [1, 2, 3]}')
    rng = random.Random(1)
    (folder / "pivot.bin").write_bytes(rng.randbytes(2000))
    pivot = Model("pivot", str(folder / "pivot.bin"), digest=digest_path(folder / "pivot.bin"))
    keep_origin(pivot, folder / "origin")
    with Store(folder / "store") as store:
        for name in ("first", "second"):
            place = folder / f"{name}.bin"
            place.write_bytes(rng.randbytes(3000))
            model = Model("fake", str(place), signature=SIGNATURE)
            added = store.add(
                "N",
                model,
                target="fake",
                passport=passport_of(model),
                recipe=[folder / "recipe.json"],
                golden=folder / "golden",
                origin=folder / "origin",
                alias="production",
                why="a reason",
            )
        store.set_setting("N", "open", {"threads": 2})
        table = Dispatch(added.version.id, (Route(added.version.id, threads=1),), change="c1")
        store.set_setting("N", "dispatch.production", table.to_value())
        store.pin("N", added.version.id, "migration 1")
        store.record("adjust.change", "N", details={"predicted": 0.5, "measured": 0.25})
        store.metrics.write("N", [{"calls": 5}, {"calls": 7}])
    return folder / "store"


def kinds(root):
    """Return the kind of every stored file, for tests that must miss none."""
    with Store(root) as store:
        roles = {}
        for version in store.versions("N"):
            roles[version.manifest] = "manifest"
            roles |= {f.digest: f.path.partition("/")[0] for f in version.files}
    found = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        top = path.relative_to(root).parts[0]
        found[path] = roles[f"sha256:{path.name}"] if top == "cas" else top
    return found


def flip(path, position, bit):
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def content(root):
    """Return all that the databases say, or None if they cannot be read."""
    said = []
    for name in ("ledger.db", "metrics.db"):
        connection = sqlite3.connect(root / name)
        try:
            for pragma in ("application_id", "user_version"):
                said.append(connection.execute(f"PRAGMA {pragma}").fetchall())
            said.append(list(connection.iterdump()))
        except sqlite3.Error:
            return None
        finally:
            connection.close()
    return said


def answers(root):
    """Return what a program would be given: model bytes, settings, measurements."""
    with Store(root, create=False, timeout=1.0) as store:
        found = store.resolve("N@production")
        with store.view(found.version) as view:
            files = {
                str(p.relative_to(view.folder)): p.read_bytes()
                for p in sorted(view.folder.rglob("*"))
                if p.is_file()
            }
        metrics = [(m.name, m.data) for m in store.metrics.read("N")]
        return [found, files, store.settings("N"), store.passport(found.version), metrics]


def judge(root, expected):
    """Return the reasons that are given for damage, and whether what is used is right."""
    reasons = []
    try:
        with Store(root, create=False, timeout=1.0) as store:
            report = store.verify()
            reasons += [d.reason for d in report.damage]
    except LeptonError as error:
        reasons.append(error.cause or error.message)
    try:
        *given, metrics = answers(root)
        assert given == expected[:-1], "a damaged store gave a wrong answer"
        # A measurement whose name or index entry is damaged is not found; it is never a wrong one.
        assert all(metric in expected[-1] for metric in metrics)
        assert metrics == expected[-1] or reasons
    except LeptonError as error:
        assert error.code.startswith(("LPT-STORE", "LPT-IO"))
    return reasons


def restore(root, saved):
    for extra in set(root.iterdir()) - set(saved) - {root / "cas", root / "views"}:
        extra.unlink()
    for path, data in saved.items():
        if not path.exists() or path.read_bytes() != data:
            path.chmod(0o644) if path.exists() else None
            path.write_bytes(data)


def picks(data, count, rng):
    """Positions spread over a file, most of them where there is something."""
    filled = [i for i, byte in enumerate(data) if byte]
    chosen = [rng.choice(filled) for _ in range(count - count // 5)]
    return chosen + [rng.randrange(len(data)) for _ in range(count // 5)]


def test_every_flipped_bit_in_every_kind_of_file(whole, tmp_path):
    root = tmp_path / "store"
    shutil.copytree(whole, root)
    files = kinds(root)
    saved = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    expected = answers(root)
    restore(root, saved)
    assert set(files.values()) == {
        "manifest", "model", "passport", "recipe", "golden", "origin",
        "ledger.db", "ledger.db.seal", "ledger.head",
        "metrics.db", "metrics.db.seal", "lepton-store.json",
    }  # fmt: skip
    rng = random.Random(20)
    budget = {"ledger.db": 160, "metrics.db": 60, "ledger.head": 25, "lepton-store.json": 20}
    tried = 0
    unnoticed = []
    for path, kind in files.items():
        for position in picks(saved[path], budget.get(kind, 12), rng):
            bit = rng.randrange(8)
            flip(path, position, bit)
            reasons = judge(root, expected)
            tried += 1
            if not reasons:
                unnoticed.append((kind, position, bit))
            restore(root, saved)
    print(f"{tried} flips, {len(unnoticed)} unnoticed")
    assert not unnoticed
    assert tried >= 300


def unused_bit(path):
    """Flip a bit in the middle of the longest run of zeros: a part of a page that holds nothing."""
    data = path.read_bytes()
    longest = max(re.finditer(rb"\0+", data), key=lambda match: match.end() - match.start())
    flip(path, (longest.start() + longest.end()) // 2, 3)


def verified(root):
    with Store(root, create=False) as store:
        return [f"{d.place}: {d.reason}" for d in store.verify().damage]


@pytest.mark.parametrize("name", ["ledger.db", "metrics.db"])
def test_a_bit_that_holds_nothing_is_noticed_until_somebody_writes(whole, tmp_path, name):
    root = tmp_path / "store"
    shutil.copytree(whole, root)
    unused_bit(root / name)
    for _ in range(2):  # looking neither heals nor hides it
        (reason,) = verified(root)
        assert reason.startswith(f"{name}: it has the digest sha256:")
    with Store(root) as store:
        store.record("note", "N")
        store.metrics.write("N", [{"calls": 1}])
        assert store.verify().ok, "an open database has no seal"
    assert verified(root) == []
    unused_bit(root / name)
    assert len(verified(root)) == 1


def test_a_write_that_is_refused_leaves_the_seal(whole, tmp_path):
    root = tmp_path / "store"
    shutil.copytree(whole, root)
    unused_bit(root / "ledger.db")
    with Store(root) as store, pytest.raises(DeployError, match="LPT-STORE-010"):
        store.rollback("N", expect=99)
    (reason,) = verified(root)
    assert "was sealed with" in reason


def test_a_seal_from_before_the_last_change_counts_no_more(whole, tmp_path):
    """Its removal need not have reached the disk when the power went."""
    root = tmp_path / "store"
    shutil.copytree(whole, root)
    with Store(root) as store:
        store.record("note", "N")
        store.metrics.write("N", [{"calls": 1}])
    for name in ("ledger.db.seal", "metrics.db.seal"):
        shutil.copyfile(whole / name, root / name)
    assert verified(root) == []


def test_whoever_closes_last_seals(whole, tmp_path):
    root = tmp_path / "store"
    shutil.copytree(whole, root)
    seal = root / "ledger.db.seal"
    with Store(root) as first:
        with Store(root) as second:
            first.record("note", "N")
            assert not seal.exists()
            second.record("note", "N")
        first.record("note", "N")
        assert not seal.exists()
        assert verified(root) == []
    assert seal.exists()
    assert verified(root) == []


def test_a_changed_counter_of_measurements_is_noticed(whole, tmp_path):
    root = tmp_path / "store"
    shutil.copytree(whole, root)
    connection = sqlite3.connect(root / "metrics.db", isolation_level=None)
    connection.execute("UPDATE sqlite_sequence SET seq = seq + 4")
    connection.close()
    with Store(root) as store:
        reasons = [d.reason for d in store.verify().damage]
    assert any("counter of rows" in reason for reason in reasons), reasons


def test_flips_in_the_write_ahead_log(whole, tmp_path):
    """A machine that stopped leaves the last rows in the log; none of them gets lost unnoticed."""
    root = tmp_path / "store"
    shutil.copytree(whole, tmp_path / "live")
    with Store(tmp_path / "live") as store:
        store.rollback("N")
        store.record("adjust.change", "N", details={"number": 1})
        shutil.copytree(tmp_path / "live", root)
    log = root / "ledger.db-wal"
    saved = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    before = content(root)
    restore(root, saved)
    expected = answers(root)
    restore(root, saved)
    rng = random.Random(3)
    lost = 0
    for position in picks(saved[log], 60, rng):
        flip(log, position, rng.randrange(8))
        reasons = judge(root, expected)
        lost += bool(reasons)
        if not reasons:
            assert content(root) == before
        restore(root, saved)
    assert lost >= 45


@pytest.mark.parametrize("kind", ["ledger.db", "ledger.head", "lepton-store.json", "cas"])
def test_missing_and_cut_files(whole, tmp_path, kind):
    for number, harm in enumerate((Path.unlink, lambda p: p.write_bytes(p.read_bytes()[:-7]))):
        root = tmp_path / f"{number}"
        shutil.copytree(whole, root)
        path = root / kind
        if path.is_dir():
            path = next(p for p in path.rglob("*") if p.is_file())
            path.chmod(0o644)
        harm(path)
        try:
            with Store(root, create=False) as store:
                assert not store.verify().ok
        except StorageError as error:
            assert error.code in ("LPT-STORE-001", "LPT-STORE-003", "LPT-STORE-004")


def tamper(root, *statements):
    connection = sqlite3.connect(root / "ledger.db", isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE aliases SET version=(SELECT version FROM versions ORDER BY version DESC LIMIT 1), "
        "generation=generation+1",
        "UPDATE aliases SET generation=generation+1",
        "UPDATE settings SET value='{\"threads\":64}'",
        "UPDATE ledger SET body=replace(body, 'a reason', 'another') WHERE seq=2",
        "DELETE FROM ledger WHERE seq=(SELECT max(seq) FROM ledger)",
        "DELETE FROM pins",
        "DELETE FROM entries WHERE seq=2",
        "UPDATE versions SET manifest='sha256:' || hex(zeroblob(32))",
        "INSERT INTO aliases SELECT 'N', 'beta', version, 1, 3 FROM aliases",
    ],
)
def test_a_changed_row_is_noticed(whole, tmp_path, statement):
    root = tmp_path / "store"
    shutil.copytree(whole, root)
    tamper(root, statement)
    with Store(root) as store:
        report = store.verify()
        assert not report.ok
        assert all(d.reason for d in report.damage)
        if "aliases SET" in statement:
            with pytest.raises(StorageError, match="LPT-STORE-004"):
                store.resolve("N@production")
        if "settings" in statement:
            with pytest.raises(StorageError, match="LPT-STORE-004"):
                store.settings("N")


def test_an_older_database_in_the_place_of_the_newer_one(whole, tmp_path):
    root = tmp_path / "store"
    shutil.copytree(whole, root)
    with Store(root) as store:
        store.rollback("N")
    shutil.copyfile(whole / "ledger.db", root / "ledger.db")
    with Store(root) as store:
        assert any("was committed" in d.reason for d in store.verify().damage)
        with pytest.raises(StorageError, match="LPT-STORE-004"):
            store.promote("N", "v0000")
        with pytest.raises(StorageError, match="LPT-STORE-004"):
            store.record("note", "N")


def test_a_damaged_file_is_not_opened_and_a_new_deployment_heals_it(whole, tmp_path):
    root = tmp_path / "store"
    shutil.copytree(whole, root)
    with Store(root) as store:
        version = store.resolve("N").version
        file = version.role("model")[0]
        flip(store.cas.path(file.digest), 100, 0)
        with pytest.raises(StorageError, match="LPT-STORE-004") as caught:
            store.view(version)
        assert caught.value.details["path"] == file.path
        original = whole.parent / "second.bin"
        store.add("N", Model("fake", str(original), signature=SIGNATURE), target="fake")
        assert store.verify().ok


def test_a_database_of_someone_else(tmp_path):
    with Store(tmp_path / "store"):
        pass
    for path in (tmp_path / "store").glob("ledger.db*"):
        path.unlink()
    other = sqlite3.connect(tmp_path / "store" / "ledger.db")
    other.execute("CREATE TABLE t(a)")
    other.commit()
    other.close()
    with Store(tmp_path / "store") as store:
        with pytest.raises(StorageError, match="LPT-STORE-003"):
            store.names()
        assert not store.verify().ok
