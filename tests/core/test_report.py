"""Pages: self-contained, escaped, small, and readable without seeing the pictures."""

from __future__ import annotations

import importlib.util
import re
import sys
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_core.errors import LeptonError
from lepton_core.passport import variant_summary
from lepton_core.report import render_passport, render_port
from lepton_core.report._format import cosine, milliseconds, number, size
from lepton_core.report.charts import STEP_NAMES, step_of
from lepton_core.samples import Samples

_spec = importlib.util.spec_from_file_location(
    "passports", Path(__file__).with_name("passports.py")
)
passports = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = passports
_spec.loader.exec_module(passports)
passport, digits, HOSTILE = passports.passport, passports.digits, passports.HOSTILE

VOID = {"meta", "link", "br", "img", "input", "hr"}
SELF_CLOSED = {"circle", "ellipse", "line", "rect", "path"}


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *a) for a in attrs]
        if tag not in VOID and not (tag in SELF_CLOSED and self.get_starttag_text().endswith("/>")):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *a) for a in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def noisy(scale):
    generator = np.random.default_rng(1)
    return lambda y: (y + scale * generator.normal(size=y.shape)).astype(np.float32)


def port_of(made, **changes):
    variants = [
        {"target": p["variant"]["target"], "precision": p["variant"]["precision"], "path": "x",
         "kept": p["verdict"]["verdict"] == "pass", "passport": "x", **variant_summary(p)}
        for p in made
    ]  # fmt: skip
    source = {"path": "digits.py", "format": "torch.factory", "digest": "sha256:00"}
    return {"schema": 1, "source": source, "variants": variants, "ok": True, **changes}


NOT_BUILT = {"target": "coreml", "precision": "fp16", "path": None, "size_bytes": None,
             "latency_ms": None, "metrics": None, "errors": None, "verdict": "fail", "kept": False,
             "why": "no converter", "passport": None}  # fmt: skip


@pytest.fixture(scope="module")
def pages():
    made = [
        passport(),
        passport(noisy(1e-3), precision="fp16"),
        passport(noisy(0.2), precision="int8"),
        passport(latency=None, source_latency=None, size_bytes=None),
    ]
    result = port_of(made)
    result["variants"].append(NOT_BUILT)
    port = render_port(result, [*made, None], pages=["a/b c.html"])
    return [*map(render_passport, made), port]


def test_pages_load_nothing(pages):
    for text in pages:
        page = Page(text)
        assert not {"script", "link", "img", "iframe", "object", "use", "image"} & set(page.tags)
        for tag, name, value in page.attributes:
            assert not name.startswith("on"), (tag, name)
            if name in {"src", "href", "action", "data", "xlink:href"}:
                assert not re.match(r"(?i)[a-z][a-z0-9+.-]*:|//", value), (tag, name, value)
        assert not re.search(r"(?i)url\(|@import|https?://", text)
        assert "default-src 'none'" in text


def test_pictures_are_well_formed_and_described(pages):
    for text in pages:
        pictures = re.findall(r"<svg viewBox=.*?</svg>", text, re.DOTALL)
        charts = [ElementTree.fromstring(p) for p in pictures]
        described = [c for c in charts if c.get("role") == "img"]
        assert len(described) >= 2
        for chart in described:
            ids = [e.get("id") for e in chart if e.tag in ("title", "desc")]
            assert chart.get("aria-labelledby").split() == ids
            assert all(e.text for e in chart if e.tag in ("title", "desc"))
            left, top, width, height = map(float, chart.get("viewBox").split())
            assert (left, top) == (0, 0)
            for rect in chart.iter("rect"):
                assert float(rect.get("width")) >= 0
                assert float(rect.get("x")) + float(rect.get("width")) <= width + 0.1
            for circle in chart.iter("circle"):
                assert 0 <= float(circle.get("cx")) <= width
                assert 0 <= float(circle.get("cy")) <= height
        ids = re.findall(r' id="([^"]+)"', text)
        assert len(ids) == len(set(ids))


def test_pages_are_documents(pages):
    for text in pages:
        page = Page(text)
        assert text.startswith("<!doctype html>")
        assert page.tags.count("h1") == 1
        assert ("html", "lang", "en") in page.attributes
        assert "viewport" in text
        assert "prefers-color-scheme: dark" in text
        assert "@media print" in text
        scrolling = [a for a in page.attributes if a[1:] == ("class", "scroll")]
        reachable = [a for a in page.attributes if a[1:] == ("tabindex", "0")]
        assert len(scrolling) == len(reachable)


