"""``lepton store …`` as it is typed."""

import json

import pytest

from lepton_core.cli._run import run
from lepton_core.store import Store
from lepton_core.types import Model


@pytest.fixture
def lepton(monkeypatch, capsys, tmp_path):
    """Run one command line against the test's store; returns exit code and output."""
    monkeypatch.setenv("LEPTON_STORE", str(tmp_path / "store"))

    def call(*arguments):
        code = run(list(arguments), complete_variable="_LEPTON_COMPLETE")
        out, err = capsys.readouterr()
        return code, json.loads(out) if "--json" in arguments else out, err

    yield call
    monkeypatch.delenv("LEPTON_STORE")


@pytest.fixture
def ids(tmp_path):
    with Store(tmp_path / "store") as store:
        found = []
        for name in ("one", "two"):
            (tmp_path / f"{name}.bin").write_bytes(name.encode())
            model = Model("fake", str(tmp_path / f"{name}.bin"))
            added = store.add("digits", model, target="fake", alias="production")
            found.append(added.version.id)
        return found


def test_list_and_show(lepton, ids):
    code, out, _ = lepton("store", "list")
    assert code == 0 and ids[1] in out and "production" in out
    _, data, _ = lepton("store", "list", "--json")
    assert data["deployments"][0]["versions"] == ids[::-1]
    _, out, _ = lepton("store", "show", "digits")
    assert all(i in out for i in ids)
    _, data, _ = lepton("store", "show", "digits@production", "--json")
    assert data["version"]["id"] == ids[1]
    code, out, _ = lepton("store", "show", f"digits@{ids[0][:8]}")
    assert code == 0 and "model/one.bin" in out


def test_promote_rollback_history_and_log(lepton, ids):
    code, out, _ = lepton("store", "rollback", "digits", "--why", "it burns")
    assert code == 0 and ids[0] in out
    code, data, _ = lepton("store", "rollback", "digits", "--json")
    assert (code, data["ok"], data["error"]["code"]) == (1, False, "LPT-STORE-011")
    code, data, _ = lepton("store", "promote", "digits", ids[1][:7], "--expect", "3", "--json")
    assert (code, data["generation"]) == (0, 4)
    code, data, _ = lepton("store", "promote", "digits", ids[0], "--expect", "3", "--json")
    assert (code, data["error"]["code"]) == (1, "LPT-STORE-010")
    assert data["error"]["details"]["present"]["version"] == ids[1]
    _, data, _ = lepton("store", "history", "digits", "--json")
    assert [r["details"]["version"] for r in data["rows"]] == [ids[0], ids[1], ids[0], ids[1]]
    _, out, _ = lepton("store", "log", "--kind", "alias.", "-n", "2")
    assert "it burns" in out


def test_long_details_do_not_widen_the_log(lepton, ids, tmp_path):
    table = {"cells": [{"rows": n, "p50_ms": 1 / 3} for n in range(400)]}
    with Store(tmp_path / "store") as store:
        store.set_setting("digits", "acme.table", {"table": table, "size": 4}, why="measured")
    _, out, err = lepton("store", "log")
    lines = out.splitlines()
    row = next(line for line in lines if "acme.table" in line)
    assert max(map(len, lines)) < 240
    assert "…" in row and row.endswith("measured")
    assert "--json has all" in err
    _, data, _ = lepton("store", "log", "--json")
    assert [r["details"]["value"]["table"] for r in data["rows"] if r["kind"] == "setting.set"] == [
        table
    ]
    _, out, err = lepton("store", "log", "--kind", "alias.")
    assert "…" not in out and err == ""


def test_settings(lepton, ids):
    code, data, _ = lepton("store", "set", "digits", "open", "--value", "threads=2", "--json")
    assert (code, data["value"]) == (0, {"threads": 2})
    code, _, _ = lepton("store", "set", "digits", "open", "--clear")
    assert code == 0
    code, _, err = lepton("store", "set", "digits", "open")
    assert code == 2 and "LPT-STORE-019" in err
    code, _, _ = lepton("store", "set", "digits", "acme.limits", "--value", "queue=8")
    assert code == 0


@pytest.mark.parametrize(
    ("key", "value", "error", "said"),
    [
        ("open", "threads=0", "LPT-DEP-013", "threads=0"),
        ("open", "threads=two", "LPT-DEP-013", "threads='two'"),
        ("open", "device=2", "LPT-DEP-013", "device=2"),
        ("open", "treads=2", "LPT-DEP-013", "treads"),
        ("opne", "threads=2", "LPT-DEP-013", "no setting 'opne'"),
        ("dispatch.production", "threads=2", "LPT-DEP-010", "dispatch table"),
        ("migrate.production", "step=done", "LPT-DEP-013", "journal"),
    ],
)
def test_a_setting_that_no_handle_could_read_is_refused(lepton, ids, key, value, error, said):
    code, _, err = lepton("store", "set", "digits", key, "--value", value)
    assert code != 0
    assert error in err and said in err
    _, data, _ = lepton("store", "log", "--kind", "setting.set", "--json")
    assert data["rows"] == []


def test_verify_and_gc(lepton, ids, tmp_path):
    code, out, _ = lepton("store", "verify")
    assert code == 0 and "as they were stored" in out
    code, out, _ = lepton("store", "gc", "--dry-run", "--grace", "1h")
    assert code == 0 and out.startswith("would remove 0 versions")
    path = next(p for p in (tmp_path / "store" / "cas").rglob("*") if p.is_file())
    path.chmod(0o644)
    path.write_bytes(b"?")
    code, data, _ = lepton("store", "verify", "--json")
    assert (code, data["ok"]) == (5, False)
    assert data["damage"][0]["reason"]
    code, out, _ = lepton("store", "verify")
    assert code == 5 and "damaged" in out


def test_there_is_no_store(lepton, tmp_path):
    code, data, _ = lepton("store", "list", "--json")
    assert (code, data["error"]["code"]) == (5, "LPT-STORE-002")
    code, data, _ = lepton("store", "show", "digits", "--store", str(tmp_path), "--json")
    assert data["ok"] is False


def test_help(lepton):
    code, out, _ = lepton("store", "--help")
    assert code == 0
    assert out.index("list") < out.index("promote") < out.index("gc")
    code, out, _ = lepton("store", "rollback", "--help")
    assert "Examples:" in out
