"""Taking the build machine's paths out of a finished wheel."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def neutralize(wheel: Path, root: Path) -> None:
    """Replaces the tree's address in a wheel's bills of materials; keeps RECORD true.

    maturin writes the folder of every crate of the workspace into its SBOM, so that equal sources
    would give another wheel in another folder.
    """
    own, neutral = root.as_uri().encode(), b"file:///lepton"
    with zipfile.ZipFile(wheel) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    changed = {
        info.filename: data.replace(own, neutral)
        for info, data in members
        if "/sboms/" in info.filename and own in data
    }
    if not changed:
        return
    temporary = wheel.with_suffix(".new")
    with zipfile.ZipFile(temporary, "w") as archive:
        for info, data in members:
            if info.filename.endswith(".dist-info/RECORD"):
                content = _record(data.decode("utf-8"), changed).encode("utf-8")
            else:
                content = changed.get(info.filename, data)
            archive.writestr(info, content, compress_type=info.compress_type)
    temporary.replace(wheel)


def _record(text: str, changed: dict[str, bytes]) -> str:
    lines = text.splitlines()
    for number, line in enumerate(lines):
        name = line.rsplit(",", 2)[0].strip('"')
        if name in changed:
            data = changed[name]
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            lines[number] = f"{line.rsplit(',', 2)[0]},sha256={digest},{len(data)}"
    return "\n".join(lines) + "\n"
