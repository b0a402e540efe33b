"""Writing pruned weights and palettes into a graph, so that the file is as small as they are.

Neither has a type of its own that runtimes compute with, so that a weight is put together again
from its parts when a model is loaded: by Gather from small tables, which ONNX Runtime and OpenVINO
fold into the weight before they choose kernels. Files get smaller; the time of a call and the
memory of a session are those of the float weight.

Codes of 1, 2, 4 or 8 bits lie in bytes, lowest bits first, and a byte is looked up whole, in a
table of 256 rows that holds the values of all codes of a byte.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import lepton_kernels as lk
from lepton_onnx._cleanup import replace_items
from lepton_onnx._sparse_numbers import (
    check_zeros,
    palette_of,
    palette_values,
    unpack_mask,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from lepton_core.recipe import PalettizedWeight, Recipe

SMALLEST = 1024
"""Weights of fewer values are written as they are: nodes and tables would eat the gain."""

_CONTAINERS = (1, 2, 4, 8)
_OVERHEAD = 1024
"""Bytes that nodes and small constants of one weight take, about."""


def prune(model: ModelProto, recipe: Recipe, arrays: Mapping[str, NDArray[Any]]) -> int:
    """Set the values to 0 that ``recipe.pruned`` says, in place; return of how many weights.

    Raises:
        OptimizeError: ``LPT-OPT-006`` a mask does not fit its weight, or its palette.
    """
    count = 0
    for tensor in model.graph.initializer:
        entry = recipe.pruned.get(tensor.name)
        if entry is not None:
            values = numpy_helper.to_array(tensor)
            mask = unpack_mask(tensor.name, values.shape, entry, arrays)
            if tensor.name in recipe.palettes:
                check_zeros(tensor.name, mask, recipe.palettes[tensor.name], arrays)
            kept = np.where(mask, values, values.dtype.type(0))
            tensor.CopyFrom(numpy_helper.from_array(kept, tensor.name))
            count += 1
    return count


def write_small(
    model: ModelProto,
    recipe: Recipe,
    arrays: Mapping[str, NDArray[Any]],
    *,
    dtypes: Collection[str] = (),
    codes: bool = True,
) -> int:
    """Write palettes as indices and tables, and then what is mostly 0 as bits, in place.

    A weight ``w`` of ``recipe.palettes`` becomes ``w/codes`` (uint8, several to a byte, one row for
    each channel of the axis of groups, or one row) and ``w/palette``. Codes of 3 bits lie in 4, of
    5 to 7 in 8. A weight of fewer than :data:`SMALLEST` values, and all without *codes*, are
    written as the values of their tables. Tables of a float16 weight are rounded to float16; the
    engine makes such as lose nothing by it.

    Any other weight ``w`` of ``recipe.pruned``, and its integers ``w/int8``, become ``…/mask`` and
    ``…/values``, whose first is 0, if that is smaller. Integers that several operators read stay
    whole: ONNX Runtime needs a copy for each (``separate_weights``).

    Args:
        model: A lowered model.
        recipe: What was lowered.
        arrays: The recipe's sidecar.
        dtypes: dtypes that the runtime folds before it chooses kernels; others stay whole.
        codes: Whether palettes are written as codes.

    Returns:
        How many weights of ``recipe.palettes`` were written.

    Raises:
        OptimizeError: ``LPT-OPT-006`` the sidecar does not fit.
    """
    writer = _Writer(model)
    count = 0
    for name, entry in recipe.palettes.items():
        tensor = writer.weights.get(name)
        if tensor is not None:
            indices, tables = palette_of(name, tuple(tensor.dims), entry, arrays)
            writer.palette(name, indices, tables, entry, codes=codes)
            count += 1
    readers = Counter(name for node in model.graph.node for name in node.input)
    for name, tensor in writer.left.items():
        integers = name.removesuffix("/int8") in recipe.pruned
        own = name in recipe.pruned or (integers and readers[name] == 1)
        if own and writer.dtype(tensor) in dtypes:
            writer.sparse(name, numpy_helper.to_array(tensor))
    writer.finish()
    return count


class _Writer:
    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self.weights = {t.name: t for t in model.graph.initializer}
        self._shared: set[str] = set()
        self._gone: set[str] = set()
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []

    @property
    def left(self) -> dict[str, TensorProto]:
        """Weights that nothing has replaced."""
        return {name: t for name, t in self.weights.items() if name not in self._gone}

    @staticmethod
    def dtype(tensor: TensorProto) -> str:
        """Return the name of NumPy's dtype."""
        return str(helper.tensor_dtype_to_np_dtype(tensor.data_type).name)

    def finish(self) -> None:
        """Put new nodes in front of all others, and take out what they replace."""
        graph = self._model.graph
        replace_items(graph.node, [*self._nodes, *list(graph.node)])
        kept = [t for t in graph.initializer if t.name not in self._gone]
        replace_items(graph.initializer, [*kept, *self._constants])

    # --- palettes -----------------------------------------------------------------------------

    def palette(
        self,
        name: str,
        indices: NDArray[np.uint8],
        tables: NDArray[np.float32],
        entry: PalettizedWeight,
        *,
        codes: bool,
    ) -> None:
        """Replace a weight by codes and tables, or by its values; both are of the weight's type."""
        dtype = np.dtype(self.dtype(self.weights[name]))
        if indices.size < SMALLEST or not codes:
            whole = palette_values(indices, tables, entry).astype(dtype)
            self.weights[name].CopyFrom(numpy_helper.from_array(whole, name))
            return
        self._gone.add(name)
        width = next(w for w in _CONTAINERS if w >= entry.bits)
        axis = entry.axis or 0
        moved = np.moveaxis(indices, axis, 0) if entry.axis is not None else indices
        channels = moved.shape[0] if entry.axis is not None else 1
        rows = np.ascontiguousarray(moved).reshape(channels, -1)
        self._add(f"{name}/codes", lk.pack_bits(rows, width))
        full = np.zeros((len(tables), 2**width), dtype)
        full[:, : tables.shape[1]] = tables
        self._add(f"{name}/palette", full)
        self._look_up(name, width, entry, channels)
        self._reshape(name, rows.shape[1], moved.shape, axis)

    def _look_up(self, name: str, width: int, entry: PalettizedWeight, channels: int) -> None:
        """From codes to values ``(channels, bytes, codes of a byte)``."""
        self._node("Cast", [f"{name}/codes"], f"{name}/bytes", to=TensorProto.INT32)
        at = f"{name}/bytes"
        if entry.group is not None and entry.group < channels:
            group = np.arange(channels, dtype=np.int32) // entry.group * 256
            self._add(f"{name}/group", group.reshape(-1, 1))
            self._node("Add", [at, f"{name}/group"], f"{name}/places")
            at = f"{name}/places"
        codes = self._codes(width)
        self._node("Gather", [f"{name}/palette", codes], f"{name}/tables", axis=1)
        flat = self._shared_constant(f"table/rows{8 // width}", np.int64([-1, 8 // width]))
        self._node("Reshape", [f"{name}/tables", flat], f"{name}/table")
        self._node("Gather", [f"{name}/table", at], f"{name}/all", axis=0)

    def _reshape(self, name: str, inner: int, shape: tuple[int, ...], axis: int) -> None:
        """From values byte by byte to the weight's own shape."""
        last = f"{name}/all"
        channels = int(np.prod(shape, dtype=np.int64)) // max(inner, 1)
        self._add(f"{name}/rows", np.int64([channels, -1]))
        self._node("Reshape", [last, f"{name}/rows"], f"{name}/filled")
        self._add(f"{name}/inner", np.int64([inner]))
        start = self._shared_constant("table/start", np.int64([0]))
        along = self._shared_constant("table/axis", np.int64([1]))
        self._node("Slice", [f"{name}/filled", start, f"{name}/inner", along], f"{name}/flat")
        self._add(f"{name}/shape", np.int64(shape))
        result = name if axis == 0 else f"{name}/moved"
        self._node("Reshape", [f"{name}/flat", f"{name}/shape"], result)
        if axis:
            back = list(range(1, len(shape)))
            back.insert(axis, 0)
            self._node("Transpose", [result], name, perm=back)

    # --- zeros --------------------------------------------------------------------------------

    def sparse(self, name: str, values: NDArray[Any]) -> None:
        """Replace a weight by its mask and its other values, if that is smaller."""
        mask = values.reshape(-1) != 0
        kept = int(mask.sum())
        size = values.itemsize * (kept + 1) + -(-mask.size // 8) + _OVERHEAD
        if mask.size < SMALLEST or size >= values.nbytes:
            return
        self._gone.add(name)
        self._add(f"{name}/mask", np.packbits(mask, bitorder="little"))
        first = np.zeros(1, values.dtype)
        self._add(f"{name}/values", np.concatenate([first, values.reshape(-1)[mask]]))
        self._add(f"{name}/size", np.int64([mask.size]))
        self._add(f"{name}/shape", np.int64(values.shape))
        start = self._shared_constant("table/start", np.int64([0]))
        flat = self._shared_constant("table/flat", np.int64([-1]))
        zero = self._shared_constant("table/zero", np.int64(0))
        self._node("Cast", [f"{name}/mask"], f"{name}/bytes", to=TensorProto.INT32)
        self._node("Gather", [self._codes(1), f"{name}/bytes"], f"{name}/bits", axis=0)
        self._node("Reshape", [f"{name}/bits", flat], f"{name}/filled")
        self._node("Slice", [f"{name}/filled", start, f"{name}/size"], f"{name}/kept")
        self._node("CumSum", [f"{name}/kept", zero], f"{name}/count")
        self._node("Mul", [f"{name}/count", f"{name}/kept"], f"{name}/places")
        self._node("Gather", [f"{name}/values", f"{name}/places"], f"{name}/flat", axis=0)
        self._node("Reshape", [f"{name}/flat", f"{name}/shape"], name)

    # --- parts --------------------------------------------------------------------------------

    def _codes(self, width: int) -> str:
        """Return the name of the codes that each of 256 bytes holds, int32 ``(256, codes)``."""
        shifts = np.arange(0, 8, width)
        codes = np.arange(256)[:, np.newaxis] >> shifts & (2**width - 1)
        small = self._shared_constant(f"table/codes{width}", codes.astype(np.uint8))
        result = f"table/places{width}"
        if result not in self._shared:
            self._shared.add(result)
            self._node("Cast", [small], result, to=TensorProto.INT32)
        return result

    def _shared_constant(self, name: str, array: NDArray[Any]) -> str:
        if name not in self._shared:
            self._shared.add(name)
            self._add(name, array)
        return name

    def _add(self, name: str, array: NDArray[Any] | np.generic) -> None:
        self._constants.append(numpy_helper.from_array(np.asarray(array), name))

    def _node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:  # noqa: ANN401
        self._nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))


__all__ = ["SMALLEST", "prune", "write_small"]
