"""Remaining time over a whole run: what was measured so far tells what is still to come."""

from __future__ import annotations

import io

import pytest

from lepton_core import progress
from lepton_core.context import SilentReporter
from lepton_core.remaining import Remaining, Step, expect


class Told(SilentReporter):
    """A reporter that keeps what it is told of the remaining time."""

    def __init__(self):
        self.told = []

    def remaining(self, seconds, share=0.0, *, whole=True):
        self.told.append((seconds, share, whole))


@pytest.fixture
def run():
    class Run:
        now = 0.0

        def __init__(self):
            self.told = Told()
            self.reporter = Remaining(self.told, lambda: self.now)

        def bar(self, description, units, each, *, stop=None):
            task = self.reporter.task(description, units)
            for _ in range(units if stop is None else stop):
                self.now += each
                task.advance()
            if stop is None:
                task.finish()
            return task

        @property
        def left(self):
            return self.reporter.estimate()

    return Run()


def test_what_is_left_follows_from_what_was_measured(run):
    expect(run.reporter, [
        Step("calibrate", 100), Step("sensitivity", 20, "choice", cost=128),
        Step("search", 60, "choice", cost=256, may_grow=True), Step("time it", 1, seconds=2.0),
    ])  # fmt: skip
    assert (run.left.seconds, run.left.whole) == (2.0, False), "only a guess is known"
    run.bar("calibrate on 100 samples", 100, 0.1, stop=50)
    assert run.left.seconds == pytest.approx(5 + 2)
    assert not run.left.whole, "nothing is known of choices"
    run.reporter._running.finish()
    task = run.bar("sensitivity of 5 weights", 20, 1.0, stop=10)
    # 10 more at 1 s, 60 of twice the rows at 2 s, and the guess; calibration is over.
    assert run.left.seconds == pytest.approx(10 + 120 + 2)
    assert not run.left.whole, "a search may grow"
    run.now += 0.4
    assert run.left.seconds == pytest.approx(10 + 120 + 2 - 0.4), "time goes on between units"
    for _ in range(10):
        task.advance()
    task.finish()
    run.bar("search: along the path", 1, 3.0)
    run.bar("search: refine", 8, 3.0)
    assert run.left.seconds == pytest.approx((60 - 9) * 3 + 2), "at its own pace by now"
    run.bar("time it beside the float model", 1, 1.0, stop=0)
    assert run.left.seconds == pytest.approx(2.0)
    assert run.left.whole, "the search is over as something behind it runs"


def test_steps_that_turn_out_larger_or_come_again_are_counted(run):
    expect(run.reporter, [Step("run", 10), Step("calibrate", 5), Step("run", 10)])
    run.bar("run 10 samples", 10, 1.0)
    task = run.bar("calibrate on 30 samples", 30, 0.5, stop=10)
    assert run.left.seconds == pytest.approx(20 * 0.5), "the last step's pace is not known yet"
    task.finish()
    run.bar("run 10 samples", 10, 2.0, stop=5)
    assert run.left.seconds == pytest.approx(5 * 2.0)


def test_bars_inside_a_step_and_unannounced_ones_count_for_nothing(run):
    expect(run.reporter, [Step("sensitivity", 4)])
    run.bar("convert", 3, 100.0)
    assert run.left.seconds is None
    task = run.reporter.task("sensitivity of 2 weights", 4)
    run.bar("sensitivity inside", 1, 5.0)
    task.advance()
    assert run.left.seconds == pytest.approx(3 * 5.0)


def test_more_steps_can_be_told_later(run):
    expect(run.reporter, [Step("calibrate", 10), Step("round", 1, may_grow=True)])
    run.bar("calibrate on 10 samples", 10, 1.0)
    expect(run.reporter, [Step("sensitivity", 6, "choice"), Step("verify", 4, "choice")])
    run.bar("sensitivity of 3 weights", 6, 2.0, stop=3)
    assert run.left.seconds == pytest.approx((3 + 4) * 2.0)
    assert run.left.whole
    last = run.told.told[-1]
    assert (last[0], last[2]) == (pytest.approx(14.0), True)
    assert last[1] == pytest.approx(16 / (16 + 14))
    run.reporter.close()
    assert run.told.told[-1][0] is None, "the bar is taken down"


def test_estimates_of_a_steady_run_end_where_it_ends(run):
    """The end that is foretold stays where it is while the work goes on at one pace."""
    expect(run.reporter, [Step("a", 50, "k"), Step("b", 25, "k", cost=4)])
    run.bar("a", 50, 0.2)
    run.bar("b", 25, 0.8)
    ends = [when for when, _, whole in run.told.told if whole and when is not None]
    assert len(ends) > 10
    shares = [share for _, share, _ in run.told.told]
    assert shares == sorted(shares)
    assert run.told.told[-1][0] < 0.8


def test_a_reporter_that_knows_nothing_of_it_is_left_alone(run):
    expect(SilentReporter(), [Step("a", 1)])
    quiet = Remaining(SilentReporter())
    quiet.expect([Step("a", 2, seconds=1.0)])
    quiet.task("a", 2).finish()
    quiet.close()
    progress.show_board(quiet, "title", ("a",), [("b",)])
    assert getattr(quiet, "about_to", None) is None


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_a_terminal_shows_the_whole_run_and_a_pipe_does_not(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with progress.RichReporter(stream, color=False) as reporter:
        progress.show_remaining(reporter, None)
        assert stream.getvalue() == "", "nothing to take down draws nothing"
        progress.show_remaining(reporter, 3725.0, 0.25)
        reporter._progress.refresh()
        assert "whole run" in stream.getvalue()
        assert "1:02:0" in stream.getvalue()
        assert "25/100" in stream.getvalue()
        progress.show_remaining(reporter, 60.0, 0.5, whole=False)
        reporter._progress.refresh()
        assert "as far as it is known" in stream.getvalue()
        progress.show_remaining(reporter, None)
        assert reporter._progress.tasks == []
    for reporter in (progress.PlainReporter(io.StringIO()), progress.QuietReporter()):
        progress.show_remaining(reporter, 60.0, 0.5)
    piped = progress.reporter_for(io.StringIO(), json=True)
    assert not hasattr(piped, "remaining")


def test_it_crosses_the_process_border(context):
    from dataclasses import replace

    from lepton_core.workers.child import PipeReporter
    from lepton_core.workers.process import _report

    sent = []
    outlet = type("Outlet", (), {"send": staticmethod(sent.append)})
    progress.show_remaining(PipeReporter(outlet), 12.5, 0.5, whole=False)
    told = Told()
    for message in sent:
        _report(message, {}, replace(context, reporter=told))
        _report(message, {}, replace(context, reporter=SilentReporter()))
    assert told.told == [(12.5, 0.5, False)]
