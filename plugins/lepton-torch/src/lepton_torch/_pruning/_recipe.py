"""``pruning.json``: which indices of which weights are left, and why; applying it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.errors import AdaptError
from lepton_torch._operators import source_line
from lepton_torch._pruning._classes import Cut

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_torch._pruning._groups import Group
    from lepton_torch._pruning._trace import Structure

SCHEMA = 1
FILE = "pruning.json"


def kept_indices(structure: Structure, cut: Cut) -> dict[str, Any]:
    """Return shape and kept indices of every weight that a cut changes, by name."""
    found: dict[str, Any] = {}
    for name, axes in structure.weights.items():
        kept = {
            str(position): cut.kept(ids).tolist()
            for position, ids in enumerate(axes)
            if ids is not None and not cut.mask(ids).all()
        }
        if kept:
            shape = [1 if ids is None else len(ids) for ids in axes]
            found[name] = {"shape": shape, "kept": kept}
    return found


def describe_groups(
    structure: Structure, groups: list[Group], cut: Cut, importance: Mapping[int, float]
) -> list[dict[str, Any]]:
    """Return what became of every group: widths, and what went with which importance."""
    found = []
    for group in groups:
        gone = [int(c) for c in group.classes if not cut.mask(np.array([c])).all()]
        if not gone:
            continue
        left = [importance.get(int(c), 0.0) for c in group.classes if int(c) not in set(gone)]
        places = {int(c): n for n, c in enumerate(group.classes)}
        first = group.layers[0]
        found.append(
            {
                "layer": group.name,
                "where": source_line(first.node),
                "with": [one.name for one in group.layers[1:]],
                "kind": group.kind,
                "before": len(first.ids),
                "after": cut.count(first.ids),
                "units": [len(group.classes), len(group.classes) - len(gone)],
                "removed": [places[c] for c in gone],
            }
        )
        if importance:  # a recipe measures none
            found[-1]["least_important_kept"] = min(left, default=0.0)
            found[-1]["most_important_removed"] = max(importance.get(c, 0.0) for c in gone)
    return found


def without_times(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Return a receipt without what differs from run to run."""
    found = {key: value for key, value in receipt.items() if key != "latency"}
    found["recovery"] = [
        {key: value for key, value in one.items() if key != "seconds"}
        for one in receipt["recovery"]
    ]
    return found


def write(path: Path, data: Mapping[str, Any]) -> None:
    """Write a recipe; the same content gives the same bytes."""
    from lepton_core.files import write_atomic

    write_atomic(path, (_text(data) + "\n").encode())


def _text(data: Mapping[str, Any]) -> str:
    """Return JSON with one line per weight and group."""
    parts = []
    for key, value in {"schema": SCHEMA, **data}.items():
        if key in ("weights", "groups") and value:
            many = isinstance(value, dict)
            lines = (
                [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()]
                if many
                else [f"  {json.dumps(v)}" for v in value]
            )
            body = "{\n" if many else "[\n"
            text = body + ",\n".join(lines) + ("\n }" if many else "\n ]")
        else:
            text = json.dumps(value)
        parts.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}"


def read(path: str) -> dict[str, Any]:
    """Read a recipe.

    Raises:
        AdaptError: LPT-ADAPT-015, it is none, or one of a later version.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        weights = {
            str(name): {int(axis): [int(i) for i in kept] for axis, kept in entry["kept"].items()}
            for name, entry in data["weights"].items()
        }
        shapes = {
            str(name): [int(size) for size in entry["shape"]]
            for name, entry in data["weights"].items()
        }
        if int(data["schema"]) > SCHEMA:
            raise _unreadable(path, f"it has schema {data['schema']}, {SCHEMA} is known")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, f"{type(error).__name__}: {error}") from error
    return {**data, "weights": weights, "shapes": shapes}


def _unreadable(path: str, cause: str) -> AdaptError:
    return AdaptError(
        "LPT-ADAPT-015",
        f"{path} is no recipe for pruning that can be read",
        cause=cause,
        remedy="Give a pruning.json that `lepton adapt --prune` wrote.",
    )


def removed_by(data: Mapping[str, Any], structure: Structure, path: str) -> tuple[int, ...]:
    """Return the classes that a recipe removes.

    Raises:
        AdaptError: LPT-ADAPT-016, the recipe belongs to another model.
    """
    gone: set[int] = set()
    for name, axes in data["weights"].items():
        held = structure.weights.get(name)
        if held is None:
            raise _foreign(path, f"the model has no weight {name!r}")
        for axis, kept in axes.items():
            ids = held[axis] if 0 <= axis < len(held) else None
            shape = data["shapes"][name]
            if ids is not None and (axis >= len(shape) or shape[axis] != len(ids)):
                written = shape[axis] if axis < len(shape) else "nothing"
                raise _foreign(
                    path,
                    f"{name!r} has {len(ids)} channels along axis {axis}, and the recipe was "
                    f"written for {written}",
                )
            if ids is None or not kept or max(kept) >= len(ids) or min(kept) < 0:
                raise _foreign(path, f"{name!r} has no such indices along axis {axis}")
            lost = np.setdiff1d(np.arange(len(ids)), kept)
            gone |= {int(c) for c in structure.classes.find(ids[lost])}
    pinned = [c for c in sorted(gone) if structure.classes.why_pinned(c) is not None or c < 0]
    if pinned:
        why = structure.classes.why_pinned(pinned[0])
        raise _foreign(path, f"it removes what must stay: {why}")
    cut = Cut(structure.classes, sorted(gone))
    for name, axes in data["weights"].items():
        for axis, kept in axes.items():
            if cut.kept(structure.weights[name][axis]).tolist() != kept:
                raise _foreign(path, f"{name!r} would lose more along axis {axis} than it says")
    return tuple(sorted(gone))


def _foreign(path: str, cause: str) -> AdaptError:
    return AdaptError(
        "LPT-ADAPT-016",
        f"The recipe {path} does not belong to this model",
        cause=cause,
        remedy="Apply it to the model that it was written for.",
    )


__all__ = [
    "FILE",
    "SCHEMA",
    "describe_groups",
    "kept_indices",
    "read",
    "removed_by",
    "without_times",
    "write",
]
