"""The policy that comes with the core: the cheapest way that was measured, by rows of a call."""
