"""What coremltools 9.0 cannot do with programs that we write, and what is done about it.

Each shim states the error that it cures, and ``tests/test_coreml_shims.py`` fails as soon as the
error is gone, so that the shim goes too; the same holds of the passes that are left out for a
recipe. Shims replace functions in coremltools' private tables and
modules while :func:`installed` lasts.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_coreml._translate import translations
from lepton_coreml._translate_aten import aten_translations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lepton_coreml._integers import Names

_MISSING = object()


@dataclass(frozen=True, slots=True)
class Shim:
    """One cure.

    Attributes:
        name: Short name.
        error: Text of the error that coremltools raises without it, or that its result gives.
        cause: Why it does.
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
    held = vars(module)[name]  # of a class, this is what was written, such as a static method
    setattr(module, name, function)
    return lambda: setattr(module, name, held)


def _lstm() -> Callable[[], None]:
    original = _registry()["lstm"]

    def lstm(context: Any, node: Any) -> None:  # noqa: ANN401
        names = [f"{node.name}_{part}" for part in ("rows", "hidden", "cell")]
        node.outputs = names  # an exported program names none but the whole
        original(context, node)
        node.outputs = [node.name]
        context.add([context[name] for name in names], torch_name=node.name)

    return _register({"lstm.input": lstm})


def _scalars() -> Callable[[], None]:
    from coremltools.converters.mil.frontend import _utils

    original = _utils.pymil_broadcast_tensors

    def broadcast(tensors: list[Any]) -> list[Any]:
        return tensors if all(t.rank == 0 for t in tensors) else list(original(tensors))

    return _replace(_utils, "pymil_broadcast_tensors", broadcast)


def _expand() -> Callable[[], None]:
    from coremltools.converters.mil.frontend import _utils
    from coremltools.converters.mil.mil import Builder, Var

    original = _utils.pymil_broadcast_to

    def broadcast_to(tensor: Any, shape: Any, name: str) -> Any:  # noqa: ANN401
        if not isinstance(shape, list | tuple) or len(shape) < tensor.rank:
            return original(tensor, shape, name)
        wanted = [s.val if isinstance(s, Var) and s.val is not None else s for s in shape]
        if not any(isinstance(s, Var) for s in wanted):
            return original(tensor, shape, name)
        more = len(wanted) - tensor.rank
        if more:
            tensor = Builder.expand_dims(x=tensor, axes=list(range(more)))
        repeats = [
            s if have == 1 and not (isinstance(s, int) and s < 0) else 1
            for s, have in zip(wanted, tensor.shape, strict=True)
        ]
        tiled = Builder.tile(x=tensor, reps=Builder.concat(values=repeats, axis=0))
        sizes = Builder.shape(x=tiled)
        full = [
            Builder.gather(x=sizes, indices=i, axis=0) if isinstance(s, int) and s < 0 else s
            for i, s in enumerate(wanted)
        ]
        return Builder.reshape(x=tiled, shape=Builder.concat(values=full, axis=0), name=name)

    return _replace(_utils, "pymil_broadcast_to", broadcast_to)


def _where() -> Callable[[], None]:
    from coremltools.converters.mil.mil import Builder, types

    original = _registry()["where.self"]

    def where(context: Any, node: Any) -> None:  # noqa: ANN401
        from coremltools.converters.mil.frontend.torch.ops import _get_inputs

        inputs = _get_inputs(context, node)
        if len(inputs) != 3 or inputs[0].rank <= max(inputs[1].rank, inputs[2].rank):
            original(context, node)
            return
        condition, a, b = inputs
        kind = types.builtin_to_string(a.dtype)
        if kind == "bool":
            original(context, node)
            return
        # As many zeros as the condition has places: the sum has its shape.
        zeros = Builder.mul(
            x=Builder.cast(x=condition, dtype=kind), y=Builder.cast(x=0, dtype=kind)
        )
        wide = Builder.add(x=zeros, y=Builder.cast(x=a, dtype=kind))
        other = Builder.cast(x=b, dtype=kind) if b.dtype != a.dtype else b
        chosen = (
            condition if types.is_bool(condition.dtype) else Builder.cast(x=condition, dtype="bool")
        )
        context.add(Builder.select(cond=chosen, a=wide, b=other, name=node.name))

    return _register({"where.self": where, "where": where})


