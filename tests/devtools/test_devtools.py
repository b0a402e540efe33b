"""The rules that set-up relies on: what is ours, what is broken, what uv is told."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import platform
import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from devtools import neutral, projects, repair, rust, uv, wheels
from devtools.console import SetupError
from packaging.specifiers import SpecifierSet


def script(name):
    """A script of .ci as a module."""
    path = projects.ROOT / ".ci" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"lepton_ci_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def package(tmp_path):
    """An installed package with a whole RECORD; returns its environment."""
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    metadata = site / "acme-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "acme.py").write_text("x = 1\n")
    (metadata / "RECORD").write_text(
        "acme.py,sha256=unused,6\n__pycache__/acme.pyc,,\n"
        "acme-1.0.dist-info/direct_url.json,,3\nacme-1.0.dist-info/RECORD,,\n"
    )
    return tmp_path


def test_whole_package_is_kept(package):
    assert repair.forget_broken(package) == []
    assert [path.name for path in repair.site_packages(package)] == ["site-packages"]
    assert list(package.rglob("RECORD"))


@pytest.mark.parametrize("damage", ["missing", "short", "record missing", "record empty"])
def test_damaged_package_is_forgotten(package, damage):
    module = next(package.rglob("acme.py"))
    record = next(package.rglob("RECORD"))
    if damage == "missing":
        module.unlink()
    elif damage == "short":
        module.write_text("x")
    elif damage == "record missing":
        record.unlink()
    else:
        record.write_text("")
    assert repair.forget_broken(package) == ["acme-1.0"]
    assert not list(package.rglob("*.dist-info"))


def test_damaged_cache_is_reported(package, monkeypatch):
    setup = script("setup")
    monkeypatch.setattr(setup, "VENV", package)
    monkeypatch.setattr(setup, "STATE", package)
    monkeypatch.setattr(setup, "STAMPS", package)
    tool = uv.Uv(package)
    tool._settings = {"UV_CACHE_DIR": str(package / "cache")}
    setup.check_cache(tool)
    next(package.rglob("acme.py")).write_text("x")
    with pytest.raises(SetupError, match=r"damaged files of acme-1\.0[\s\S]*cache clean .* acme"):
        setup.check_cache(tool)
    assert (package / "unfinished-packages").exists()


def test_first_party_never_reaches_the_index():
    found = projects.discover()
    assert {"lepton-core", "lepton-onnx", "lepton-onnxruntime", "lepton-torch"} <= found.keys()
    names = {projects.requirement_name(wanted) for wanted in projects.third_party(found)}
    assert {"torch", "onnx", "onnxruntime", "transformers", "pytest"} <= names
    assert not [name for name in names if name.startswith("lepton")]


def test_unknown_first_party_name_is_refused():
    with pytest.raises(SetupError, match="never taken from an index"):
        projects.is_first_party("lepton-typo", projects.discover())


def test_every_third_party_requirement_is_pinned():
    for requirement in projects.third_party(projects.discover()):
        assert projects.pinned(projects.requirement_name(requirement))


def test_constraints_hold_names_and_versions_only():
    lines = projects.CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    for pin in pins:
        assert [part for part in pin.split("==") if part and " " not in part] == pin.split("==")
    names = [projects.normalized(pin.split("==")[0]) for pin in pins]
    assert len(names) == len(set(names))
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-", "triton", "lepton"))]


def test_pip_can_install_what_is_pinned():
    """The installer used here ignores upper bounds on the version of Python; pip obeys them."""
    python = platform.python_version()
    pins = dict(
        line.split("==") for line in projects.CONSTRAINTS.read_text("utf-8").splitlines()
        if "==" in line
    )  # fmt: skip
    asked = {
        found.metadata["Name"]: found.metadata.get("Requires-Python") or ""
        for found in distributions()
        if projects.normalized(found.metadata["Name"]) in map(projects.normalized, pins)
    }
    assert len(asked) > 30
    assert not {name: r for name, r in asked.items() if not SpecifierSet(r).contains(python)}


def test_digest_follows_content_and_names(tmp_path, monkeypatch):
    monkeypatch.setattr(projects, "ROOT", tmp_path)
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("1")
    second.write_text("1")
    assert projects.digest_of([first]) == projects.digest_of([first])
    assert projects.digest_of([first]) != projects.digest_of([second])
    assert projects.digest_of([first]) != projects.digest_of([first], "")
    before = projects.digest_of([first])
    first.write_text("2")
    assert projects.digest_of([first]) != before


def test_uv_is_told_what_pip_is_told(monkeypatch):
    for variable in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS", "SSL_CERT_FILE"):
        monkeypatch.delenv(variable, raising=False)
    told = {
        "index-url": "https://mirror.example/simple",
        "extra-index-url": "https://one.example/simple\nhttps://two.example/simple",
        "find-links": "first second",
        "cert": "bundle.pem",
    }
    monkeypatch.setattr(uv, "pip_settings", lambda python: told)
    env = uv.environment(Path(sys.executable))
    assert env["UV_DEFAULT_INDEX"] == "https://mirror.example/simple"
    assert env["UV_INDEX"] == "https://one.example/simple https://two.example/simple"
    assert env["UV_FIND_LINKS"] == "first,second"
    assert env["SSL_CERT_FILE"] == "bundle.pem"
    assert env["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://own.example/simple")
    assert uv.environment(Path(sys.executable))["UV_DEFAULT_INDEX"] == "https://own.example/simple"


def test_pip_settings_come_from_files_and_environment(tmp_path, monkeypatch):
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nindex-url = https://file.example/simple\nproxy = http://p.example\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    monkeypatch.setenv("PIP_INDEX_URL", "https://env.example/simple")
    settings = uv.pip_settings(uv.python_of(uv.VENV))
    assert settings["index-url"] == "https://env.example/simple"
    assert settings["proxy"] == "http://p.example"


def test_old_and_new_versions_of_rust_compare_by_number():
    assert rust._numbers("1.100.0") > rust._numbers("1.89")
    assert rust._numbers("1.89.0") == rust._numbers("1.89")


def test_wheel_metadata_is_read(tmp_path):
    path = tmp_path / "lepton_acme-1.0-py3-none-any.whl"
    text = (
        "Metadata-Version: 2.4\nName: lepton_acme\nVersion: 1.0\nProvides-Extra: cpu\n"
        "Requires-Dist: lepton-core<1,>=0.1\nRequires-Dist: acme; extra == 'cpu'\n\nBody\n"
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("lepton_acme-1.0.dist-info/METADATA", text)
    wheel = wheels.read(path)
    assert wheel.name == "lepton-acme"
    assert wheel.extras == {"cpu"}
    assert wheel.requires == ("lepton-core<1,>=0.1", "acme; extra == 'cpu'")


def test_wheel_forgets_where_it_was_built(tmp_path):
    path, sbom = tmp_path / "a-1-py3-none-any.whl", "a-1.dist-info/sboms/a.json"
    tree = tmp_path / "tree"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.py", tree.as_uri())
        archive.writestr(sbom, f'{{"ref": "path+{tree.as_uri()}/crate"}}')
        archive.writestr("a-1.dist-info/RECORD", f"a.py,sha256=x,1\n{sbom},sha256=x,1\n")
    neutral.neutralize(path, tree)
    with zipfile.ZipFile(path) as archive:
        data = archive.read(sbom)
        record = archive.read("a-1.dist-info/RECORD").decode().splitlines()
        assert archive.read("a.py").decode() == tree.as_uri(), "only bills of materials change"
        assert archive.namelist() == ["a.py", sbom, "a-1.dist-info/RECORD"]
    assert data == b'{"ref": "path+file:///lepton/crate"}'
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    assert record == ["a.py,sha256=x,1", f"{sbom},sha256={digest},{len(data)}"]


def test_anchors_and_links(tmp_path, monkeypatch):
    docs = script("docs")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    page = tmp_path / "a.md"
    page.write_text(
        "# One `two` three!\n```\n# no heading [x](gone.md)\n```\n"
        "[ok](#one-two-three) [ok](https://example.org/x) `[code](gone.md)`\n"
        "[bad](#no-heading) [bad](missing.md)\n"
    )
    assert list(docs.broken_links(page)) == [
        "a.md: #no-heading names no heading",
        "a.md: missing.md does not exist",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="find-python is a POSIX shell script")
def test_find_python_skips_what_does_not_run(tmp_path):
    for name in ("python3", "python3.11", "python3.12"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 127\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "python3.13").symlink_to(sys.executable)
    command = ["/bin/sh", str(projects.ROOT / ".ci" / "find-python")]
    found = subprocess.run(
        command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "python3.13"
    for name in ("python3.13", "python", "py"):
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).write_text("#!/bin/sh\nexit 127\n")
        (tmp_path / name).chmod(0o755)
    missing = subprocess.run(
        command, env={"PATH": f"{tmp_path}:/bin"}, capture_output=True, text=True, check=False
    )
    assert missing.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13 was found" in missing.stderr


def test_tests_of_a_group_run_in_one_worker(tmp_path):
    """pytest 9.2 and pytest-xdist 3.8 do not understand each other: every group ran everywhere."""
    (tmp_path / "test_group.py").write_text(
        "import os, pathlib, pytest\n"
        "@pytest.mark.xdist_group('one')\n"
        "@pytest.mark.parametrize('number', range(6))\n"
        "def test_here(number):\n"
        "    pathlib.Path(os.environ['PYTEST_XDIST_WORKER']).touch()\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", "."]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    assert len(list(tmp_path.glob("gw*"))) == 1
