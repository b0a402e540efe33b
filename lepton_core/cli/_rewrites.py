"""``lepton rewrites``: what ``adapt`` can do, from static descriptions only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_core.cli._command import command, option
from lepton_core.cli._table import Column, Row
from lepton_core.cli._types import TargetType

if TYPE_CHECKING:
    from lepton_core.capabilities import Constraints
    from lepton_core.cli._app import App
    from lepton_core.rewrites import Offer


@command(
    "rewrites",
    examples="""
    lepton rewrites
    lepton rewrites --to openvino
    lepton rewrites --json
    """,
)
@option(
    "--to",
    "target",
    metavar="TARGET",
    type=TargetType(),
    help="Say what this target asks for; every rewrite is listed all the same.",
)
def rewrites_command(app: App, *, target: str | None) -> int:
    """List the rewrites that `lepton adapt` can do, and what each does to numbers.

    No framework is imported. A plugin brings rewrites by declaring them in its description.
    """
    from lepton_core.rewrites import offers
    from lepton_core.types import Target

    registry = app.registry()
    found = offers(registry)
    constraints = None if target is None else registry.target(Target.parse(target).id).constraints
    if app.json:
        listed = [_data(offer, constraints) for offer in found]
        app.emit({"ok": True, "target": target, "rewrites": listed})
        return 0
    if not found:
        app.line("No installed plugin brings rewrites; lepton-torch brings those of torch models.")
        return 0
    titles = ("rewrite", "numbers", "done", "from", "does")
    columns = [Column(title, whole=title == "rewrite") for title in titles]
    app.table(columns, [_row(offer, constraints) for offer in found])
    return 0


def _data(offer: Offer, constraints: Constraints | None) -> dict[str, Any]:
    from lepton_core.codec import to_data
    from lepton_core.rewrites import asked_by, when

    data: dict[str, Any] = to_data(offer.rewrite)
    more: dict[str, Any] = {"numbers": offer.rewrite.numbers, "done": when(offer.rewrite)}
    if constraints is not None:
        more["asked"] = asked_by(offer.rewrite, constraints) or None
    return {**data, **more, "plugin": offer.plugin, "distribution": offer.distribution}


def _row(offer: Offer, constraints: Constraints | None) -> Row:
    from lepton_core.rewrites import asked_by, when

    rewrite = offer.rewrite
    done = "where the target forbids what it removes" if rewrite.removes else when(rewrite)
    done = when(rewrite) if rewrite.standard else done
    if constraints is not None:
        done = asked_by(rewrite, constraints) or "not asked for"
    return Row((rewrite.name, rewrite.numbers, done, offer.distribution, rewrite.summary))


__all__ = ["rewrites_command"]
