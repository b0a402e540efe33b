"""Describes another plugin."""
