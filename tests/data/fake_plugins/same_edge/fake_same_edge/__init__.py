"""Claims the fake target's edge, its source format and its name as an engine."""
