"""Adaptive pooling with fixed windows.

Output ``i`` of an adaptive pooling from ``n`` to ``m`` values covers ``floor(i n / m)`` to
``ceil((i + 1) n / m)``. Where these windows have one length and one distance, it is a pooling of
that kernel and stride.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.fx import Node

    from lepton_torch._editor import Editor

_AVERAGE = ("aten.adaptive_avg_pool", "aten._adaptive_avg_pool")
_NAMES = tuple(f"{stem}{n}d" for stem in (*_AVERAGE, "aten.adaptive_max_pool") for n in (1, 2, 3))


def fix_adaptive_pool(editor: Editor) -> None:
    """Replace adaptive pooling by pooling of a fixed kernel and stride where that is the same.

    To one value per channel it becomes a mean or maximum where the input's size is open.
    """
    for node in editor.find(*_NAMES):
        problem = _replace(editor, node)
        if problem:
            editor.leave(node, problem)


def _replace(editor: Editor, node: Node) -> str:
    given = editor.arguments(node)
    source, wanted = given["self"], given["output_size"]
    rank = int(str(node.target).split(".")[1][-2])
    wanted = list(wanted) if isinstance(wanted, (list, tuple)) else [wanted]
    sizes = editor.shape(source)[-rank:]
    average = "avg" in str(node.target)
    if not average and not editor.only_first(node):
        return "its indices are used"
    if any(not isinstance(w, int) for w in wanted):
        return "its output size is computed"
    dims = list(range(-rank, 0))
    aten = torch.ops.aten
    if any(not isinstance(size, int) for size in sizes):
        if any(w != 1 for w in wanted):
            return "the size of its input is open; --shape fixes it"
        with editor.before(node):
            operator = aten.mean.dim if average else aten.amax.default
            new = editor.call(operator, source, dims, True)
        editor.replace(node, new, f"{_name(node)} is a {'mean' if average else 'maximum'}")
        return ""
    windows = [_window(int(n), m) for n, m in zip(sizes, wanted, strict=True)]
    if any(window is None for window in windows):
        shown = "x".join(map(str, sizes)), "x".join(map(str, wanted))
        return f"its windows from {shown[0]} to {shown[1]} differ in length or distance"
    kernel, stride = ([window[i] for window in windows if window] for i in (0, 1))
    kind = "avg" if average else "max"
    operator = getattr(aten, f"{kind}_pool{rank}d").default
    with editor.before(node):
        new = editor.call(operator, source, kernel, stride)
    text = f"kernel {'x'.join(map(str, kernel))}, stride {'x'.join(map(str, stride))}"
    editor.replace(node, new, f"{_name(node)} is {kind}_pool{rank}d with {text}")
    return ""


def _name(node: Node) -> str:
    return str(node.target).split(".")[1]


def _window(size: int, wanted: int) -> tuple[int, int] | None:
    """Return kernel and stride, or ``None`` if the windows are not alike."""
    if wanted < 1 or size < 1:
        return None
    starts = [i * size // wanted for i in range(wanted)]
    ends = [-(-(i + 1) * size // wanted) for i in range(wanted)]
    lengths: set[Any] = {end - start for start, end in zip(starts, ends, strict=True)}
    steps = {b - a for a, b in itertools.pairwise(starts)}
    if len(lengths) != 1 or len(steps) > 1:
        return None
    kernel = lengths.pop()
    stride = steps.pop() if steps else kernel
    # A fixed pooling must not find room for one window more.
    fits = (size - kernel) // stride + 1 == wanted if stride else False
    return (kernel, stride) if fits else None


__all__ = ["fix_adaptive_pool"]
