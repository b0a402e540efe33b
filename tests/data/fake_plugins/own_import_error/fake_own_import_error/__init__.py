"""Imports a module of its own that is not there."""
