"""Option types, tables and reporters."""

from __future__ import annotations

import io
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_core import progress
from lepton_core.cli._port import latency_text, metric_text, number_text, size_text
from lepton_core.cli._table import Column, Row, draw, plain_lines
from lepton_core.cli._types import (
    DURATION,
    METRICS,
    SEED,
    SIZE,
    FiniteType,
    pairs,
    shapes,
    split_list,
)
from lepton_core.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("512M", 512 << 20),
        ("4g", 4 << 30),
        ("1.5GiB", 3 << 29),
        ("2 KB", 2048),
        ("1T", 1 << 40),
    ],
)
def test_sizes(text, size):
    assert SIZE.convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "0", "1X", "1e3", "nan", "1 2"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError) as caught:
        SIZE.convert(text, None, None)
    assert caught.value.code == "LPT-USE-104"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("0.5", 0.5),
        ("15m", 900),
        ("15min", 900),
        ("1h30m", 5400),
        ("2h", 7200),
    ],
)
def test_durations(text, seconds):
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "1d", "m", "inf"])
def test_what_is_no_duration(text):
    with pytest.raises(UsageError) as caught:
        DURATION.convert(text, None, None)
    assert caught.value.code == "LPT-USE-105"


@given(st.floats())
def test_numbers_are_finite_and_not_negative(number):
    kind = FiniteType()
    if 0 <= number < float("inf"):
        assert kind.convert(repr(number), None, None) == number
    else:
        with pytest.raises(UsageError):
            kind.convert(repr(number), None, None)


def test_lists_and_settings():
    assert split_list(("a,b", " c ,", "a")) == ("a", "b", "c")
    assert pairs(("a=1", "b=x=y", 'c=["d"]', "e="), "--option") == {
        "a": 1, "b": "x=y", "c": ["d"], "e": "",
    }  # fmt: skip
    assert shapes(("batch=1,length=128",)) == ({"batch": 1, "length": 128}, {})
    assert shapes(("batch=1..8", "length=4")) == ({"length": 4}, {"batch": (1, 8)})
    for wrong in (("a",), ("=1",), ("a=1", "a=2")):
        with pytest.raises(UsageError):
            pairs(wrong, "--option")
    for wrong in ("a=0", "a=true", "a=1.5", "a=b", "a=0..3", "a=3..2", "a=1..", "a=1..x"):
        with pytest.raises(UsageError):
            shapes((wrong,))


def test_texts_of_numbers():
    assert size_text(None) == ""
    assert size_text(1000 << 10) == "0.977 MiB", "and not 1e+03 KiB"
    assert [size_text(n) for n in (0, 1023, 1536, 5 << 20, 3 << 30)] == [
        "0 B", "1023 B", "1.5 KiB", "5 MiB", "3 GiB",
    ]  # fmt: skip
    assert latency_text({"p50": None, "p95": None}) == ""
    assert latency_text({"p50": 1.23456, "p95": 2}) == "1.23 / 2"
    assert number_text("Infinity") == "inf"
    assert number_text(0.97777) == "0.9778"
    metric = {"name": "top1", "source": 0.978, "variant": 0.977, "drop": 0.001}
    assert metric_text(metric) == "top1 0.978 -> 0.977 (drop 0.001)"
    assert metric_text(None) == ""


def test_plain_tables_have_one_line_per_row_and_no_empty_columns():
    columns = [Column("a"), Column("number", right=True), Column("c")]
    rows = [Row(("x\ny", "1", "")), Row(("", "200", ""))]
    assert plain_lines(columns[:2], [Row(r.cells[:2]) for r in rows]) == [
        "a    number", "x y       1", "-       200",
    ]  # fmt: skip
    stream = io.StringIO()
    draw(stream, columns, rows, terminal=False, color=False)
    assert "c" not in stream.getvalue().splitlines()[0]


