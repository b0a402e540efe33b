"""Has a hook with a wrong argument."""
