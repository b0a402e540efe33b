"""Asserts something false while it is imported."""
