"""Facts about the machine."""

from __future__ import annotations

import os
import sys

import pytest

from lepton_core import environment


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """Return a function that writes cgroup files under a root of our own."""
    monkeypatch.setattr(environment, "_CGROUP", tmp_path)
    monkeypatch.setattr(environment, "_cgroup_directory", lambda: tmp_path / "a" / "b")

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("DOT", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    (tmp_path / "a" / "b").mkdir(parents=True)
    return write


def test_no_container_no_limit(cgroup):
    assert environment.cgroup_cpus() is None
    assert environment.cgroup_memory() is None


def test_quota_of_version_2(cgroup):
    cgroup(a__b__cpuDOTmax="150000 100000\n")
    assert environment.cgroup_cpus() == 1.5


def test_the_tightest_ancestor_counts(cgroup):
    cgroup(a__b__cpuDOTmax="max 100000", a__cpuDOTmax="50000 100000", cpuDOTmax="800000 100000")
    assert environment.cgroup_cpus() == 0.5
    cgroup(a__b__memoryDOTmax="max", a__memoryDOTmax="1000", memoryDOTmax="5000")
    assert environment.cgroup_memory() == 1000


def test_version_1(cgroup):
    cgroup(cpu__cpuDOTcfs_quota_us="200000", cpu__cpuDOTcfs_period_us="100000")
    assert environment.cgroup_cpus() == 2.0
    cgroup(memory__memoryDOTlimit_in_bytes="4096")
    assert environment.cgroup_memory() == 4096


def test_version_1_without_a_limit(cgroup):
    cgroup(cpu__cpuDOTcfs_quota_us="-1", cpu__cpuDOTcfs_period_us="100000")
    cgroup(memory__memoryDOTlimit_in_bytes="9223372036854771712")
    assert environment.cgroup_cpus() is None
    assert environment.cgroup_memory() is None


@pytest.mark.parametrize("text", ["", "nonsense", "abc def", "max"])
def test_files_that_say_something_else_are_no_limit(cgroup, text):
    cgroup(a__b__cpuDOTmax=text, a__b__memoryDOTmax=text)
    assert environment.cgroup_cpus() is None
    assert environment.cgroup_memory() is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 4), (2.5, 2), (0.5, 1), (64.0, 4)])
def test_available_cpus(monkeypatch, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(environment, "cgroup_cpus", lambda: quota)
    assert environment.available_cpus() == expected


def test_available_cpus_without_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    monkeypatch.setattr(environment, "cgroup_cpus", lambda: None)
    assert environment.available_cpus() == 1


def test_versions():
    import pluggy

    assert environment.version_of("pluggy") == pluggy.__version__
    assert environment.version_of("a-package-that-is-nowhere") is None
    found = environment.versions_of("pluggy", "a-package-that-is-nowhere")
    assert found == {"pluggy": pluggy.__version__}


def test_describe_is_plain_and_imports_nothing_it_names():
    import json
    import subprocess

    code = (
        "import sys, json; from lepton_core.environment import describe;"
        "print(json.dumps(describe('pluggy', 'hypothesis')));"
        "assert not {'pluggy', 'hypothesis', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    facts = json.loads(done.stdout)
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["packages"].keys() >= {"pluggy", "numpy"}
    assert facts["cpus_available"] >= 1
    assert facts["cpu"]


@pytest.mark.parametrize(
    ("machine", "features", "may"),
    [
        ("x86_64", ("avx2",), True),
        ("AMD64", (), True),
        ("x86_64", ("avx2", "avx512_vnni"), False),
        ("aarch64", ("asimd",), False),
    ],
)
def test_only_x86_without_vnni_may_saturate(monkeypatch, machine, features, may):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(environment, "cpu_features", lambda: features)
    assert environment.sums_may_saturate() is may
    assert environment.sums_may_saturate(("avx_vnni",)) is False
