"""One of two that claim a name."""
