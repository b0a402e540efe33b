"""The main job over the fake target: what is kept, what is written, what is left behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lepton_core import types
from lepton_core.capabilities import ExtensionInfo
from lepton_core.dispatch import Hooks
from lepton_core.errors import (
    ConversionError,
    OperationCancelledError,
    SampleError,
    SourceError,
    StorageError,
    UnknownTargetError,
    UsageError,
)
from lepton_core.files import digest_path
from lepton_core.markers import hookimpl
from lepton_core.passport import load_passport
from lepton_core.porting import PortResult, port
from lepton_core.types import Variant


@pytest.fixture
def samples_file(tmp_path):
    """200 distinct rows; without labels the metric is chosen by the outputs."""
    rows = np.random.default_rng(3).normal(size=(200, 6)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=rows)
    return tmp_path / "samples.npz"


@pytest.fixture
def graph_file(tmp_path):
    """A source graph that the fake target takes as it is."""
    from lepton_core.testing.fake_target import write_graph

    rng = np.random.default_rng(7)
    layers = [
        {"op": "linear", "weight": rng.normal(size=(8, 6)), "bias": rng.normal(size=8)},
        {"op": "relu"},
        {"op": "linear", "weight": rng.normal(size=(3, 8)), "bias": rng.normal(size=3)},
    ]
    return write_graph(tmp_path / "net.fake", 6, layers)


@pytest.fixture
def run(fake_registry, graph_file, samples_file, tmp_path):
    """Call port over the fake target with defaults that succeed."""

    def call(**changes):
        arguments = {
            "source": graph_file,
            "targets": ["fake"],
            "samples": samples_file,
            "out": tmp_path / "out",
            "latency_seconds": 0.01,
            "metric": "cosine",
            "max_drop": 0.01,
            "hooks": Hooks(fake_registry),
        }
        return port(**{**arguments, **changes})

    return call


def leftovers(folder: Path) -> list[str]:
    """Staging directories that should have gone."""
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def wrap_convert(registry, damage):
    """Register a wrapper that changes what the fake target converts."""

    class Wrapper:
        @hookimpl(wrapper=True)
        def lepton_convert(self, model, request, context):
            result = yield
            return damage(result, request) or result

    registry.register(Wrapper(), ExtensionInfo("damage", "Damage", "test", always=True))


def test_every_precision_gets_a_proved_variant(run, tmp_path):
    result = run(precisions=["fp32", "fp16"])
    assert result.ok
    assert result.exit_code(strict=True) == 0
    data = result.to_dict()
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == data
    for entry in data["variants"]:
        assert entry["kept"]
        assert entry["verdict"] == "pass"
        assert Path(entry["path"]).is_file()
        assert Path(entry["path"]).stat().st_size == entry["size_bytes"]
        assert entry["latency_ms"]["p50"] > 0
        passport = load_passport(entry["passport"])
        assert passport["variant"]["path"] == entry["path"]
        assert Path(entry["passport"]).with_suffix(".html").read_text().startswith("<!")
    assert data["variants"][0]["errors"]["rel_l2"] == 0.0
    assert 0 < data["variants"][1]["errors"]["rel_l2"] < 2e-2
    assert data["variants"][1]["size_bytes"] < data["variants"][0]["size_bytes"]
    assert result.report.is_file()
    assert leftovers(tmp_path) == []
    assert leftovers(tmp_path / "out") == []


def test_the_variant_to_ship_opens_and_runs(run, fake_registry):
    import lepton_core as lepton
    from lepton_core import hooks

    best = run(precisions=["fp32", "fp16"])["fake"].best
    assert best.verdict == best.passport.verdict == "pass"
    hooks.use(Hooks(fake_registry))
    with lepton.open(best) as session:
        outputs = session.run({"x": np.zeros((2, 6), np.float32)})
    assert outputs["y"].shape == (2, 3)


def test_a_precision_that_is_not_offered_is_listed_and_spoils_nothing(run):
    result = run(precisions=["fp32", "bf16"])
    missing = result["fake"].variants[1]
    assert (missing.kept, missing.verdict, missing.model) == (False, "fail", None)
    assert "LPT-PLAN-002" in missing.why
    assert "fp16" in missing.why
    assert result.ok
    assert result.exit_code() == 0
    assert result.exit_code(strict=True) == 1


def test_without_samples_nothing_is_better_than_weak(run):
    result = run(samples=None)
    assert not result.ok
    assert result.exit_code() == 3
    assert result.exit_code(allow_weak=True) == 0
    assert "random" in result["fake"].best.why


@pytest.mark.parametrize(
    ("given", "inputs", "seconds", "untimed"),
    [("samples", "samples", 0.01, None), (None, "random", 0, "it was not asked for")],
)
def test_a_gain_says_what_calls_were_given_and_why_none_were_timed(
    run, samples_file, given, inputs, seconds, untimed
):
    samples = samples_file if given else None
    result = run(precisions=["fp32", "fp16"], samples=samples, latency_seconds=seconds)
    plain, half = result.to_dict()["variants"]
    assert plain["gain"] is None
    assert (half["gain"]["inputs"], half["gain"]["untimed"]) == (inputs, untimed)
    assert (half["gain"]["time"] is None) is (untimed is not None)


def test_options_of_compression_that_nothing_heeds_are_refused(run, tmp_path):
    for precision, given in (
        ("fp16", {"sparsity": 0.5}),
        ("sparse", {"palette": 4}),
        ("palette", {"sparsity": "auto"}),  # which sparse and mixed search for
        ("palette", {"prune": "magnitude"}),
    ):
        with pytest.raises(UsageError) as caught:
            run(precisions=["fp32", precision], compression=given)
        assert caught.value.code == "LPT-USE-014"
        assert repr(next(iter(given))) in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_wrong_artifact_is_not_kept_and_its_passport_stays(run, fake_registry):
    from lepton_core.testing import _fake_graph as work

    def scale_the_output(result, request):
        graph = work.read(result.model.path)
        graph["layers"].append({"op": "scale", "factor": 1.01})
        Path(result.model.path).write_text(json.dumps(graph))
        return replace(result, model=result.model.evolve(digest=digest_path(result.model.path)))

    wrap_convert(fake_registry, scale_the_output)
    result = run()
    [variant] = result.variants
    assert (variant.kept, variant.verdict, variant.model) == (False, "fail", None)
    assert result.exit_code() == result.exit_code(allow_weak=True) == 1
    assert load_passport(variant.passport.path)["verdict"]["verdict"] == "fail"
    assert [p.name for p in Path(variant.passport.path).parent.iterdir()].count("model.fake") == 0
    with pytest.raises(ConversionError, match="LPT-PORT-001"):
        _ = result["fake"].best


def test_a_failing_precision_does_not_stop_the_others(run, fake_registry):
    def refuse_half(result, request):
        if request.precision == "fp16":
            raise ConversionError("FAKE-CONV-009", "no half today", remedy="Wait.")

    wrap_convert(fake_registry, refuse_half)
    result = run(precisions=["fp32", "fp16"])
    assert [v.kept for v in result.variants] == [True, False]
    assert "FAKE-CONV-009: no half today" in result.variants[1].why


@pytest.mark.parametrize(
    ("changes", "error", "code"),
    [
        ({"targets": []}, UsageError, "LPT-USE-004"),
        ({"targets": ["fakk"]}, UnknownTargetError, "LPT-USE-003"),
        ({"precisions": ["fp33"]}, UsageError, "LPT-USE-005"),
        ({"targets": ["fake:npu"]}, UsageError, "LPT-USE-006"),
        ({"source": "nowhere.fake"}, SourceError, "LPT-SRC-001"),
        ({"samples": "nowhere.npz"}, SampleError, "LPT-DATA-001"),
        ({"metric": "beauty"}, UsageError, "LPT-METRIC-001"),
    ],
)
def test_a_wrong_request_is_refused_and_nothing_is_written(run, tmp_path, changes, error, code):
    with pytest.raises(error) as caught:
        run(**changes)
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()
    assert leftovers(tmp_path) == []


def test_samples_that_do_not_fit_are_refused_and_nothing_is_written(run, tmp_path):
    np.savez(tmp_path / "wrong.npz", y=np.zeros((40, 6), np.float32))
    with pytest.raises(SampleError, match="LPT-DATA-012"):
        run(samples=tmp_path / "wrong.npz")
    assert not (tmp_path / "out").exists()
    assert leftovers(tmp_path) == []


def test_an_earlier_result_is_replaced_and_anything_else_is_not(run, tmp_path):
    first = run()
    second = run(precisions=["fp16"])
    assert second.out == first.out
    assert not (second.out / "fake" / "fp32").exists()
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(StorageError, match="LPT-IO-003"):
        run(out=foreign)
    assert (foreign / "thesis.txt").read_text() == "years of work"
    run(out=foreign, force=True)
    assert not (foreign / "thesis.txt").exists()


def test_a_stop_in_the_middle_leaves_the_earlier_result(run, fake_registry, tmp_path):
    run()
    before = (tmp_path / "out" / "result.json").read_bytes()

    def stop(result, request):
        raise OperationCancelledError("LPT-STOP-001", "Stopped on request")

    wrap_convert(fake_registry, stop)
    with pytest.raises(OperationCancelledError):
        run()
    assert (tmp_path / "out" / "result.json").read_bytes() == before
    assert leftovers(tmp_path) == []


def test_the_same_request_gives_the_same_artifact(run, tmp_path):
    digests = {run(out=tmp_path / name).variants[0].model.digest for name in ("a", "b")}
    assert len(digests) == 1


def test_an_artifact_that_was_changed_is_not_opened(run, fake_registry):
    import lepton_core as lepton
    from lepton_core import hooks
    from lepton_core.errors import SessionError

    best = run()["fake"].best
    path = Path(best.model.path)
    path.write_text(path.read_text().replace("relu", "scale"))
    hooks.use(Hooks(fake_registry))
    with pytest.raises(SessionError, match="LPT-RUN-003"):
        lepton.open(best)
    path.unlink()
    with pytest.raises(SessionError, match="LPT-RUN-003"):
        lepton.open(best)


def test_cheap_mistakes_are_found_before_the_source_is_read(run, monkeypatch, tmp_path):
    monkeypatch.setattr(Hooks, "inspect", lambda *_: pytest.fail("the source was read"))
    with pytest.raises(SampleError, match="LPT-DATA-001"):
        run(samples=tmp_path / "nowhere.npz")
    with pytest.raises(UsageError, match="LPT-METRIC-001"):
        run(metric="beauty")


def test_lineage_leads_back_to_the_source(run):
    passport = run().variants[0].passport
    lineage = passport["variant"]["lineage"]
    assert lineage[-1]["parent"] == passport["source"]["digest"]


# --- deciding ---------------------------------------------------------------------------------


def a_passport(verdict="pass", size=100, stored="fp16"):
    """The fields that the decision reads."""
    from lepton_core.passport import Passport

    return Passport(
        {
            "verdict": {"verdict": verdict, "why": "as measured"},
            "variant": {"size_bytes": size, "precision": "fp16", "storage_precision": stored},
        }
    )


def raced(speedup, low, high):
    return {"speedup": speedup, "interval": [low, high]}


@pytest.mark.parametrize(
    ("variant", "race", "kept", "words"),
    [
        (a_passport(size=50), {}, True, "2.00x smaller than the float model, not timed"),
        (a_passport(size=50), raced(0.5, 0.4, 0.6), True,
         "2.00x smaller than the float model, 2.00x slower (1.67 to 2.50 at 95 %); as measured"),
        (a_passport(size=120), raced(2, 1.8, 2.1), True,
         "1.20x larger than the float model, 2.00x faster"),
        (a_passport(), raced(2, 1.8, 2.1), True, "float model, 2.00x faster (1.80 to 2.10 at"),
        (a_passport(), raced(1.2, 0.9, 1.5), False, "kept fp32 instead"),  # may be chance
        (a_passport(), raced(1.01, 1.005, 1.02), False, "kept fp32 instead"),  # too little
        (a_passport(size=120), raced(0.5, 0.4, 0.6), False, "kept fp32 instead"),
        (a_passport("fail", size=1), raced(9, 8, 10), False, "as measured"),
        (a_passport("weak", size=50), {}, True, "as measured"),
        (a_passport(size=50, stored="fp32"), {}, False, "half precision"),
    ],
)  # fmt: skip
def test_a_compressed_variant_must_be_smaller_or_faster(variant, race, kept, words):
    from lepton_core._proof import _decide
    from lepton_core.gains import Gain

    gain = Gain(100, variant["variant"]["size_bytes"], race)
    decided, why = _decide(variant, gain)
    assert decided is kept
    assert words in why


def test_a_variant_of_the_same_bytes_is_not_called_faster():
    from lepton_core._proof import _decide
    from lepton_core.gains import Gain

    plain, again = a_passport(), a_passport()
    plain["variant"]["digest"] = again["variant"]["digest"] = "sha256:0"
    kept, why = _decide(again, Gain(100, 100, raced(1.03, 1.001, 1.07)), plain)
    assert not kept
    assert "the fp32 variant again" in why


def variant(target, *, kept, verdict):
    return Variant(target, "fp32", types.Model("fake", "x"), None, verdict, kept, "why")


@pytest.mark.parametrize(
    ("variants", "code", "strict", "weak"),
    [
        ([("a", True, "pass")], 0, 0, 0),
        ([("a", True, "pass"), ("a", False, "fail")], 0, 1, 0),
        ([("a", True, "weak")], 3, 3, 0),
        ([("a", True, "pass"), ("b", True, "weak")], 3, 3, 0),
        ([("a", True, "pass"), ("b", False, "fail")], 1, 1, 1),
        ([("a", False, "fail")], 1, 1, 1),
        ([("a", True, "weak"), ("a", True, "pass")], 0, 0, 0),
    ],
)
def test_exit_codes(variants, code, strict, weak):
    result = PortResult(
        {}, tuple(variant(t, kept=k, verdict=v) for t, k, v in variants), Path("out")
    )
    assert result.exit_code() == code
    assert result.exit_code(strict=True) == strict
    assert result.exit_code(allow_weak=True) == weak
