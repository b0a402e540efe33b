"""Start, help, errors, exit codes, and what goes to which stream."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest

from lepton_core import __version__
from lepton_core.cli._main import COMMANDS
from lepton_core.cli._reference import leaf_commands

from .conftest import environment

LEAVES = leaf_commands()
pytestmark = pytest.mark.timeout(180)


def imported(*arguments, fakes=("ok",)):
    """Return the modules that are there after a run and were not before."""
    code = (
        "import json, sys; before = set(sys.modules)\n"
        "from lepton_core.cli import main\n"
        f"code = main({list(arguments)!r})\n"
        "print(json.dumps([code, sorted(set(sys.modules) - before)]), file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(*fakes, LEPTON_PLUGINS="fake"),
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    code, names = json.loads(ended.stderr)
    assert code == 0
    return set(names)


def test_version_imports_nothing_beside_the_standard_library(command):
    modules = imported("--version")
    assert not {m for m in modules if m.partition(".")[0] in ("click", "rich", "numpy", "pluggy")}
    assert {m for m in modules if m.startswith("lepton_core")} <= {
        "lepton_core",
        "lepton_core.cli",
        "lepton_core._version",
    }
    assert command("--version").out == f"lepton {__version__}\n"
    assert command("--version", "--json").data["version"] == __version__


def test_targets_read_descriptions_only():
    modules = imported("targets")
    heavy = ("rich", "numpy", "stevedore", "pluggy", "msgspec", "psutil")
    assert not {m for m in modules if m.partition(".")[0] in heavy}
    assert "fake_ok.info" in modules
    assert "fake_ok.plugin" not in modules
    assert "lepton_core.dispatch" not in modules


def test_help_of_the_program_imports_no_command(command):
    ended = command("--help")
    assert ended.code == 0
    for name, (_, heading, line) in COMMANDS.items():
        assert name in ended.out
        assert heading in ended.out
        assert line in ended.out
    assert not {m for m in imported("--help") if m.startswith("lepton_core.cli._targets")}


@pytest.mark.parametrize("name", [name for name, _, _ in LEAVES])
def test_help_shows_purpose_examples_and_common_options(lepton, name):
    ended = lepton(*name.split(), "--help")
    assert ended.code == 0
    assert ended.err == ""
    assert "Examples:" in ended.out
    assert f"  $ lepton {name}" in ended.out or name == "completion"
    for option in ("--json", "--quiet", "--verbose", "--debug", "--color / --no-color"):
        assert option in ended.out


@pytest.mark.parametrize("number", range(len(LEAVES)), ids=[name for name, _, _ in LEAVES])
def test_examples_parse(number):
    """Every example of the help is a command line that its command accepts."""
    import shlex

    name, found, parent = LEAVES[number]
    lines = [line for line in found.examples if not line.startswith(("#", "source "))]
    assert lines
    for line in lines:
        words = shlex.split(line.partition(" > ")[0])
        own = len(name.split())
        assert words[: 1 + own] == ["lepton", *name.split()]
        with parent.scope(), found.make_context(name, words[1 + own :], parent=parent):
            pass


def test_no_command_shows_help_and_is_wrong_usage(lepton):
    ended = lepton()
    assert ended.code == 2
    assert ended.out == ""
    assert "Main job:" in ended.err


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["tagets"], "LPT-USE-102", "Did you mean targets?"),
        (["targets", "--redy"], "LPT-USE-103", "Did you mean --ready?"),
        (["port"], "LPT-USE-101", "`lepton port --help`"),
        (["port", "net.fake"], "LPT-USE-101", "`lepton port --help`"),
        (["port", "net.fake", "--to", ","], "LPT-USE-108", "a target"),
        (["port", "a", "--to", "fake", "--precision", ","], "LPT-USE-108", "fp32"),
        (["port", "a", "--to", "fake", "--mem-limit", "much"], "LPT-USE-104", "512M"),
        (["port", "a", "--to", "fake", "--time-limit", "0"], "LPT-USE-105", "15m"),
        (["port", "a", "--to", "fake", "--max-drop", "nan"], "LPT-USE-106", "finite"),
        (["port", "a", "--to", "fake", "--max-drop", "-1"], "LPT-USE-106", "at least 0"),
        (["port", "a", "--to", "fake", "--seed", "-1"], "LPT-USE-101", "--help"),
        (["adapt", "a", "--to", "fake", "--seed", str(2**70)], "LPT-USE-101", "--help"),
        (["sensitivity", "a", "--data", "b", "--seed", "-1"], "LPT-USE-101", "--help"),
        (["port", "a", "--to", "fake", "--threads", "0"], "LPT-USE-101", "--help"),
        (["adapt", "a", "--to", "fake", "--shape", "batch=x"], "LPT-USE-107", "--shape"),
        (["convert", "a", "--to", "fake", "--option", "x"], "LPT-USE-107", "KEY=VALUE"),
        (["open", "a", "--out", "o.npz"], "LPT-USE-109", "--data"),
        (["port", "a", "--to", "fak"], "LPT-USE-003", "Did you mean fake?"),
        (["check", "nowhere.onnx"], "LPT-SRC-001", "model.onnx"),
        (["completion", "tcsh"], "LPT-USE-101", "--help"),
    ],
)
def test_wrong_usage_is_one_error_with_a_code(lepton, arguments, code, hint):
    ended = lepton(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith(f"error[{code}]: ")
    assert hint in ended.err
    assert len(ended.err.splitlines()) <= 5
    assert "Traceback" not in ended.err
    asked = lepton(*arguments, "--json")
    assert (asked.code, asked.err) == (2, "")
    assert asked.error["code"] == code


def test_json_may_stand_before_the_command(lepton):
    assert lepton("--json", "targets").data["ok"] is True
    assert lepton("--json", "nothing").error["code"] == "LPT-USE-102"


def test_json_is_alone_on_standard_output_whatever_plugins_print(command, tmp_path, net, samples):
    chatty = tmp_path / "chatty"
    info = chatty / "fake_chatty-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-chatty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lepton.targets]\nfake = fake_chatty.plugin\n")
    package = chatty / "fake_chatty"
    package.mkdir()
    (package / "__init__.py").write_text("")
    talk = "import os\nprint('chatter')\nos.write(1, b'from C\\n')\n"
    (package / "info.py").write_text(
        f"from lepton_core.testing.fake_info import INFO as FAKE\n{talk}"
        "from dataclasses import replace\nINFO = replace(FAKE, distribution='fake-chatty')\n"
    )
    (package / "plugin.py").write_text(f"from lepton_core.testing.fake_target import *\n{talk}")
    for arguments in (
        ("targets",),
        ("plugins",),
        ("port", net, "--to", "fake", "--data", samples, "--out", tmp_path / "out"),
    ):
        ended = command(*arguments, "--json", fakes=(), allow=["fake"], paths=[chatty])
        assert ended.code == 0, ended.err
        assert ended.data["ok"] is True
        assert "chatter" in ended.err
        assert "from C" in ended.err


def test_debug_shows_the_traceback_also_of_the_worker(command, tmp_path):
    source = tmp_path / "net.fake"
    source.write_text("{}")
    quiet = command("port", source, "--to", "fake")
    assert quiet.code != 0
    assert "Traceback" not in quiet.err
    loud = command("port", source, "--to", "fake", "--debug")
    assert "Traceback" in loud.err
    assert loud.code == quiet.code
    assert command("port", source, "--to", "fake", LEPTON_DEBUG="1").err == loud.err


def test_an_unexpected_exception_is_our_bug(lepton, monkeypatch):
    from lepton_core.cli import _targets

    def broken(registry):
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(_targets, "target_states", broken)
    ended = lepton("targets")
    assert ended.code == 70
    assert ended.err.startswith("error[LPT-BUG-001]")
    assert "nobody foresaw this" in ended.err
    assert "--debug" in ended.err
    assert "Traceback" in lepton("targets", "--debug").err
    asked = lepton("targets", "--json")
    assert (asked.code, asked.error["code"]) == (70, "LPT-BUG-001")


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "LPT-IO-001", 5),
        (PermissionError(errno.EACCES, "Permission denied"), "LPT-IO-002", 5),
        (MemoryError("cannot allocate"), "LPT-CLI-001", 1),
        (KeyboardInterrupt(), "LPT-STOP-001", 130),
    ],
)
def test_what_the_machine_does_to_us(lepton, monkeypatch, error, code, exit_code):
    from lepton_core.cli import _targets

    def broken(registry):
        raise error

    monkeypatch.setattr(_targets, "target_states", broken)
    ended = lepton("targets")
    assert ended.code == exit_code
    assert ended.err.startswith(f"error[{code}]")
    assert lepton("targets", "--json").error["code"] == code


def test_a_long_cause_is_cut_to_five_lines_but_whole_with_debug(lepton, monkeypatch):
    from lepton_core.cli import _targets
    from lepton_core.errors import ConversionError, WorkerCrashError

    cause = "\n".join(f"reason {n}" for n in range(9))

    def broken(registry):
        raise ConversionError("TST-A-001", "It\nfailed", cause=cause, remedy="Do\nthat.")

    monkeypatch.setattr(_targets, "target_states", broken)
    lines = lepton("targets").err.splitlines()
    assert lines[0] == "error[TST-A-001]: It failed"
    assert lines[1] == "  cause: reason 0"
    assert "7 more lines" in lines[3]
    assert lines[4:] == ["  hint: Do that."]
    assert "reason 8" in lepton("targets", "--debug").err
    assert lepton("targets", "--json").error["cause"] == cause

    def crashed(registry):
        raise WorkerCrashError("TST-A-002", "It ended", cause=cause)

    monkeypatch.setattr(_targets, "target_states", crashed)
    assert lepton("targets").err.splitlines()[-1].strip() == "reason 8"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [("targets",), ("targets", "--json")])
def test_standard_output_on_a_full_disk(arguments):
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "lepton_core.cli", *arguments],
            env=environment(LEPTON_PLUGINS="nothing"),
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            check=False,
        )
    assert ended.returncode == 5
    assert ended.stderr.startswith("error[LPT-IO-001]")
    assert "Exception ignored" not in ended.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGPIPE convention")
def test_a_reader_that_goes_away_is_no_error():
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-m", "lepton_core.cli", "targets"],
        env=environment(LEPTON_PLUGINS="nothing"),
        stdout=write,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    os.close(write)
    assert ended.returncode == 141
    assert ended.stderr == ""


def test_no_colours_when_piped_unless_asked_for(lepton, monkeypatch):
    assert "\x1b[" not in lepton("tagets").err
    assert "\x1b[31m" in lepton("tagets", "--color").err
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in lepton("tagets").err


def test_output_survives_a_poor_encoding(command, net):
    ended = command("check", net, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert ended.code == 0
    assert ended.out.isascii()


def test_main_and_module_are_the_same_program(command):
    assert json.loads(command("targets", "--json").out)["schema"] == 1
