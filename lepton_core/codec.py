"""Plain data and back: how requests and results cross a process border or land in JSON.

Only dataclasses of plain data travel; nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from lepton_core import types
from lepton_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


def to_data(value: Any) -> Any:  # noqa: ANN401 - any plain value
    """Return *value* (dataclasses, tuples, mappings, numbers, paths) as JSON types.

    Raises:
        UsageError: It holds something that is no plain data.
    """
    import msgspec

    with _plain(value):
        return msgspec.to_builtins(value, enc_hook=_encode_other)


def from_data(data: Any, cls: type[T]) -> T:  # noqa: ANN401 - any plain value
    """Rebuild a *cls* from :func:`to_data`, checking every type.

    Raises:
        UsageError: The data do not describe a *cls*.
    """
    import msgspec

    try:
        return msgspec.convert(data, cls)
    except msgspec.ValidationError as error:
        raise UsageError(
            "LPT-USE-002",
            f"These data do not describe a {cls.__name__}",
            cause=str(error),
            remedy="Write them with the same version of lepton-core that reads them.",
        ) from error


def pack(message: Any) -> bytes:  # noqa: ANN401 - any plain value
    """Encode a message as MessagePack.

    Raises:
        UsageError: It holds something that is no plain data.
    """
    import msgspec

    with _plain(message):
        return msgspec.msgpack.encode(message, enc_hook=_encode_other)


def unpack(data: bytes) -> Any:  # noqa: ANN401 - any plain value
    """Decode a message from MessagePack."""
    import msgspec

    return msgspec.msgpack.decode(data)


def tagged(value: Any) -> dict[str, Any]:  # noqa: ANN401 - any type of lepton_core.types
    """Return ``{"type": class name, "data": plain data}`` for a class of :mod:`.types`."""
    return {"type": type(value).__name__, "data": to_data(value)}


def untagged(message: dict[str, Any]) -> Any:  # noqa: ANN401 - any type of lepton_core.types
    """Rebuild a value from :func:`tagged`; only classes of :mod:`lepton_core.types` count."""
    cls = getattr(types, message["type"], None)
    if message["type"] not in types.__all__ or not isinstance(cls, type):
        raise UsageError(
            "LPT-USE-002",
            f"{message['type']!r} is not a type that crosses a process border",
            remedy="Requests and results are the classes of lepton_core.types.",
        )
    return from_data(message["data"], cls)


@contextlib.contextmanager
def _plain(value: object) -> Iterator[None]:
    """Say in our words what msgspec cannot encode: objects, huge numbers, broken text."""
    try:
        yield
    except (TypeError, ValueError, OverflowError, NotImplementedError, RecursionError) as error:
        raise UsageError(
            "LPT-USE-002",
            f"A {type(value).__name__} holds something that is not plain data",
            cause=str(error),
            remedy="Pass numbers, text, lists, mappings and paths; arrays go into files.",
        ) from error


def _encode_other(value: Any) -> Any:  # noqa: ANN401 - msgspec's hook
    """Encode what msgspec does not know: text of a subclass, paths and NumPy scalars."""
    import os

    if isinstance(value, str):  # torch.__version__ is one
        return str.__str__(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    msg = f"a {type(value).__name__} is not plain data"
    raise NotImplementedError(msg)


__all__ = ["from_data", "pack", "tagged", "to_data", "unpack", "untagged"]
