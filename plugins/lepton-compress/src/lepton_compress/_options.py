"""Options of the engine, as ``request.options`` gives them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from lepton_compress._calibrate import check_estimator
from lepton_core.errors import OptimizeError

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMES = ("static", "dynamic", "weight-only")


@dataclass(frozen=True, slots=True)
class Options:
    """What the engine can be asked for beside the request's own fields.

    Attributes:
        scheme: ``"static"``, ``"dynamic"`` or ``"weight-only"``; by default static with samples
            and dynamic without.
        estimator: ``"minmax"``, ``"percentile:P"`` or ``"mse"``.
        keep: Names of values, nodes or operator types that stay float.
        metric: Metric to choose by; as ``lepton port --metric``.
        threads: Threads of the sessions.
        held_out: Directory of saved samples that the caller holds out; only how much of the
            calibrated ranges they reach is found out, nothing is chosen by them.
        recipe_only: Write the recipe and lower nothing.
    """

    scheme: str = ""
    estimator: str = "minmax"
    keep: tuple[str, ...] = ()
    metric: str | None = None
    threads: int | None = None
    held_out: str | None = None
    recipe_only: bool = False


def read_options(given: Mapping[str, Any]) -> Options:
    """Check options and return them.

    Raises:
        OptimizeError: ``LPT-OPT-015`` an unknown option or value.
    """
    known = [f.name for f in fields(Options)]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise _wrong(f"There is no option {unknown[0]!r}", f"known are {', '.join(known)}")
    values = dict(given)
    if isinstance(values.get("keep"), str):
        values["keep"] = [part for part in values["keep"].split(",") if part]
    values["keep"] = tuple(values.get("keep") or ())
    if values.get("scheme", "") not in ("", *SCHEMES):
        raise _wrong(f"There is no scheme {values['scheme']!r}", f"known are {', '.join(SCHEMES)}")
    if values.get("threads") is not None:
        try:
            values["threads"] = int(values["threads"])
        except (TypeError, ValueError) as error:
            raise _wrong(
                f"threads cannot be {values['threads']!r}", "a number is needed"
            ) from error
    if "estimator" in values:
        values["estimator"] = check_estimator(str(values["estimator"]))
    return Options(**values)


def _wrong(message: str, cause: str) -> OptimizeError:
    return OptimizeError(
        "LPT-OPT-015", message, cause=cause, remedy="Correct the option or leave it out."
    )


__all__ = ["SCHEMES", "Options", "read_options"]
