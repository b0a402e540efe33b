"""Plugins that work, plugins that do not, and telling them apart."""

from __future__ import annotations

import sys
import traceback
import types as python_types

import pytest

from lepton_core._plugin_checks import classify_import_error
from lepton_core._version import SPEC_VERSION, __version__
from lepton_core.capabilities import ExtensionInfo, TargetInfo
from lepton_core.errors import (
    PluginBrokenError,
    PluginConflictError,
    PluginDependencyError,
    PluginError,
    PluginNotInstalledError,
    PluginVersionError,
    UnknownTargetError,
)
from lepton_core.installing import install_command
from lepton_core.markers import hookimpl
from lepton_core.registry import PluginWarning, Registry

# case, plugin id, class, code, words of the text
BROKEN_AT_LOAD = [
    (
        "missing_dependency",
        "missing-dependency",
        PluginDependencyError,
        "LPT-PLUG-002",
        ["a_package_that_is_nowhere", 'pip install "a-package[that]"'],
    ),
    ("own_import_error", "own-import-error", PluginBrokenError, "LPT-PLUG-003", ["absent"]),
    ("raise_at_import", "raise-at-import", PluginBrokenError, "LPT-PLUG-003", ["licence server"]),
    ("assert_at_import", "assert-at-import", PluginBrokenError, "LPT-PLUG-003", ["arithmetic"]),
    ("exit_at_import", "exit-at-import", PluginBrokenError, "LPT-PLUG-003", ["SystemExit: 3"]),
    ("wrong_argument", "wrong-argument", PluginBrokenError, "LPT-PLUG-004", ["colour"]),
    ("unknown_hook", "unknown-hook", PluginBrokenError, "LPT-PLUG-004", ["lepton_polish"]),
    (
        "undeclared_wrapper",
        "undeclared-wrapper",
        PluginBrokenError,
        "LPT-PLUG-004",
        ["lepton_convert", "always=True"],
    ),
]
BROKEN_AT_INFO = [
    ("no_info", "no-info", PluginBrokenError, "LPT-PLUG-003", ["fake_no_info.info"]),
    ("typo_in_info", "typo-in-info", PluginBrokenError, "LPT-PLUG-003", ["capabilitie"]),
    ("other_id", "other-id", PluginBrokenError, "LPT-PLUG-004", ["somebody-else"]),
    ("wrong_info", "wrong-info", PluginBrokenError, "LPT-PLUG-004", ["dict", "TargetInfo"]),
    ("odd_entry", "odd-entry", PluginBrokenError, "LPT-PLUG-004", [".plugin:lepton_open"]),
    (
        "new_spec",
        "new-spec",
        PluginVersionError,
        "LPT-PLUG-005",
        ["99", str(SPEC_VERSION), "pip install --upgrade dist/lepton_core-*.whl"],
    ),
    (
        "core_requirement",
        "core-requirement",
        PluginVersionError,
        "LPT-PLUG-005",
        [">=99", __version__],
    ),
]


def _failing(call, kind):
    """Return the error of *call*, with the warnings that came with it."""
    with pytest.warns(PluginWarning) as warned, pytest.raises(kind) as caught:
        call()
    assert len(warned) == 1, "each failure is warned about once"
    return caught.value, str(warned[0].message)


def _check(error, warning, kind, code, words, case):
    assert type(error) is kind
    assert error.code == code
    assert warning == str(error)
    assert error.remedy
    for word in [*words, f"fake-{case.replace('_', '-')}", "1.0"]:
        assert word in str(error), f"{word!r} is not in\n{error}"


@pytest.mark.parametrize(("case", "name", "kind", "code", "words"), BROKEN_AT_LOAD)
def test_broken_at_load(fakes, plugin_warnings, case, name, kind, code, words):
    registry = fakes(case, "ok")
    error, warning = _failing(lambda: registry.load(name), kind)
    _check(error, warning, kind, code, words, case)
    assert registry.records[name].failure is error
    assert not registry.records[name].loaded
    with plugin_warnings() as warned:
        with pytest.raises(kind):
            registry.load(name)
        assert registry.load("fake").__name__ == "fake_ok.plugin", "the others keep working"
        assert set(registry.infos()) == {"fake"}
    assert not warned, "one warning, not one per call"


@pytest.mark.parametrize(("case", "name", "kind", "code", "words"), BROKEN_AT_INFO)
def test_broken_at_description(fakes, plugin_warnings, case, name, kind, code, words):
    registry = fakes(case, "ok")
    error, warning = _failing(lambda: registry.info(name), kind)
    _check(error, warning, kind, code, words, case)
    with plugin_warnings() as warned:
        with pytest.raises(kind):
            registry.load(name)
        assert registry.load("fake")
    assert not warned
    assert f"fake_{case}.plugin" not in sys.modules, "hooks are not imported for this"


