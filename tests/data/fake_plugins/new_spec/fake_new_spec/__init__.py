"""Written for a hook contract of the future."""
