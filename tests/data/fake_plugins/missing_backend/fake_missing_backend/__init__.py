"""Declares a backend that is not installed."""
