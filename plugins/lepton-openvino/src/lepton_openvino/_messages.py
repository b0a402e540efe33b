"""What OpenVINO's exceptions say, without the noise around it."""

from __future__ import annotations

import re

_NOISE = re.compile(
    r"Exception from \S+:\d+:?|FrontEnd API failed with \w+:|Caught exception:"
    r"|Check '[^\n]*?' failed at \S+:\d+:?|Model wasn't fully converted\."
    r"|Failed operations detailed log:|Summary:|-- Conversion is failed for: [^\n]*"
    r"|with a message:"
)
_NO_RULE = re.compile(r"No conversion rule found for operations: ([^\n]+)")
_ONNX_NODE = re.compile(r"ONNX node '<Node\(([^)]*)\): ([^>]*)>'")
_VERSION = re.compile(r"-\d+$")
_LONGEST = 600


def explain(error: Exception) -> str:
    """Return the message of an exception of OpenVINO on one line, without source places."""
    return " ".join(_NOISE.sub(" ", str(error)).split())[:_LONGEST]


def operators_without_rule(error: Exception) -> tuple[str, ...]:
    """Return the operators (``"Det"``, ``"acme.MyOp"``) that OpenVINO has no rule for."""
    match = _NO_RULE.search(str(error))
    if match is None:
        return ()
    return tuple(_VERSION.sub("", name.strip()) for name in match[1].split(","))


def failed_node(error: Exception) -> tuple[str, str]:
    """Return operator and first output of the ONNX node that failed; empty if none is named."""
    match = _ONNX_NODE.search(str(error))
    return (match[1], match[2]) if match else ("", "")


__all__ = ["explain", "failed_node", "operators_without_rule"]
