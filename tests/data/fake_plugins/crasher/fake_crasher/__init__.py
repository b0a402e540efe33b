"""Misbehaves in every way."""
