"""Operators that matter in training only, and those that do nothing."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.fx import GraphModule

    from lepton_torch._editor import Editor

_DROPOUTS = (
    "aten.dropout",
    "aten.feature_dropout",
    "aten.alpha_dropout",
    "aten.feature_alpha_dropout",
    "aten.native_dropout",
)
_BLOCKS = ("wrap_with_set_grad_enabled", "tag_activation_checkpoint")
_END = torch.iinfo(torch.int64).max


def drop_training_only(editor: Editor) -> None:
    """Remove dropout, detach, checkpoint and no-grad blocks, and operators that do nothing.

    An operator does nothing if its result has the same values, dtype and shape as its input:
    conversions to the dtype at hand, reshapes to the same shape, whole slices, additions of 0 and
    products with 1, empty padding. Copies go only where nothing writes into a tensor.
    """
    _inline_blocks(editor)
    for node in list(editor.graph_module.graph.nodes):
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            source = _unchanged_input(editor, node)
            if source is not None and not _joins_outputs(node, source):
                _remove(editor, node, source)


def _remove(editor: Editor, node: Node, source: Node) -> None:
    graph = editor.graph_module.graph
    for user in list(node.users):
        if str(user.target).startswith("aten._assert_tensor_metadata"):
            graph.erase_node(user)
    for user in list(source.users):
        if str(user.target).startswith("aten._assert_tensor_metadata"):
            graph.erase_node(user)
    name = str(node.target).split(".")[1]
    kind = "removed" if f"aten.{name}" in _DROPOUTS else "removed, it changes nothing"
    editor.replace(node, source, f"{name} {kind}")


def _joins_outputs(node: Node, source: Node) -> bool:
    """Tell whether two results, or a result and an input, would become one tensor."""
    ends = [user for user in node.users if user.op == "output"]
    direct = source.op in ("placeholder", "get_attr")
    return bool(ends) and (direct or any(user.op == "output" for user in source.users))


def _unchanged_input(editor: Editor, node: Node) -> Node | None:
    """Return the tensor that a call passes through, if it does."""
    packet = str(node.target).rpartition(".")[0]
    rule = _RULES.get(packet)
    source = node.args[0] if node.args else None
    if rule is None or not isinstance(source, Node) or not node.users:
        return None
    if not isinstance(source.meta.get("val"), torch.Tensor):
        return None
    if not rule(editor, node, editor.arguments(node)):
        return None
    if isinstance(node.meta.get("val"), torch.Tensor) and not _alike(node, source):
        return None
    return source


def _alike(node: Node, source: Node) -> bool:
    new, old = node.meta["val"], source.meta["val"]
    return new.dtype == old.dtype and _same_shape(new.shape, old.shape)


def _same_shape(left: Any, right: Any) -> bool:  # noqa: ANN401 - sizes
    """Compare sizes without deciding about symbols."""
    if len(left) != len(right):
        return False
    plain = (
        [s.node.expr if isinstance(s, torch.SymInt) else int(s) for s in size]
        for size in (left, right)
    )
    return next(plain) == next(plain)


def _is_off(editor: Editor, node: Node, given: dict[str, Any]) -> bool:
    return (
        given.get("train") is False and editor.only_first(node)
        if _many(node)
        else (given.get("train") is False)
    )


def _many(node: Node) -> bool:
    return isinstance(node.meta.get("val"), (tuple, list))


def _always(editor: Editor, node: Node, given: dict[str, Any]) -> bool:
    return True


def _is_copy(editor: Editor, node: Node, given: dict[str, Any]) -> bool:
    return not editor.writes


def _is_whole(editor: Editor, node: Node, given: dict[str, Any]) -> bool:
    start, end = given["start"], given["end"]
    return start in (None, 0) and end in (None, _END) and given["step"] == 1


def _is_neutral(value: float) -> Callable[[Editor, Node, dict[str, Any]], bool]:
    def rule(editor: Editor, node: Node, given: dict[str, Any]) -> bool:
        other = given.get("other")
        return (
            isinstance(other, (int, float)) and not isinstance(other, bool) and other == value
        ) and given.get("rounding_mode") is None

    return rule


def _is_empty_padding(editor: Editor, node: Node, given: dict[str, Any]) -> bool:
    return all(isinstance(size, int) and size == 0 for size in given["pad"])


_RULES: dict[str, Callable[[Editor, Node, dict[str, Any]], bool]] = {
    **dict.fromkeys(_DROPOUTS, _is_off),
    **dict.fromkeys(("aten.detach", "aten.alias"), _always),
    **dict.fromkeys(("aten.clone", "aten.contiguous", "aten.to", "aten._to_copy"), _is_copy),
    **dict.fromkeys(
        ("aten.view", "aten.reshape", "aten._unsafe_view", "aten.flatten", "aten.expand"),
        _always,
    ),
    "aten.slice": _is_whole,
    "aten.add": _is_neutral(0),
    "aten.sub": _is_neutral(0),
    "aten.mul": _is_neutral(1),
    "aten.div": _is_neutral(1),
    "aten.pad": _is_empty_padding,
    "aten.constant_pad_nd": _is_empty_padding,
}


# --- blocks ---------------------------------------------------------------------------------------


def _inline_blocks(editor: Editor) -> None:
    """Put the contents of no-grad and checkpoint blocks into the graph around them."""
    graph = editor.graph_module.graph
    for node in list(graph.nodes):
        name = getattr(node.target, "__name__", "") or str(node.target)
        if node.op != "call_function" or name not in _BLOCKS:
            continue
        arguments = list(node.args[1:] if name == _BLOCKS[0] else node.args)
        block = arguments.pop(0)
        inner: GraphModule | None = getattr(editor.graph_module, str(block.target), None)
        if inner is None or any(n.op == "get_attr" for n in inner.graph.nodes):
            editor.leave(node, "its contents cannot be taken out")
            continue
        results = _copy_in(graph, inner, arguments, node)
        results = results if isinstance(results, (tuple, list)) else (results,)
        for user in list(node.users):
            if user.target is operator.getitem:
                user.replace_all_uses_with(results[user.args[1]])
                graph.erase_node(user)
        editor.changes.append((f"{_WORDS[name]} taken out", editor.where(node)))
        if node.users:
            node.replace_all_uses_with(results[0])
        graph.erase_node(node)
        if not block.users:
            graph.erase_node(block)


def _copy_in(graph: torch.fx.Graph, inner: GraphModule, arguments: list[Any], at: Node) -> Any:  # noqa: ANN401
    """Copy a block's operators in front of *at*; return what the block returns."""
    inputs = [n for n in inner.graph.nodes if n.op == "placeholder"]
    values: dict[Node, Any] = dict(zip(inputs, arguments, strict=True))
    results: Any = ()
    with graph.inserting_before(at):
        for one in inner.graph.nodes:
            if one.op == "output":
                results = torch.fx.map_arg(one.args[0], lambda n: values[n])
            elif one.op != "placeholder":
                values[one] = graph.node_copy(one, lambda n: values[n])
    return results


_WORDS = {_BLOCKS[0]: "no-grad block", _BLOCKS[1]: "checkpoint"}

__all__ = ["drop_training_only"]
