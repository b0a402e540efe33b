"""The IR on disk: two files whose bytes depend on nothing but the model.

``model.xml`` holds the graph, ``model.bin`` the values. As OpenVINO writes it, the graph carries
the version of the runtime and names made from a counter of the process; both are taken out. What
lepton adds stands under ``rt_info/lepton``: the signature with its symbolic dimensions, which an
IR cannot express, and the SHA-256 of ``model.bin``, so that the digest of ``model.xml`` covers
both files.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from lepton_core.codec import from_data, to_data
from lepton_core.errors import SessionError
from lepton_core.files import digest_path, write_atomic
from lepton_core.types import Signature

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

GRAPH_FILE = "model.xml"
VALUES_FILE = "model.bin"

_SECTION = "lepton"
_SIGNATURE = "signature"
_DIGEST = "weights"
_UNNAMED = re.compile(r"^[A-Z][A-Za-z0-9]*_\d+")
"""Names that OpenVINO gives to what has none: the operator and a counter."""


def write_ir(
    written: Path, folder: Path, signature: Signature, names: Iterable[str]
) -> dict[str, int]:
    """Turn an IR as OpenVINO writes it into the one that is shipped.

    Args:
        written: The ``.xml`` file that OpenVINO wrote, its ``.bin`` beside it; both are consumed.
        folder: Where ``model.xml`` and ``model.bin`` are put.
        signature: What the model takes and gives, recorded in the file.
        names: Names that stand in the pivot and are therefore kept as they are.

    Returns:
        Number of constant values by element type.

    Raises:
        StorageError: The files cannot be written.
    """
    root = ElementTree.parse(written).getroot()  # noqa: S314 - OpenVINO has just written it
    values = folder / VALUES_FILE
    written.with_suffix(".bin").replace(values)
    _name_layers(root, frozenset(names))
    _replace_notes(root, signature, digest_path(values))
    text = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    write_atomic(folder / GRAPH_FILE, text)
    return stored_values(root)


def _name_layers(root: ElementTree.Element, kept: frozenset[str]) -> None:
    """Name layers that have a name from OpenVINO's counter after their type and number here."""
    for layers in root.iter("layers"):
        for layer in layers.findall("layer"):
            name = layer.get("name", "")
            match = _UNNAMED.match(name)
            if match and match[0] not in kept and name not in kept:
                rest = name[match.end() :]
                layer.set("name", f"unnamed/{layer.get('type')}/{layer.get('id')}{rest}")


def _replace_notes(root: ElementTree.Element, signature: Signature, digest: str) -> None:
    for old in root.findall("rt_info"):
        root.remove(old)
    notes = ElementTree.SubElement(root, "rt_info")
    section = ElementTree.SubElement(notes, _SECTION)
    text = json.dumps(to_data(signature), sort_keys=True, separators=(",", ":"))
    ElementTree.SubElement(section, _SIGNATURE, value=text)
    ElementTree.SubElement(section, _DIGEST, value=digest)
    root[-1].tail = "\n"


class _DoctypeError(Exception):
    """A document type, which no IR declares, could define entities that grow without bound."""


class _PlainTree(ElementTree.TreeBuilder):
    """Builds a tree, and refuses a document type."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise _DoctypeError(f"It declares the document type {name!r}, which no IR does.")


def read_graph(path: Path) -> ElementTree.Element:
    """Return the graph of an IR, without its values.

    Raises:
        SessionError: LPT-RUN-302, the file is missing or is no IR.
    """
    try:
        parser = ElementTree.XMLParser(target=_PlainTree())  # noqa: S314 - refuses a DTD
        root = ElementTree.parse(path, parser).getroot()  # noqa: S314 - with the parser above
    except (OSError, ElementTree.ParseError, _DoctypeError) as error:
        raise _no_ir(path, str(error)) from error
    if root.tag != "net":
        raise _no_ir(path, f"Its outermost element is <{root.tag}>, not <net>.")
    return root


def _no_ir(path: Path, cause: str) -> SessionError:
    return SessionError(
        "LPT-RUN-302",
        f"{path} cannot be read as an OpenVINO IR",
        cause=cause,
        remedy="Convert the model again: lepton convert MODEL --to openvino",
    )


def stored_values(root: ElementTree.Element) -> dict[str, int]:
    """Return the number of constant values by element type, bodies of loops included."""
    counts: dict[str, int] = {}
    for layer in root.iter("layer"):
        data = layer.find("data")
        if layer.get("type") != "Const" or data is None:
            continue
        kind = data.get("element_type", "")
        counts[kind] = counts.get(kind, 0) + _elements(data.get("shape", ""))
    return counts


def _elements(shape: str) -> int:
    count = 1
    for dim in filter(None, (part.strip() for part in shape.split(","))):
        count *= int(dim)
    return count


def recorded_signature(root: ElementTree.Element) -> Signature | None:
    """Return the signature that lepton recorded in an IR, if it made it."""
    text = _note(root, _SIGNATURE)
    if text is None:
        return None
    data: Any = json.loads(text)
    return from_data(data, Signature)


def check_values(path: Path, root: ElementTree.Element) -> None:
    """Compare ``model.bin`` with the digest that its graph records, if it records one.

    Raises:
        SessionError: LPT-RUN-303, the file is missing or is another one.
    """
    values = path.with_suffix(".bin")
    wanted = _note(root, _DIGEST)
    if not values.is_file():
        cause = f"There is no {values.name} beside {path.name}."
    elif wanted is None or (found := digest_path(values)) == wanted:
        return
    else:
        cause = f"Its digest is {found}; {path.name} names {wanted}."
    raise SessionError(
        "LPT-RUN-303",
        f"{values} is not the file of values that belongs to {path.name}",
        cause=cause,
        remedy="Copy both files again from the same place, or convert the model again.",
    )


def _note(root: ElementTree.Element, name: str) -> str | None:
    found = root.find(f"rt_info/{_SECTION}/{name}")
    return None if found is None else found.get("value")


__all__ = [
    "GRAPH_FILE",
    "VALUES_FILE",
    "check_values",
    "read_graph",
    "recorded_signature",
    "stored_values",
    "write_ir",
]
