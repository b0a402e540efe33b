"""The page of the operators that pass on each target, from the results."""

from __future__ import annotations

import re
from collections import Counter

from lepton_torch._bridge import catalogue

NAMES = {
    "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tflite": "LiteRT", "coreml": "Core ML",
}  # fmt: skip
OUTCOMES = {
    "check": "refused by `lepton check`",
    "convert": "refused at conversion",
    "run": "converted, and refused when opened or run",
    "numbers": "other numbers",
    "crash": "crash",
}
"""Columns of tests that do not pass."""
_HEAD = """# Operators by target

<!-- Written by .ci/operators.py; run that, and do not change this page. -->

What becomes of ONNX's own node tests on each target. Every test is a graph of one operator with
inputs and the outputs of ONNX's reference. It is checked, made a pivot and converted in fp32 as
`lepton check` and `lepton convert` do, opened on the target's runtime (Core ML: the reference
interpreter, so a graph proof and no device proof) and compared: types, shapes, and numbers by the
test's own tolerance; half precision may differ by 2 units in the last place if that is more.

- **Tests**: those of onnx {onnx} whose operator [the bridge](bridge.md) covers and whose operator
  means the same in an opset from 13 to 24, with arrays of numbers. Bodies that ONNX expands
  functions to (`_expanded`) are left out. That makes {whole} tests of {operators} operators. At
  most {most} an operator are run: the first by name, the middle one, those of the quarters and so
  on; that is {tests} tests on each target.
- **Inputs**: those that a translation must know, such as axes and sizes, are made constants. A test
  that is refused even so is tried with all inputs constant that are whole numbers, truth values or
  scalars, and then with all but one constant, as weights are; the last section counts those.
- **Types**: a session takes and gives the types of the model. LiteRT and Core ML compute int64 as
  int32, Core ML float64 as float32; numbers beyond that are refused. Types that a target's sessions
  cannot pass count as refused here.

Versions: {versions}.

`python .ci/operators.py` measures it again (about an hour; it goes on where it was stopped).
`make conformance` holds a sample of the results against this page.

## All tests

"""


def page(results):
    """Return the page in Markdown.

    Args:
        results: What :func:`.campaign.results` returns.
    """
    tests = results["tests"]
    count = sum(map(len, tests.values()))
    lines = [
        _HEAD.format(
            onnx=results["versions"]["onnx"], whole=sum(results["whole"].values()),
            operators=len(tests), most=results["most"], tests=count,
            versions=", ".join(f"{n} {v}" for n, v in results["versions"].items()),
        )
        + "\n".join(_totals(results, count)),
        "", *_passable(results),
        "", *_families(results),
        "", *_operators(results),
        "", *_held(results), "",
    ]  # fmt: skip
    return "\n".join(lines)


def cells(*parts):
    """Return a row of a table."""
    return f"| {' | '.join(str(part) for part in parts)} |"


def share(part, whole):
    """Return a share in percent."""
    return f"{100 * part / whole:.1f} %"


def _totals(results, count):
    yield cells("target", "tests", "pass", "share", *OUTCOMES.values())
    yield f"|---|{'---:|' * (3 + len(OUTCOMES))}"
    for target, name in NAMES.items():
        failing = results["failing"][target]
        kinds = Counter(outcome for outcome, _, _ in failing.values())
        passed = count - len(failing)
        counted = (kinds[outcome] for outcome in OUTCOMES)
        yield cells(name, count, passed, share(passed, count), *counted)


def _passable(results):
    """Yield the shares among tests whose types a target's sessions can pass."""
    count = sum(map(len, results["tests"].values()))
    parts = []
    for target, name in NAMES.items():
        failing = results["failing"][target]
        typed = sum(is_of_types(reason) for _, _, reason in failing.values())
        passed = count - len(failing)
        parts.append(f"{name} {share(passed, count - typed)} ({passed} of {count - typed})")
    yield (
        "Without the tests whose inputs or outputs are of types that the target's sessions cannot "
        f"pass: {', '.join(parts)}."
    )


def is_of_types(reason):
    """Tell whether a test is refused for the types of its inputs or outputs."""
    return "is of a kind that" in reason


def _families(results):
    families = {**catalogue.FAMILIES, "expanded": catalogue.EXPANDED}
    yield "## By family"
    yield ""
    yield cells("family", "operators", "tests", *NAMES.values())
    yield f"|---|{'---:|' * (2 + len(NAMES))}"
    for family, listed in families.items():
        own = {o: results["tests"][o] for o in listed.split() if o in results["tests"]}
        names = [name for tests in own.values() for name in tests]
        if names:
            passed = (
                len(names) - len(set(names) & set(results["failing"][target])) for target in NAMES
            )
            shares = (f"{p} ({share(p, len(names))})" for p in passed)
            yield cells(family, len(own), len(names), *shares)
    yield ""
    yield "`expanded` are operators that the bridge writes as ONNX's own body for them."


