"""Which sizes and types a file takes, from the pivot's signature and what was asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lepton_core.errors import ConversionError, UnsupportedOperationError
from lepton_core.types import Signature, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from lepton_core.types import ConvertRequest

EDGETPU = "edgetpu"
"""Device whose compiler takes files of int8 alone, border included, for a fixed batch."""

OPTIONS = ("batch", "shapes", "io", "weights", "layout")
NCHW, NHWC = "nchw", "nhwc"
TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
"""Orders of axes from the one layout to the other."""

WEIGHTS = ("auto", "dynamic", "float")
"""How operators with integer weights and float inputs compute: as the recipe says, with inputs
quantized at run time wherever there is a kernel for it, or in float."""

_IN_FILE = {"int64": "int32", "uint64": "uint32", "float64": "float32", "float16": "float32"}
"""Types of inputs and outputs that are others in the file; sessions cast."""
_PASSABLE = {
    "float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool",
}  # fmt: skip


def file_dtype(dtype: str) -> str:
    """Return the type that an input or output has in the file, which is one of 32 bits or fewer."""
    return _IN_FILE.get(dtype, dtype)


@dataclass(frozen=True)
class Ports:
    """What is converted for.

    Attributes:
        signature: Inputs and outputs; the batch is the only symbol.
        symbol: The batch's name, ``None`` where every size is fixed.
        demand_open: Whether another batch than an open one is refused.
        integer: Whether quantized inputs and outputs are integers.
        warnings: What the user should know.
        weights: How operators with integer weights and float inputs compute.
        turned: Inputs that the file takes as NHWC; the signature has them as the source does.
    """

    signature: Signature
    symbol: str | None
    demand_open: bool = False
    integer: bool = False
    warnings: tuple[str, ...] = ()
    weights: str = WEIGHTS[0]
    turned: tuple[str, ...] = ()

    @property
    def stored(self) -> Signature:
        """The signature with the shapes and the floats that the file has."""
        found = turned_signature(self.signature, self.turned)
        sides = (found.inputs, found.outputs)
        return Signature(*(tuple(_single(spec) for spec in specs) for specs in sides))


def _single(spec: TensorSpec) -> TensorSpec:
    kind = file_dtype(spec.dtype)
    return replace(spec, dtype=kind) if kind == "float32" else spec


@dataclass(frozen=True)
class Options:
    """What was asked for.

    Attributes:
        batch: ``"auto"``, ``"open"``, or a number of rows.
        shapes: Sizes of symbolic dimensions.
        integer: Whether quantized inputs and outputs are integers.
        weights: How operators with integer weights and float inputs compute.
        layout: ``"nchw"``, ``"nhwc"``, or the latter with names of inputs behind a colon.
    """

    batch: str | int
    shapes: Mapping[str, int]
    integer: bool = False
    weights: str = WEIGHTS[0]
    layout: str = NCHW

    def settle(self, signature: Signature, *, dynamic: bool) -> Ports:
        """Give every symbolic dimension but the batch a size.

        Args:
            signature: The pivot's.
            dynamic: Whether the batch should stay open at all.

        Raises:
            ConversionError: LPT-CONV-405, an open batch was demanded of a model that has none; 410,
                a dimension has no size.
            UnsupportedOperationError: LPT-CONV-408, what was asked for does not fit the signature.
        """
        sizes = dict(self.shapes)
        batch = next((s.shape[0] for s in signature.inputs if s.shape
                      and isinstance(s.shape[0], str)), None)  # fmt: skip
        self._refuse_what_does_not_fit(signature, batch, dynamic=dynamic)
        warnings = []
        if isinstance(self.batch, int) and batch is not None:
            sizes[batch] = self.batch
        elif not dynamic and batch is not None and batch not in sizes:
            sizes[batch] = 1
        symbol = batch if batch is not None and batch not in sizes else None
        if symbol is not None and not _rows(signature, symbol):
            warnings.append(f"The batch {symbol} is fixed at 1: not every input and output has it.")
            sizes[symbol], symbol = 1, None
        known = Signature(
            tuple(_sized(s, sizes) for s in signature.inputs),
            tuple(_sized(s, sizes) for s in signature.outputs),
        )
        _refuse_symbols(known, symbol)
        return Ports(
            known, symbol, self.batch == "open", self.integer, tuple(warnings), self.weights,
            self._turned(known),
        )  # fmt: skip

    def _turned(self, signature: Signature) -> tuple[str, ...]:
        """Return the inputs that are to be taken as NHWC."""
        layout, _, given = self.layout.partition(":")
        if layout == NCHW:
            return ()
        images = [s.name for s in signature.inputs if len(s.shape) == 4]
        shapes = f"Inputs are {', '.join(map(str, signature.inputs))}."
        if not images:
            raise _wrong("The option layout=nhwc has no effect: no input has four axes", shapes)
        names = [name for name in given.split(",") if name] or images
        wrong = next((name for name in names if name not in images), None)
        if wrong is not None:
            raise _wrong(f"Input {wrong!r} cannot be taken as NHWC: no input of four axes "
                         "has that name", f"{shapes} Name one of {', '.join(images)}.")  # fmt: skip
        return tuple(name for name in images if name in names)

    def _refuse_what_does_not_fit(
        self, signature: Signature, batch: str | None, *, dynamic: bool
    ) -> None:
        """Refuse what would have no effect."""
        ports = (*signature.inputs, *signature.outputs)
        symbols = sorted({d for s in ports for d in s.shape if isinstance(d, str)})
        known = f"Its symbolic dimensions are {', '.join(symbols)}." if symbols else (
            "All dimensions of the model are fixed.")  # fmt: skip
        unknown = [name for name in self.shapes if name not in symbols]
        if unknown:
            raise _wrong(f"The option shapes names {unknown[0]!r}, and no dimension is called so",
                         known)  # fmt: skip
        if self.batch == "open":
            if not dynamic or batch in self.shapes:
                raise _wrong("The batch cannot be open and fixed",
                             "Leave out batch=open, or what fixes it.")  # fmt: skip
            if batch is None or not _rows(signature, batch):
                raise _cannot_stay_open("Not every input and output has a symbolic batch.", known)
        elif isinstance(self.batch, int):
            sizes = {self.shapes.get(batch, self.batch)} if batch is not None else {
                s.shape[0] for s in signature.inputs if s.shape}  # fmt: skip
            if sizes != {self.batch}:
                other = ", ".join(str(size) for size in sorted(sizes, key=str)) or "none"
                raise _wrong(f"The batch cannot be {self.batch}: it is {other} already", known)


def turned_signature(signature: Signature, names: Collection[str]) -> Signature:
    """Return a signature in which some inputs of four axes have the channels last."""
    inputs = tuple(
        replace(s, shape=tuple(s.shape[i] for i in TO_NHWC), layout="NHWC")
        if s.name in names
        else s
        for s in signature.inputs
    )
    return Signature(inputs, signature.outputs)


def _cannot_stay_open(cause: str, remedy: str) -> ConversionError:
    return ConversionError(
        "LPT-CONV-405", "The batch of this model is not open", cause=cause,
        remedy=f"{remedy} Leave out batch=open, or make the source's batch symbolic.",
    )  # fmt: skip


def _rows(signature: Signature, symbol: str) -> bool:
    """Tell whether the first dimension of every input and output is the batch."""
    return all(s.shape and s.shape[0] == symbol for s in (*signature.inputs, *signature.outputs))


def _sized(spec: TensorSpec, sizes: Mapping[str, int]) -> TensorSpec:
    return replace(spec, shape=tuple(sizes.get(str(d), d) for d in spec.shape))


def _refuse_symbols(signature: Signature, symbol: str | None) -> None:
    for spec in signature.inputs:
        for dim in spec.shape:
            if isinstance(dim, int) or (dim is not None and dim == symbol):
                continue
            raise ConversionError(
                "LPT-CONV-410",
                f"Input {spec} has a dimension without a size, and tflite files have fixed ones",
                cause=f"{dim or 'A dimension without a name'} is neither a number nor the batch.",
                remedy=f"Give it a size: --option shapes={dim or 'NAME'}=128, or fix it in the "
                "source with `lepton adapt --shape`.",
                details={"symbol": dim or ""},
            )


def parse_options(request: ConvertRequest) -> Options:
    """Read the options of a request.

    Raises:
        UnsupportedOperationError: LPT-CONV-408, an option or its value is not known.
    """
    for key in request.options:
        if key not in OPTIONS:
            raise _wrong(f"tflite has no option {key!r} for converting",
                         f"Options are {', '.join(OPTIONS)}.")  # fmt: skip
    batch = request.options.get("batch", "auto")
    if isinstance(batch, str) and batch.isdigit():
        batch = int(batch)
    number = isinstance(batch, int) and not isinstance(batch, bool) and batch > 0
    if batch not in ("auto", "open") and not number:
        raise _wrong(f"The option batch cannot be {batch!r}", "It is auto, open, or a number.")
    io = request.options.get("io", "float")
    if io not in ("float", "int8"):
        raise _wrong(f"The option io cannot be {io!r}", "It is float or int8.")
    weights = request.options.get("weights", WEIGHTS[0])
    if weights not in WEIGHTS:
        raise _wrong(f"The option weights cannot be {weights!r}", f"It is {', '.join(WEIGHTS)}.")
    if weights != WEIGHTS[0] and not request.recipe:
        raise _wrong("The option weights needs a recipe: all weights are floats",
                     "Build it with --precision int8, or lower one with --recipe.")  # fmt: skip
    layout = str(request.options.get("layout", NCHW))
    if layout != NCHW and layout.partition(":")[0] != NHWC:
        raise _wrong(f"The option layout cannot be {layout!r}",
                     "It is nchw, nhwc, or nhwc:NAME,NAME for some inputs.")  # fmt: skip
    shapes = _shapes(request.options.get("shapes", {}))
    if request.device == EDGETPU:
        if batch == "open" or request.options.get("io") == "float":
            raise _wrong("A file for an Edge TPU has a fixed batch and integers at its border",
                         "Leave out batch=open and io=float, or build for tflite:cpu.")  # fmt: skip
        return Options(batch, shapes, integer=True, weights=weights, layout=layout)
    if io == "int8" and not request.recipe:
        raise _wrong("The option io cannot be int8 without a recipe: all values are floats",
                     "Build it with --precision int8, or lower one with --recipe.")  # fmt: skip
    return Options(batch, shapes, io == "int8", weights, layout)


def _shapes(given: object) -> dict[str, int]:
    if isinstance(given, str):
        given = dict(part.partition("=")[::2] for part in given.split(",") if part)
    try:
        found = {str(k): int(v) for k, v in dict(given).items()}  # type: ignore[call-overload]
    except (TypeError, ValueError):
        found = {"": 0}
    if any(size < 1 for size in found.values()):
        raise _wrong(f"The option shapes cannot be {given!r}", "Write it as tokens=128,height=224.")
    return found


def _wrong(message: str, remedy: str) -> UnsupportedOperationError:
    return UnsupportedOperationError("LPT-CONV-408", message, remedy=remedy)


def unsupported(signature: Signature | None) -> list[TensorSpec]:
    """Return the inputs and outputs that a session cannot pass: by type, or without any value."""
    if signature is None:
        return []
    ports = (*signature.inputs, *signature.outputs)
    return [s for s in ports if s.dtype not in _PASSABLE or 0 in s.shape]


def check_dtypes(signature: Signature) -> None:
    """Refuse inputs and outputs that a session cannot pass.

    Raises:
        ConversionError: LPT-CONV-409.
    """
    wrong = unsupported(signature)
    if wrong:
        raise ConversionError(
            "LPT-CONV-409",
            f"{wrong[0]} is of a kind that a LiteRT session cannot pass",
            remedy=f"Use one of {', '.join(sorted(_PASSABLE))} at the model's border.",
        )


__all__ = ["EDGETPU", "OPTIONS", "Options", "Ports", "check_dtypes", "parse_options", "unsupported"]
