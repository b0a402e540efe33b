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
        "gelu": _gelu,
        "pad": _pad(known["pad"]),
        "reciprocal": _reciprocal,
        "scatter_reduce.two": _scatter_reduce,
    }


_SCATTERED = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min"}
"""Torch's reductions and MIL's."""


def _inputs(context: Any, node: Any) -> list[Any]:  # noqa: ANN401 - coremltools has no types
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    return list(_get_inputs(context, node))


def _builder() -> Any:  # noqa: ANN401 - as above
    from coremltools.converters.mil.mil import Builder

    return Builder


def _value(given: Any) -> Any:  # noqa: ANN401 - as above
    return getattr(given, "val", given)


def _alias(context: Any, node: Any) -> None:  # noqa: ANN401 - as above
    (x,) = _inputs(context, node)
    context.add(x, node.name)


def _product(context: Any, node: Any) -> None:  # noqa: ANN401 - as above
    x, axis, *keep = _inputs(context, node)
    keep_dims = bool(keep and keep[0].val)
    axes = [int(axis.val)]
    context.add(_builder().reduce_prod(x=x, axes=axes, keep_dims=keep_dims, name=node.name))


def _gelu(context: Any, node: Any) -> None:  # noqa: ANN401 - as above
    """Take the form by its name: coremltools looks at the second place, and then it is exact."""
    from coremltools.converters.mil.frontend.torch.ops import _get_kwinputs

    (x,) = _inputs(context, node)
    (form,) = _get_kwinputs(context, node, "approximate", default=[None])
    mode = "TANH_APPROXIMATION" if _value(form) == "tanh" else "EXACT"
    context.add(_builder().gelu(x=x, mode=mode, name=node.name))


def _reciprocal(context: Any, node: Any) -> None:  # noqa: ANN401 - as above
    """Divide 1: MIL's inverse, which coremltools takes, adds 0.0001 to the divisor."""
    from coremltools.converters.mil.mil.ops.defs._utils import promote_input_dtypes

    one, x = promote_input_dtypes([1.0, *_inputs(context, node)])
    context.add(_builder().real_div(x=one, y=x, name=node.name))


def _scatter_reduce(context: Any, node: Any) -> None:  # noqa: ANN401 - as above
    """What stands in the data takes part in the reduction, as it does by default."""
    data, axis, indices, updates, reduction = _inputs(context, node)
    made = _builder().scatter_along_axis(
        data=data, indices=indices, updates=updates, axis=int(_value(axis)),
        mode=_SCATTERED[_value(reduction)], name=node.name,
    )  # fmt: skip
    context.add(made, node.name)


def _pad(original: Translation) -> Translation:
    """Cut where a padding is negative, which MIL's is never."""

    def translate(context: Any, node: Any) -> None:  # noqa: ANN401 - as above
        from coremltools.converters.mil.mil.ops.defs._utils import promote_input_dtypes

        x, sizes, *rest = _inputs(context, node)
        given = _value(sizes)
        pads = [] if given is None else [_value(size) for size in given]
        mode, value = [*map(_value, rest), *("constant", None)[len(rest) :]]
        if None in pads or min(pads, default=0) >= 0 or mode != "constant":
            original(context, node)
            return
        pairs = [(int(a), int(b)) for a, b in zip(pads[::2], pads[1::2], strict=True)][::-1]
        pairs = [(0, 0)] * (x.rank - len(pairs)) + pairs
        cut = _builder().slice_by_index(
            x=x, begin=[max(-begin, 0) for begin, _ in pairs],
            end=[min(end, 0) for _, end in pairs], end_mask=[end >= 0 for _, end in pairs],
        )  # fmt: skip
        wider = [max(size, 0) for pair in pairs for size in pair]
        if any(wider):
            cut, fill = promote_input_dtypes([cut, value or 0.0])
            cut = _builder().pad(x=cut, pad=wider, constant_val=fill)
        context.add(_builder().identity(x=cut, name=node.name))

    return translate


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