def test_status_says_the_kind_of_failure(fakes, plugin_warnings):
    registry = fakes("missing_dependency", "new_spec", "raise_at_import", "ok", "rogue")
    with plugin_warnings():
        for name in ("missing-dependency", "new-spec", "raise-at-import"):
            with pytest.raises(PluginError):
                registry.load(name)
    registry.load("fake")
    assert {name: record.status for name, record in registry.records.items()} == {
        "fake": "loaded",
        "missing-dependency": "dependency",
        "new-spec": "version",
        "raise-at-import": "broken",
        "rogue": "available",
    }


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        ("lepton_core.capabilitie", PluginBrokenError),
        ("shared.part", PluginDependencyError),  # the folder is there, its part is not
        ("made_by_hand.part", PluginBrokenError),
        (".relative", PluginDependencyError),
    ],
)
def test_a_module_that_a_package_lacks_is_no_missing_package(
    fakes, tmp_path, monkeypatch, module, kind
):
    (tmp_path / "shared").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "made_by_hand", python_types.ModuleType("made_by_hand"))
    entry = fakes("ok").record("fake").entry
    error = ModuleNotFoundError(f"No module named {module!r}", name=module)
    assert type(classify_import_error(error, entry, "import it")) is kind


def test_ctrl_c_during_an_import_is_not_swallowed(fakes):
    registry = fakes("interrupt_at_import")
    with pytest.raises(KeyboardInterrupt):
        registry.load("interrupt-at-import")
    assert registry.records["interrupt-at-import"].failure is None


def test_one_failure_raised_often_does_not_grow(fakes, plugin_warnings):
    registry = fakes("raise_at_import")
    lengths = set()
    for _ in range(20):
        with plugin_warnings(), pytest.raises(PluginBrokenError) as caught:
            registry.load("raise-at-import")
        lengths.add(len(traceback.extract_tb(caught.value.__traceback__)))
        registry.infos()
    assert max(lengths) < 10, "a traceback that grows with every call is a leak"


# --- duplicates --------------------------------------------------------------------------------


def test_duplicate_names_are_reported_with_both_distributions(fakes, plugin_warnings):
    registry = fakes("duplicate_b", "ok", "wrapper", "duplicate_a")
    with pytest.warns(PluginWarning, match="claimed by 2") as warned:
        assert registry.records
    assert len(warned) == 1
    with pytest.raises(PluginConflictError) as caught:
        registry.load("twin")
    error = caught.value
    assert error.code == "LPT-PLUG-006"
    assert error.details["providers"] == ["fake-duplicate-a 1.0", "fake-zz-duplicate-b 1.0"]
    assert all(provider in str(error) for provider in error.details["providers"])
    assert not {n for n in sys.modules if n.startswith("fake_duplicate")}
    assert set(registry.infos()) == {"fake", "wrapper"}


def test_a_duplicate_in_memory_is_refused(fakes):
    registry = fakes("ok")
    with pytest.raises(PluginConflictError, match="fake-ok") as caught:
        registry.register(object(), TargetInfo("fake", "Another", "lepton-other"))
    assert caught.value.code == "LPT-PLUG-006"


# --- lists and strictness ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "visible"),
    [
        ({}, {"fake", "rogue", "raise-at-import"}),
        ({"LEPTON_PLUGINS": "fake"}, {"fake"}),
        ({"LEPTON_PLUGINS": " fake , rogue,"}, {"fake", "rogue"}),
        ({"LEPTON_DISABLED_PLUGINS": "raise-at-import"}, {"fake", "rogue"}),
        ({"LEPTON_PLUGINS": "fake,rogue", "LEPTON_DISABLED_PLUGINS": "rogue"}, {"fake"}),
        ({"LEPTON_PLUGINS": ""}, {"fake", "rogue", "raise-at-import"}),
    ],
)
def test_lists_act_before_anything_is_imported(fakes, environ, visible, plugin_warnings):
    registry = fakes("ok", "rogue", "raise_at_import", **environ)
    assert set(registry.records) == visible
    with plugin_warnings():
        registry.infos()
        for name in visible - {"raise-at-import"}:
            registry.load(name)
    imported = {n.partition(".")[0] for n in sys.modules if n.startswith("fake_")}
    allowed = {"fake": "fake_ok", "rogue": "fake_rogue", "raise-at-import": "fake_raise_at_import"}
    assert imported <= {allowed[name] for name in visible}


def test_a_hidden_plugin_says_that_the_environment_hides_it(fakes):
    registry = fakes("ok", LEPTON_DISABLED_PLUGINS="fake")
    for call in (registry.info, registry.load, registry.target):
        with pytest.raises(PluginNotInstalledError) as caught:
            call("fake")
        assert caught.value.code == "LPT-PLUG-007"
        assert "fake-ok 1.0" in str(caught.value)


def test_a_name_that_nobody_has_is_not_called_hidden(fakes):
    registry = fakes("ok", LEPTON_PLUGINS="fake")
    with pytest.raises(PluginNotInstalledError) as caught:
        registry.load("no-such")
    assert caught.value.code == "LPT-PLUG-001"


