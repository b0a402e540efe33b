"""An extension that wraps conversions."""
