"""How benchmarks are run: what cannot be installed stops neither the others nor the next try."""

import importlib.util

import pytest
from devtools import bench_env, projects
from devtools.console import SetupError


@pytest.fixture
def bench():
    """`.ci/bench.py` as a module."""
    spec = importlib.util.spec_from_file_location("lepton_ci_bench", projects.ROOT / ".ci/bench.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_kernels_that_cannot_be_measured_fail_alone(bench, tmp_path, monkeypatch, capsys):
    def nothing():
        raise SetupError("no index")

    ran = []
    monkeypatch.setattr(bench, "bench_python", nothing)
    monkeypatch.setattr(bench, "run", lambda command, **_: ran.append(command[1].stem) or 0)
    monkeypatch.setattr(bench, "start_up", dict)
    monkeypatch.setattr("sys.argv", ["bench.py", "--out", str(tmp_path / "out")])
    with pytest.raises(SetupError, match=r"benchmarks failed: \S*kernels\.py$"):
        bench.main()
    assert "no index" in capsys.readouterr().out
    scripts = {file.stem for file in (projects.ROOT / "tests" / "bench").glob("[!_]*.py")}
    assert set(ran) == scripts - {"kernels"}


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An environment of peers of which nothing is really installed; returns what is asked for."""
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True)
    asked, missing = [], set()

    class Uv:
        def __init__(self, venv):
            assert venv == tmp_path

        def create(self):
            (tmp_path / "bin").mkdir(exist_ok=True)

        def install(self, *names, what, quiet):
            asked.append(what)
            if what in missing:
                raise SetupError(f"no {what}")

    monkeypatch.setattr(bench_env, "BENCH_VENV", tmp_path)
    monkeypatch.setattr(bench_env, "ABSENT", tmp_path / "absent.json")
    monkeypatch.setattr(bench_env, "Uv", Uv)
    monkeypatch.setattr(bench_env, "python_of", lambda venv: venv / "bin" / "python")
    return asked, missing


def test_an_absent_peer_is_tried_again(environment, tmp_path):
    asked, missing = environment
    missing.add("nncf")
    bench_env.bench_python()
    assert "no nncf" in (tmp_path / "absent.json").read_text()
    asked.clear()
    missing.clear()
    bench_env.bench_python()
    assert "nncf" in asked
    assert (tmp_path / "absent.json").read_text() == "{}\n"
    asked.clear()
    bench_env.bench_python()
    assert not asked


@pytest.mark.parametrize("name", ["BASE", "PEERS"])
def test_another_list_of_packages_is_installed(environment, monkeypatch, name):
    asked, _ = environment
    bench_env.bench_python()
    asked.clear()
    monkeypatch.setattr(bench_env, name, (*getattr(bench_env, name), "acme"))
    bench_env.bench_python()
    assert asked


def test_no_package_is_pinned_twice():
    """Two pins that part are a peer that cannot be installed."""

    def names(path):
        lines = path.read_text(encoding="utf-8").splitlines()
        return {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}

    assert not names(bench_env.PINS) & names(projects.CONSTRAINTS)
