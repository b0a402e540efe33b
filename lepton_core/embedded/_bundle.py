"""Bundles: a folder to ship, which runs where only the runtime is installed."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
from importlib import resources
from typing import TYPE_CHECKING, Any

from lepton_core import codec
from lepton_core.built import BUNDLE
from lepton_core.errors import DeployError
from lepton_core.origins import ORIGIN
from lepton_core.staging import MARKER, check_replaceable, staged
from lepton_core.store._cas import digest_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from importlib.resources.abc import Traversable
    from pathlib import Path

    from lepton_core.registry import Registry
    from lepton_core.store import Resolved, Store, Version
    from lepton_core.types import Model

    OwnFiles = Callable[[Model, str], Mapping[str, str]]

RUNTIME = "bundle_runtime.py"
"""File of a target's package that loads its artifacts with the bare runtime.

It defines ``load(path, threads=None)``, which returns a function from named arrays to named
arrays, and ``REQUIREMENTS``, a tuple of what to install; it imports the runtime in ``load``.
"""

FILES = "bundle_files"
"""Module of a target's package with ``files(model, name)``: texts to ship beside it, by file name,
such as a class that an app calls. The model's files lie at its path. A target may do without."""

SUMS = "SHA256SUMS"
check_place = check_replaceable


def runtime_file(registry: Registry, target: str) -> Traversable:
    """Return a target's loading code.

    Raises:
        DeployError: LPT-DEP-004, its plugin brings none.
    """
    entry = registry.record(target).entry
    if entry is not None:
        file = resources.files(entry.package) / RUNTIME
        if file.is_file():
            return file
    raise DeployError(
        "LPT-DEP-004",
        f"There is no code that loads a bundle for {target!r} yet",
        cause=f"its plugin has no {RUNTIME}",
        remedy="Deploy with --kind embedded, or to a target whose plugin has it (onnxruntime).",
        details={"target": target},
    )


def own_files(registry: Registry, target: str) -> OwnFiles:
    """Return what makes the texts that a target adds to a bundle."""
    entry = registry.record(target.partition(":")[0]).entry
    if entry is None or not (resources.files(entry.package) / f"{FILES}.py").is_file():
        return _nothing
    made: OwnFiles = importlib.import_module(f"{entry.package}.{FILES}").files
    return made


def _nothing(model: Model, name: str) -> Mapping[str, str]:
    del model, name
    return {}


def write_bundle(
    store: Store,
    resolved: Resolved,
    runtime: Traversable,
    out: Path,
    *,
    force: bool,
    own: OwnFiles = _nothing,
) -> str:
    """Write a version as a folder; it appears whole or not at all.

    Args:
        store: Where the version is.
        resolved: The version.
        runtime: The target's loading code.
        out: The folder; an earlier bundle there is replaced.
        force: Replace whatever is there.
        own: Gives the texts that the target adds, by file name; see :func:`own_files`.

    Returns:
        Digest of the bundle's ``SHA256SUMS``.

    Raises:
        StorageError: LPT-IO-001 … 003, LPT-STORE-004.
    """
    version = resolved.version
    with store.view(version) as view, staged(out, force=force) as stage:
        for file in version.files:
            if file.path.startswith(f"{ORIGIN}/"):  # a bundle runs; it is not lowered again
                continue
            place = stage / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(view.folder / file.path, place)
        (stage / "runtime.py").write_bytes(runtime.read_bytes())
        main = resources.files("lepton_core.embedded") / "_bundle_run.py"
        (stage / "run.py").write_bytes(main.read_bytes())
        _write_json(stage / "signature.json", codec.to_data(version.model.signature))
        _write_json(stage / "preprocessing.json", _contract(version))
        _write_json(stage / MARKER, _summary(resolved))
        for name, text in own(view.model, resolved.name).items():
            (stage / name).write_text(text, encoding="utf-8")
        sums = _sums(stage)
        (stage / SUMS).write_text(sums, encoding="utf-8")
    return hashlib.sha256(sums.encode()).hexdigest()


def _contract(version: Version) -> dict[str, Any]:
    """Return how inputs are prepared and what outputs mean, as far as it was declared."""
    metadata = version.model.metadata
    return {
        "declared": "preprocessing" in metadata,
        "preprocessing": metadata.get("preprocessing"),
        "labels": metadata.get("labels"),
    }


def _summary(resolved: Resolved) -> dict[str, Any]:
    version = resolved.version
    return {
        "kind": BUNDLE,
        "schema": 1,
        "name": resolved.name,
        "version": version.id,
        "manifest": version.manifest,
        "target": version.target,
        "precision": version.precision,
        "format": version.model.format,
        "model": version.model.path,
        "digest": version.model.digest,
        "lineage": codec.to_data(version.model.lineage),
    }


def _write_json(path: Path, data: Any) -> None:  # noqa: ANN401 - JSON types
    path.write_text(
        json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def _sums(folder: Path) -> str:
    """Return the lines that ``sha256sum --check`` reads."""
    lines = [
        f"{digest_file(path).removeprefix('sha256:')}  {path.relative_to(folder).as_posix()}\n"
        for path in sorted(p for p in folder.rglob("*") if p.is_file())
    ]
    return "".join(lines)


__all__ = ["RUNTIME", "SUMS", "check_place", "own_files", "runtime_file", "write_bundle"]
