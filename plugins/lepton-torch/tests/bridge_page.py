"""The page of the bridge's test results, from the results."""

from __future__ import annotations

from collections import Counter

import bridge_nodes
import onnx

from lepton_torch._bridge import catalogue
from lepton_torch._bridge._graph import NEWEST, OLDEST

_HEAD = """# Tests of the bridge

<!-- Written by .ci/bridge.py; run that, and do not change this page. -->

What [the bridge](bridge.md) makes of the node tests of onnx {version}: each test is a graph of one
operator, or of the body that ONNX defines for it, with inputs and the outputs of ONNX's reference.
Each is translated, exported with `torch.export` and compared with the test's own tolerance, types
and shapes included.

Of the {passed} that pass, {nothing} are translated as they are given. In {needed} the inputs that a
translation must know, such as axes and shapes, were made constants first; {numbers} were refused
even so, and pass with all inputs constant that are whole numbers, truth values or scalars.

`python .ci/bridge.py` measures it again (some minutes); `make conformance` holds the results
against this page, `make test` does so with the tests that are no bodies, without the export.

| | tests | pass | share |
|---|---:|---:|---:|
"""


def page(results):
    """Return the page in Markdown.

    Args:
        results: ``failing`` by test with the reason, ``held`` with the others counted by what was
            made constant for them, and ``runtime`` with tests that agree with onnxruntime by
            operator (``same``) and those that do not with the reason (``differs``).
    """
    cases, failing = bridge_nodes.cases(), results["failing"]
    outside = {n for n, reason in failing.items() if reason.startswith(bridge_nodes.OUTSIDE)}
    inside = set(cases) - outside
    lines = [
        _HEAD.format(
            version=onnx.__version__, passed=sum(results["held"].values()),
            **{kind: results["held"].get(kind, 0) for kind in ("nothing", "needed", "numbers")},
        )
        + _row(f"of operators that are covered, opset {OLDEST} to {NEWEST}", inside, failing),
        _row("the same and those outside of it: other opsets, types that torch has not",
             set(cases), failing),
        _row("all, operators that are not covered too",
             {c.name for c in bridge_nodes.every_case()}, set(failing) | _uncovered()),
        "", *_families(inside, failing),
        "", *_reasons(failing),
        "", *_others(), "", *_runtime(results["runtime"]), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _row(label, names, failing):
    passed = len(names - set(failing))
    return f"| {label} | {len(names)} | {passed} | {100 * passed / len(names):.1f} % |"


def _families(names, failing):
    by_operator = {}
    for name in names:
        by_operator.setdefault(bridge_nodes.subject(bridge_nodes.cases()[name]), set()).add(name)
    yield "## By family"
    yield ""
    yield "| family | operators | tests | pass | not all of |"
    yield "|---|---:|---:|---:|---|"
    for family, listed in {**catalogue.FAMILIES, "expanded": catalogue.EXPANDED}.items():
        operators = listed.split()
        own = set().union(*(by_operator.get(o, set()) for o in operators))
        weak = []
        for operator in operators:
            tests = by_operator.get(operator, set())
            if tests & set(failing):
                weak.append(f"`{operator}` ({len(tests - set(failing))} of {len(tests)})")
        passed = len(own - set(failing))
        yield (
            f"| {family} | {len(operators)} | {len(own)} | {passed} | {', '.join(weak) or '-'} |"
        )
    untested = sorted(o for o in catalogue.NAMES if o not in by_operator and o not in ("Constant",))
    if untested:
        yield ""
        yield f"No test within these opsets: {', '.join(f'`{o}`' for o in untested)}."


def _reasons(failing):
    found = {}
    for name, reason in failing.items():
        found.setdefault(reason, []).append(bridge_nodes.subject(bridge_nodes.cases()[name]))
    yield "## What does not pass"
    yield ""
    yield "| reason | tests | operators |"
    yield "|---|---:|---|"
    for reason, operators in sorted(found.items(), key=lambda item: (-len(item[1]), item[0])):
        listed = ", ".join(f"`{o}`" for o in sorted(set(operators)))
        yield f"| {reason} | {len(operators)} | {listed} |"


def _uncovered():
    return {c.name for c in bridge_nodes.every_case()} - set(bridge_nodes.cases())


def _others():
    counts = Counter()
    for case in bridge_nodes.every_case():
        odd = [n for n in case.model.graph.node
               if n.domain not in ("", "ai.onnx") or n.op_type not in catalogue.NAMES]  # fmt: skip
        if odd:
            counts[odd[0].op_type] += 1
    yield "## Operators that are not covered"
    yield ""
    yield ", ".join(f"`{name}` ({count})" for name, count in sorted(counts.items())) + "."
    yield "In brackets: the tests that need them."


def _runtime(results):
    same = results["same"]
    yield "## Against onnxruntime"
    yield ""
    yield (
        f"The tests with one operator that onnxruntime can run too, floats drawn anew: "
        f"{sum(same.values())} tests of {len(same)} operators agree."
    )
    if results["differs"]:
        yield ""
        yield "| test | reason |"
        yield "|---|---|"
        for name, reason in sorted(results["differs"].items()):
            yield f"| `{name}` | {reason} |"
