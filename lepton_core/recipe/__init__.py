"""Recipes: the only truth about a compressed model, as data.

A recipe says which values and weights of one frozen pivot are stored as integers, with which
scales and zero points, and by which rules. Every file of a compressed model, whatever its format,
is a lowering of it. A recipe is a JSON file that people can read and edit, described field by
field in ``docs/reference/recipe.md``; integers that no rule reproduces stand in a safetensors file
beside it. Engines write recipes, targets lower them.

Importing this module imports no numpy; only integers in the sidecar need it.
"""

from __future__ import annotations

from lepton_core.recipe._blocks import LARGEST_BLOCK, METHODS, SMALLEST_BLOCK, BlockWeight
from lepton_core.recipe._check import check_against, validate
from lepton_core.recipe._io import dumps, loads, read, write
from lepton_core.recipe._recovery import CORRECTIONS, RESCALINGS, Correction, Rescaled
from lepton_core.recipe._sidecar import SIDECAR_SUFFIX, load_arrays, load_integers
from lepton_core.recipe._sparse import (
    LARGEST_GROUP,
    PRUNINGS,
    SCOPES,
    PalettizedWeight,
    PrunedWeight,
)
from lepton_core.recipe._types import (
    MEAN,
    RULES,
    SCHEMA,
    SCHEMES,
    Calibration,
    Layer,
    PivotId,
    Recipe,
    Tensor,
)

__all__ = [
    "CORRECTIONS",
    "LARGEST_BLOCK",
    "LARGEST_GROUP",
    "MEAN",
    "METHODS",
    "PRUNINGS",
    "RESCALINGS",
    "RULES",
    "SCHEMA",
    "SCHEMES",
    "SCOPES",
    "SIDECAR_SUFFIX",
    "SMALLEST_BLOCK",
    "BlockWeight",
    "Calibration",
    "Correction",
    "Layer",
    "PalettizedWeight",
    "PivotId",
    "PrunedWeight",
    "Recipe",
    "Rescaled",
    "Tensor",
    "check_against",
    "dumps",
    "load_arrays",
    "load_integers",
    "loads",
    "read",
    "validate",
    "write",
]
