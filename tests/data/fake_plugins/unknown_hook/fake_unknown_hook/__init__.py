"""Has a hook of an unknown name."""
