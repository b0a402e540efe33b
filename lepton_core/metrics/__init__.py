"""Metrics: one number that says how good a variant is, and how much was lost against the source.

``choose_metric`` decides what to measure on which output, ``measure`` measures it, and
``output_errors`` and ``row_errors`` compare outputs number by number (with the kernels of
``lepton_kernels``). A *drop* is in the metric's own unit and positive when the variant is worse.

This is a work module: it imports numpy, and ``import lepton_core`` does not import it.
"""

from __future__ import annotations

from lepton_core.metrics._choose import Choice, choose_metric
from lepton_core.metrics._errors import accumulate, is_exact, output_errors, row_errors
from lepton_core.metrics._measure import Measurement, measure
from lepton_core.metrics._registry import METRICS, Metric, find_metric

__all__ = [
    "METRICS",
    "Choice",
    "Measurement",
    "Metric",
    "accumulate",
    "choose_metric",
    "find_metric",
    "is_exact",
    "measure",
    "output_errors",
    "row_errors",
]
