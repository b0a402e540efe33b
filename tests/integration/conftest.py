"""Fixtures that install built wheels into clean environments outside the tree."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / ".ci"))

from devtools import clean_env as clean
from devtools import wheels as building

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

INTEGRATION = Path(__file__).resolve().parent


class MakeCleanEnv(Protocol):
    """Makes a clean environment of named first-party distributions."""

    def __call__(
        self, *distributions: str, extras: Sequence[str] = (), requirements: Sequence[str] = ()
    ) -> clean.CleanEnv: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test of this folder, so that `-m "not integration"` leaves them out."""
    for item in items:
        if INTEGRATION in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def wheelhouse() -> Mapping[str, building.Wheel]:
    """The wheels of all first-party distributions by name, built anew where sources changed."""
    return building.build_all()


@pytest.fixture(scope="session")
def clean_env(wheelhouse: Mapping[str, building.Wheel]) -> Iterator[MakeCleanEnv]:
    """A function that makes a clean environment; the same request gets the same one again.

    Tests share environments and must not install into them.
    """
    made: dict[tuple[tuple[str, ...], ...], clean.CleanEnv] = {}

    def make(
        *distributions: str, extras: Sequence[str] = (), requirements: Sequence[str] = ()
    ) -> clean.CleanEnv:
        key = (tuple(sorted(distributions)), tuple(sorted(extras)), tuple(sorted(requirements)))
        if key not in made:
            made[key] = clean.create(
                distributions, wheelhouse, extras=extras, requirements=requirements
            )
        return made[key]

    yield make
    for env in made.values():
        env.remove()
