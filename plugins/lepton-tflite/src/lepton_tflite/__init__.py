"""The target LiteRT (TensorFlow Lite); importing this package imports nothing."""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__"]
