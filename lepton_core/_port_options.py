"""Options of conversions in the main job: whose they are, and which step of a path gets them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lepton_core.errors import UsageError
from lepton_core.planner import options_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lepton_core.planner import Step
    from lepton_core.types import Target


class TargetOptions:
    """Options by what they are for.

    Args:
        given: Options by target (``"tflite"``: on every device that is asked for;
            ``"tflite:edgetpu"``), or by target and precision (``"tflite/int8"``).
        asked: Every combination that is asked for.

    Raises:
        UsageError: ``LPT-USE-015``, they are for something that is not asked for.
    """

    def __init__(
        self, given: Mapping[str, Mapping[str, Any]], asked: Iterable[tuple[Target, str]]
    ) -> None:
        self._given = given
        asked = list(asked)
        known = dict.fromkeys(key for one in asked for key in _keys(*one))
        odd = [key for key, options in given.items() if options and key not in known]
        if odd:
            raise UsageError(
                "LPT-USE-015",
                f"Options are given for {odd[0]!r}, which is not asked for",
                cause=f"they can be for {', '.join(known)}",
                remedy="Correct the name, or ask for that target and precision as well.",
            )

    def of(self, target: Target, precision: str) -> dict[str, Any]:
        """Return what is given for a combination; what says more of it counts more."""
        found: dict[str, Any] = {}
        for key in _keys(target, precision):
            found |= self._given.get(key, {})
        return found

    def check(self, target: Target, precision: str, path: Sequence[Step]) -> None:
        """Refuse options that no step of a path declares.

        Raises:
            UsageError: ``LPT-USE-016``.
        """
        known = list(dict.fromkeys(name for step in path for name in step.edge.options))
        odd = [name for name in self.of(target, precision) if name not in known]
        if odd:
            way = " -> ".join((path[0].edge.source, *(s.edge.result for s in path))) if path else ""
            raise UsageError(
                "LPT-USE-016",
                f"No conversion for {target} takes the option {odd[0]!r}",
                cause=f"{way}: the options are {', '.join(known) or 'none'}"
                if way
                else "the source is what the target runs, and nothing is converted",
                remedy="Correct its name, or leave it out. Options of sessions are given to "
                "`lepton open`.",
            )


def _keys(target: Target, precision: str) -> tuple[str, ...]:
    """Return what options of a combination can be given for, the most general first."""
    names = dict.fromkeys((target.id, str(target)))
    return (*names, *(f"{name}/{precision}" for name in names))


def for_step(
    step: Step, path: Sequence[Step], options: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """Return what of a path's options is for one step, and a key that is equal where they are."""
    own = options_of(step, path, options)
    return own, json.dumps(own, sort_keys=True, default=repr) if own else ""


__all__ = ["TargetOptions", "for_step"]
