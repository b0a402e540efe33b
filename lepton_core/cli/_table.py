"""Tables: fitted to the width of a terminal, aligned columns without wrapping when piped.

Nothing of a cell is ever cut off. On a terminal cells wrap between words; where that takes too many
lines, or a word is wider than what is left for it, every row becomes a record of several lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TextIO

    from rich.console import Console
    from rich.text import Text

_GAP = "  "
_EASY = 3
"""Lines of a row up to which a table is easier to read than records."""
_TALLEST = 8


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        title: Its heading.
        right: Whether its cells are numbers.
        whole: Whether a cell must stay on one line.
        key: Whether it names the row, together with the other ones that do; the first that has a
            heading does if none is said to.
    """

    title: str
    right: bool = False
    whole: bool = False
    key: bool = False


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


# --- terminals --------------------------------------------------------------------------------


def _draw_rich(
    stream: TextIO, columns: Sequence[Column], rows: Sequence[Row], *, color: bool
) -> None:
    from rich.console import Console

    console = Console(file=stream, no_color=not color, highlight=False, soft_wrap=False)
    if not color:  # also without bold and dim
        console = Console(file=stream, color_system=None, force_terminal=False, highlight=False)
    rows = [Row(tuple(" ".join(c.split()) for c in r.cells), r.style, r.styles) for r in rows]
    records = [line for row in rows for line in _record(columns, row, console.width)]
    fitted = fit(columns, rows, console.width)
    if fitted is not None:
        widths, gap = fitted
        if max(_heights(widths, rows), default=0) <= _EASY or sum(_heights(widths, rows)) < len(
            records
        ):
            _draw_table(console, columns, rows, widths, gap)
            return
    for line in records:
        console.print(line, soft_wrap=True)


def fit(columns: Sequence[Column], rows: Sequence[Row], width: int) -> tuple[list[int], int] | None:
    """Return the columns' widths in the table with the fewest lines per row, and the gap.

    Args:
        columns: Headings.
        rows: Cells, each with single spaces.
        width: Characters of a line.

    Returns:
        ``None`` if no table fits without breaking a word.
    """
    for height in range(1, _TALLEST + 1):
        least = [_least(column, i, rows, height) for i, column in enumerate(columns)]
        for gap in (2, 1):
            room = width - sum(least) - gap * (len(least) - 1)
            if room >= 0:
                return _widened(least, columns, rows, room), gap
    return None


def _least(column: Column, place: int, rows: Sequence[Row], height: int) -> int:
    """Return the least width in which no cell takes more lines; headings wrap between words."""
    from rich.cells import cell_len

    title = max((cell_len(word) for word in column.title.split()), default=0)
    cells = [row.cells[place] for row in rows]
    longest = max((cell_len(cell) for cell in cells), default=0)
    if column.whole:
        return max(title, longest)
    words = max((cell_len(word) for cell in cells for word in cell.split()), default=0)
    low = max(title, words, -(-longest // height))
    long = list(dict.fromkeys(cell for cell in cells if cell_len(cell) > low))
    high = max(low, longest)
    while low < high:  # wider is never taller
        middle = (low + high) // 2
        if all(len(_wrapped(cell, middle)) <= height for cell in long):
            high = middle
        else:
            low = middle + 1
    return low


def _widened(
    least: Sequence[int], columns: Sequence[Column], rows: Sequence[Row], room: int
) -> list[int]:
    """Return widths in which as many columns as possible need not wrap, headings included.

    What room is left goes to the columns that wrap, the ones that lack least first.
    """
    from rich.cells import cell_len

    widths = list(least)
    wanted = [
        max(cell_len(column.title), _least(column, i, rows, 1)) for i, column in enumerate(columns)
    ]
    for need, place in sorted((wanted[i] - widths[i], i) for i in range(len(widths))):
        more = max(0, min(need, room))
        widths[place], room = widths[place] + more, room - more
    return widths


def _wrapped(text: str, width: int) -> list[str]:
    """Return a text's lines, broken between words alone."""
    from rich.cells import cell_len

    lines: list[str] = []
    for word in text.split():
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _heights(widths: Sequence[int], rows: Sequence[Row]) -> list[int]:
    return [
        max((len(_wrapped(c, w)) for c, w in zip(row.cells, widths, strict=True)), default=0)
        for row in rows
    ]


def _draw_table(
    console: Console, columns: Sequence[Column], rows: Sequence[Row], widths: list[int], gap: int
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    # Between columns the box has one space of its own.
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, gap - 1, 0, 0))
    for column, width in zip(columns, widths, strict=True):
        justify = "right" if column.right else "left"
        table.add_column(Text(column.title), justify=justify, width=width)  # type: ignore[arg-type]
    for row in rows:
        styles = dict(row.styles)
        table.add_row(
            *(Text(cell, styles.get(i, "")) for i, cell in enumerate(row.cells)), style=row.style
        )
    console.print(table)


def _record(columns: Sequence[Column], row: Row, width: int) -> Iterator[Text]:
    """Yield a row as lines: what names it, then its other cells with their headings."""
    from rich.text import Text

    keys = [i for i, column in enumerate(columns) if column.key]
    keys = keys or [next((i for i, column in enumerate(columns) if column.title), 0)]
    styles = dict(row.styles)
    fields = [
        (f"{column.title}: " if column.title else "", cell, styles.get(i, ""))
        for i, (column, cell) in enumerate(zip(columns, row.cells, strict=True))
        if cell and i not in keys
    ]
    yield Text(_GAP.join(row.cells[i] or "-" for i in keys), row.style or "bold")
    line = Text(_GAP, row.style)
    for title, cell, style in fields:
        field = Text(title, row.style).append(cell, style)
        if len(line) > len(_GAP):
            if line.cell_len + len(_GAP) + field.cell_len <= width:
                line = line.append(_GAP).append_text(field)
                continue
            yield line
        line = Text(_GAP, row.style).append_text(field)
        if line.cell_len > width:  # alone on as many lines as it takes
            first, *more = _wrapped(line.plain, width - 2 * len(_GAP))
            yield Text(_GAP + first, style or row.style)
            for part in more:
                yield Text(2 * _GAP + part, style or row.style)
            line = Text(_GAP, row.style)
    if len(line) > len(_GAP):
        yield line


__all__ = ["Column", "Row", "draw", "fit", "plain_lines"]