def test_drawn_tables_take_markup_as_text_and_colours_only_if_allowed():
    rows = [Row(("[red]x[/red]", "1"), "dim", ((1, "green"),))]
    for color in (True, False):
        stream = Terminal()
        draw(stream, [Column("a"), Column("b")], rows, terminal=True, color=color)
        text = stream.getvalue()
        assert "[red]x[/red]" in text
        assert ("\x1b[" in text) is color


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("terminal", "options", "kind"),
    [
        (True, {}, progress.RichReporter),
        (True, {"json": True}, progress.RichReporter),
        (True, {"quiet": True}, progress.QuietReporter),
        (False, {}, progress.WarningReporter),
        (False, {"verbose": True}, progress.PlainReporter),
        (False, {"json": True}, progress.QuietReporter),
        (False, {"json": True, "verbose": True}, progress.PlainReporter),
        (False, {"quiet": True, "verbose": True}, progress.QuietReporter),
    ],
)
def test_which_reporter(monkeypatch, terminal, options, kind):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal() if terminal else io.StringIO()
    assert type(progress.reporter_for(stream, **options)) is kind


def test_a_dumb_terminal_gets_no_bars(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert type(progress.reporter_for(Terminal())) is progress.WarningReporter


def test_plain_lines_are_sparse(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with progress.PlainReporter(stream) as reporter:
        task = reporter.task("run", 10)
        for _ in range(10):
            now[0] += 1
            task.advance()
        task.finish()
        reporter.warn("careful")
    assert stream.getvalue().splitlines() == [
        "run", "run: 5 of 10", "run: 10 of 10", "run: done (10.0 s)", "warning: careful",
    ]  # fmt: skip


def test_bars_from_many_threads(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with progress.RichReporter(stream, color=False) as reporter:

        def work(number):
            task = reporter.task(f"job {number}", 20)
            for _ in range(20):
                task.advance()
            task.finish("well")
            task.finish()

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        reporter.note("[bold]as it is[/bold]")
        display = reporter._progress
        assert display is not None
        assert display.tasks == []
    assert reporter._progress is None
    assert "[bold]as it is[/bold]" in stream.getvalue()


def test_a_board_stands_above_the_bars_and_is_replaced(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with progress.RichReporter(stream, color=False) as reporter:
        reporter.task("search", 3)
        progress.show_board(reporter, "first", ["what", "bytes"], [["[one]", "12,000"]])
        progress.show_board(reporter, "second", ["what", "bytes"], [["two", "9,000"]])
        shown = stream.getvalue()
        assert shown.index("first") < shown.index("[one]") < shown.index("second")
        assert "9,000" in shown
        before = len(shown)
        progress.show_board(reporter, "", (), ())
        assert "9,000" not in stream.getvalue()[before:]
    quiet = io.StringIO()
    for reporter in (progress.PlainReporter(quiet), progress.QuietReporter()):
        progress.show_board(reporter, "third", ["a"], [["b"]])
    assert quiet.getvalue() == ""


def test_a_long_step_leaves_a_line(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with progress.RichReporter(stream, color=False) as reporter:
        task = reporter.task("convert", 1)
        task._began -= 2
        task.finish("12 layers")
    assert "convert: 12 layers (2." in stream.getvalue()


def test_the_metrics_that_are_completed_are_those_that_there_are():
    from lepton_core import metrics

    assert tuple(metrics.METRICS) == METRICS


def test_seeds_of_the_command_line_are_those_of_a_context():
    from lepton_core.context import LARGEST_SEED

    assert (SEED.min, SEED.max) == (0, LARGEST_SEED)


def test_completing_imports_nothing_heavy():
    code = (
        "import sys; from lepton_core.cli._types import METRIC, PRECISION_LIST\n"
        "from lepton_core.cli._port import port_command\n"
        "[kind.shell_complete(None, None, 'fp32,') for kind in (METRIC, PRECISION_LIST)]\n"
        "assert not {'numpy', 'rich', 'onnx', 'torch', 'lepton_core.registry'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
