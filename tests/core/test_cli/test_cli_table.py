"""Tables on terminals of several widths: nothing is cut off, and rows stay short."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from lepton_core.capabilities import BY_RECIPE
from lepton_core.cli._port import COLUMNS, variant_row
from lepton_core.cli._table import Column, Row, draw, fit

from .conftest import environment, read_terminal

pytestmark = pytest.mark.timeout(180)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def drawn(monkeypatch, width, columns, rows, *, color=False):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    draw(stream, columns, rows, terminal=True, color=color)
    return stream.getvalue()


def variant(target, precision, verdict="pass"):
    return {
        "target": target, "precision": precision, "size_bytes": 41574, "kept": True,
        "latency_ms": {"p50": 0.0394, "p95": 0.0449}, "errors": {"rel_l2": 0.004721},
        "metrics": {"name": "top1", "source": 0.9883, "variant": 0.985, "drop": 0.0033},
        "verdict": verdict,
    }  # fmt: skip


NAMES = [(t, p) for t in ("onnxruntime", "openvino:cpu") for p in ("fp32", "int8")]
ROWS = [variant_row(variant(*names)) for names in NAMES]
WORDS = {
    "target": ("onnxruntime", "openvino:cpu"), "precision": ("fp32", "int8"),
    "size": ("40.6 KiB",), "p50": ("0.0394", "0.0449"),
    "metric": ("top1", "0.9883", "0.985", "0.0033)"), "rel L2": ("0.004721",),
    "verdict": ("pass",), "kept": ("yes",),
}  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80, 81, 100, 120, 200])
def test_a_port_loses_nothing_on_a_narrow_terminal(monkeypatch, width):
    text = drawn(monkeypatch, width, COLUMNS, ROWS)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    for head, cells in WORDS.items():
        if width >= 80 or head not in ("target", "precision"):  # in a record they are the headline
            assert head in text
        for cell in cells:
            assert text.count(cell) >= 2, (head, cell)
    assert text.count("0.0033)") == len(ROWS)


@pytest.mark.parametrize(("width", "most"), [(80, 3), (100, 2), (120, 1)])
def test_a_port_stays_a_table_from_80_columns_on(monkeypatch, width, most):
    lines = drawn(monkeypatch, width, COLUMNS, ROWS[:2]).splitlines()
    rule = next(i for i, line in enumerate(lines) if line.startswith("─"))
    assert lines[rule - 1].split()[:2] == ["target", "precision"]
    assert len(lines) - rule - 1 <= most * 2


def test_room_that_is_left_goes_to_what_wraps(monkeypatch):
    words = " ".join(["word"] * 30)
    rows = [Row(("a", words, "b"))]
    lines = drawn(monkeypatch, 80, [Column("x"), Column("y"), Column("z")], rows).splitlines()
    assert len(lines) == 2 + 2
    assert len(lines[1]) > 75  # the rule


def test_what_fits_no_table_becomes_records(monkeypatch):
    text = drawn(monkeypatch, 60, COLUMNS, ROWS[:1])
    assert text.splitlines() == [
        "onnxruntime  fp32",
        "  size: 40.6 KiB  p50 / p95 ms: 0.0394 / 0.0449",
        "  metric: top1 0.9883 -> 0.985 (drop 0.0033)",
        "  rel L2: 0.004721  verdict: pass  kept: yes",
    ]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_long_lists_do_not_become_towers(monkeypatch, width):
    columns = (Column("target", whole=True), Column("title"), Column("precisions"), Column("verbs"))
    verbs = "convert, open; optimize by compress; deploy, adjust, migrate by embedded"
    rows = [Row((name, "ONNX Runtime", ", ".join(BY_RECIPE), verbs)) for name in ("a" * 11, "b")]
    text = drawn(monkeypatch, width, columns, rows)
    assert len(text.splitlines()) <= 2 + 6 * len(rows)
    assert max(map(len, text.splitlines())) <= width
    words = {*BY_RECIPE[:-1]} - {"int8"}
    assert all(f"{word}," in text for word in words)


def test_a_word_that_is_wider_than_the_terminal_stays_whole(monkeypatch):
    path = "/a/long/path/without/spaces/" + "x" * 60
    text = drawn(
        monkeypatch, 40, [Column("a"), Column("where")], [Row(("1", path)), Row(("2", "-"))]
    )
    assert path in text


def test_records_have_the_colours_of_their_cells(monkeypatch):
    rows = [Row(("a" * 30, "pass"), "", ((1, "green"),))]
    columns = [Column("name", whole=True), Column("verdict", whole=True)]
    assert "\x1b[32mpass" in drawn(monkeypatch, 34, columns, rows, color=True)
    assert "\x1b" not in drawn(monkeypatch, 34, columns, rows)


def test_many_rows_are_fitted():
    """By halving: a try for each width would run into the limit of time of this module."""
    cells = [f"value.{i} of layer {i % 7} with a name that wraps" for i in range(5000)]
    columns = [Column("a"), Column("b"), Column("c", right=True)]
    assert fit(columns, [Row((cell, cell, str(i))) for i, cell in enumerate(cells)], 60)


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_a_real_port_on_a_terminal(tmp_path, net, samples, width):
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    given = environment("ok", LEPTON_PLUGINS="fake", TERM="xterm", NO_COLOR="1")
    del given["COLUMNS"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lepton_core.cli", "port", str(net), "--to", "fake", "--precision",
         "fp32,fp16", "--data", str(samples), "--out", str(tmp_path / "out")],
        cwd=tmp_path, env=given, stdout=slave, stderr=subprocess.DEVNULL, stdin=slave,
    )  # fmt: skip
    os.close(slave)
    printed = read_terminal(master)
    assert process.wait(timeout=60) == 0
    table = printed.decode().replace("\r\n", "\n").partition("\n\n")[0]
    assert max(map(len, table.splitlines())) <= width
    for word in ("size", "p50", "p95", "metric", "rel L2", "verdict", "fp32", "fp16", "rel_l2"):
        assert word in table, table
    assert table.count("pass") == table.count("(drop") == 2
