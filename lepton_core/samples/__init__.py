"""Samples: real inputs (and labels, if any) that a variant is compared on.

A sample is one row: every array holds ``N`` rows along its first axis, and row ``i`` of every
array belongs together. Samples come from an ``.npz`` file, a folder of ``.npy`` files, a Python
callable, or, for lack of data, a random generator; they are matched against a model's signature,
split into calibration and held-out rows that never share a row, and cross process borders as
uncompressed ``.npy`` files that are memory-mapped on the other side.

This is a work module: it imports numpy, and ``import lepton_core`` does not import it.
"""

from __future__ import annotations

from lepton_core.samples._batches import DEFAULT_BATCH, Batch, batches, collect_outputs
from lepton_core.samples._load import from_arrays, load_samples
from lepton_core.samples._match import match
from lepton_core.samples._random import random_samples
from lepton_core.samples._split import default_calibration, split, split_rows
from lepton_core.samples._store import load_saved, save
from lepton_core.samples._types import Origin, Samples, is_constant, release_pages

__all__ = [
    "DEFAULT_BATCH",
    "Batch",
    "Origin",
    "Samples",
    "batches",
    "collect_outputs",
    "default_calibration",
    "from_arrays",
    "is_constant",
    "load_samples",
    "load_saved",
    "match",
    "random_samples",
    "release_pages",
    "save",
    "split",
    "split_rows",
]
