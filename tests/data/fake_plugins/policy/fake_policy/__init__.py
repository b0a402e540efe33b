"""A policy that misbehaves on demand."""
