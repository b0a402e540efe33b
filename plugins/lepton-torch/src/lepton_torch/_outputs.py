"""Names for what ``forward`` returns, the same in every later artifact."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from lepton_core.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import nn


def named_tensors(value: object) -> list[tuple[str, torch.Tensor]]:
    """Flatten what ``forward`` returned into named tensors.

    Keys of mappings and fields of dataclasses and named tuples become names; a single tensor is
    ``output``, several are ``output_0`` and so on; nested levels are joined by ``_``. ``None`` is
    left out.

    Raises:
        ConversionError: Something in it is no tensor, or there is no tensor at all.
    """
    found: list[tuple[str, torch.Tensor]] = []
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields") and len(value) == 1:
        value = value[0]
    _walk(value, "", found)
    if not found:
        raise ConversionError(
            "LPT-CONV-105",
            "forward returns no tensor",
            remedy="Return a tensor, or a tuple or dict of tensors.",
        )
    return found


def _children(value: object, name: str) -> Iterable[tuple[str, object]] | None:
    if isinstance(value, Mapping):
        return [(str(k), v) for k, v in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, (tuple, list)):
        return [(str(i) if name else f"output_{i}", v) for i, v in enumerate(value)]
    return None


def _walk(value: object, name: str, found: list[tuple[str, torch.Tensor]]) -> None:
    if isinstance(value, torch.Tensor):
        found.append((name or "output", value))
        return
    if value is None:
        return
    children = _children(value, name)
    if children is None:
        raise ConversionError(
            "LPT-CONV-105",
            f"forward returns a {type(value).__name__}" + (f" as {name!r}" if name else ""),
            cause="Only tensors can leave an exported model.",
            remedy="Return tensors only, alone or in a tuple, a dict or a dataclass.",
        )
    for key, child in children:
        _walk(child, f"{name}_{key}" if name else key, found)


def unique_names(names: Iterable[str], taken: Iterable[str]) -> tuple[str, ...]:
    """Return *names* without repetition and without any of *taken* (the input names)."""
    used, result = set(taken), []
    for name in names:
        chosen, count = name, 1
        while chosen in used:
            chosen = f"{name}_out" if count == 1 else f"{name}_out{count}"
            count += 1
        used.add(chosen)
        result.append(chosen)
    return tuple(result)


@contextlib.contextmanager
def flat_forward(module: nn.Module, names: Sequence[str], positional: bool) -> Iterator[None]:
    """Give ``module.forward`` a flat contract for the length of the block.

    It then takes exactly the tensors *names* by keyword and returns a plain tuple of tensors.
    Exported programs can only be saved if the structure of their outputs is known to torch,
    which dataclasses and transformers' outputs are not, and only named parameters can have
    symbolic dimensions. Replacing the method of the one instance, rather than wrapping the
    module, keeps the names of its parameters.

    Args:
        module: The module; its own ``forward`` is put back afterwards.
        names: Input names in the order of ``forward``'s parameters.
        positional: Whether the original must be called by position.
    """
    original: Any = module.forward
    own = "forward" in vars(module)

    def forward(**inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = original(*inputs.values()) if positional else original(**inputs)
        return tuple(tensor for _, tensor in named_tensors(result))

    kind = inspect.Parameter.KEYWORD_ONLY
    forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind) for name in names]
    )
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if own:
            module.__dict__["forward"] = original
        else:
            del module.__dict__["forward"]
