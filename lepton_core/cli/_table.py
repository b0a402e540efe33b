"""Tables: drawn by rich on a terminal, aligned columns without wrapping when piped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

_GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its heading, and whether its cells are numbers or must stay on one line."""

    title: str
    right: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its cells, and how it looks where colours are possible.

    Attributes:
        cells: One text per column.
        style: A style of rich (``"dim"``), for the whole row.
        styles: Styles of single cells, by column number.
    """

    cells: tuple[str, ...]
    style: str = ""
    styles: tuple[tuple[int, str], ...] = ()


def draw(
    stream: TextIO,
    columns: Sequence[Column],
    rows: Sequence[Row],
    *,
    terminal: bool,
    color: bool,
) -> None:
    """Write a table; columns in which every cell is empty are left out.

    Args:
        stream: Where to write.
        columns: Headings.
        rows: Cells.
        terminal: Whether to draw it to the terminal's width.
        color: Whether styles apply.
    """
    used = [i for i in range(len(columns)) if any(row.cells[i] for row in rows)]
    columns = [columns[i] for i in used]
    rows = [_narrow(row, used) for row in rows]
    if terminal:
        _draw_rich(stream, columns, rows, color=color)
    else:
        stream.write("".join(f"{line}\n" for line in plain_lines(columns, rows)))


def _narrow(row: Row, used: Sequence[int]) -> Row:
    places = {old: new for new, old in enumerate(used)}
    styles = tuple((places[i], style) for i, style in row.styles if i in places)
    return Row(tuple(row.cells[i] for i in used), row.style, styles)


def plain_lines(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    """Return the lines of a table for pipes: one line per row, two spaces between columns."""
    cells = [tuple(c.title for c in columns)]
    cells += [tuple(" ".join(cell.split()) or "-" for cell in row.cells) for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = []
    for line in cells:
        parts = [
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(line, widths, columns, strict=True)
        ]
        lines.append(_GAP.join(parts).rstrip())
    return lines


def _draw_rich(
    stream: TextIO, columns: Sequence[Column], rows: Sequence[Row], *, color: bool
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=column.whole,
            overflow="fold",
        )
    for row in rows:
        styles = dict(row.styles)
        table.add_row(
            *(Text(cell, styles.get(i, "")) for i, cell in enumerate(row.cells)), style=row.style
        )
    console = Console(file=stream, no_color=not color, highlight=False, soft_wrap=False)
    if not color:  # also without bold and dim
        console = Console(file=stream, color_system=None, force_terminal=False, highlight=False)
    console.print(table)


__all__ = ["Column", "Row", "draw", "plain_lines"]
