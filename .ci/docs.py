#!/usr/bin/env python3
"""Checks that links between documents lead somewhere, then runs the tests of their snippets."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from devtools.console import SetupError, fail_cleanly, run, say
from devtools.projects import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# pytest's exit status when no test was selected.
_NOTHING_COLLECTED = 5

_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
_ELSEWHERE = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def documents() -> Iterator[Path]:
    """All Markdown files of the tree."""
    yield from sorted(ROOT.glob("*.md"))
    yield from sorted(ROOT.glob("docs/**/*.md"))
    yield from sorted(ROOT.glob("plugins/*/*.md"))
    yield from sorted(ROOT.glob("kernels_rs/*.md"))


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, formed as GitHub forms them."""
    found: dict[str, int] = {}
    names = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        names.add(f"{slug}-{count}" if count else slug)
    return names


def broken_links(document: Path) -> Iterator[str]:
    """One message for every link of a document that leads nowhere inside this tree."""
    text = document.read_text(encoding="utf-8")
    visible = _INLINE_CODE.sub("", _FENCE.sub("", text))
    for link in _LINK.findall(visible):
        if _ELSEWHERE.match(link):
            continue
        name, _, anchor = link.partition("#")
        goal = (document.parent / name) if name else document
        where = document.relative_to(ROOT)
        if not goal.exists():
            yield f"{where}: {link} does not exist"
            continue
        is_heading = bool(anchor) and goal.suffix == ".md"
        if is_heading and anchor not in anchors(goal.read_text(encoding="utf-8")):
            yield f"{where}: {link} names no heading"


def main() -> None:
    """Checks all documents, then runs their snippets."""
    checked = list(documents())
    broken = [message for document in checked for message in broken_links(document)]
    if broken:
        raise SetupError("links that lead nowhere:\n  " + "\n  ".join(broken))
    say(f"{len(checked)} documents: every link between them leads somewhere")
    status = run([sys.executable, "-m", "pytest", "-q", "-k", "docs", "tests"], cwd=ROOT)
    if status == _NOTHING_COLLECTED:
        raise SetupError("no test under tests/ has `docs` in its name: snippets are not checked")
    if status:
        raise SetupError("the snippets of the documents do not all run (see above)")


if __name__ == "__main__":
    fail_cleanly(main)
