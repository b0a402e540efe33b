"""Translations of torch's operators that coremltools 9.0 has under another name, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Translation = Callable[[Any, Any], None]


def aten_translations(known: Mapping[str, Translation]) -> dict[str, Translation]:
    """Return functions by the name that coremltools looks up.

    Args:
        known: coremltools' own.
    """
    return {
        "alias": _alias,
        "prod.dim_int": _product,
        "__and__": _of_booleans("logical_and"),
        "__or__": _of_booleans("logical_or"),
        "bitwise_or": _of_booleans("logical_or"),
        "bitwise_xor": _of_booleans("logical_xor"),
        "matmul": _matmul(known["matmul"]),
    }


def _inputs(context: Any, node: Any) -> list[Any]:  # noqa: ANN401 - coremltools has no types
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    return list(_get_inputs(context, node))


def _builder() -> Any:  # noqa: ANN401 - as above
    from coremltools.converters.mil.mil import Builder

    return Builder


def _alias(context: Any, node: Any) -> None:  # noqa: ANN401 - as above
    (x,) = _inputs(context, node)
    context.add(x, node.name)


def _product(context: Any, node: Any) -> None:  # noqa: ANN401 - as above
    x, axis, *keep = _inputs(context, node)
    keep_dims = bool(keep and keep[0].val)
    axes = [int(axis.val)]
    context.add(_builder().reduce_prod(x=x, axes=axes, keep_dims=keep_dims, name=node.name))


def _of_booleans(kind: str) -> Translation:
    def translate(context: Any, node: Any) -> None:  # noqa: ANN401 - as above
        from coremltools.converters.mil.mil import types

        x, y = _inputs(context, node)
        if not (types.is_bool(x.dtype) and types.is_bool(y.dtype)):
            msg = f"MIL has no {node.kind} of integers"
            raise NotImplementedError(msg)
        context.add(getattr(_builder(), kind)(x=x, y=y, name=node.name))

    return translate


def _matmul(original: Translation) -> Translation:
    """MIL multiplies matrices alone, and the original looks for their axes in two rows, too."""

    def translate(context: Any, node: Any) -> None:  # noqa: ANN401 - as above
        x, y = _inputs(context, node)
        if x.rank != 1 or y.rank != 1:
            original(context, node)
            return
        product = _builder().mul(x=x, y=y)
        context.add(_builder().reduce_sum(x=product, axes=[0], name=node.name))

    return translate


__all__ = ["aten_translations"]
