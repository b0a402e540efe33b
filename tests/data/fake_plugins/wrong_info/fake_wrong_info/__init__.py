"""Its description is of the wrong kind."""
