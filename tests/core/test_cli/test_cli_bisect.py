"""What ``lepton bisect`` shows of what it found."""

from __future__ import annotations

import io

import pytest

from lepton_core.bisecting import Bisection, Parting, Side
from lepton_core.cli._app import App
from lepton_core.cli._bisect import _show
from lepton_core.types import Model

TOLERANCE = 0.004


def value(number, error, own=None, max_abs=0.1):
    return Parting(
        f"v{number}", "Add", f"n{number}", "net.py:1", error, max_abs, 1.0, 1.0, own
    )  # fmt: skip


def bisection(values, **more):
    side = Side("a", None, "fp32", Model("onnx", "pivot.onnx"))
    parted = next((one for one in values if one.error > TOLERANCE), None)
    culprit = next((one for one in values if (one.own or 0) > TOLERANCE), None)
    given = {"contributors": (), "outputs_part": True, "faithful": None, **more}
    return Bisection(side, side, TOLERANCE, 64, tuple(values), parted, culprit, **given)


def shown(found, *, show_all=False):
    stream = io.StringIO()
    _show(App(out=stream, err=stream), found, show_all=show_all)
    lines = stream.getvalue().splitlines()
    end = lines.index("", lines.index("") + 1)
    return lines[lines.index("") + 2 : end], lines[end + 1 :]


# what a digits network gave, int8 on OpenVINO against fp32 on ONNX Runtime
FEW = [value(0, 7.2e-3, 7.2e-3), value(1, 1.22e-2), value(2, 9.88e-3), value(3, 1e-3)]
MANY = [value(n, 1e-3, 1e-3) for n in range(40)] + [
    value(40, 5e-3, 4.5e-3), *(value(n, 9e-3) for n in range(41, 70)),
    *(value(n, 1e-3) for n in range(70, 79)),
]  # fmt: skip


def test_every_value_over_the_tolerance_is_marked():
    rows, said = shown(bisection(FEW))
    marks = [row.partition(" v")[0].strip() for row in rows]
    assert marks == ["parts, made", "parts", "parts", "-"]
    assert not any("Shown" in line for line in said)
    assert sum("Own errors that are missing were not measured" in line for line in said) == 1


def test_what_is_left_out_is_said():
    rows, said = shown(bisection(MANY))
    assert len(rows) == 7
    assert said[0].startswith("Shown: 7 of 79 values, around the first to part")
    assert "30 of the 79 part. --all shows every value." in said[0]
    rows, said = shown(bisection(MANY), show_all=True)
    assert len(rows) == 79 and "Shown" not in said[0]
    assert sum(row.startswith("parts") for row in rows) == 30


def test_nothing_parts():
    rows, said = shown(bisection([value(n, n * 1e-5) for n in range(79)]))
    assert len(rows) == 3
    assert said == [
        "Shown: 3 of 79 values, with the largest errors; none parts. --all shows every value.",
        "No value parts: every error is within 0.004.",
    ]


@pytest.mark.parametrize(("inside", "mark"), [(False, "-"), (True, "parts")])
def test_tiny_values_of_a_pivot_do_not_part(inside, mark):
    """As the search itself has it: below 1e-6 only an artifact's own values count."""
    tiny = value(1, 0.5, max_abs=1e-8)
    rows, _ = shown(bisection([value(0, 5e-3, 5e-3), tiny], inside=inside))
    assert rows[1].split()[0] == mark
