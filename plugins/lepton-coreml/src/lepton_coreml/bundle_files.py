"""What a bundle for Core ML ships besides the package.

A Swift class made from the signature, the package's own names and types of inputs and outputs
(``features.json``), and a program that proves the bundle on a Mac (``prove_on_mac.py``).
"""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.embedded.snippets import class_name
from lepton_coreml._features import ARRAYS, named, systems
from lepton_coreml._mil._package import open_package

if TYPE_CHECKING:
    from lepton_core.types import Model, TensorSpec
    from lepton_coreml._mil._program import Feature

_TYPES = {"fp32": "float32", "fp16": "float16", "int32": "int32", "fp64": "double", "int8": "int8"}
"""Swift's types of arrays by MIL's name."""
_TAKEN = frozenset(
    {
        "Any", "Array", "ClosedRange", "Data", "Dictionary", "Double", "Error", "Failure", "Float",
        "Int", "Int8", "Int16", "Int32", "Int64", "JSONSerialization", "MLComputeUnits",
        "MLDictionaryFeatureProvider", "MLFeatureProvider", "MLFeatureValue", "MLModel",
        "MLModelConfiguration", "MLMultiArray", "MLMultiArrayDataType", "NSNumber", "Port", "Self",
        "Sendable", "String", "Type", "UInt8", "UInt16", "UInt32", "UInt64", "URL",
    }
)  # fmt: skip
"""Names that the class itself uses."""


def files(model: Model, name: str) -> dict[str, str]:
    """Return what to write beside a package, by file name.

    Args:
        model: The package, where it lies, with its signature.
        name: Name of the deployment; the class is called after it.

    Raises:
        SessionError: The package cannot be read.
    """
    if model.signature is None:
        return {}
    program = open_package(Path(model.path)).program()
    features = named(program, model.signature)
    ios, macos = systems(program)
    ports = {
        kind: [_port(spec, features[spec.name]) for spec in specs]
        for kind, specs in (
            ("inputs", model.signature.inputs),
            ("outputs", model.signature.outputs),
        )
    }
    title = class_name(name, _TAKEN)
    page = (resources.files(__package__) / "bundle_class.swift").read_text(encoding="utf-8")
    file = Path(model.path).name
    texts = {
        "FILE": file,
        "STEM": file.rpartition(".")[0],
        "SIGNATURE": " ".join(str(model.signature).split()),
        "IOS": str(ios),
        "MACOS": str(macos),
        "CLASS": title,
        "INPUTS": _entries(model.signature.inputs, features),
        "OUTPUTS": _entries(model.signature.outputs, features),
    }
    # In one pass: a name of the model may look like a place to fill.
    page = re.sub(r"@([A-Z]+)@", lambda found: texts[found[1]], page)
    about = {"schema": 1, "needs": {"ios": ios, "macos": macos}, **ports}
    prove = resources.files(__package__) / "bundle_prove.py"
    return {
        "features.json": json.dumps(about, indent=1, ensure_ascii=False) + "\n",
        f"{title}.swift": page,
        "prove_on_mac.py": prove.read_text(encoding="utf-8"),
    }


def _port(spec: TensorSpec, feature: Feature) -> dict[str, Any]:
    return {
        "name": spec.name,
        "feature": feature.name,
        "dtype": np.dtype(ARRAYS[feature.dtype]).name,
        "shape": [d if isinstance(d, int) else list(d) for d in feature.shape],
    }


def _entries(specs: tuple[TensorSpec, ...], features: Any) -> str:  # noqa: ANN401 - by name
    return "\n".join(_entry(spec, features[spec.name]) for spec in specs)


def _entry(spec: TensorSpec, feature: Feature) -> str:
    sizes = ", ".join(_range(d) for d in feature.shape)
    return (
        f"        Port(name: {_quoted(spec.name)}, feature: {_quoted(feature.name)}, "
        f"type: .{_TYPES[feature.dtype]}, sizes: [{sizes}]),"
    )


def _range(bounds: int | tuple[int, int]) -> str:
    low, high = (bounds, bounds) if isinstance(bounds, int) else bounds
    return f"{low}...{high if high >= 0 else 'Int.max'}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{{{ord(c):x}}}" for c in escaped) + '"'


__all__ = ["files"]