@pytest.mark.parametrize("value", ["1", "yes"])
def test_strict_turns_failures_into_errors(fakes, value):
    registry = fakes("raise_at_import", "ok", LEPTON_STRICT_PLUGINS=value)
    with pytest.raises(PluginBrokenError):
        registry.load("raise-at-import")
    for call in (registry.infos, registry.targets):
        with pytest.raises(PluginBrokenError):
            call()


def test_strict_covers_descriptions_duplicates_and_always(fakes):
    with pytest.raises(PluginVersionError):
        fakes("new_spec", LEPTON_STRICT_PLUGINS="1").infos()
    with pytest.raises(PluginBrokenError):
        fakes("broken_always", LEPTON_PLUGINS="broken-always",
              LEPTON_STRICT_PLUGINS="1").load_always()  # fmt: skip
    with pytest.raises(PluginConflictError):
        _ = fakes("duplicate_a", "duplicate_b", LEPTON_STRICT_PLUGINS="1").records


@pytest.mark.parametrize("value", ["0", ""])
def test_strict_can_be_off(fakes, value):
    registry = fakes("new_spec", "ok", LEPTON_STRICT_PLUGINS=value)
    with pytest.warns(PluginWarning):
        assert set(registry.infos()) == {"fake"}


# --- looking up ---------------------------------------------------------------------------------


def test_unknown_target_suggests_the_nearest(fakes):
    registry = fakes("ok")
    with pytest.raises(UnknownTargetError) as caught:
        registry.target("onnxruntim")
    assert caught.value.code == "LPT-USE-003"
    assert caught.value.details["nearest"] == ["onnxruntime"]
    assert "Did you mean onnxruntime?" in caught.value.remedy
    assert "fake" in caught.value.details["known"]


def test_an_extension_is_no_target(fakes):
    registry = fakes("wrapper")
    with pytest.raises(UnknownTargetError):
        registry.target("wrapper")


@pytest.mark.parametrize(
    ("name", "support", "hint"),
    [
        ("onnxruntime", "full", install_command("lepton-onnxruntime[cpu]")),
        ("coreml", "full", install_command("lepton-coreml")),
        ("tflite", "full", install_command("lepton-tflite")),
        ("no-such", "unknown", "lepton plugins"),
    ],
)
def test_not_installed_says_support_and_what_to_do(registry, name, support, hint):
    with pytest.raises(PluginNotInstalledError) as caught:
        registry.load(name)
    assert caught.value.code == "LPT-PLUG-001"
    assert caught.value.details["support"] == support
    assert f"support: {support}" in str(caught.value)
    assert hint in caught.value.remedy


def test_listing_imports_nothing_and_details_only_info(fakes):
    registry = fakes("ok", "rogue", "wrapper")
    assert set(registry.records) == {"fake", "rogue", "wrapper"}
    assert not {n for n in sys.modules if n.startswith("fake_")}
    assert set(registry.targets()) == {"fake", "rogue"}
    assert not {n for n in sys.modules if n.startswith("fake_") and n.endswith(".plugin")}


# --- in memory ----------------------------------------------------------------------------------


def test_register_in_memory(registry):
    class Plugin:
        @hookimpl
        def lepton_open(self, model):
            return model

    info = TargetInfo("mine", "Mine", "nowhere")
    plugin = Plugin()
    registry.register(plugin, info)
    assert registry.target("mine") is info
    assert registry.load("mine") is plugin
    assert registry.record("mine").origin == "in memory"


@pytest.mark.parametrize("name", ["lepton_polish", "lepton_open"])
def test_register_refuses_wrong_hooks_and_leaves_nothing(registry, name):
    plugin = python_types.SimpleNamespace()
    setattr(plugin, name, hookimpl(lambda model, colour: None))
    with pytest.raises(PluginBrokenError) as caught:
        registry.register(plugin, TargetInfo("mine", "Mine", "nowhere"))
    assert caught.value.code == "LPT-PLUG-004"
    assert "mine" not in registry.records
    assert not registry.manager.has_plugin("mine")
    registry.register(python_types.SimpleNamespace(), TargetInfo("mine", "Mine", "nowhere"))


def test_only_always_extensions_may_wrap_or_observe(registry):
    class Observer:
        @hookimpl
        def lepton_stage_started(self, event):
            pass

    with pytest.raises(PluginBrokenError, match="always=True"):
        registry.register(Observer(), ExtensionInfo("watch", "Watch", "nowhere"))
    registry.register(Observer(), ExtensionInfo("watch", "Watch", "nowhere", always=True))


def test_load_always_leaves_other_extensions_alone(fakes, plugin_warnings):
    registry = fakes("wrapper", "broken_always", "ok", "observer")
    with plugin_warnings() as warned:
        registry.load_always()
        registry.load_always()
    assert [r.id for r in registry.records.values() if r.loaded] == ["observer", "wrapper"]
    assert len(warned) == 1
    assert "fake-broken-always 1.0" in str(warned[0].message)


def test_the_default_registry_reads_the_process_environment(monkeypatch):
    monkeypatch.setenv("LEPTON_PLUGINS", "nothing-of-this-name")
    assert Registry().records == {}
