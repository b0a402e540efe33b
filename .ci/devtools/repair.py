"""Finding packages that an interrupted installation left half-written."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def site_packages(venv: Path) -> Iterator[Path]:
    """The folders of a virtual environment that packages are installed into."""
    yield from venv.glob("lib/python3*/site-packages")
    yield from venv.glob("Lib/site-packages")


def is_whole(metadata: Path) -> bool:
    """Whether all files in a package's RECORD exist with the recorded sizes."""
    try:
        with (metadata / "RECORD").open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    site = metadata.parent
    for row in rows:
        # Installers of editable packages rewrite the origin after recording it.
        if not row or row[0].endswith((".pyc", "/direct_url.json")):
            continue
        try:
            size = Path(site, row[0]).stat().st_size
        except OSError:
            return False
        if len(row) > 2 and row[2] and int(row[2]) != size:
            return False
    return bool(rows)


def broken_packages(venv: Path) -> list[Path]:
    """The metadata folders of all incomplete packages."""
    return [
        metadata
        for site in site_packages(venv)
        for metadata in sorted(site.glob("*.dist-info"))
        if not is_whole(metadata)
    ]


def forget_broken(venv: Path) -> list[str]:
    """Removes the metadata of incomplete packages, so that the next installation writes them anew.

    Whole packages stay: a torch of several gigabytes is not installed twice because something
    after it was interrupted.
    """
    broken = broken_packages(venv)
    for metadata in broken:
        shutil.rmtree(metadata)
    return [name_of(metadata) for metadata in broken]


def name_of(metadata: Path) -> str:
    """Name and version of a package, as its metadata folder says them."""
    return metadata.name.removesuffix(".dist-info")
