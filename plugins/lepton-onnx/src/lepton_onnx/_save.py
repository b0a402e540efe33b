"""Saving a model that is in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lepton_onnx._parked import park
from lepton_onnx._strip import EXTERNAL_KEY
from lepton_onnx._write import EXTERNAL_ABOVE, write

if TYPE_CHECKING:
    from onnx import ModelProto


def save(
    model: ModelProto, path: str | Path, *, external_above: int = EXTERNAL_ABOVE
) -> tuple[str, ...]:
    """Write *model* as it is, with deterministic bytes, whole or not at all.

    Args:
        model: A model whose weights are in memory; it is not changed.
        path: File to write; its directory must exist.
        external_above: Size of weights in bytes from which on they stand in ``<path>.data``.

    Returns:
        Names of the data files written beside *path*.

    Raises:
        StorageError: The disk is full or the place may not be written.
    """
    parked = park(model)
    kept = [p for p in parked.model.metadata_props if p.key != EXTERNAL_KEY]
    pairs = [(p.key, p.value) for p in kept]
    del parked.model.metadata_props[:]
    for key, value in pairs:
        parked.model.metadata_props.add(key=key, value=value)
    return write(parked, Path(path), external_above)
