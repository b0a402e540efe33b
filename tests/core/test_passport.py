"""Passports: complete, strict JSON, and true."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from lepton_core.errors import LeptonError, UsageError
from lepton_core.passport import dump_passport, load_passport, validate_passport, variant_summary
from lepton_core.samples import Samples
from lepton_core.verdicts import Limits

_spec = importlib.util.spec_from_file_location(
    "passports", Path(__file__).with_name("passports.py")
)
passports = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = passports
_spec.loader.exec_module(passports)
passport, digits = passports.passport, passports.digits


def refuse(constant):
    pytest.fail(f"{constant} is not strict JSON")


def test_round_trip_is_strict_json(tmp_path):
    made = passport(lambda y: y * np.float32(1 + 1e-6))
    text = dump_passport(made)
    assert json.loads(text, parse_constant=refuse) == made
    (tmp_path / "p.json").write_text(text)
    assert load_passport(tmp_path / "p.json") == made
    assert dump_passport(passport(lambda y: y * np.float32(1 + 1e-6))) == text


def test_an_equal_variant_passes_and_is_proved():
    made = passport(max_drop=0.005)
    assert made["verdict"]["verdict"] == "pass"
    assert made["verdict"]["proved"]
    assert made["metric"]["name"] == "top1"
    assert made["metric"]["drop"] == 0
    assert made["metric"]["changed"] == {"k": 0, "n": made["samples"]["n"]}
    assert made["outputs"]["logits"]["sqnr_db"] == "Infinity"
    assert made["worst"] == []


def test_errors_equal_numpy():
    noise = np.random.default_rng(0).normal(size=digits()[2].shape).astype(np.float32) * 1e-3
    made = passport(lambda y: y + noise, precision="fp16")
    reference, actual = (a.astype(np.float64) for a in (digits()[2], digits()[2] + noise))
    gap, got = actual - reference, made["outputs"]["logits"]
    norm = np.linalg.norm(reference)
    assert got["max_abs"] == pytest.approx(np.abs(gap).max())
    assert got["mean_abs"] == pytest.approx(np.abs(gap).mean())
    assert got["rel_l2"] == pytest.approx(np.linalg.norm(gap) / norm)
    assert got["sqnr_db"] == pytest.approx(20 * math.log10(norm / np.linalg.norm(gap)))
    cosine = (reference * actual).sum() / norm / np.linalg.norm(actual)
    assert got["cosine"] == pytest.approx(cosine)
    assert got["rms_error"] == pytest.approx(np.sqrt((gap**2).mean()))
    histogram = got["histogram"]
    counted = [
        histogram["zero"],
        histogram["underflow"],
        *histogram["counts"],
        histogram["overflow"],
    ]
    assert sum(counted) == gap.size
    edges = 10 ** (histogram["first_edge_log10"] + np.arange(65) / histogram["bins_per_decade"])
    expected = np.histogram(np.abs(gap), edges)[0]
    assert np.abs(expected - histogram["counts"]).sum() <= 2  # values on an edge


def test_worst_samples_carry_the_users_row_numbers():
    def change(y):
        y = y.copy()
        y[5] = -y[5]
        y[11] += 0.01
        return y

    made = passport(change, precision="int8", metric="agreement")
    rows = digits()[1].original_rows
    assert [w["row"] for w in made["worst"]] == [rows[5], rows[11]]
    assert made["worst"][0]["changed"] is True
    assert made["picture"]["changed_cells"] == [5]


def test_calibration_and_held_out_are_told_apart():
    samples = passport()["samples"]
    calibration, held_out, _ = digits()
    assert samples["digest"] == held_out.digest
    assert samples["split"] == {
        "seed": 3,
        "calibration": {"n": len(calibration), "digest": calibration.digest},
    }
    assert samples["n"] + len(calibration) == 1797


def test_files_beside_an_artifact_are_verified_too(tmp_path):
    from lepton_core.built import Built
    from lepton_core.cli._reverify import check_digests
    from lepton_core.files import digest_path
    from lepton_core.types import Model

    (tmp_path / "model.xml").write_bytes(b"graph")
    (tmp_path / "model.bin").write_bytes(b"values")
    digest = digest_path(tmp_path / "model.xml")
    model = Model(
        "ir", str(tmp_path / "model.xml"), digest=digest,
        metadata={"external_files": ["model.bin"]},
    )  # fmt: skip
    made = passport(variant=model)
    assert made["variant"]["files"] == {"model.bin": digest_path(tmp_path / "model.bin")}
    assert "files" not in made["source"]
    validate_passport(made)
    assert check_digests(Built(model, "ir", "fp32", made)).digest == digest
    older = copy.deepcopy(made)
    del older["variant"]["files"]
    for change in (lambda path: path.write_bytes(b"valueS"), lambda path: path.unlink()):
        change(tmp_path / "model.bin")
        with pytest.raises(LeptonError, match=r"model\.bin is not what was proved") as caught:
            check_digests(Built(model, "ir", "fp32", made))
        assert caught.value.code == "LPT-CLI-003"
    with pytest.raises(LeptonError, match=r"model\.bin"):
        check_digests(Built(model, "ir", "fp32", older))


def test_labels_that_are_not_used_are_warned_of():
    rows = np.eye(40, dtype=np.float32)
    beyond = Samples({"image": rows}, np.arange(40) + 1)
    made = passport(held_out=beyond, calibration=None, reference={"y": rows}, actual={"y": rows})
    assert [w for w in made["warnings"] if "labels" in w] == [
        "the labels fit no output and are not used: "
        "for 'y' they have class 40 in row 39; the output has shape [40, 40]"
    ]


def test_a_source_that_yields_nan_is_warned_of():
    rows = np.eye(40, dtype=np.float32)
    broken = np.where(rows == 1, np.float32(np.nan), rows)
    made = passport(
        held_out=Samples({"image": rows}), calibration=None, metric="rel_l2",
        reference={"y": broken}, actual={"y": broken},
    )  # fmt: skip
    assert any("output 'y' has 40 NaN of 1600 values" in text for text in made["warnings"])


def test_equal_rows_are_counted_once_by_the_bound():
    rows = np.repeat(np.eye(40, dtype=np.float32), 10, axis=0)
    made = passport(
        held_out=Samples({"image": rows}), calibration=None, metric="agreement",
        reference={"logits": rows}, actual={"logits": rows},
    )  # fmt: skip
    assert (made["samples"]["n"], made["samples"]["distinct"]) == (400, 40)
    assert made["verdict"]["bound"]["n"] == 40


def test_new_nan_fails_and_is_encoded():
    def change(y):
        y = y.copy()
        y[2, 3] = np.nan
        return y

    made = passport(change, metric="cosine")
    assert made["verdict"]["verdict"] == "fail"
    got = made["outputs"]["logits"]
    assert (got["nan_variant"], got["nan_reference"], got["cosine"]) == (1, 0, None)
    assert (got["rel_l2"], got["sqnr_db"]) == ("Infinity", "-Infinity")
    assert made["worst"][0]["error"] == "Infinity"
    json.loads(dump_passport(made), parse_constant=refuse)
    summary = variant_summary(made)["errors"]
    assert summary == {"max_abs": "Infinity", "rel_l2": "Infinity", "sqnr_db": "-Infinity",
                       "cosine": None}  # fmt: skip


@pytest.mark.parametrize(
    "metric", [None, "agreement", "cosine", "rel_l2", "max_abs", "mae", "top5"]
)
def test_any_metric_makes_a_valid_passport(metric):
    made = passport(lambda y: y.astype(np.float16), precision="fp16", metric=metric)
    validate_passport(made)
    assert made["metric"]["name"] == (metric or "top1")


def test_outputs_that_differ_in_kind():
    n = len(digits()[1])
    reference = {"logits": digits()[2], "ids": np.arange(n), "gone": np.ones((n, 2)),
                 "text": np.array(["a"] * n), "empty": np.ones((n, 0), np.float32)}  # fmt: skip
    actual = {**reference, "ids": np.where(np.arange(n) == 3, 7, np.arange(n))}
    actual["gone"] = np.ones((n, 3))
    made = passport(reference=reference, actual=actual)
    assert made["outputs"]["ids"]["mismatched_rows"] == 1
    assert made["outputs"]["text"]["mismatched_rows"] == 0
    assert made["outputs"]["empty"]["mismatched_rows"] == 0
    assert "has shape" in made["outputs"]["gone"]["problem"]
    assert "'gone'" in made["verdict"]["why"]
    del actual["logits"]
    lost = passport(reference=reference, actual=actual)
    assert lost["metric"] is None
    assert lost["verdict"]["verdict"] == "fail"
    assert variant_summary(lost)["metrics"] is None
    for one in (made, lost):
        json.loads(dump_passport(one), parse_constant=refuse)


def test_no_sample_is_stored():
    marked = np.full((40, 64), 0.123456789, np.float32)
    marked[:, 0] = np.arange(40)
    made = passport(held_out=Samples({"image": marked}), calibration=None, metric="agreement",
                    reference={"logits": marked}, actual={"logits": marked})  # fmt: skip
    assert "0.12345" not in dump_passport(made)


def test_memory_mapped_outputs_of_many_pieces(tmp_path, monkeypatch):
    from lepton_core.samples import _types

    monkeypatch.setattr(_types, "CHUNK_BYTES", 1 << 10)
    np.save(tmp_path / "r.npy", digits()[2])
    mapped = np.load(tmp_path / "r.npy", mmap_mode="r")
    whole = passport(lambda y: y * np.float32(1.001), precision="fp16")
    pieces = passport(reference={"logits": mapped}, precision="fp16",
                      actual={"logits": digits()[2] * np.float32(1.001)})  # fmt: skip
    assert pieces["outputs"]["logits"]["rel_l2"] == pytest.approx(
        whole["outputs"]["logits"]["rel_l2"], rel=1e-12
    )


def test_limits_used_are_written_down():
    made = passport(limits=Limits.from_dict({"fp32": {"rel_l2": 0.5}}))
    assert made["limits"]["applied"]["rel_l2"] == 0.5
    assert Limits.from_dict({k: v for k, v in made["limits"].items() if k != "applied"})


def test_a_big_passport_stays_small():
    rows = np.random.default_rng(0).normal(size=(50_000, 12)).astype(np.float32)
    held = Samples({"image": rows})
    made = passport(held_out=held, calibration=None, reference={"logits": rows},
                    actual={"logits": rows * np.float32(1.01)}, precision="int8")  # fmt: skip
    assert len(made["picture"]["errors"]) == 2000
    assert len(dump_passport(made)) < 150_000


def test_unknown_metric_is_a_usage_error():
    with pytest.raises(UsageError, match="LPT-METRIC-001"):
        passport(metric="accuracy")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), None),
        (("schema",), "1"),
        (("source",), []),
        (("source", "digest"), None),
        (("verdict", "verdict"), "maybe"),
        (("verdict", "proved"), 1),
        (("samples", "n"), 1.5),
        (("samples", "n"), True),
        (("outputs", "logits", "rel_l2"), math.nan),
        (("outputs", "logits", "rel_l2"), "big"),
        (("worst",), {}),
        (("warnings",), [1]),
        (("latency", "variant", "p50_ms"), None),
    ],
)
def test_what_is_no_passport(path, value):
    broken = copy.deepcopy(passport())
    place = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(LeptonError) as caught:
        validate_passport(broken)
    assert caught.value.code == "LPT-PASS-001"


def test_files_that_are_no_passports(tmp_path):
    for name, text in [("a", "{"), ("b", "[]"), ("c", "{}")]:
        (tmp_path / name).write_text(text)
        with pytest.raises(LeptonError, match="LPT-PASS-001"):
            load_passport(tmp_path / name)
    with pytest.raises(LeptonError, match="LPT-PASS-001"):
        load_passport(tmp_path / "missing")
    with pytest.raises(LeptonError, match="LPT-PASS-002"):
        validate_passport({**passport(), "schema": 2})