def _duplicates() -> Callable[[], None]:
    from coremltools.converters.mil.mil.passes.defs.cleanup import const_deduplication

    def remove(self: Any, block: Any, found: Any, force_replace: bool) -> None:  # noqa: ANN401
        del self
        for unique, duplicates in found.items():
            for duplicate in duplicates:
                pairs = list(zip(duplicate.op.outputs, unique.op.outputs, strict=True))
                if any(old in block.outputs for old, _ in pairs):
                    continue
                for old, new in pairs:
                    block.replace_uses_of_var_after_op(
                        anchor_op=duplicate.op, old_var=old, new_var=new,
                        force_replace=force_replace,
                    )  # fmt: skip
                block.remove_ops([duplicate.op])

    return _replace(const_deduplication, "remove_duplicate_ops", remove)


def _subtracted() -> Callable[[], None]:
    from coremltools.converters.mil.mil.passes.defs.optimize_conv import fuse_conv_bias

    original = fuse_conv_bias._try_to_transform

    def transform(conv: Any, add: Any) -> bool:  # noqa: ANN401
        value = add.y._sym_val if add.op_type == "sub" else None
        held = getattr(value, "val", None)
        if not hasattr(held, "copy"):
            return bool(original(conv, add))
        value.val = held.copy()
        try:
            return bool(original(conv, add))
        finally:
            value.val = held

    return _replace(fuse_conv_bias, "_try_to_transform", staticmethod(transform))


SHIMS: tuple[Shim, ...] = (
    Shim(
        "lstm.input",
        "Unsupported fx node lstm, kind lstm.input",
        "torch.export names the overload, and only the bare name is registered; that gives no more "
        "than the rows, without the last states",
        _lstm,
    ),
    Shim(
        "where of scalars",
        "got 0 values",
        "the sizes to broadcast to are joined, and scalars have none",
        _scalars,
    ),
    Shim(
        "expand to open sizes",
        "Unknown value for constant: None",
        "all sizes of the result become unknown, also those that are known, and an LSTM behind it "
        "needs them",
        _expand,
    ),
    Shim(
        "where with a larger condition",
        "the program declares [",
        "the result is declared in the shape of the two values, without the condition's",
        _where,
    ),
    Shim(
        "equal constants with a mask",
        "Cannot delete op",
        "of two equal constants only the first output is replaced, and a mask is the first of two",
        _duplicates,
    ),
    Shim(
        "constants subtracted behind a convolution",
        "the outputs differ",
        "what is fused with the bias is negated in place, and whoever else reads the constant gets "
        "it so",
        _subtracted,
    ),
)
"""All cures, in the order they are installed."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A pass of coremltools that is left out where a program holds a recipe.

    Attributes:
        name: Its name.
        damage: What it does to the recipe's numbers.
    """

    name: str
    damage: str


PASSES: tuple[LeftOut, ...] = (
    LeftOut(
        "common::int_op_canonicalization",
        "takes the pair around a reshape of integers away",
    ),
    LeftOut(
        "common::nullify_redundant_quantization_zero_point",
        "writes int8 with the zero point -128 as uint8 with 0",
    ),
    LeftOut(
        "common::dequantize_quantize_pair_elimination",
        "takes the pair of a value away whose operator does nothing",
    ),
    LeftOut(
        "common::distributive_quantized_binary_op_scale_normalization",
        "divides the scales of a sum by one of them",
    ),
    LeftOut(
        "common::merge_affine_dequantize_with_consecutive_ops",
        "turns integers around, and their constant has another name then (iOS 17)",
    ),
)
"""All of them. A recipe's numbers are to stand in the package as they stand in the recipe."""


@contextlib.contextmanager
def installed(names: Names, without: tuple[str, ...] = ()) -> Iterator[None]:
    """Put every shim and our own translations in place until the block ends.

    Args:
        names: Gives names to operations that carry a recipe's numbers.
        without: Names of shims to leave out, for the tests; others count for nothing here.
    """
    from coremltools.converters.mil import converter

    with contextlib.ExitStack() as stack:
        # Numbers in names go on over all conversions until one succeeds: without this the bytes of
        # a package would depend on what failed before it.
        stack.callback(converter._reset_conversion_state)
        stack.callback(_register(aten_translations(_registry()) | translations(names)))
        for shim in SHIMS:
            if shim.name not in without:
                stack.callback(shim.install())
        yield


__all__ = ["PASSES", "SHIMS", "LeftOut", "Shim", "installed"]