def test_the_verdict_and_its_reason_are_told(pages):
    good, half, bad, _, port = (" ".join(Page(text).text) for text in pages)
    assert "pass" in good
    assert "proved" in good
    assert "0 of 1285 changed" in half or "got worse" in half
    assert "exceeds" in bad
    assert "3 of 5" in re.sub(r"\s+", " ", port)
    assert "no converter" in port


@pytest.mark.parametrize("field", range(6))
def test_hostile_names_are_escaped(field):
    n = len(digits()[1])
    options = [
        {"target": HOSTILE},
        {"precision": HOSTILE},
        {"warnings": [HOSTILE], "environment": {HOSTILE: HOSTILE, "packages": {HOSTILE: HOSTILE}}},
        {"session_facts": {HOSTILE: [HOSTILE], "storage_precision": HOSTILE}},
        {"source": passports.model(HOSTILE), "variant": passports.model(HOSTILE, entry=HOSTILE)},
        {"reference": {HOSTILE: digits()[2], "b": np.ones((n, 2))},
         "actual": {HOSTILE: digits()[2] * 1.5, "b": np.ones(n)}},
    ][field]  # fmt: skip
    made = passport(**options)
    for text in (
        render_passport(made),
        render_port(
            port_of([made], source={"path": HOSTILE, "format": HOSTILE, "digest": HOSTILE}),
            [made],
            pages=[f"{HOSTILE}.html"],
        ),
    ):
        page = Page(text)
        assert "script" not in page.tags
        assert "img" not in page.tags
        assert not [a for a in page.attributes if a[1].startswith("on")]


def test_a_page_of_2000_samples_stays_small():
    rows = np.random.default_rng(0).normal(size=(2000, 10)).astype(np.float32)
    made = passport(held_out=Samples({"image": rows}), calibration=None, precision="int8",
                    reference={"logits": rows}, actual={"logits": noisy(0.1)(rows)})  # fmt: skip
    assert len(made["picture"]["errors"]) == 2000
    assert len(render_passport(made).encode()) < 300_000
    many = {f"output{i}": rows for i in range(60)}
    assert len(render_passport(passport(
        held_out=Samples({"image": rows}), calibration=None, reference=many,
        actual={k: noisy(0.01)(v) for k, v in many.items()},
    )).encode()) < 300_000  # fmt: skip


def test_a_page_says_whether_it_holds_samples():
    made = passport(noisy(1e-3), precision="fp16")
    foot = "This page loads nothing and holds "
    assert f"{foot}no sample." in render_passport(made)
    first, second, *_ = [entry["row"] for entry in made["worst"]]
    uri = "data:image/png;base64,AAAA"
    for pictures, count in (({first: uri}, "1 sample"), ({first: uri, second: uri}, "2 samples")):
        page = render_passport(made, pictures={**pictures, 10**9: uri})  # no row of the page
        assert "holds no sample" not in page
        assert f"{foot}pictures of {count}, because --show-samples was given." in page
        assert page.count(uri) == len(pictures)


def pages_of(made):
    """Return a passport's page and the page of a port of it, as text without breaks."""
    pages = (render_passport(made), render_port(port_of([made]), [made]))
    return [re.sub(r"\s+", " ", " ".join(Page(text).text)) for text in pages]


def test_a_port_names_the_baseline_of_sizes_and_the_packages_of_all():
    made = [
        passport(size_bytes=4000, environment={"os": "x", "packages": {"onnxruntime": "1.2.3"}}),
        passport(size_bytes=16000, environment={"os": "x", "packages": {"openvino": "4.5.6"}}),
    ]
    text = " ".join(Page(render_port(port_of(made), made)).text)
    assert "4.0× smaller than the source" in text  # noqa: RUF001
    assert "the same as the source" in text
    assert "onnxruntime 1.2.3" in text and "openvino 4.5.6" in text


def test_pages_say_what_kind_of_proof_it_is():
    kind = "graph proof, not device proof"
    made = passport(target="coreml", session_facts={"device": "reference", "proof": kind},
                    latency=None)  # fmt: skip
    summary = variant_summary({**made, "warnings": ["something"]})
    assert (summary["proof"], summary["warnings"]) == (kind, ["something"])
    for text in pages_of(made):
        head, _, _ = text.partition("Limits,")  # not only among all facts of the session
        assert kind in head
    plain = passport()
    assert (variant_summary(plain)["proof"], variant_summary(plain)["warnings"]) == (None, [])
    assert not any("device proof" in text for text in pages_of(plain))


