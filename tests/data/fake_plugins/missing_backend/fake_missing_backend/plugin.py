"""Declares a backend that is not installed."""

raise RuntimeError("must not be imported")
