"""Misspells a module of a package that is installed."""
