"""Whether callers of one version can call another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_core.errors import DeployError

if TYPE_CHECKING:
    from lepton_core.types import Dim, Signature, TensorSpec


def check_replaces(old: Signature, new: Signature, version: str) -> None:
    """Check that whoever calls *old* can call *new* without a change.

    Every input must take what the old one took, and every output must be of the old kind; a new
    output does no harm, a new input does.

    Raises:
        DeployError: LPT-DEP-002, with all differences.
    """
    problems = _differences(old.inputs, new.inputs, "input", exact=True)
    problems += _differences(old.outputs, new.outputs, "output", exact=False)
    if problems:
        raise DeployError(
            "LPT-DEP-002",
            f"{version} cannot take over: its signature does not fit the callers",
            cause="\n".join(problems),
            remedy="Deploy it under another name or alias, or open the deployment with "
            "allow_signature_change=True.",
            details={"version": version, "old": str(old), "new": str(new)},
        )


def _differences(
    old: tuple[TensorSpec, ...], new: tuple[TensorSpec, ...], kind: str, *, exact: bool
) -> list[str]:
    found = []
    names = {spec.name: spec for spec in new}
    for spec in old:
        other = names.pop(spec.name, None)
        if other is None:
            found.append(f"the {kind} {spec.name!r} is gone")
        elif other.dtype != spec.dtype or not _takes(spec.shape, other.shape, exact=exact):
            found.append(f"the {kind} {spec} is now {other}")
    if exact:
        found += [f"there is a new {kind} {spec}" for spec in names.values()]
    return found


def _takes(old: tuple[Dim, ...], new: tuple[Dim, ...], *, exact: bool) -> bool:
    """Tell whether arrays of the old shape fit the new one (*exact*), or may do so."""
    if len(old) != len(new):
        return False
    for before, after in zip(old, new, strict=True):
        is_open = not isinstance(after, int) or (not exact and not isinstance(before, int))
        if not is_open and before != after:
            return False
    return True


__all__ = ["check_replaces"]
