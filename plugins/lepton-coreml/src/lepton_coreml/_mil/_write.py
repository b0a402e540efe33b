"""Turning a package as coremltools writes it into the one that is shipped.

Names of inputs and outputs are those of the pivot, identifiers follow from the contents, notes of
the day and of versions go, the model's own notes come in, and messages are written in one order.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core.files import digest_path, disk_errors
from lepton_coreml._mil._package import MANIFEST, open_package

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_AUTHOR = "com.apple.CoreML"
_NAMESPACE = uuid.UUID("7c3f5f3a-5f0e-5b8e-9a53-6d9c1f0e7a11")
WEIGHTS = Path("Data") / _AUTHOR / "weights" / "weight.bin"
MODEL = Path("Data") / _AUTHOR / "model.mlmodel"
DIGEST_NOTE = "lepton.weights"
"""Note of the program that holds the SHA-256 of the file of weights."""
_TEXT = 2
"""Type of text in a program."""


def feature_names(wanted: Sequence[str]) -> list[str]:
    """Return names that Core ML and Swift accept, one for each, unchanged where possible."""
    used: set[str] = set()
    result = []
    for name in wanted:
        plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
        plain = plain if re.match(r"[A-Za-z_]", plain) else f"_{plain}"
        other, number = plain, 1
        while other in used:
            number += 1
            other = f"{plain}_{number}"
        used.add(other)
        result.append(other)
    return result


def finish(
    written: Path,
    out: Path,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    notes: Mapping[str, str],
) -> str:
    """Write the package that is shipped.

    Args:
        written: The package of coremltools; it is not changed.
        out: The folder to make; it must not exist.
        inputs: Names that its inputs get, in order.
        outputs: Names that its outputs get, in order.
        notes: What the program says about itself, by key.

    Returns:
        ``"sha256:<hex>"`` of the file of weights, or nothing if there is none.

    Raises:
        StorageError: It cannot be written.
    """
    package = open_package(written)
    model = package.message()
    _rename(model, inputs, outputs)
    weights = package.model_file.parent / "weights" / "weight.bin"
    digest = digest_path(weights) if weights.is_file() else ""
    meta = model.description.metadata
    for key in ("shortDescription", "versionString", "author", "license"):
        meta.ClearField(key)
    meta.userDefined.clear()
    for key, text in {**notes, **({DIGEST_NOTE: digest} if digest else {})}.items():
        meta.userDefined[key] = text
    model.mlProgram.attributes.clear()  # versions and the day of the conversion
    data = model.SerializeToString(deterministic=True)
    with disk_errors(f"the package {out}"):
        (out / MODEL).parent.mkdir(parents=True)
        (out / MODEL).write_bytes(data)
        (out / WEIGHTS).parent.mkdir()
        if digest:
            shutil.copyfile(weights, out / WEIGHTS)
        (out / MANIFEST).write_text(_manifest(data, digest), encoding="utf-8")
    return digest


def _manifest(data: bytes, weights: str) -> str:
    """Return the manifest, with identifiers that follow from what they name."""
    own = hashlib.sha256(data).hexdigest()
    root = str(uuid.uuid5(_NAMESPACE, f"model {own}")).upper()
    folder = str(uuid.uuid5(_NAMESPACE, f"weights {weights} {own}")).upper()
    entries = {
        root: ("CoreML Model Specification", "model.mlmodel"),
        folder: ("CoreML Model Weights", "weights"),
    }
    content = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            key: {
                "author": _AUTHOR,
                "description": description,
                "name": name,
                "path": f"{_AUTHOR}/{name}",
            }
            for key, (description, name) in sorted(entries.items())
        },
        "rootModelIdentifier": root,
    }
    return json.dumps(content, indent=4) + "\n"


def _rename(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:  # noqa: ANN401
    function = model.mlProgram.functions["main"]
    block = function.blocks[function.opset]
    described = model.description
    _own_outputs(function, block)
    changes = dict(zip((v.name for v in function.inputs), inputs, strict=True))
    changes |= dict(zip(block.outputs, outputs, strict=True))
    changes = _without_clashes(block, changes)
    for feature, name in (*zip(described.input, inputs, strict=True),
                          *zip(described.output, outputs, strict=True)):  # fmt: skip
        feature.name = name
    for value in (*function.inputs, *block.inputs):
        value.name = changes.get(value.name, value.name)
    block.outputs[:] = [changes.get(name, name) for name in block.outputs]
    _rename_operations(block, changes)


def _own_outputs(function: Any, block: Any) -> None:  # noqa: ANN401 - protobuf
    """Give outputs that are inputs as well, or one another, a value of their own."""
    kinds = {v.name: v.type for v in function.inputs}
    taken = set(kinds)
    kinds |= {v.name: v.type for op in block.operations for v in op.outputs}
    for place, name in enumerate(block.outputs):
        if name not in taken:
            taken.add(name)
            continue
        own = f"{name}_output_{place}"
        operation = block.operations.add(type="identity")
        operation.inputs["x"].arguments.add().name = name
        operation.outputs.add(name=own).type.CopyFrom(kinds[name])
        note = operation.attributes["name"]
        note.type.tensorType.dataType = _TEXT
        note.immediateValue.tensor.strings.values.append(own)
        block.outputs[place] = own


def _without_clashes(block: Any, changes: dict[str, str]) -> dict[str, str]:  # noqa: ANN401
    """Add changes for inner values that have a name which an input or output gets."""
    taken = set(changes.values())
    inner = {v.name for op in block.operations for v in op.outputs}
    result = dict(changes)
    for name in sorted(inner & taken):
        if name in changes:
            continue
        other = f"{name}_inner"
        while other in inner or other in taken:
            other += "_"
        result[name] = other
    return result


def _rename_operations(block: Any, changes: Mapping[str, str]) -> None:  # noqa: ANN401
    for operation in block.operations:
        for argument in operation.inputs.values():
            for binding in argument.arguments:
                if binding.WhichOneof("kind") == "name" and binding.name in changes:
                    binding.name = changes[binding.name]
        for value in operation.outputs:
            value.name = changes.get(value.name, value.name)
        for inner in operation.blocks:
            inner.outputs[:] = [changes.get(name, name) for name in inner.outputs]
            _rename_operations(inner, changes)


__all__ = ["DIGEST_NOTE", "MODEL", "WEIGHTS", "feature_names", "finish"]
