"""The fake target's format and arithmetic: a chain of layers in a JSON file.

A plugin's work module like this one may import heavy packages at the top, because nothing
imports it before the plugin is the owner of a step.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.errors import SessionError, SourceError
from lepton_core.files import digest_bytes, write_atomic
from lepton_core.types import Model, Signature, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lepton_core.context import Session

    Graph = dict[str, Any]

F32 = np.float32
OPERATORS = ("linear", "relu", "scale")


def encode(values: NDArray[Any], scale: NDArray[np.float32] | None = None) -> dict[str, Any]:
    """Return an array as JSON types; *scale* holds one factor per row of int8 weights."""
    little = values.astype(values.dtype.newbyteorder("<"))
    data = {
        "dtype": values.dtype.name,
        "shape": list(values.shape),
        "data": base64.b64encode(little.tobytes()).decode(),
    }
    return data if scale is None else {**data, "scale": encode(scale)}


def decode(data: Mapping[str, Any]) -> NDArray[np.float32]:
    """Return the float32 values of an encoded array of any precision."""
    dtype = np.dtype(data["dtype"]).newbyteorder("<")
    values = np.frombuffer(base64.b64decode(data["data"], validate=True), dtype)
    values = values.reshape(data["shape"]).astype(np.float32)
    return values * decode(data["scale"])[:, None] if "scale" in data else values


def quantize_rows(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantize each row to int8, symmetric in -127..127, rounding half to even.

    Args:
        weight: ``[out, in]``, finite.

    Returns:
        The integers ``[out, in]`` and the scales ``[out]``; a row of zeros has scale 1.
    """
    peak = np.abs(weight).max(axis=1)
    scale = np.where(peak > 0, peak / np.float32(127), np.float32(1)).astype(np.float32)
    return np.clip(np.rint(weight / scale[:, None]), -127, 127).astype(np.int8), scale


def read(path: str) -> Graph:
    """Load and check a graph.

    Raises:
        SourceError: It is not there, or is no graph.
    """
    try:
        graph: Graph = json.loads(Path(path).read_text())
        width = int(graph["width"])
        for layer in graph["layers"]:
            width = _width_after(layer, width)
    except FileNotFoundError as error:
        raise SourceError(
            "FAKE-SRC-001", f"There is no graph {path}", cause=str(error), remedy="Check the path."
        ) from error
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise SourceError(
            "FAKE-SRC-002",
            f"{path} is not a graph of the fake target",
            cause=f"{type(error).__name__}: {error}",
            remedy="Write it again with lepton_core.testing.fake_target.write_graph.",
        ) from error
    return graph


def _width_after(layer: Mapping[str, Any], width: int) -> int:
    """Return how many values per row leave a layer; raise ValueError if it does not fit."""
    if layer["op"] == "linear":
        weight, bias = decode(layer["weight"]), decode(layer["bias"])
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            msg = f"a linear layer {list(weight.shape)} cannot follow {width} values"
            raise ValueError(msg)
        return len(bias)
    if layer["op"] == "scale" and not np.isfinite(float(layer["factor"])):
        msg = "a scale must be finite"
        raise ValueError(msg)
    return width


def write(graph: Graph, path: Path, model: Model) -> Model:
    """Write a graph and return *model* with the new file's path, signature and digest."""
    data = json.dumps(graph, sort_keys=True, separators=(",", ":")).encode()
    write_atomic(path, data)
    return model.evolve(path=str(path), signature=signature(graph), digest=digest_bytes(data))


def signature(graph: Graph) -> Signature:
    """Return ``x: float32[batch, width] -> y: float32[batch, last]``."""
    width = graph["width"]
    for layer in graph["layers"]:
        width = len(decode(layer["bias"])) if layer["op"] == "linear" else width
    return Signature(
        (TensorSpec("x", "float32", ("batch", graph["width"])),),
        (TensorSpec("y", "float32", ("batch", width)),),
    )


def run(graph: Graph, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute ``y`` from ``x`` in float32, whatever precision the weights are stored in."""
    for layer in graph["layers"]:
        if layer["op"] == "linear":
            x = x @ decode(layer["weight"]).T + decode(layer["bias"])
        elif layer["op"] == "relu":
            x = np.maximum(x, 0)
        elif layer["op"] == "scale":
            x = x * np.float32(layer["factor"])
        else:
            raise SessionError(
                "FAKE-RUN-001",
                f"The operator {layer['op']!r} is not known",
                remedy=f"Use only {', '.join(OPERATORS)}.",
            )
    return x


class FakeSession:
    """An open graph; see :class:`lepton_core.context.Session`."""

    def __init__(self, graph: Graph, threads: int) -> None:
        self._graph: Graph | None = graph
        self.signature = signature(graph)
        self.facts: Mapping[str, Any] = {
            "runtime": f"numpy {np.__version__}",
            "threads": threads,
            "storage_precision": graph.get("precision", "fp32"),
            "execution_precision": "fp32",
        }

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once; ``x`` is float32 of shape ``[batch, width]``, and so is ``y``.

        Raises:
            SessionError: The session is closed, or the inputs do not fit.
        """
        if self._graph is None:
            raise SessionError("FAKE-RUN-002", "The session is closed", remedy="Open it again.")
        x = inputs.get("x")
        fits = x is not None and x.dtype == np.float32 and x.ndim == 2
        if not fits or set(inputs) != {"x"} or x.shape[1] != self._graph["width"]:  # type: ignore[union-attr]
            got = ", ".join(f"{k}: {v.dtype}{list(v.shape)}" for k, v in inputs.items())
            raise SessionError(
                "FAKE-RUN-003",
                f"The inputs do not fit ({self.signature.inputs[0]})",
                cause=f"got {got or 'nothing'}",
                remedy="Pass exactly this input.",
            )
        return {"y": run(self._graph, np.asarray(x))}

    def close(self) -> None:
        """Forget the graph."""
        self._graph = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()


__all__ = [
    "F32",
    "OPERATORS",
    "FakeSession",
    "decode",
    "encode",
    "quantize_rows",
    "read",
    "run",
    "signature",
    "write",
]
