"""Rounding the weights of products to few bits: by rule, by AWQ or by GPTQ."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

import lepton_kernels as lk
from lepton_compress._positive import round_blocks, round_gptq
from lepton_core.recipe import BlockWeight
from lepton_onnx.qdq import Blocks, block_integers, by_output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lepton_compress._graph import Graph
    from lepton_compress._inputs import Inputs
    from lepton_compress._options import Options
    from lepton_compress._products import Product


_HALF = 2.0**-11
"""Largest relative error of a rounding to normal float16."""


@dataclass
class Rounded:
    """Weights in few bits so far.

    Attributes:
        entries: Entries of the recipe, by weight.
        arrays: What its sidecar holds, by name there.
        errors: Relative error of a product's outputs over all samples that its weight alone causes,
            by weight; empty without samples.
        notes: What a reader should know.
    """

    entries: dict[str, BlockWeight] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def weights(self, graph: Graph, name: str) -> NDArray[np.float32]:
        """Return the weight that its integers stand for, in the pivot's orientation."""
        entry = self.entries[name]
        found = block_integers(name, graph.array(name), entry, self.arrays).values()
        if entry.input_scale is not None:
            found = found / self.arrays[entry.input_scale]
        return np.ascontiguousarray(np.moveaxis(found, 1, entry.axis), np.float32)


def round_group(
    graph: Graph,
    group: Sequence[Product],
    options: Options,
    rounded: Rounded,
    *,
    method: str,
    inputs: Inputs | None = None,
) -> None:
    """Round the weights of products that multiply the same value; what they get joins *rounded*.

    A weight whose inputs were always 0 is rounded by rule: nothing tells its errors apart.

    Args:
        graph: The pivot.
        group: Products of one source and one number of bits.
        options: Block size and symmetry.
        rounded: Where entries, arrays and errors go.
        method: ``"rtn"``, ``"mse"``, ``"awq"`` or ``"gptq"``.
        inputs: What they multiply; needed by awq and gptq.
    """
    fresh = {p.weight: p for p in group if p.weight not in rounded.entries}
    if not fresh:
        return
    seen = inputs is not None and bool(inputs.hessian.total.diagonal().any())
    if method in ("awq", "gptq") and not seen:
        rounded.notes.append(f"{group[0].source} was 0 for every sample: its weights by rule mse.")
        method = "mse"
    factors = None
    if method == "awq" and inputs is not None:
        factors = _factors(graph, list(fresh.values()), options, inputs, rounded)
    for name, product in fresh.items():
        plain = "mse" if method == "awq" and factors is None else method
        entry = BlockWeight(
            product.bits,
            options.block,
            product.axis,
            options.symmetric,
            plain,
            input_scale=factors,
        )
        halves = options.scales == "float16"
        if plain == "gptq" and inputs is not None:
            entry = _gptq(graph, name, entry, inputs, rounded, halves=halves)
        elif halves:
            entry = _positive(graph, name, entry, rounded)
        rounded.entries[name] = entry
        if seen and inputs is not None:
            rounded.errors[name] = _error(graph, name, inputs, rounded)


def _factors(
    graph: Graph, products: Sequence[Product], options: Options, inputs: Inputs, rounded: Rounded
) -> str | None:
    """Look for factors that all products of a value share; return their name, if they gain.

    The search rounds by the range of a block. Factors count as a gain only if they still lower the
    error at the outputs when both sides are rounded by least squared error.
    """
    weights = np.concatenate([by_output(graph.array(p.weight), p.axis) for p in products])
    bits, scheme = products[0].bits, "signed_max" if options.symmetric else "asymmetric"
    found = lk.awq_scales(
        weights,
        inputs.rows,
        options.block,
        bits=bits,
        scheme=scheme,  # type: ignore[arg-type]
    )

    def error(factors: NDArray[np.float32]) -> float:
        coded = lk.quantize_blocks(
            weights * factors,
            options.block,
            bits=bits,
            scheme=scheme,  # type: ignore[arg-type]
            clip="mse",
        )
        actual = Blocks.of(coded, options.block).values() / factors
        return lk.output_error(weights, actual, inputs.rows)

    if not found.ratio or error(found.scale) >= error(np.ones_like(found.scale)):
        return None
    name, count = f"{products[0].source}/input_scale", 1
    while name in rounded.arrays:
        count += 1
        name = f"{products[0].source}/input_scale_{count}"
    rounded.arrays[name] = found.scale
    return name


def _gptq(
    graph: Graph, name: str, entry: BlockWeight, inputs: Inputs, rounded: Rounded, *, halves: bool
) -> BlockWeight:
    rows, hessian = by_output(graph.array(name), entry.axis), inputs.hessian.result()
    if halves:
        found = round_gptq(rows, hessian, entry.block, entry.bits)
    else:
        made = lk.gptq(
            rows,
            hessian,
            entry.block,
            bits=entry.bits,
            scheme=entry.scheme,  # type: ignore[arg-type]
            clip="mse",
            act_order=True,
        )
        found = Blocks.of(made, entry.block)
    return _stored(name, entry, found, rounded, halves=halves)


def _positive(graph: Graph, name: str, entry: BlockWeight, rounded: Rounded) -> BlockWeight:
    """Return integers under scales above 0, which no rule of a recipe gives."""
    rows = by_output(graph.array(name), entry.axis)
    found = round_blocks(rows, entry.block, entry.bits, entry.clip)
    return _stored(name, entry, found, rounded, halves=True)


def _stored(
    name: str, entry: BlockWeight, found: Blocks, rounded: Rounded, *, halves: bool
) -> BlockWeight:
    """Put integers and scales into the sidecar, the latter as float16 holds them if asked to."""
    scale = found.scale
    if halves:
        with np.errstate(over="ignore"):
            scale = scale.astype(np.float16).astype(np.float32)
        off = np.abs(scale - found.scale).max()
        # Float16 has fewer digits below 6e-5; what matters is the error beside the largest scale.
        if not (off <= _HALF * found.scale.max() and (scale > 0).all()):
            rounded.notes.append(f"{name} has scales beyond float16, which stay float32.")
            scale = found.scale
    keys = {"integers": f"{name}/integers", "scale": f"{name}/scale"}
    rounded.arrays[keys["integers"]] = np.ascontiguousarray(np.moveaxis(found.codes, 1, entry.axis))
    rounded.arrays[keys["scale"]] = scale
    if found.zero_point is not None:
        keys["zero_point"] = f"{name}/zero_point"
        rounded.arrays[keys["zero_point"]] = found.zero_point
    return BlockWeight(entry.bits, entry.block, entry.axis, entry.symmetric, entry.method, **keys)


def _error(graph: Graph, name: str, inputs: Inputs, rounded: Rounded) -> float:
    """Return ``|x (W - A)^T| / |x W^T|`` over all samples, from the mean of ``x x^T``."""
    axis = rounded.entries[name].axis
    before = by_output(graph.array(name), axis).astype(np.float64)
    lost = before - by_output(rounded.weights(graph, name), axis)
    hessian = inputs.hessian.result()
    power = float(np.einsum("ij,ij->", before @ hessian, before))
    error = max(0.0, float(np.einsum("ij,ij->", lost @ hessian, lost)))
    return float(np.sqrt(error / power)) if power > 0 else 0.0


__all__ = ["Rounded", "round_group"]
