"""Versions: of the distribution (the build reads it from here) and of the hook contract."""

__version__ = "0.1.0"

SPEC_VERSION = 1
"""Major version of the hook contract; a plugin declares the one it was written for."""
