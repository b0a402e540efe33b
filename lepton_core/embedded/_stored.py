"""A version of the store as what is deployed: under another name or target, as a bundle."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from lepton_core.errors import UsageError
from lepton_core.origins import find_origin
from lepton_core.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_core.embedded._deploy import Options
    from lepton_core.store import View
    from lepton_core.types import Model


@contextmanager
def taken_up(model: Model, options: Options, artifact: str) -> Iterator[tuple[Model, Options]]:
    """Yield what to deploy, and the options with what is stored about it.

    A version for the same format goes on with its passport, recipe and golden pairs. One for
    another format is lowered from its origin, by its recipe if it has one and no other precision
    is asked for, and tried anew.

    Args:
        model: A model, which is yielded as it is, or ``Model("deployment", "NAME@ALIAS")``.
        options: Options of the caller; what they say counts more than what is stored.
        artifact: Format of the target's artifacts.

    Raises:
        UsageError: LPT-STORE-006 … 009, the reference leads nowhere; LPT-DEP-014, the artifact is
            there already and has another precision than was asked for.
        StorageError: LPT-STORE-002 … 004, there is no store, or something in it is damaged.
    """
    if model.format != "deployment":
        yield model, options
        return
    with Store(options.store, create=False) as store:
        version = store.resolve(model.path).version
        with store.view(version, origin=True) as view:
            same = view.model.format == artifact
            other = options.precision not in ("", version.precision)
            if same and other:
                raise _built_already(model.path, version.precision, options.precision)
            options = replace(
                options,
                precision=options.precision or version.precision,
                recipe=options.recipe or (() if other else _files(view, "recipe")),
                why=options.why or f"from {model.path} ({version.id})",
            )
            if not same:
                yield find_origin(view.model) or view.model, options
                return
            passport, golden = _files(view, "passport"), version.role("golden")
            keep = golden and options.samples is None and options.golden_rows > 0
            yield (
                view.model,
                replace(
                    options,
                    passport=options.passport or next(iter(passport), None),
                    golden=str(view.folder / "golden") if keep else None,
                ),
            )


def _built_already(reference: str, built: str, asked: str) -> UsageError:
    return UsageError(
        "LPT-DEP-014",
        f"{reference} was built as {built}, and cannot be deployed as {asked}",
        cause="a version for the same format goes on as it is",
        remedy="Leave the precision out, or build the other one: lepton port MODEL "
        f"--precision {asked}",
    )


def _files(view: View, role: str) -> tuple[str, ...]:
    return tuple(str(view.folder / file.path) for file in view.version.role(role))


__all__ = ["taken_up"]