@pytest.mark.parametrize(
    ("target", "device", "elsewhere"),
    [
        ("tflite:android-arm64", "cpu", True),
        ("tflite:edgetpu", "cpu", True),
        ("tflite:cpu", "cpu", False),
        ("tflite", "cpu", False),
        ("onnxruntime:cuda", "cuda", False),
        ("openvino:gpu", "Intel(R) Graphics", False),
    ],
)
def test_pages_say_that_a_time_is_not_the_devices(target, device, elsewhere):
    made = passport(target=target, session_facts={"device": device})
    for text in pages_of(made):
        assert ("timed here, not on the device" in text) is elsewhere


def test_the_same_passport_gives_the_same_page():
    made = passport(noisy(1e-3), precision="fp16")
    assert render_passport(made) == render_passport(made)


@pytest.mark.parametrize("n", [1, 2, 30])
@pytest.mark.parametrize("columns", [1, 2, 11])
def test_few_samples_and_narrow_outputs(n, columns):
    rows = np.random.default_rng(0).normal(size=(n, columns)).astype(np.float32)
    for actual in (rows, rows * np.float32(1.1), np.zeros_like(rows), np.full_like(rows, np.nan)):
        made = passport(held_out=Samples({"image": rows}), calibration=None,
                        reference={"y": rows}, actual={"y": actual})  # fmt: skip
        Page(render_passport(made))
        Page(render_port(port_of([made]), [made]))


def test_nothing_built():
    text = render_port({"source": {"path": "m.onnx", "format": "onnx", "digest": ""},
                        "variants": [NOT_BUILT], "ok": False}, [None])  # fmt: skip
    assert "no converter" in " ".join(Page(text).text)
    with pytest.raises(ValueError, match="zip"):
        render_port({"source": {}, "variants": [NOT_BUILT], "ok": False}, [])


def test_what_is_no_passport_is_refused():
    with pytest.raises(LeptonError, match="LPT-PASS-001"):
        render_passport({})


@given(st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False))
def test_numbers_are_short_and_true(value):
    text = number(value)
    assert len(text) <= 16 or abs(value) >= 1e6
    digits_of = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    mantissa, _, power = text.replace(",", "").partition(" \N{MULTIPLICATION SIGN} 10")
    exponent = int(power.translate(digits_of) or 0)
    # Compared as decimals: the largest floats, rounded up, have no float.
    assert Decimal(mantissa).scaleb(exponent) == pytest.approx(Decimal(value), rel=Decimal("0.051"))


def test_how_numbers_look():
    assert [number(x) for x in (None, "Infinity", 0, 0.0123456, 1.2e-7, 1234.5)] == [
        "–", "∞", "0", "0.0123", "1.2 × 10⁻⁷", "1,234"]  # noqa: RUF001  # fmt: skip
    assert [size(x) for x in (None, 12, 41_267, 1_023_900, 5_200_000_000, 1e13)] == [
        "–", "12 B", "40.3 KiB", "0.976 MiB", "4.84 GiB", "9,313 GiB"]  # noqa: RUF001  # fmt: skip
    assert [milliseconds(x) for x in (0.0123, 1.5, 2300)] == ["12.3 µs", "1.5 ms", "2.3 s"]
    assert [cosine(x) for x in (1.0, 0.99991, 0.5)] == ["1", "0.999910", "0.5000"]


def test_colour_steps_cover_every_error():
    assert [step_of(e, 0.1) for e in (0.0, 1e-4, 5e-3, 0.02, 0.1, 0.11, float("inf"))] == [
        0, 1, 2, 3, 4, 5, 5]  # fmt: skip
    assert len(STEP_NAMES) == 6


@pytest.mark.parametrize("timed", [True, False])
def test_a_passport_says_what_the_variant_gains(timed):
    from lepton_core.gains import Gain
    from lepton_core.passport import dump_passport

    race = {"before_ms": 2.0, "after_ms": 1.0, "speedup": 2.0, "interval": [1.9, 2.1]}
    gain = Gain(300, 100, race if timed else {}, "no device")
    data = {**passport(), "gain": gain.to_dict()}
    dump_passport(data)  # it is valid
    page = "".join(Page(render_passport(data)).text)
    assert "3.00x smaller than the float model" in page
    assert ("2.00x faster (1.90 to 2.10 at 95 %)" if timed else "not timed: no device") in page
    assert "beside fp32" not in "".join(Page(render_passport(passport())).text)
    assert variant_summary(data)["gain"] == gain.to_dict()


def test_a_gain_over_nothing_is_drawn():
    from lepton_core.gains import Gain

    data = {**passport(), "gain": Gain(300, 0, {}, "no device").to_dict()}
    assert "infx smaller" in "".join(Page(render_passport(data)).text)
