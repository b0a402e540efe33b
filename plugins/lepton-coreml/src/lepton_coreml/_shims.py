"""What coremltools 9.0 cannot do with programs that the bridge writes, and what is done about it.

Each shim states the error that it cures, and ``tests/test_coreml_shims.py`` fails as soon as the
error is gone, so that the shim goes too. They replace functions in coremltools' private tables and
modules while :func:`installed` lasts.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_coreml._translate import translations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MISSING = object()


@dataclass(frozen=True, slots=True)
class Shim:
    """One cure.

    Attributes:
        name: Short name.
        error: Text of the error that coremltools raises without it.
        cause: Why it raises.
        install: Puts the cure in place; returns what undoes it.
    """

    name: str
    error: str
    cause: str
    install: Callable[[], Callable[[], None]]


def _registry() -> dict[str, Any]:
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    names: dict[str, Any] = _TORCH_OPS_REGISTRY.name_to_func_mapping
    return names


def _register(names: dict[str, Any]) -> Callable[[], None]:
    table = _registry()
    held = {name: table.get(name, _MISSING) for name in names}
    table.update(names)

    def undo() -> None:
        for name, function in held.items():
            if function is _MISSING:
                table.pop(name, None)
            else:
                table[name] = function

    return undo


def _replace(module: Any, name: str, function: Any) -> Callable[[], None]:  # noqa: ANN401
    held = getattr(module, name)
    setattr(module, name, function)
    return lambda: setattr(module, name, held)


def _lstm() -> Callable[[], None]:
    return _register({"lstm.input": _registry()["lstm"]})


def _scalars() -> Callable[[], None]:
    from coremltools.converters.mil.frontend import _utils

    original = _utils.pymil_broadcast_tensors

    def broadcast(tensors: list[Any]) -> list[Any]:
        return tensors if all(t.rank == 0 for t in tensors) else list(original(tensors))

    return _replace(_utils, "pymil_broadcast_tensors", broadcast)


SHIMS: tuple[Shim, ...] = (
    Shim(
        "lstm.input",
        "Unsupported fx node lstm, kind lstm.input",
        "torch.export names the overload, and only the bare name is registered",
        _lstm,
    ),
    Shim(
        "where of scalars",
        "got 0 values",
        "the sizes to broadcast to are joined, and scalars have none",
        _scalars,
    ),
)
"""All cures, in the order they are installed."""


@contextlib.contextmanager
def installed(without: tuple[str, ...] = ()) -> Iterator[None]:
    """Put every shim and our own translations in place until the block ends.

    Args:
        without: Names of shims to leave out, for the tests.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(_register(translations()))
        for shim in SHIMS:
            if shim.name not in without:
                stack.callback(shim.install())
        yield


__all__ = ["SHIMS", "Shim", "installed"]
