"""Options of the engine, as ``request.options`` gives them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from lepton_compress._calibrate import check_estimator
from lepton_compress._runtime import AUTO
from lepton_compress._sparse_options import (
    MIXED,
    OF_SPARSE,
    SPARSE_PRECISIONS,
    read_sparse_options,
    refuse,
)
from lepton_core.recipe import LARGEST_BLOCK, METHODS, SMALLEST_BLOCK
from lepton_core.switches import as_switch

if TYPE_CHECKING:
    from collections.abc import Mapping

RECOVERIES = ("equalize", "smooth", "balance", "narrow", "bias")
"""Ways to get back what static int8 loses, in the order in which they are tried."""

SCHEMES = ("static", "dynamic", "weight-only")
MEANS = ("pool", "product")
ASKED = ("all", "quick", "no")
BLOCK_PRECISIONS = {"int4": (2, 4), "int8-weight": (5, 8)}
"""Precisions of weights alone, by block, with the bits that each can be asked for."""

_OF_BLOCKS = ("bits", "block", "method", "symmetric", "scales", "ends", "tables")
_OF_RANGES = ("scheme", "estimator", "recover", "means")
_OF_SEARCH = ("cache", "rows", "slices", "trials", "analyse")
_NOT_OF_MIXED = ("scheme", "bits", "ends", "tables", "means")
_DERIVED = ("sparsities", "patterns", "palettes")
_SCALES = ("float32", "float16")


@dataclass(frozen=True, slots=True)
class Options:
    """What the engine can be asked for beside the request's own fields.

    Attributes:
        scheme: ``"static"``, ``"dynamic"`` or ``"weight-only"``; by default static with samples
            and dynamic without.
        estimator: ``"minmax"``, ``"percentile:P"``, ``"mse"`` or ``"entropy"``.
        keep: Names of values, nodes or operator types that stay float.
        metric: Metric to choose by; as ``lepton port --metric``.
        threads: Threads of the sessions.
        held_out: Directory of saved samples that the caller holds out; only how much of the
            calibrated ranges they reach is found out, nothing is chosen by them.
        recipe_only: Write the recipe and lower nothing.
        ask: Which runtimes of the targets that lower the recipe are asked what they load: ``all``,
            those that answer ``quick``-ly (they declare ``loads.quick``), or ``no``; by default all
            unless the caller lowers it (``recipe_only``).
        bits: Of weights stored by block: 2 to 4 for int4, 5 to 8 for int8-weight; 0 for 4 and 8.
        block: Inputs that share a scale, a power of two of at least 16.
        method: ``"rtn"``, ``"mse"``, ``"awq"`` or ``"gptq"``; by default gptq with samples and mse
            without.
        symmetric: Whether integers have no zero points.
        scales: ``"float32"``, or ``"float16"`` for scales of blocks that are above 0 and that
            float16 holds, which LiteRT's kernels of 4 bits want. By default float16 for 4 bits if
            a target that lowers the recipe declares ``scales.float16``, else float32.
        ends: Least bits of the first and the last matrix.
        recover: Ways to get accuracy back without labels that may be tried, of
            :data:`RECOVERIES`. By default all of them if rows are there to verify them on, which
            a budget or the precisions ``auto`` and ``mixed`` ask for.
        tables: ``"float"`` or ``"int8"``: how embedding tables are stored.
        cache: Folder in which measurements of a search are kept, so that it can go on; none are
            kept without.
        rows: Rows that sensitivities are measured on.
        slices: An .npy file with the name of each row's slice; classes by default.
        trials: Choices that a search measures at most, beside the sensitivities.
        analyse: Measure sensitivities and compress nothing.
        sparsity: Share of a weight's values that become 0; 0 prunes nothing.
        pattern: ``(n, m)``: of ``m`` consecutive inputs ``n`` stay, in place of a share.
        prune: ``"magnitude"``, or ``"wanda"``: magnitude times the root mean square of the input.
        scope: ``"layer"``, ``"row"`` or ``"global"``: what is ranked together; by default a layer
            for magnitudes and a row for wanda.
        palette: Bits of the indices of the precision ``palette``, 1 to 8.
        group: Output channels that share a palette; 0 for one palette a weight.
        runtime: Target whose runtime the forward passes of calibration run on; ``"auto"`` starts
            with the one that ranks first and tries others where that is worth it, ``"fastest"``
            tries them in any case.
        means: ``"pool"`` or ``"product"``: how static int8 averages. Products are depthwise
            convolutions, whose results are no ties (:func:`lepton_onnx.qdq.means_as_products`).
        sparsities: Shares that a search chooses between: one for each weight in ``mixed``, one for
            all in ``sparse``. Derived from ``sparsity``.
        patterns: Patterns that a search for ``mixed`` may choose. Derived from ``pattern``.
        palettes: Bits of palettes that a search for ``mixed`` may choose. Derived from ``palette``.
    """

    scheme: str = ""
    estimator: str = "minmax"
    keep: tuple[str, ...] = ()
    metric: str | None = None
    threads: int | None = None
    held_out: str | None = None
    recipe_only: bool = False
    ask: str = ""
    bits: int = 0
    block: int = 32
    method: str = ""
    symmetric: bool = True
    scales: str = ""
    ends: int = 8
    tables: str = "float"
    cache: str | None = None
    rows: int = 0
    slices: str | None = None
    trials: int = 0
    analyse: bool = False
    recover: tuple[str, ...] | None = None
    sparsity: float = 0.0
    pattern: tuple[int, int] | None = None
    prune: str = "magnitude"
    scope: str = ""
    palette: int = 0
    group: int = 0
    runtime: str = AUTO
    means: str = "pool"
    sparsities: tuple[float, ...] = ()
    patterns: tuple[tuple[int, int], ...] = ()
    palettes: tuple[int, ...] = ()

    @property
    def prunes(self) -> bool:
        """Whether weights are to be pruned before anything else is done."""
        return bool(self.sparsity) or self.pattern is not None


def read_options(given: Mapping[str, Any], precision: str = "int8") -> Options:
    """Check options and return them.

    Raises:
        OptimizeError: ``LPT-OPT-015`` an unknown option or value, or one of another precision.
    """
    known = [f.name for f in fields(Options) if f.name not in _DERIVED]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise refuse(f"There is no option {unknown[0]!r}", f"known are {', '.join(known)}")
    by_block = precision in BLOCK_PRECISIONS
    mixed = precision == MIXED
    _refuse_foreign(given, precision)
    values = {name: value for name, value in given.items() if name not in OF_SPARSE}
    values |= read_sparse_options(given, precision)
    if isinstance(values.get("keep"), str):
        values["keep"] = [part for part in values["keep"].split(",") if part]
    values["keep"] = tuple(values.get("keep") or ())
    for name, accepted in (("scheme", SCHEMES), ("means", MEANS), ("ask", ASKED)):
        if values.get(name, "") not in ("", *accepted):
            raise refuse(f"{name} cannot be {values[name]!r}", f"known are {', '.join(accepted)}")
    if precision == "int16" and values.get("scheme", "") not in ("", "static"):
        raise refuse("int16 is static", "its ranges must be known beforehand")
    for name in ("threads", "bits", "block", "ends", "rows", "trials"):
        if values.get(name) is not None:
            values[name] = _number(name, values[name])
    if "estimator" in values:
        values["estimator"] = check_estimator(str(values["estimator"]))
    if "recover" in values:
        values["recover"] = _recoveries(values["recover"], values.get("scheme", ""))
    for name in ("symmetric", "analyse"):
        if name in values:
            values[name] = _flag(name, values[name])
    options = Options(**values)
    if mixed:
        return _checked_mixed(options)
    return _checked_blocks(options, precision) if by_block else options


def _refuse_foreign(given: Mapping[str, Any], precision: str) -> None:
    foreign = _OF_RANGES if precision in BLOCK_PRECISIONS else _OF_BLOCKS
    foreign = (*_OF_RANGES, *_OF_BLOCKS) if precision in SPARSE_PRECISIONS else foreign
    foreign = _NOT_OF_MIXED if precision == MIXED else (*foreign, *_OF_SEARCH)
    odd = [name for name in given if name in foreign]
    if odd:
        blocks = " and ".join(BLOCK_PRECISIONS)
        wanted = "int8 and auto" if odd[0] in _OF_RANGES else blocks
        wanted = MIXED if odd[0] in _OF_SEARCH else wanted
        raise refuse(f"{odd[0]!r} is no option of {precision}", f"it is one of {wanted}")


def _checked_mixed(options: Options) -> Options:
    for name in ("rows", "trials"):
        if getattr(options, name) < 0:
            raise refuse(f"{name} is {getattr(options, name)}", "it is a number of at least 1")
    if options.method == "awq":
        raise refuse(
            "The search does not take the method 'awq'",
            "its factors belong to all products of one value, which may have other precisions",
        )
    if options.analyse and options.recover:
        raise refuse(
            "Sensitivities are not measured with recoveries",
            "they are those of the model as it is; a search uses recoveries",
        )
    return replace(_checked_blocks(options, "int4"), bits=0)


def _checked_blocks(options: Options, precision: str) -> Options:
    low, high = BLOCK_PRECISIONS[precision]
    block = options.block
    checks = (
        (
            bool(options.bits) and not low <= options.bits <= high,
            f"bits is {options.bits}",
            f"{precision} takes {low} to {high}",
        ),
        (
            not (SMALLEST_BLOCK <= block <= LARGEST_BLOCK and block & (block - 1) == 0),
            f"block is {block}",
            f"blocks are powers of two from {SMALLEST_BLOCK} to {LARGEST_BLOCK}",
        ),
        (not 2 <= options.ends <= 8, f"ends is {options.ends}", "accepted are 2 to 8 bits"),
        (
            options.method not in ("", *METHODS),
            f"There is no method {options.method!r}",
            f"known are {', '.join(METHODS)}",
        ),
        (
            options.scales not in ("", *_SCALES),
            f"There are no scales {options.scales!r}",
            f"known are {', '.join(_SCALES)}",
        ),
        (
            options.scales == "float16" and (not options.symmetric or options.method == "awq"),
            f"scales={options.scales} does not go with zero points, nor with the method awq",
            "it is a rule for symmetric integers of unchanged weights",
        ),
        (
            options.tables not in ("float", "int8"),
            f"tables cannot be {options.tables!r}",
            "known are float and int8",
        ),
    )
    for wrong, message, cause in checks:
        if wrong:
            raise refuse(message, cause)
    return replace(options, bits=options.bits or high)


def _number(name: str, value: object) -> int:
    try:
        return int(value)  # type: ignore[call-overload,no-any-return]
    except (TypeError, ValueError) as error:
        raise refuse(f"{name} cannot be {value!r}", "a number is needed") from error


def _recoveries(value: object, scheme: str) -> tuple[str, ...] | None:
    names = _names_of_recoveries(value)
    if names and scheme not in ("", "static"):
        raise refuse(
            f"'recover' is no option of the scheme {scheme}",
            "what can be recovered is what static int8 and int16 lose",
        )
    return names


def _names_of_recoveries(value: object) -> tuple[str, ...] | None:
    if value is not None and not isinstance(value, str | list | tuple):
        raise refuse(f"recover cannot be {value!r}", "names of ways are needed")
    parts = value.split(",") if isinstance(value, str) else list(value or ())
    if parts in (["auto"], ["all"]):
        return RECOVERIES
    if parts in (["none"], []):
        return ()
    odd = [part for part in parts if part not in RECOVERIES]
    if odd:
        known = ", ".join(("auto", "none", *RECOVERIES))
        raise refuse(f"There is no recovery {odd[0]!r}", f"known are {known}")
    return tuple(name for name in RECOVERIES if name in parts)


def _flag(name: str, value: object) -> bool:
    on = as_switch(value)
    if on is None:
        raise refuse(f"{name} cannot be {value!r}", "yes or no is needed")
    return on


__all__ = ["BLOCK_PRECISIONS", "MIXED", "RECOVERIES", "SCHEMES", "Options", "read_options"]
