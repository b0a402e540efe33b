"""Core ML as a target: ML Programs from the pivot, and an interpreter that runs them anywhere."""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__"]
