"""Wraps without declaring it."""
