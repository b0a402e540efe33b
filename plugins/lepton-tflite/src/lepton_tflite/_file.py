"""Reading a .tflite file that may be anybody's: what it is, and whether the runtime can run it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lepton_core.codec import from_data
from lepton_core.errors import LeptonError, SessionError
from lepton_core.types import Signature, TensorSpec
from lepton_tflite import _flatbuffer as flat
from lepton_tflite._execution import (
    FileNode,
    computing_layers,
    custom_operators,
    file_nodes,
    operator_names,
    sentence,
    storage_facts,
)
from lepton_tflite._finish import port_types

if TYPE_CHECKING:
    from pathlib import Path

_NO_FILE = "Convert the model again: lepton convert MODEL --to tflite"


@dataclass(frozen=True, slots=True)
class File:
    """What a file says about itself.

    Attributes:
        signature: As lepton recorded it, else as the file's first signature says.
        batch: ``"open"``, ``"rows"`` or ``"fixed"``.
        operators: How often each operator is used.
        facts: How values are stored and in which precision operators compute.
        notes: What lepton wrote into it; empty for a file of somebody else's.
        graphs: Its operators, by subgraph.
    """

    signature: Signature
    batch: str
    operators: dict[str, int]
    facts: dict[str, Any]
    notes: dict[str, Any] = field(default_factory=dict)
    graphs: list[list[FileNode]] = field(default_factory=list)

    @property
    def turned(self) -> tuple[str, ...]:
        """Inputs that the signature has as NCHW, and the file as NHWC."""
        given = self.notes.get("nhwc_inputs")
        names = given if isinstance(given, list) else ()
        return tuple(s.name for s in self.signature.inputs if len(s.shape) == 4 and s.name in names)


def read_file(path: Path) -> File:
    """Read a file without the runtime.

    Raises:
        SessionError: LPT-RUN-402 (no LiteRT file, or a damaged one), 403 (Flex or custom
            operators), 404 (several entries, of which nobody says which one to run).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _no_file(path, str(error)) from error
    if not flat.is_tflite(data):
        raise _no_file(path, "It does not carry the identifier TFL3 of such files.")
    try:
        root = flat.root_of(data)
        foreign = custom_operators(root)
        if foreign:
            raise _foreign(path, foreign)
        if root.SignatureDefsLength() > 1:
            raise _entries(path, root)
        notes = flat.read_notes(root)
        signature = _recorded(path, notes) or signature_of(root)
        stored = storage_facts(flat.stored_values(root))
        graphs = file_nodes(root)
        layers = computing_layers(graphs)
        operators = operator_names(graphs)
    except flat.MALFORMED as error:
        raise _no_file(path, f"It is damaged: {error}") from error
    facts = {
        **stored,
        "execution_precision": sentence(layers, stored["storage_precision"]),
        "execution_layers": layers,
    }
    symbolic = any(not isinstance(d, int) for s in signature.inputs for d in s.shape)
    batch = str(notes.get("batch", "open" if symbolic else "fixed"))
    return File(signature, batch, operators, facts, notes, graphs)


def border_facts(path: Path, found: File) -> dict[str, Any]:
    """Return how a file's own inputs and outputs differ from those of its signature.

    Returns:
        For a model's metadata, from which bundles are made: ``nhwc_inputs``, ``integer_ports`` and
        ``port_grids`` (scale and zero point by name), each where there are any.

    Raises:
        SessionError: LPT-RUN-402, the file does not fit what stands in it.
    """
    facts: dict[str, Any] = {"nhwc_inputs": list(found.turned)} if found.turned else {}
    if found.notes.get("integer_ports"):
        try:
            grids, _ = port_types(flat.unpack(path.read_bytes()), found.signature)
        except (OSError, *flat.MALFORMED) as error:
            raise _no_file(path, f"It is damaged: {error}") from error
        facts |= {"integer_ports": list(grids), "port_grids": grids}
    return facts


def _no_file(path: Path, cause: str) -> SessionError:
    return SessionError(
        "LPT-RUN-402", f"{path} cannot be read as a LiteRT file", cause=cause, remedy=_NO_FILE
    )


def _recorded(path: Path, notes: dict[str, Any]) -> Signature | None:
    if not notes.get("signature"):
        return None
    try:
        return from_data(notes["signature"], Signature)
    except LeptonError as error:
        raise _no_file(path, f"What lepton noted in it is damaged: {error.message}") from error


def _entries(path: Path, root: Any) -> SessionError:  # noqa: ANN401 - a generated class
    number = root.SignatureDefsLength()
    names = [flat.text(root.SignatureDefs(i).SignatureKey()) for i in range(number)]
    return SessionError(
        "LPT-RUN-404",
        f"{path} has {number} signatures, and a session runs one",
        cause=f"They are {', '.join(names)}.",
        remedy="Write a file for each of them where it was made.",
    )


def _foreign(path: Path, operators: list[str]) -> SessionError:
    flex = [name for name in operators if name.startswith("Flex")]
    kind = "TensorFlow's own operators (Flex)" if flex else "custom operators"
    return SessionError(
        "LPT-RUN-403",
        f"{path} needs {kind}, which the LiteRT runtime does not have",
        cause=f"It uses {', '.join(operators)}.",
        remedy="Convert the model without them; lepton never writes such files.",
        details={"operators": operators},
    )


def signature_of(root: Any) -> Signature:  # noqa: ANN401 - a generated class
    """Return the signature of a file that is read in place, of its first entry."""
    graph = root.Subgraphs(0)
    if root.SignatureDefsLength():
        port = root.SignatureDefs(0)
        graph = root.Subgraphs(port.SubgraphIndex())
        inputs = [(port.Inputs(i).Name(), port.Inputs(i).TensorIndex())
                  for i in range(port.InputsLength())]  # fmt: skip
        outputs = [(port.Outputs(i).Name(), port.Outputs(i).TensorIndex())
                   for i in range(port.OutputsLength())]  # fmt: skip
    else:
        inputs = [(graph.Tensors(i).Name(), i) for i in graph.InputsAsNumpy()]
        outputs = [(graph.Tensors(i).Name(), i) for i in graph.OutputsAsNumpy()]
    return Signature(
        tuple(_spec(graph, flat.text(name), int(i)) for name, i in inputs),
        tuple(_spec(graph, flat.text(name), int(i)) for name, i in outputs),
    )


def _spec(graph: Any, name: str, index: int) -> TensorSpec:  # noqa: ANN401 - a generated class
    tensor = graph.Tensors(index)
    signed = tensor.ShapeSignatureLength()
    get, length = (
        (tensor.ShapeSignature, signed) if signed else (tensor.Shape, tensor.ShapeLength())
    )
    dims = tuple(int(get(i)) for i in range(length))
    shape = tuple(("batch" if i == 0 else None) if dim < 0 else dim for i, dim in enumerate(dims))
    return TensorSpec(name, flat.DTYPES.get(tensor.Type(), "unknown"), shape)


__all__ = ["File", "border_facts", "read_file", "signature_of"]
