"""Imports a module of its own that is not there."""

from fake_own_import_error import absent  # noqa: F401
