"""What several of the long tests start from: the digits network, trained and ported."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import lepton_core as lepton
from lepton_core.dispatch import Hooks
from lepton_core.porting import Variant
from lepton_core.registry import Registry
from lepton_core.workers import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DIGITS = Path(__file__).parents[2] / "docs" / "examples" / "digits.py"
Variants = dict[tuple[str, str], Variant]


@pytest.fixture(scope="module")
def hooks() -> Iterator[Hooks]:
    """Hooks of the installed plugins, with workers."""
    with WorkerPool() as pool:
        yield Hooks(Registry(), pool)


@pytest.fixture(scope="module")
def port_digits(
    tmp_path_factory: pytest.TempPathFactory, hooks: Hooks
) -> Callable[[Sequence[str]], tuple[Path, Variants]]:
    """Return what trains the digits network and ports it, as fp32 and int8, to targets.

    It returns the folder, with ``digits.npz`` in it, and the variants by target and precision.
    """

    def port(targets: Sequence[str]) -> tuple[Path, Variants]:
        folder = tmp_path_factory.mktemp("digits")
        shutil.copy(DIGITS, folder / "digits.py")
        subprocess.run([sys.executable, "digits.py"], cwd=folder, check=True, capture_output=True)
        result = lepton.port(
            f"{folder / 'digits.py'}:net",
            targets=targets,
            precisions=["fp32", "int8"],
            samples=folder / "digits.npz",
            max_drop=0.02,
            out=folder / "out",
            latency_seconds=0,
            hooks=hooks,
        )
        return folder, {(v.target, v.precision): v for v in result.variants}

    return port
