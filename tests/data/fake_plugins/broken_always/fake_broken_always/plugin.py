"""Cannot be imported, though it wants to be loaded always."""

raise RuntimeError("no")
