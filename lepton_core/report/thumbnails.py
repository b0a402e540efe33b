"""Small pictures of samples that look like images; made only when the user asks for them."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from lepton_core.samples import Samples

_MIN_SIDE, _MAX_SIDE = 4, 256
_CHANNELS = (1, 3)
_ON_PAGE = re.compile(
    r'<img class="sample" src="(data:image/png;base64,[A-Za-z0-9+/=]+)" alt="sample (\d{1,18})">'
)
"""How ``passport.html.j2`` writes a picture."""


def worst_pictures(passport: Mapping[str, Any], samples: Samples) -> dict[int, str]:
    """Return a picture of each of a passport's worst samples, if they look like images.

    Args:
        passport: A passport of schema 1.
        samples: The held-out rows it was made from.

    Returns:
        ``data:`` URI by row number, empty if no input looks like an image.
    """
    where = {int(row): position for position, row in enumerate(samples.original_rows)}
    found = {}
    for entry in passport["worst"]:
        position = where.get(int(entry["row"]))
        if position is None:
            continue
        for array in samples.inputs.values():
            picture = picture_of(array[position])
            if picture is not None:
                found[int(entry["row"])] = picture
                break
    return found


def pictures_on(page: str) -> dict[int, str]:
    """Return the pictures of samples that stand on a passport's page, to draw it again with them.

    A page that was edited cannot bring anything else along: only PNGs inside of the page count.

    Args:
        page: What :func:`lepton_core.report.render_passport` returned.

    Returns:
        ``data:`` URI by row number, empty if there are none.
    """
    return {int(row): uri for uri, row in _ON_PAGE.findall(page)}


def picture_of(array: NDArray[Any]) -> str | None:
    """Return an array as a PNG ``data:`` URI, or ``None`` if it does not look like an image.

    Args:
        array: ``[H, W]``, ``[C, H, W]`` or ``[H, W, C]`` with 1 or 3 channels and sides of 4 to
            256; values are stretched from their smallest to their largest.
    """
    import numpy as np

    image = _as_image(array)
    if image is None or not np.isfinite(image).all():
        return None
    low, high = float(image.min()), float(image.max())
    scaled = (image - low) * (255.0 / (high - low) if high > low else 0.0)
    uri = base64.b64encode(_png(scaled.round().astype(np.uint8))).decode()
    return f"data:image/png;base64,{uri}"


def _as_image(array: NDArray[Any]) -> NDArray[np.float64] | None:
    """Return the array as ``[H, W, C]`` floats, or ``None``."""
    import numpy as np

    if array.dtype.kind not in "fu" or array.ndim not in (2, 3):
        return None
    if array.ndim == 2:
        array = array[:, :, None]
    elif array.shape[0] in _CHANNELS and array.shape[2] not in _CHANNELS:
        array = np.moveaxis(array, 0, 2)
    height, width, channels = array.shape
    fits = all(_MIN_SIDE <= side <= _MAX_SIDE for side in (height, width))
    return array.astype(np.float64) if fits and channels in _CHANNELS else None


def _png(image: NDArray[np.uint8]) -> bytes:
    """Encode ``[H, W, 1 or 3]`` bytes as PNG (W3C PNG, section 11): no filter, one IDAT."""
    height, width, channels = image.shape
    colour = 0 if channels == 1 else 2
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


__all__ = ["picture_of", "pictures_on", "worst_pictures"]
