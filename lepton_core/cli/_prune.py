"""The options of ``lepton adapt`` that prune, and the receipt as lines."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from lepton_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.types import PruneRequest

    _ParamType = click.ParamType[Any]  # generic in stubs only
else:
    _ParamType = click.ParamType

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_BUDGET = re.compile(rf"(macs|parameters|latency)=(?:({_NUMBER})(%?)|({_NUMBER})ms)\Z")


class _BudgetType(_ParamType):
    """``macs=0.5``, ``macs=50%``, ``latency=2.5ms``."""

    name = "budget"

    def convert(
        self,
        value: Any,  # noqa: ANN401 - what click passes on
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> dict[str, Any]:
        """Return the fields of a request that a budget gives."""
        if isinstance(value, dict):
            return value
        found = _BUDGET.match(str(value).replace(" ", ""))
        if found is None or (found[4] is not None and found[1] != "latency"):
            self.fail(
                f"{value!r} is no budget; write macs=0.5, parameters=0.5, latency=0.7 or "
                "latency=2.5ms.",
                param,
                ctx,
            )
        if found[4] is not None:
            return {"metric": found[1], "milliseconds": float(found[4])}
        share = float(found[2]) / (100.0 if found[3] else 1.0)
        if not 0.0 < share < 1.0:
            self.fail(f"{value!r}: what is left lies between 0 and 1.", param, ctx)
        return {"metric": found[1], "share": share}


BUDGET = _BudgetType()


def prune_request(given: dict[str, Any]) -> PruneRequest | None:
    """Take the options that prune out of those given and return the request, if there is one.

    Raises:
        UsageError: LPT-USE-008, both a budget and a recipe are given, or neither beside other
            options that prune, or options that say what goes beside a recipe.
    """
    from lepton_core.cli._types import split_list
    from lepton_core.types import PruneRequest

    budget, recipe = given.pop("prune"), given.pop("prune_recipe")
    fields = {
        "importance": given.pop("prune_by") or "",
        "multiple": given.pop("prune_multiple") or 0,
        "keep": split_list(given.pop("prune_keep")),
        "rounds": given.pop("rounds"),
        "epochs": given.pop("recover_epochs"),
        "seconds": given.pop("recover_seconds"),
        "rows": given.pop("recover_rows"),
        "max_drop": given.pop("max_drop"),
    }
    if budget is not None and recipe is not None:
        raise _one_of("--prune and --prune-recipe are both given")
    if recipe is not None and (odd := _given(fields, _CHOOSING)):
        raise _one_of(f"{odd} is given beside --prune-recipe, which says already what goes")
    if budget is None and recipe is None:
        odd = _given(fields, {**_CHOOSING, **_RECOVERING})
        if given.get("data") is not None:
            odd = odd or "--data"
        if odd:
            raise _one_of(f"{odd} is given, but nothing says how much to prune")
        return None
    given_fields = {key: value for key, value in fields.items() if value is not None}
    return PruneRequest(**(budget or {}), recipe=recipe, **given_fields)


_CHOOSING = {
    "importance": ("--prune-by", ""),
    "multiple": ("--prune-multiple", 0),
    "keep": ("--prune-keep", ()),
    "rounds": ("--rounds", None),
}
"""Options that say what goes, by field: their name, and the value where they are not given."""
_RECOVERING = {
    "epochs": ("--recover-epochs", None),
    "seconds": ("--recover-seconds", None),
    "rows": ("--recover-rows", None),
    "max_drop": ("--max-drop", None),
}


def _given(fields: Mapping[str, Any], options: Mapping[str, tuple[str, Any]]) -> str:
    """Return one of these options that is given; empty if none is."""
    return next((name for key, (name, empty) in options.items() if fields[key] != empty), "")


def _one_of(cause: str) -> UsageError:
    return UsageError(
        "LPT-USE-008",
        "What to prune is not clear",
        cause=cause,
        remedy="Give one of --prune macs=0.5 and --prune-recipe pruning.json.",
    )


def receipt_lines(receipt: Mapping[str, Any] | None) -> list[str]:
    """Return what pruning gained and lost, a line for each measure."""
    if not receipt:
        return []
    from lepton_core.cli._port import size_text

    lines = []
    for name, key in (("MACs per row", "macs"), ("parameters", "parameters")):
        pair = receipt[key]
        lines.append(f"{name} {pair['before']:,} -> {pair['after']:,} ({pair['share']:.1%})")
    pair = receipt["size_bytes"]
    sizes = f"{size_text(pair['before'])} -> {size_text(pair['after'])}"
    lines.append(f"size {sizes} ({pair['share']:.1%})")
    for one in receipt["latency"]:
        low, high = one["interval"]
        rows = "1 row" if one["rows"] == 1 else f"{one['rows']} rows"
        lines.append(
            f"{rows} {one['before_ms']:.3g} -> {one['after_ms']:.3g} ms, {one['speedup']:.2f}x "
            f"faster ({low:.2f} to {high:.2f} at 95 %) on {one['runtime']}"
        )
    found = receipt.get("accuracy")
    if found:
        lines.append(
            f"{found['metric']} {found['before']:.4g} -> {found['after']:.4g} "
            f"(drop {found['drop']:.4g}) on {found['rows']} rows held out"
        )
    if receipt.get("note"):
        lines.append(str(receipt["note"]))
    return lines


__all__ = ["BUDGET", "prune_request", "receipt_lines"]
