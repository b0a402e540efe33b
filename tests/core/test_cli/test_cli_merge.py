"""``lepton verify --merge``: what a device measured, in the passport of any target's variant."""

from __future__ import annotations

import errno
import json

import pytest

from lepton_core._device_proof import seal_of
from lepton_core.deployment._golden import read_golden
from lepton_core.files import digest_path
from lepton_core.passport import load_passport
from lepton_core.store import Store

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def place(built, lepton, fake_registry, tmp_path, monkeypatch):
    """A variant that is deployed, so that the store has its golden pairs."""
    from lepton_core.embedded import plugin
    from lepton_core.embedded.info import INFO

    fake_registry.register(plugin, INFO)
    monkeypatch.setenv("LEPTON_STORE", str(tmp_path / "store"))
    variant = built / "fake" / "fp16"
    ended = lepton("deploy", variant, "--to", "fake:cpu", "--name", "net", "--json")
    assert ended.code == 0, ended.err
    assert ended.data["facts"]["target"] == "fake:cpu", "the device is part of the target"
    return variant


@pytest.fixture
def proof(place, tmp_path):
    """What a program on a device would write that ran the pairs: they are equal there."""
    (about,) = Store(tmp_path / "store", create=False).versions("net")
    with Store(tmp_path / "store", create=False) as store, store.view(about) as view:
        _, outputs, _ = read_golden(view.folder / "golden")
        golden = digest_path(view.folder / "golden")
    numbers = {
        "mismatched_rows": 0, "nonfinite_mismatched": 0, "max_abs": 0.0, "mean_abs": 0.0,
        "rel_l2": 0.0, "cosine": 1.0,
    }  # fmt: skip
    data = {
        "kind": "lepton.device-proof",
        "schema": 1,
        "created": "2026-01-02T03:04:05+00:00",
        "bundle": {"name": "net", "version": about.id},
        "artifact": {"digest": about.model.digest},
        "golden": {"digest": golden},
        "device": {"platform": "linux", "os": "Linux 6.1", "chip": "a board\x1b[31m"},
        "runtime": {"numpy": "2"},
        "runs": [{"units": "cpu", "outputs": dict.fromkeys(outputs, numbers),
                  "latency": {"p50_ms": 0.5, "p95_ms": 0.75, "batch": 2, "runs": 9}}],
    }  # fmt: skip
    path = tmp_path / "device-proof.json"

    def write(change=lambda data: None):
        made = json.loads(json.dumps(data))
        change(made)
        path.write_text(json.dumps({**made, "seal": seal_of(made)}))
        return path

    return write


def test_a_device_of_any_target_is_taken_in(place, proof, lepton, samples):
    page = (place / "passport.html").read_text()
    ended = lepton("verify", place, "--merge", proof())
    assert ended.code == 0, ended.err
    assert "proof:    device proof on a board[31m, Linux 6.1 (cpu)" in ended.out
    assert "cpu:         pass  rel. L2 0  0.5 ms" in ended.out
    assert str(place / "passport.json") in ended.out
    assert "On a board" in (place / "passport.html").read_text() and "On a board" not in page
    assert "device proof on" in lepton("verify", place).out
    again = lepton("verify", place, "--data", samples, "--json")
    assert again.code == 0 and again.data["proof"].startswith("device proof on a board")
    assert again.data["passport"]["devices"] == load_passport(place / "passport.json")["devices"]


def test_a_second_device_stands_beside_the_first(place, proof, lepton):
    assert lepton("verify", place, "--merge", proof()).code == 0

    def other(data):
        data["device"]["chip"] = "another board"
        for name in data["runs"][0]["outputs"]:
            data["runs"][0]["outputs"][name] |= {"rel_l2": "Infinity", "cosine": None}

    ended = lepton("verify", place, "--merge", proof(other), "--json")
    assert (ended.code, ended.data["ok"], ended.data["verdict"]) == (1, False, "fail")
    found = load_passport(place / "passport.json")
    assert [device["verdict"] for device in found["devices"]] == ["pass", "fail"]
    assert found["variant"]["session"]["proof"].endswith(
        "; fails on another board, Linux 6.1 (cpu)"
    )
    # the same device again, mended, is the same entry
    fixed = proof(lambda data: data["device"].update(chip="another board"))
    assert lepton("verify", place, "--merge", fixed).code == 0
    found = load_passport(place / "passport.json")
    assert [device["verdict"] for device in found["devices"]] == ["pass", "pass"]


def test_a_failing_run_fails_whatever_its_numbers_are(place, proof, lepton):
    refused = proof(lambda data: data["runs"][0].update(problem="it crashed"))
    ended = lepton("verify", place, "--merge", refused)
    assert ended.code == 1
    assert "cpu: it crashed" in ended.out


WRONG = [
    lambda data: data["runs"][0]["latency"].update(p50_ms="Infinity"),
    lambda data: data["runs"][0]["latency"].update(p50_ms=-1.0),
    lambda data: data["runs"][0].update(load_ms=10**400),
    lambda data: data["runs"].append(data["runs"][0]),
    lambda data: data["device"].update(chip=["a"]),
    lambda data: data["device"].pop("os"),
    lambda data: data["runtime"].update(numpy=None),
    lambda data: data["runs"][0]["outputs"].update(y=3),
    lambda data: data["runs"][0]["outputs"]["y"].update(mismatched_rows=3),
    lambda data: data["runs"][0]["outputs"]["y"].update(cosine=1.5),
]


def test_what_cannot_be_is_refused(place, proof, lepton):
    before = (place / "passport.json").read_bytes()
    for number, change in enumerate(WRONG):
        ended = lepton("verify", place, "--merge", proof(change), "--json")
        assert (ended.code, ended.error["code"]) == (1, "LPT-PASS-003"), number
    file = proof()
    for text in ("[" * 100_000, '{"kind": NaN}', '"\\ud800"', "1" * 10_000):
        file.write_text(text)
        ended = lepton("verify", place, "--merge", file, "--json")
        assert (ended.code, ended.error["code"]) == (1, "LPT-PASS-003"), text[:20]
    assert (place / "passport.json").read_bytes() == before


def test_a_proof_that_is_not_there_is_said_to_be_missing(place, lepton, tmp_path):
    file = tmp_path / "no.json"
    ended = lepton("verify", place, "--merge", file, "--json")
    assert (ended.code, ended.error["code"]) == (2, "LPT-CLI-011")
    assert ended.error["message"] == f"The device proof {str(file)!r} is not there"


def test_a_changed_variant_takes_no_proof(place, proof, lepton):
    artifact = place / "model.json"
    artifact.write_text(artifact.read_text() + " ")
    ended = lepton("verify", place, "--merge", proof())
    assert ended.code == 1
    assert ended.err.startswith("error[LPT-CLI-003]")


def test_without_the_store_the_pairs_are_not_known(place, proof, lepton, tmp_path):
    ended = lepton("verify", place, "--merge", proof(), "--store", tmp_path / "none", "--json")
    assert ended.error["code"] == "LPT-PASS-007"
    assert "--store" in ended.error["remedy"]
    assert not load_passport(place / "passport.json").get("devices")


def test_a_full_disk_leaves_the_passport(place, proof, lepton, monkeypatch):
    before = (place / "passport.json").read_bytes()

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    ended = lepton("verify", place, "--merge", proof())
    assert ended.code == 5 and ended.err.startswith("error[LPT-IO-001]")
    assert (place / "passport.json").read_bytes() == before
    assert not [p for p in place.iterdir() if p.name.endswith(".tmp")]