def _operators(results):
    of = {name: o for o, names in results["tests"].items() for name in names}
    for number, (target, name) in enumerate(NAMES.items()):
        yield from [""] * (number > 0)
        yield f"## What does not pass on {name}"
        yield ""
        found = {}
        for test, why in results["failing"][target].items():
            found.setdefault((of[test], in_words(*why)), []).append(test)
        if not found:
            yield "All tests pass."
            continue
        yield cells("operator", "tests", "fail", "why")
        yield "|---|---:|---:|---|"
        for (operator, why), failed in sorted(found.items()):
            yield cells(f"`{operator}`", len(results["tests"][operator]), len(failed), why)


_CONVERTERS = re.compile(r"(coremltools|litert-torch|OpenVINO|ONNX Runtime) [\d.]+")
_KIND = re.compile(r": (\w+)\[([^]]*)\] is of a kind that")
_UNKNOWN = re.compile(r"(coremltools|OpenVINO) has no (?:translation|conversion rule) (?:of|for) "
                      r"(?:the operator )?'?([\w.:]+)'?")  # fmt: skip
_STOPS = re.compile(r"(coremltools|litert-torch|OpenVINO) cannot convert '?([\w.:]+)'?")
_HELD = re.compile(r"takes (\w+) constants, which litert-torch cannot hold")
_BECAUSE = {
    "LPT-CONV-115": "a size or an axis follows from the values of the inputs",
    "LPT-CONV-216": "no kernel takes a zero point for each output of the weight",
    "LPT-CONV-306": "its one open input has no values, and OpenVINO lets it go",
    "LPT-CONV-406": "the converter gives a file with other numbers",
    "LPT-RUN-408": "LiteRT does not run a batch without rows",
}
_LONGEST = 120


def in_words(outcome, code, reason):
    """Return why a test does not pass, the same for tests of one kind.

    Args:
        outcome: A key of :data:`OUTCOMES`.
        code: Code of the error, or ``None``.
        reason: What was said.
    """
    said = _CONVERTERS.sub(r"\1", reason)
    if kinds := _KIND.findall(said):
        named = {"arrays without values" if "0" in d.split(", ") else k for k, d in kinds}
        why = f"sessions do not pass {', '.join(sorted(named))}"
    elif outcome == "numbers":
        why = f"other numbers: {_numbers(said)}"
    elif "cannot be run: " in said:
        why = said.partition("cannot be run: ")[2].partition(".;")[0]
    elif found := _HELD.search(said):
        why = f"litert-torch holds no constants of {found[1]}"
    elif "has no conversion rule" in said and outcome == "check":
        why = "OpenVINO has no conversion rule"
    elif found := _UNKNOWN.search(said):
        why = f"{found[1]} has no translation of `{found[2]}`"
    elif found := _STOPS.search(said):
        what = "the model" if found[2] == "the" else f"`{found[2]}`"
        why = f"{found[1]} cannot convert {what}{_detail(said)}"
    else:
        why = said[:_LONGEST]
    why = _BECAUSE.get(code, why)
    return f"**{outcome}**: {_plain(why)}" if outcome in ("run", "crash") else _plain(why)


def _numbers(said):
    """Return how many numbers differ, and by how much."""
    text = said.partition(": ")[2]
    if " nan location" in text:
        return "not a number where the reference has one, or the other way round"
    many = re.search(r"Mismatched elements: (\d+ / \d+)", text)
    far = re.search(r"Max absolute difference[^:]*: ([\d.e+-]+)", text)
    parts = [f"{many[1]} differ" if many else "", f"by up to {far[1]}" if far else ""]
    return " ".join(filter(None, parts)) or text[:_LONGEST]


def _detail(said):
    """Return the point of a converter's own message, as far as it is one of a few."""
    for found, words in (
        (r"rank <= 5", ", which has tensors of more than five axes"),
        (r"dilation > 1", " with dilations"),
        (r"only supported for 4D", " of volumes"),
        (r"Training mode", " as in training"),
        (r"uint8|int8|int16|uint16", " of integers of 8 or 16 bits"),
        (r"of integers", " of integers"),
        (r"scales", ": it takes scales that are constants"),
        (r"must be const", ", whose weights are to be constants"),
    ):
        if re.search(found, said):
            return words
    return ""


def _plain(text):
    return " ".join(text.split()).replace("|", "/").rstrip(".")


def _held(results):
    yield "## Inputs made constant"
    yield ""
    yield "Of the tests that pass, so many were refused with all inputs but the needed ones open:"
    yield ""
    yield cells("target", "pass with numbers constant", "pass with all but one constant")
    yield "|---|---:|---:|"
    for target, name in NAMES.items():
        held = results["held"][target]
        yield cells(name, *(len(held.get(way, ())) for way in ("numbers", "weights")))
