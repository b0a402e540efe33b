"""Listing and importing plugins from installed distributions' metadata."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from lepton_core import _discovery


def _fake_modules():
    return {name for name in sys.modules if name.startswith("fake_")}


def _entries(name):
    return [e for e in _discovery.list_entries() if e.name == name]


def test_entries_say_where_they_come_from_and_import_nothing(fakes):
    fakes("ok")
    (entry,) = _entries("fake")
    assert entry == _discovery.PluginEntry(
        "lepton.targets", "fake", "fake_ok.plugin", "fake-ok", "1.0", ">=0.1"
    )
    assert entry.package == "fake_ok"
    assert str(entry) == "fake-ok 1.0"
    assert not _fake_modules()


def test_both_groups_are_listed_in_the_order_of_names(fakes):
    fakes("wrapper", "rogue", "ok")
    ours = [e for e in _discovery.list_entries() if e.distribution.startswith("fake-")]
    assert [(e.name, e.group) for e in ours] == [
        ("fake", "lepton.targets"),
        ("rogue", "lepton.targets"),
        ("wrapper", "lepton.extensions"),
    ]


def test_duplicates_stay_in_the_list_each_with_its_distribution(fakes):
    fakes("duplicate_b", "ok", "duplicate_a")
    assert [e.distribution for e in _entries("twin")] == ["fake-duplicate-a", "fake-zz-duplicate-b"]


def test_a_distribution_found_twice_on_the_path_counts_once(fakes, monkeypatch, tmp_path):
    fakes("ok")
    link = tmp_path / "again"
    link.symlink_to(sys.path[0], target_is_directory=True)
    monkeypatch.syspath_prepend(str(link))
    assert len(_entries("fake")) == 1


def test_malformed_metadata_of_others_does_not_stop_the_list(fakes):
    fakes("malformed", "ok")
    assert len(_entries("fake")) == 1
    (nameless,) = _entries("nameless")
    assert isinstance(nameless.distribution, str)
    assert isinstance(nameless.version, str)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lepton-core", ""),
        ("lepton-core>=1,<2", ">=1,<2"),
        ("Lepton_Core (>=1)", ">=1"),
        ("lepton.core[testing]>=1", ">=1"),
        ("lepton-core >=1 ; python_version >= '3.8'", ">=1"),
        ("lepton-core>=1 ; extra == 'dev'", ""),
        ("lepton-core-extras>=1", ""),
        ("lepton-corefoo>=1", ""),
    ],
)
def test_core_requirement(line, expected):
    distribution = SimpleNamespace(requires=["numpy", line])
    assert _discovery._core_requirement(distribution) == expected


def test_load_imports_one_plugin_through_stevedore(fakes):
    fakes("ok", "raise_at_import", "rogue")
    (entry,) = _entries("fake")
    plugin = _discovery.load_plugin(entry)
    assert plugin.__name__ == "fake_ok.plugin"
    assert _fake_modules() == {"fake_ok", "fake_ok.plugin"}


def test_load_passes_on_what_the_import_raises(fakes):
    fakes("assert_at_import", "exit_at_import", "own_import_error")
    for name, kind in (
        ("assert-at-import", AssertionError),
        ("exit-at-import", SystemExit),
        ("own-import-error", ImportError),
    ):
        (entry,) = _entries(name)
        with pytest.raises(kind):
            _discovery.load_plugin(entry)


def test_stevedores_cache_stays_in_the_tests_own_folder(fakes):
    from stevedore import _cache

    fakes("ok")
    _discovery.load_plugin(_entries("fake")[0])
    assert "lepton-tests-" in _cache._c._dir
