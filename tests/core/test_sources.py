"""From what a user types to an unread model."""

from __future__ import annotations

import pytest

from lepton_core.capabilities import ExtensionInfo, SourceFormat
from lepton_core.errors import LeptonError, PluginNotInstalledError, SourceError
from lepton_core.sources import resolve, split_entry

FORMATS = (
    SourceFormat("alpha", "Alpha", suffixes=(".alpha",), example="net.alpha"),
    SourceFormat("code", "Code", entry_suffixes=(".py",), example="file.py:factory"),
    SourceFormat("folder", "Folder", directory_files=("marker.json",)),
)


@pytest.fixture
def formats(registry):
    registry.register(object(), ExtensionInfo("reader", "Reader", "tests", sources=FORMATS))
    return registry


@pytest.fixture
def hub(formats):
    info = ExtensionInfo("hub", "H", "tests", sources=(SourceFormat("hub", "Hub", names=True),))
    formats.register(object(), info)
    return formats


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("net.py:make", ("net.py", "make")),
        ("dir/net.py:make", ("dir/net.py", "make")),
        ("net.py", ("net.py", None)),
        (r"C:\models\net.py", (r"C:\models\net.py", None)),
        (r"C:\models\net.py:make", (r"C:\models\net.py", "make")),
        ("C:name", ("C:name", None)),
        ("net.py:not-a-name", ("net.py:not-a-name", None)),
        ("net.py:", ("net.py:", None)),
        ("", ("", None)),
    ],
)
def test_split_entry(text, parts):
    assert split_entry(text) == parts


def test_by_suffix_whatever_its_case(formats, tmp_path, monkeypatch):
    (tmp_path / "Net.ALPHA").write_text("")
    monkeypatch.chdir(tmp_path)
    model = resolve("Net.ALPHA", formats)
    assert (model.format, model.entry, model.digest) == ("alpha", None, "")
    assert model.path == str((tmp_path / "Net.ALPHA").resolve()), "paths are absolute"


def test_by_entry(formats, tmp_path):
    (tmp_path / "net.py").write_text("raise RuntimeError('sources are not opened')")
    model = resolve(f"{tmp_path / 'net.py'}:make", formats)
    assert (model.format, model.entry) == ("code", "make")


def test_by_a_telling_file(formats, tmp_path):
    (tmp_path / "marker.json").write_text("{}")
    assert resolve(str(tmp_path), formats).format == "folder"


def test_home_is_understood(formats, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "n.alpha").write_text("")
    assert resolve("~/n.alpha", formats).path == str((tmp_path / "n.alpha").resolve())


def test_a_file_whose_name_has_a_colon(formats, tmp_path):
    (tmp_path / "net:x.alpha").write_text("")
    assert resolve(str(tmp_path / "net:x.alpha"), formats).entry is None


def test_a_version_of_the_store_is_no_file(fake_registry):
    with pytest.raises(SourceError) as caught:
        resolve("digits@production", fake_registry)
    assert caught.value.code == "LPT-SRC-001"
    assert "lepton_core.deployment('digits@production')" in caught.value.remedy


def test_a_missing_file_suggests_its_neighbours(formats, tmp_path):
    (tmp_path / "digits.alpha").write_text("")
    with pytest.raises(SourceError) as caught:
        resolve(str(tmp_path / "digit.alpha"), formats)
    assert caught.value.code == "LPT-SRC-001"
    assert caught.value.details["nearest"] == ["digits.alpha"]
    assert "Did you mean" in caught.value.remedy


@pytest.mark.parametrize(
    "text", ["", "x\0y", "a" * 5000, "~nobody-of-this-name/x.alpha", "no/such/dir/x.alpha", "/"]
)
def test_odd_names_are_errors_of_ours(formats, text):
    with pytest.raises(SourceError):
        resolve(text, formats)


def test_a_python_file_without_a_factory(formats, tmp_path):
    (tmp_path / "net.py").write_text("")
    with pytest.raises(SourceError) as caught:
        resolve(str(tmp_path / "net.py"), formats)
    assert caught.value.code == "LPT-SRC-002"
    assert "net.py:NAME" in caught.value.remedy


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".bin"])
def test_pickles_are_refused_with_a_way_out(formats, tmp_path, suffix):
    (tmp_path / f"net{suffix}").write_bytes(b"\x80\x04.")
    with pytest.raises(SourceError) as caught:
        resolve(str(tmp_path / f"net{suffix}"), formats)
    assert caught.value.code == "LPT-SRC-003"
    assert "never loads" in caught.value.cause
    assert "torch.export.save" in caught.value.remedy


def test_what_nobody_reads_lists_what_is_readable(formats, tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(SourceError) as caught:
        resolve(str(tmp_path / "notes.txt"), formats)
    assert "net.alpha" in caught.value.cause


@pytest.mark.parametrize(
    ("name", "plugin"), [("net.onnx", "lepton_onnx"), ("net.pt2", "lepton_torch")]
)
def test_a_reader_that_is_not_installed_says_what_to_install(registry, tmp_path, name, plugin):
    (tmp_path / name).write_text("")
    with pytest.raises(PluginNotInstalledError) as caught:
        resolve(str(tmp_path / name), registry)
    assert plugin in caught.value.remedy


@pytest.mark.parametrize("kind", ["net.py:make", "folder"])
def test_so_do_factories_and_folders(registry, tmp_path, kind):
    (tmp_path / "net.py").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    with pytest.raises(PluginNotInstalledError, match="lepton_torch"):
        resolve(f"{tmp_path}/{kind}", registry)


# --- a hub's names ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["bert", "owner/bert", "owner/Model-2.5B_x"])
def test_names_go_to_the_plugin_that_takes_names(hub, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = resolve(text, hub)
    assert (model.format, model.path) == ("hub", text)


@pytest.mark.parametrize(
    "text",
    ["digits.py:net", "net.onnx", "./bert", "a/b/c", "/no/bert", "~/bert", "-x", "a b", "x:y", "é"],
)
def test_what_looks_like_a_file_is_missing_and_no_name(hub, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LeptonError) as caught:
        resolve(text, hub)
    assert caught.value.code == "LPT-SRC-001"
