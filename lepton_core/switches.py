"""Options that are on or off, however they were given."""

from __future__ import annotations

WORDS = {"true": True, "yes": True, "on": True, "1": True} | {
    "false": False, "no": False, "off": False, "0": False,
}  # fmt: skip
"""What a command line, a settings file or an environment variable may say."""


def as_switch(value: object) -> bool | None:
    """Return whether an option is on; ``None`` if *value* says neither.

    A command line hands over words, and every word is true to :class:`bool`, ``"false"`` too.

    Args:
        value: A bool, 0 or 1, or one of :data:`WORDS` in either case.
    """
    return WORDS.get(str(value).strip().lower())


__all__ = ["WORDS", "as_switch"]
