"""Symbolic dimensions that get a size, or tighter bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_torch._retrace import Shapes

if TYPE_CHECKING:
    from lepton_torch._editor import Editor


def fix_shapes(editor: Editor) -> None:
    """Export the graph again with the sizes and bounds that were asked for.

    What was computed from these sizes becomes a constant on the way.
    """
    shapes = Shapes(editor.program)
    fixed = {n: s for n, s in editor.fixed.items() if n in shapes.symbols}
    bounds = {
        n: b
        for n, b in editor.bounds.items()
        if n in shapes.symbols and n not in fixed and tuple(shapes.bounds.get(n, ())) != tuple(b)
    }
    if not fixed and not bounds:
        return
    editor.retrace()
    for name, size in fixed.items():
        editor.changes.append((f"{name} is {size}", _inputs(shapes, name)))
    for name, (lower, upper) in bounds.items():
        editor.changes.append((f"{name} is {lower} to {upper}", _inputs(shapes, name)))


def _inputs(shapes: Shapes, name: str) -> str:
    symbols = {symbol for symbol, own in shapes.names.items() if own == name}
    places = [
        place
        for place, dims in shapes.dims.items()
        if any(not isinstance(d, int) and d.free_symbols & symbols for d in dims)
    ]
    return f"the input {', '.join(places)}"


__all__ = ["fix_shapes"]
