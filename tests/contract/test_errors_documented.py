"""Every error code has one meaning, a remedy, and a place in the reference."""

from __future__ import annotations

import re

import pytest

from lepton_core import errors

# One worker reads the sources, so that none does it twice.
pytestmark = pytest.mark.xdist_group("documented")


@pytest.fixture(scope="module")
def codes(generate):
    return generate.error_codes()


def test_pages_are_up_to_date(generate):
    for path, text in generate.pages().items():
        assert path.is_file(), f"{path.name} is missing: python docs/generate.py"
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: python docs/generate.py"


def test_every_code_that_is_written_anywhere_is_in_the_reference(generate, root):
    page = (root / "docs/reference/errors.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^## (LPT-[A-Z]+-\d{3})$", page, re.MULTILINE))
    written = {
        code
        for file in generate.source_files()
        for code in re.findall(r"\"(LPT-[A-Z]+-\d{3})\"", file.read_text(encoding="utf-8"))
    }
    assert written == listed
    assert len(written) > 40


def test_a_code_is_of_one_class(codes):
    mixed = {code: sorted(entry.errors) for code, entry in codes.items() if len(entry.errors) > 1}
    assert not mixed


def test_a_message_has_one_code(codes):
    by_message = {}
    for code, entry in codes.items():
        for site in entry.sites:
            if re.search(r"[a-z]{4}", re.sub(r"\{[^}]*\}", "", site.message)):
                # Each distribution numbers its own codes.
                owner = site.file.parts[:2] if site.file.parts[0] == "plugins" else "core"
                by_message.setdefault((owner, site.message), set()).add(code)
    # One place may choose between two codes by what it found out.
    twice = {
        message: found
        for message, found in by_message.items()
        if len({(s.file, s.line) for c in found for s in codes[c].sites if s.message == message[1]})
        > 1
        < len(found)
    }
    assert not twice


NOTHING_TO_DO = {"LPT-STOP-001"}
"""Who pressed Ctrl-C wanted just that, and gets one line."""


def test_every_raise_says_what_to_do_next(codes):
    silent = [
        f"{site.file}:{site.line} {entry.code}"
        for entry in codes.values()
        for site in entry.sites
        if not site.remedy and entry.code not in NOTHING_TO_DO
    ]
    assert not silent


def test_areas_and_classes_go_together(codes):
    for code, entry in codes.items():
        for name in entry.errors:
            assert hasattr(errors, name), f"{code} is raised as {name}"
