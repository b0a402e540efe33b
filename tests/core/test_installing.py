"""Commands that install: no name of ours is looked up where it is not ours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lepton_core.installing import install_command

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("requirement", "options", "command"),
    [
        ("openvino>=2026", (), 'pip install "openvino>=2026"'),
        ("lepton-acme", (), 'pip install "lepton-acme"'),
        ("lepton-core", ("--upgrade",), "pip install --upgrade dist/lepton_core-*.whl"),
        ("lepton-openvino", (), "pip install dist/lepton_openvino-*.whl"),
        ("lepton-tflite[convert]", (), 'pip install "$(ls dist/lepton_tflite-*.whl)[convert]"'),
    ],
)
def test_ours_are_named_by_their_wheels(requirement, options, command):
    found = install_command(requirement, *options)
    assert found.partition("  #")[0] == command
    assert ("make wheels" in found) == ("dist/" in command)


def test_no_message_looks_our_names_up():
    """They are on no index yet, so whatever an index has there is somebody else's."""
    named = re.compile(r"pip install [^\n]*\blepton-(?!acme)[a-z]+")
    sources = [*ROOT.glob("lepton_core/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]
    assert len(sources) > 200
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md")]
    found = [p for p in (*sources, *pages) if named.search(p.read_text(encoding="utf-8"))]
    assert found == []


def test_every_distribution_of_this_tree_is_known():
    names = {p.name for p in (ROOT / "plugins").iterdir() if p.name.startswith("lepton-")}
    for name in names | {"lepton-core", "lepton-kernels"}:
        assert f'"{name}"' not in install_command(name)
