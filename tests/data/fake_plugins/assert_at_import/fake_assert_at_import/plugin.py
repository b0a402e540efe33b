"""Asserts something false while it is imported."""

assert 1 + 1 == 3, "arithmetic has changed"
