"""The few pieces of SVG that charts are made of. Every text is escaped here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Iterable


def picture(
    width: float, height: float, title: str, description: str, body: Iterable[str]
) -> Markup:
    """Return an ``<svg>`` that scales to its place and tells a screen reader what it shows.

    Args:
        width: Width of the view box.
        height: Height of the view box.
        title: What it is, in a few words.
        description: What is seen in it, in a sentence or two.
        body: Elements from the other functions here.
    """
    key = f"chart{len(title)}-{abs(hash_of(title, description)):x}"
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-labelledby="{k}-t {k}-d">'
        '<title id="{k}-t">{}</title><desc id="{k}-d">{}</desc>{}</svg>'
    ).format(_n(width), _n(height), title, description, Markup("").join(map(Markup, body)), k=key)


def hash_of(*parts: str) -> int:
    """Return a stable number for texts; the same page must have the same bytes every time."""
    import zlib

    return zlib.crc32("\x00".join(parts).encode())


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".") if value % 1 else str(int(value))


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """Return a line of class *kind*."""
    return f'<line class="{escape(kind)}" x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"/>'


def rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    """Return a rectangle of class *kind*."""
    shape = (
        f'class="{escape(kind)}" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"'
    )
    return f"<rect {shape}/>"


def circle(x: float, y: float, radius: float, kind: str, tip: str = "") -> str:
    """Return a circle of class *kind*; *tip* shows on hover and is read out."""
    shape = f'class="{escape(kind)}" cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}"'
    return f"<circle {shape}><title>{escape(tip)}</title></circle>" if tip else f"<circle {shape}/>"


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    """Return a line of text; *anchor* is ``start``, ``middle`` or ``end``."""
    return (
        f'<text class="{escape(kind)}" x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">'
        f"{escape(content)}</text>"
    )


def cells(squares: Iterable[tuple[float, float]], side: float, kind: str) -> str:
    """Return many equal squares as one path; a page of thousands of them stays small."""
    step = f"h{_n(side)}v{_n(side)}h-{_n(side)}z"
    path = "".join(f"M{_n(x)} {_n(y)}{step}" for x, y in squares)
    return f'<path class="{escape(kind)}" d="{path}"/>' if path else ""


def bars(boxes: Iterable[tuple[float, float, float, float]], kind: str) -> str:
    """Return rectangles ``(x, y, width, height)`` as one path."""
    path = "".join(f"M{_n(x)} {_n(y)}h{_n(w)}v{_n(h)}h-{_n(w)}z" for x, y, w, h in boxes)
    return f'<path class="{escape(kind)}" d="{path}"/>' if path else ""


__all__ = ["bars", "cells", "circle", "line", "picture", "rect", "text"]
