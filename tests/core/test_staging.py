"""Results appear whole or not at all."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from lepton_core.errors import StorageError
from lepton_core.staging import MARKER, staged


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_the_result_appears_when_the_block_ends(tmp_path):
    with staged(tmp_path / "deep" / "out") as stage:
        (stage / "a").write_text("1")
        assert not (tmp_path / "deep" / "out").exists()
    assert names(tmp_path / "deep" / "out") == ["a"]
    assert names(tmp_path / "deep") == ["out"]


def test_nothing_appears_when_the_block_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "out") as stage:
        (stage / "a").write_text("1")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_folders_made_for_a_result_that_fails_go_with_it(tmp_path):
    out = tmp_path / "deep" / "er" / "out"
    with pytest.raises(KeyboardInterrupt), staged(out):
        raise KeyboardInterrupt
    assert names(tmp_path) == []
    with pytest.raises(KeyboardInterrupt), staged(out):
        (tmp_path / "deep" / "mine").write_text("1")
        raise KeyboardInterrupt
    assert names(tmp_path / "deep") == ["mine"]


def test_an_earlier_result_stays_until_the_new_one_is_whole(tmp_path):
    out = tmp_path / "out"
    with staged(out) as stage:
        (stage / MARKER).write_text("{}")
        (stage / "old").write_text("1")
    with pytest.raises(ValueError, match="broken"), staged(out):
        raise ValueError("broken")
    assert (out / "old").exists()
    with staged(out) as stage:
        (stage / MARKER).write_text("{}")
    assert names(out) == [MARKER]
    assert names(tmp_path) == ["out"]


def test_an_empty_directory_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    with staged(tmp_path / "out") as stage:
        (stage / "a").write_text("1")
    assert names(tmp_path / "out") == ["a"]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_lepton_did_not_write_is_left_alone(tmp_path, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine").write_text("mine")
    with pytest.raises(StorageError, match="LPT-IO-003"), staged(out):
        pytest.fail("the block must not run")
    assert out.exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_without_permission_is_refused_before_any_work(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="LPT-IO-002"), staged(tmp_path / "out"):
            pytest.fail("the block must not run")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a place where nothing can be made")
def test_a_place_where_nothing_can_be_made_is_refused():
    with pytest.raises(StorageError, match="LPT-IO-00"), staged(Path("/proc/nothing")):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("kind", ["file", "link", "lost link"])
def test_what_is_replaced_by_force_is_gone(tmp_path, kind):
    out, other = tmp_path / "out", tmp_path / "other"
    if kind == "file":
        out.write_text("mine")
    else:
        out.symlink_to(other)
    if kind == "link":
        other.mkdir()
        (other / "mine").write_text("1")
    with pytest.raises(StorageError), staged(out):
        pass
    with staged(out, force=True) as stage:
        (stage / MARKER).write_text("{}")
    assert names(out) == [MARKER]
    assert names(tmp_path) == (["other", "out"] if kind == "link" else ["out"])
    assert kind != "link" or names(other) == ["mine"]


def test_of_results_for_one_place_at_the_same_time_the_last_stays_whole(tmp_path):
    """Two commands with the same --out: neither fails, and nothing is left of the other."""
    failures = []

    def write(name):
        try:
            for _ in range(60):
                with staged(tmp_path / "out") as stage:
                    (stage / MARKER).write_text(name)
                    (stage / name).write_text(name)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert names(tmp_path) == ["out"]
    last = (tmp_path / "out" / MARKER).read_text()
    assert names(tmp_path / "out") == sorted([MARKER, last])
