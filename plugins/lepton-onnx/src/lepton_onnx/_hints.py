"""What exporters tell about a node beside its operator: the module it is in, the source line."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import GraphProto, NodeProto

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_TORCH = re.compile(r"(^|[/\\])(torch|onnxscript)[/\\]")
_SCOPES = "pkg.torch.onnx.name_scopes"
_TRACE = "pkg.torch.onnx.stack_trace"


@dataclass(frozen=True, slots=True)
class Hint:
    """What is known about one node.

    Attributes:
        module: Dotted path of the user's module (``"layers.0.self_attn"``), or empty.
        operation: What the user's framework calls the operation (``"linear"``), or empty.
        where: The user's source line (``"net.py:31 in forward"``), or empty.
        result: Whether the node yields the operation's own result, not a value on the way.
    """

    module: str = ""
    operation: str = ""
    where: str = ""
    result: bool = False


def collect(graph: GraphProto) -> dict[str, Hint]:
    """Return hints by the name of the node's first output, for nodes that have any."""
    found = {}
    for node in graph.node:
        hint = _hint(node)
        if hint and node.output:
            found[node.output[0]] = hint
    return found


def _hint(node: NodeProto) -> Hint | None:
    facts = {entry.key: entry.value for entry in node.metadata_props}
    if not facts:
        return None
    module, operation, result = "", "", False
    scopes = _strings(facts.get(_SCOPES, ""))
    if scopes:
        value = scopes[-1]
        operation = re.sub(r"(_default)?(_\d+)?$", "", value)
        result = value in node.output
        path = [s for s in scopes[:-1] if s and not s.startswith("_empty_nn_module")]
        module = path[-1] if path else ""
    where = source_line(facts.get(_TRACE, ""))
    return Hint(module, operation, where, result) if scopes or where else None


def _strings(text: str) -> Sequence[str]:
    try:
        value = ast.literal_eval(text) if text else []
    except (ValueError, SyntaxError):
        return []
    return [str(v) for v in value] if isinstance(value, list) else []


def source_line(trace: str) -> str:
    """Pick the user's line out of a Python stack trace, without the machine's directories.

    The innermost frame outside installed packages wins, then the innermost outside torch.
    """
    frames = [f for f in _FRAME.findall(trace) if not _TORCH.search(f[0])]
    own = [f for f in frames if "site-packages" not in f[0] and "dist-packages" not in f[0]]
    chosen = (own or frames)[-1:]
    for file, line, function in chosen:
        name = PurePosixPath(PureWindowsPath(file).as_posix()).name
        return f"{name}:{line} in {function}"
    return ""
