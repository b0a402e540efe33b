"""Digests, atomic writes, disk errors."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_core.errors import StorageError
from lepton_core.files import (
    digest_bytes,
    digest_path,
    disk_errors,
    is_disk_error,
    reserve,
    write_atomic,
    write_named,
)


@given(st.binary())
def test_digest_of_bytes(data):
    assert digest_bytes(data) == "sha256:" + hashlib.sha256(data).hexdigest()


def test_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"123")
    assert digest_path(file) == digest_path(str(file)) == digest_bytes(b"123")


def _tree(base, files):
    for name, data in files.items():
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return base


def test_digest_of_a_directory_is_of_names_and_contents(tmp_path):
    files = {"a": b"1", "sub/b": b"2", "sub.c": b"3", "B": b"4"}
    one = digest_path(_tree(tmp_path / "one", files))
    assert digest_path(_tree(tmp_path / "two", dict(reversed(files.items())))) == one
    for number, other in enumerate(
        ({**files, "a": b"x"}, {**files, "new": b""}, {"renamed": b"1", "sub/b": b"2"}, {})
    ):
        place = tmp_path / f"other{number}"
        place.mkdir()
        assert digest_path(_tree(place, other)) != one


def test_digest_of_a_directory_is_fixed_for_all_systems(tmp_path):
    lines = "".join(
        f"{len(n)}:{n}={digest_bytes(d)}\n"
        for n, d in (("B", b"4"), ("a", b"1"), ("sub.c", b"3"), ("sub/b", b"2"))
    )
    tree = _tree(tmp_path / "t", {"a": b"1", "sub/b": b"2", "B": b"4", "sub.c": b"3"})
    assert digest_path(tree) == digest_bytes(lines.encode())


def test_digest_of_nothing_is_an_error_and_not_that_of_an_empty_directory(tmp_path):
    with pytest.raises(FileNotFoundError):
        digest_path(tmp_path / "missing")


@pytest.mark.parametrize("data", [b"\x00\xff", "naïve"])
def test_write_atomic(tmp_path, data):
    file = tmp_path / "f"
    file.write_bytes(b"before")
    write_atomic(file, data)
    assert file.read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_write_atomic_keeps_to_the_umask(tmp_path, mask, mode):
    old = os.umask(mask)
    try:
        write_atomic(tmp_path / "f", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == mode


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "f"
    file.write_text("before")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError) as caught:
        write_atomic(file, "after")
    assert caught.value.code == "LPT-IO-001"
    assert file.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "LPT-IO-001"),
        (errno.EDQUOT, "LPT-IO-001"),
        (errno.EACCES, "LPT-IO-002"),
        (errno.EROFS, "LPT-IO-002"),
    ],
)
def test_disk_errors_say_what_was_written(number, code):
    error = OSError(number, os.strerror(number), "there")
    assert is_disk_error(error)
    with pytest.raises(StorageError, match="the result") as caught, disk_errors("the result"):
        raise error
    assert caught.value.code == code
    assert "there" in caught.value.cause


def test_other_errors_pass(tmp_path):
    assert not is_disk_error(ValueError())
    with pytest.raises(FileNotFoundError), disk_errors("x"):
        (tmp_path / "none").read_text()


@pytest.fixture
def tiny_disk(tmp_path):
    """A real file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if (
        sys.platform != "linux"
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_reserving_on_a_full_disk_is_an_error_and_not_a_signal(tiny_disk):
    sparse = tiny_disk / "sparse"
    with sparse.open("wb") as stream:
        stream.truncate(1 << 20)
    with pytest.raises(StorageError, match="LPT-IO-001"), disk_errors("samples"):
        reserve(sparse)


def test_saving_samples_on_a_full_disk_is_an_error_and_not_a_signal(tiny_disk):
    code = (
        "import sys, numpy as np; from lepton_core.samples import Samples, save\n"
        "from lepton_core.errors import StorageError\n"
        "try: save(Samples({'x': np.ones((1000, 100), np.float32)}), sys.argv[1] + '/samples')\n"
        "except StorageError as error: print(error.code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "LPT-IO-001"), done


def test_a_reserved_file_keeps_its_contents(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    reserve(file)
    assert file.read_bytes() == b"abc"


def test_a_file_that_the_user_named_gets_its_folders_or_an_error_with_a_code(tmp_path):
    file = tmp_path / "new" / "er" / "page.html"
    write_named(file, "page")
    assert file.read_text() == "page"
    for impossible in (file / "page.html", file.parent):
        with pytest.raises(StorageError) as caught:
            write_named(impossible, "other")
        assert caught.value.code == "LPT-IO-004"
    assert [path.name for path in file.parent.iterdir()] == ["page.html"]
