"""No hooks: what it brings is declared in its description."""

from fake_rewrites.info import INFO

__all__ = ["INFO"]
