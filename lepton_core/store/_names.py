"""What may be a name, an alias, a version, a stored path; nothing else reaches the disk."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from lepton_core.errors import StorageError, UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = re.compile(r"v[0-9a-f]{4,16}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{d}{n}" for d in ("COM", "LPT") for n in range(10))}
_FORBIDDEN = set('<>:"|?*\\')
_MAX_PATH = 200


def check_name(text: str, kind: str = "name") -> str:
    """Return *text* if it may be a name.

    Raises:
        UsageError: LPT-STORE-006, it may not.
    """
    if not _NAME.fullmatch(text) or text.endswith("."):
        raise _refused(kind, text, "Use letters, digits, dots, dashes and underscores, up to 64.")
    return text


def check_alias(text: str) -> str:
    """Return *text* if it may be an alias; one that reads like a version may not.

    Raises:
        UsageError: LPT-STORE-006.
    """
    check_name(text, "alias")
    if is_version(text):
        raise _refused("alias", text, "It reads like a version; choose a word.")
    return text


def _refused(kind: str, text: str, remedy: str) -> UsageError:
    return UsageError("LPT-STORE-006", f"{text!r} cannot be a {kind} in a store", remedy=remedy)


def is_version(text: str) -> bool:
    """Tell whether *text* reads like a version or the beginning of one."""
    return _VERSION.fullmatch(text) is not None


def is_digest(text: object) -> bool:
    """Tell whether *text* is a full SHA-256 digest."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def split_reference(reference: str, default: str = "production") -> tuple[str, str]:
    """Split ``NAME@ALIAS`` or ``NAME@VERSION``; a bare name means the alias *default*.

    Raises:
        UsageError: LPT-STORE-006.
    """
    name, sign, rest = reference.partition("@")
    if sign and not rest:
        raise _refused("reference", reference, "Write NAME@ALIAS or NAME@VERSION.")
    return check_name(name), check_name(rest or default, "alias")


def check_member(path: str) -> str:
    """Return a stored file's relative path if it is safe on every platform.

    Raises:
        StorageError: LPT-STORE-012, it is absolute, leaves its folder, or is not portable.
    """
    parts = path.split("/")
    bad = (
        not path
        or len(path) > _MAX_PATH
        or PurePosixPath(path).is_absolute()
        or any(_is_bad_part(part) for part in parts)
    )
    if bad:
        raise StorageError(
            "LPT-STORE-012",
            f"The file name {path!r} cannot be stored",
            cause="names must be relative, stay inside their folder and work on every platform",
            remedy="Rename the file.",
        )
    return path


def _is_bad_part(part: str) -> bool:
    return (
        part in ("", ".", "..")
        or part != part.strip()
        or part.endswith(".")
        or any(c in _FORBIDDEN or ord(c) < 32 for c in part)
        or part.partition(".")[0].upper() in _RESERVED
    )


__all__ = [
    "check_alias",
    "check_member",
    "check_name",
    "is_digest",
    "is_version",
    "split_reference",
]
