"""Its entry point does not follow the convention."""
