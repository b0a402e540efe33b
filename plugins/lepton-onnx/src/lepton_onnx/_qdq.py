"""Writing a recipe into a pivot: integer weights, and Q/DQ pairs where integers are computed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import onnx
from onnx import ModelProto

from lepton_core.errors import OptimizeError
from lepton_core.recipe import Layer, Recipe, check_against
from lepton_onnx._block_writer import write_blocks
from lepton_onnx._means import write_means
from lepton_onnx._protobuf import opset_of
from lepton_onnx._qdq_writer import Writer
from lepton_onnx._rescale import correct, rescale
from lepton_onnx._sparse_writer import prune, write_small

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy as np
    from numpy.typing import NDArray

_LOWEST_OPSET = 13
"""First opset whose DequantizeLinear takes a scale per channel."""

_LOWEST_WIDE_OPSET = 21
"""First opset whose QuantizeLinear yields int16."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """A model that a recipe was written into.

    Attributes:
        model: The model, weights in memory; names of inputs, outputs and values are kept.
        integer_layers: Layers that compute with integers, by operator type.
        weight_layers: Layers whose weight alone is stored as integers.
        pairs: Number of Q/DQ pairs on activations.
        block_layers: Layers whose weight is stored in few bits, with a scale for each block.
        pruned_weights: Weights of which some values were set to 0.
        palette_weights: Weights that share the values of a table.
    """

    model: ModelProto
    integer_layers: Mapping[str, int]
    weight_layers: int
    pairs: int
    block_layers: int = 0
    pruned_weights: int = 0
    palette_weights: int = 0


def lower(
    model: ModelProto,
    recipe: Recipe,
    *,
    digest: str,
    integers: Mapping[str, NDArray[np.int8]] | None = None,
    arrays: Mapping[str, NDArray[Any]] | None = None,
    integer_ops: Collection[str] | None = None,
    dynamic: bool = True,
    float_outputs: bool = True,
    unsigned: bool = False,
    sparse_dtypes: Collection[str] = (),
    codes: bool = False,
) -> Lowered:
    """Write *recipe* into *model*.

    A quantized weight ``w`` becomes the int8 initializer ``w/int8``, a quantized value ``v`` is
    there as ``v/int8`` (or ``v/uint8``); scales and zero points are ``…/scale`` and
    ``…/zero_point``. Every integer operator reads through a DequantizeLinear of its own. A value
    that an integer operator yields gets its name back behind the last one, where float operators
    or outputs read it.

    Args:
        model: The pivot with its weights in memory; it is not changed.
        recipe: A recipe for it.
        digest: The pivot's digest.
        integers: Integers from the recipe's sidecar, by weight name.
        arrays: What the sidecar holds for ``blocks``, ``pruned`` and ``palettes``, by name there.
        integer_ops: Operators that the runtime computes with integers; layers of other operators
            keep an integer weight and compute in float. All by default.
        dynamic: Whether the runtime quantizes inputs at run time (DynamicQuantizeLinear and
            MatMulInteger); if not, dynamic layers keep an integer weight.
        float_outputs: Whether the runtime's matrix products yield float directly, so that
            optional values are left unquantized.
        unsigned: Write activations as uint8, the same integers plus 128, for runtimes whose
            kernels take uint8 activations with int8 weights.
        sparse_dtypes: dtypes of pruned weights that are written as a mask and values where that is
            smaller; the runtime has to put them together before it chooses kernels. Others are
            written whole, zeros and all.
        codes: Write palettes as codes and tables, likewise; else as the values of the tables.

    Returns:
        The lowered model, checked by ONNX's checker.

    Raises:
        OptimizeError: ``LPT-OPT-003`` … ``005`` the recipe does not fit, ``LPT-OPT-007`` the
            pivot's opset is too low, ``LPT-OPT-006`` the sidecar does not fit,
            ``LPT-OPT-008`` the result is not valid ONNX.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    write_means(copy, recipe)
    shapes = {t.name: tuple(t.dims) for t in copy.graph.initializer}
    values = {n for node in copy.graph.node for n in node.output} | set(shapes)
    values |= {v.name for v in copy.graph.input}
    check_against(recipe, digest, values, shapes)
    wide = recipe.scheme == "int16-static"
    lowest = _LOWEST_WIDE_OPSET if wide else _LOWEST_OPSET
    if opset_of(copy) < lowest:
        raise OptimizeError(
            "LPT-OPT-007",
            f"A pivot of opset {opset_of(copy)} cannot be quantized",
            cause=f"{'integers of 16 bits' if wide else 'scales per channel'} need opset {lowest}",
            remedy="Convert the source with --opset 21.",
        )
    pruned = prune(copy, recipe, arrays or {})
    rescaling = rescale(copy, recipe.rescaled)
    correct(copy, (c for n, c in recipe.corrections.items() if n in recipe.layers))
    recipe = rescaling.recipe(recipe)
    blocks = write_blocks(copy, recipe, arrays or {})
    usable = _usable(recipe, integer_ops, dynamic=dynamic)
    writer = Writer(copy, usable, dict(integers or {}), float_outputs, unsigned)
    writer.write()
    rescaling.finish()
    palettes = write_small(copy, recipe, arrays or {}, dtypes=sparse_dtypes, codes=codes)
    _check(copy)
    static = [layer.op for layer in usable.layers.values() if layer.mode != "weight"]
    return Lowered(
        copy,
        {op: static.count(op) for op in sorted(set(static))},
        sum(layer.mode == "weight" for layer in usable.layers.values()),
        writer.pairs,
        blocks,
        pruned,
        palettes,
    )


def _usable(recipe: Recipe, ops: Collection[str] | None, *, dynamic: bool) -> Recipe:
    """Return the recipe as this runtime can use it, without the layers that are written already."""
    layers: dict[str, Layer] = {}
    for name, layer in recipe.layers.items():
        able = ops is None or layer.op in ops
        if layer.weight in recipe.blocks:
            continue
        if layer.mode == "weight" or (able and (layer.mode == "static" or dynamic)):
            layers[name] = layer
        elif layer.weight is not None:
            layers[name] = replace(layer, mode="weight")
    return replace(recipe, layers=layers)


def _check(model: ModelProto) -> None:
    try:
        if model.ByteSize() < 2**31 - 1:
            onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise OptimizeError(
            "LPT-OPT-008",
            "The recipe leads to a graph that is not valid ONNX",
            cause=" ".join(str(error).split())[:500],
            remedy="Remove the layer that the cause names from the recipe.",
        ) from error


__all__ = ["Lowered", "lower"]
