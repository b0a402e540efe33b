"""Messages between a caller and its worker: length-prefixed MessagePack, never pickle."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from lepton_core.codec import pack, unpack

if TYPE_CHECKING:
    from typing import IO

_HEADER = struct.Struct("<Q")


def send(stream: IO[bytes], message: dict[str, Any]) -> None:
    """Write one message and flush it."""
    body = pack(message)
    stream.write(_HEADER.pack(len(body)) + body)
    stream.flush()


def receive(stream: IO[bytes]) -> dict[str, Any] | None:
    """Read one message; ``None`` when the other side is gone."""
    header = _exactly(stream, _HEADER.size)
    if header is None:
        return None
    body = _exactly(stream, _HEADER.unpack(header)[0])
    return None if body is None else unpack(body)


def _exactly(stream: IO[bytes], count: int) -> bytes | None:
    parts = []
    while count:
        part = stream.read(count)
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


__all__ = ["receive", "send"]
