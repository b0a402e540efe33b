"""Asking a policy: in its worker, with a deadline; what it says is checked before it counts."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lepton_core.deployment._routes import Route, read_routes
from lepton_core.errors import AdjustError
from lepton_core.types import AdjustRequest, AdjustResult, Limits, Model

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from lepton_core.context import Context
    from lepton_core.dispatch import Hooks

_GRACE = 2.0


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change that a policy proposes: routes, why, and the predicted ratio of costs."""

    routes: tuple[Route, ...]
    cause: str
    ratio: float


def ask(
    hooks: Hooks,
    policy: str,
    request: AdjustRequest,
    context: Context,
    *,
    deadline: float,
    versions: Collection[str],
    threads: int,
) -> Proposal | None:
    """Return what a policy proposes, ``None`` if it would change nothing.

    Args:
        hooks: Calls it.
        policy: Its engine name.
        request: What it is asked; ``options`` hold what was observed.
        context: Surroundings.
        deadline: Seconds after which it is given up.
        versions: Versions that it may name.
        threads: Largest number of threads.

    Raises:
        AdjustError: LPT-ADJ-005, its proposal cannot be; LPT-ADJ-006, it did not answer in time.
        LeptonError: What it raised.
    """
    owner = hooks.engine_owner("adjust", policy)
    request = replace(request, engine=policy)
    context = replace(context, limits=Limits(deadline, context.limits.memory_bytes))

    def call() -> Any:  # noqa: ANN401 - the verb's result
        model = Model("deployment", request.name)
        return hooks.call("adjust", owner, model, request, context, isolated=True)

    result: AdjustResult = _within(deadline + _GRACE, call, policy)
    if not result.changes:
        return None
    try:
        return _checked(result.changes[0], versions, threads)
    except (TypeError, KeyError, ValueError) as error:
        raise AdjustError(
            "LPT-ADJ-005",
            f"The policy {policy!r} proposed something that is no dispatch table",
            cause=f"{type(error).__name__}: {error}",
            remedy="Report this to the policy's makers; nothing was changed.",
            details={"policy": policy},
        ) from error


def _within(seconds: float, call: Callable[[], Any], policy: str) -> Any:  # noqa: ANN401
    """Run a call, and leave it behind if it takes too long.

    A worker is ended by its own limit; this holds for a policy that lives in this process.
    """
    answer: list[Any] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            answer.append(call())
        except BaseException as error:  # raised again below
            failure.append(error)

    thread = threading.Thread(target=work, name=f"lepton-policy-{policy}", daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not answer:
        raise AdjustError(
            "LPT-ADJ-006",
            f"The policy {policy!r} did not answer within {seconds:g} s",
            remedy="Choose another with --policy, or give it more time with --deadline.",
            details={"policy": policy},
        )
    return answer[0]


def _checked(change: Mapping[str, Any], versions: Collection[str], threads: int) -> Proposal:
    routes = read_routes(change["routes"])
    if not routes:
        raise ValueError("it has no routes")
    for route in routes:
        if route.version not in versions:
            raise ValueError(f"{route.version} may not run; these may: {', '.join(versions)}")
        if route.threads is not None and route.threads > threads:
            raise ValueError(f"{route.threads} threads; there are {threads} CPUs")
    ratio = float(change["predicted"]["ratio"])
    if not 0.0 <= ratio < float("inf"):
        raise ValueError(f"the predicted ratio is {ratio}")
    return Proposal(routes, str(change["cause"]), ratio)


__all__ = ["Proposal", "ask"]
