"""The local executor: order, first error, cancellation."""

from __future__ import annotations

import threading
import time

import pytest

from lepton_core.errors import OperationCancelledError
from lepton_core.executor import LocalExecutor


def test_map_keeps_the_order_of_items_not_of_completion():
    with LocalExecutor(4) as executor:
        result = executor.map(lambda n: (time.sleep((4 - n) * 0.02), n)[1], range(5))
    assert result == [0, 1, 2, 3, 4]


def test_map_runs_jobs_at_the_same_time():
    meet = threading.Barrier(3, timeout=10)
    with LocalExecutor(3) as executor:
        assert len(executor.map(lambda _: meet.wait(), range(3))) == 3


def test_map_of_nothing():
    with LocalExecutor(1) as executor:
        assert executor.map(str, []) == []


def test_first_error_by_time_wins_and_stops_the_rest():
    started = []
    both = threading.Barrier(2, timeout=10)

    def job(number):
        started.append(number)
        both.wait()
        if number == 1:
            raise KeyError("first by time")
        assert executor.cancelled.wait(10), "the others are told to stop"
        raise ValueError("later")

    with LocalExecutor(2) as executor, pytest.raises(KeyError, match="first by time"):
        executor.map(job, range(10))
    assert sorted(started) == [0, 1], "jobs that had not begun never begin"


def test_map_returns_only_after_running_jobs_have_ended():
    ended = []

    def job(number):
        if number == 0:
            raise KeyError
        time.sleep(0.1)
        ended.append(number)

    with LocalExecutor(2) as executor, pytest.raises(KeyError):
        executor.map(job, range(2))
    assert ended in ([1], []), "job 1 either ran to its end or never began"


def test_cancel_drops_jobs_that_wait():
    with LocalExecutor(1) as executor:
        gate = threading.Event()
        running = executor.submit(gate.wait, 10)
        waiting = executor.submit(lambda: "never")
        executor.cancel()
        gate.set()
        assert running.result() is True
        with pytest.raises(OperationCancelledError) as caught:
            waiting.result()
    assert caught.value.code == "LPT-STOP-001"


def test_shares_the_callers_event():
    event = threading.Event()
    with LocalExecutor(1, cancelled=event) as executor, pytest.raises(ZeroDivisionError):
        executor.map(lambda _: 1 // 0, range(2))
    assert event.is_set()


def test_submit_passes_arguments():
    with LocalExecutor(1) as executor:
        assert executor.submit(int, "ff", base=16).result() == 255


def test_keyboard_interrupt_in_a_job_reaches_the_caller():
    def job(_):
        raise KeyboardInterrupt

    with LocalExecutor(1) as executor, pytest.raises(KeyboardInterrupt):
        executor.map(job, range(2))
    assert executor.cancelled.is_set()
