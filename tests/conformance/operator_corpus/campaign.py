"""Runs tests on targets, each through lepton's own hooks, and keeps what came of them."""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

from lepton_core.environment import version_of
from lepton_core.errors import LeptonError

from . import corpus
from .compare import difference

TARGETS = ("onnxruntime", "openvino", "tflite", "coreml")
VERSIONS = (
    "onnx", "onnxruntime", "openvino", "litert-torch", "ai-edge-litert", "coremltools", "torch",
)  # fmt: skip
PASS, CHECK, CONVERT, RUN, NUMBERS, CRASH = (
    "pass", "check", "convert", "run", "numbers", "crash",
)  # fmt: skip
REFUSED = (CHECK, CONVERT)
_CRASHES = ("LPT-CONV-001", "LPT-PLUG-010", "LPT-PLUG-011", "LPT-WORK-")
_TESTS_OF_A_PROCESS = 150
_PLACE = re.compile(r"/\S*/(?=\w+\.onnx)")
"""Folder of a model, which is another one each time."""


class Bench:
    """Converts, opens and compares; the workers stay warm from test to test."""

    def __init__(self, folder):
        from lepton_core.dispatch import Hooks
        from lepton_core.registry import Registry
        from lepton_core.workers import WorkerPool

        self.folder = folder
        self.pool = WorkerPool()
        self.hooks = Hooks(Registry(), self.pool)

    def close(self):
        """End the workers."""
        self.pool.close()

    def outcome(self, name, target):
        """Run one test on one target.

        Returns:
            ``outcome``: ``pass``; ``check`` or ``convert``, it was refused there; ``run``, it was
            converted and cannot be opened or run; ``numbers``, they differ; ``crash``, a process
            ended or something else than an expected error came. ``held``: what was made
            constant. ``code`` and ``reason`` of all but a pass.
        """
        last = None
        for way in corpus.WAYS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # values overflow on purpose
                made = corpus.prepared(name, way)
                found = None if made is None else {**self._tried(name, target, *made), "held": way}
            if found is None:
                continue
            if found["outcome"] not in REFUSED:
                return found
            last = found
        return last

    def _tried(self, name, target, model, arrays, expected):
        place = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            found = self._compared(place, target, model, arrays, expected, name)
        except LeptonError as error:
            found = _failed(CONVERT, error)
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
            found = {"outcome": CRASH, "code": None, "reason": reason}
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return found

    def _compared(self, place, target, model, arrays, expected, name):
        from lepton_core import types
        from lepton_core.context import Context
        from lepton_core.preflight import check

        source, work = place / "model.onnx", place / "work"
        work.mkdir()
        source.write_bytes(model.SerializeToString())
        context = Context(work)
        report = check(str(source), (target,), self.hooks, context)
        (judged,) = report.targets
        if not judged.ok:
            reason = "; ".join(judged.reasons)[:300]
            return {"outcome": CHECK, "code": judged.code, "reason": reason}
        read = report.inspection.model
        built = self.hooks.convert(read, types.ConvertRequest(target), context).model
        try:
            device = "reference" if target == "coreml" else None
            request = types.OpenRequest(target, device)
            with self.hooks.open(built, request, context) as session:
                outputs = session.run(arrays)
        except LeptonError as error:
            return _failed(RUN, error)
        wrong = difference(list(outputs.values()), expected, corpus.nodes().cases()[name])
        return (
            {"outcome": PASS} if wrong is None
            else {"outcome": NUMBERS, "code": None, "reason": wrong}
        )  # fmt: skip


def _failed(outcome, error):
    if error.code.startswith(_CRASHES):
        outcome = CRASH
    parts = (error.message, error.cause)
    reason = " ".join(" ".join(p for p in parts if p).split())
    return {"outcome": outcome, "code": error.code, "reason": reason[:300]}


def _serve(connection, folder):
    """Answer pairs of a test and a target with their outcomes, in a process of its own."""
    tempfile.tempdir = str(folder)
    bench = Bench(Path(folder))
    try:
        while (asked := connection.recv()) is not None:
            connection.send(bench.outcome(*asked))
    except EOFError:
        pass
    finally:
        bench.close()


class Runner:
    """A process that runs tests: another takes its place when one ends, or has run many."""

    def __init__(self):
        self._process = None
        self._left = 0

    def outcome(self, name, target):
        """Run one test on one target; the end of the process is its outcome too."""
        if not self._left:
            self.close()
            self._start()
        self._left -= 1
        try:
            self._connection.send((name, target))
            return self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            self.close()
            reason = f"the process ended with {code}"
            return {"outcome": CRASH, "code": None, "reason": reason, "held": "given"}

    def _start(self):
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.mkdtemp(prefix="operators-")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._folder))
        self._process.start()
        theirs.close()
        self._left = _TESTS_OF_A_PROCESS

    def close(self):
        """End the process."""
        if self._process is None:
            return
        with suppress(OSError):
            self._connection.send(None)
        self._connection.close()
        self._process.join(60)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._process, self._left = None, 0


def versions():
    """Return what the outcomes depend on."""
    return {name: version_of(name) for name in VERSIONS}


def run(asked, journal, say=lambda _: None):
    """Run pairs of a test and a target that a journal has no outcome of, and write them there.

    Args:
        asked: The pairs, in the order in which they are run.
        journal: A file of one JSON object a line; a run that was stopped goes on from it.
        say: Is told how far it is.

    Returns:
        The outcomes by pair.

    Raises:
        ValueError: The journal was written with other versions.
    """
    found = dict(_read(journal))
    left = [pair for pair in asked if pair not in found]
    runner = Runner()
    try:
        with journal.open("a", encoding="utf-8") as lines:
            if not journal.stat().st_size:
                lines.write(json.dumps({"versions": versions()}) + "\n")
            for number, (name, target) in enumerate(left):
                found[name, target] = one = runner.outcome(name, target)
                lines.write(json.dumps({"test": name, "target": target, **one}) + "\n")
                lines.flush()
                if number % 100 == 99:
                    say(f"{number + 1} of {len(left)}")
    finally:
        runner.close()
    return {pair: found[pair] for pair in asked}


def _read(journal):
    if not journal.exists():
        return
    lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    if lines and lines[0]["versions"] != versions():
        raise ValueError(f"{journal} was written with other versions; remove it to begin anew")
    for line in lines[1:]:
        yield (line.pop("test"), line.pop("target")), line


def results(outcomes, tests, most):
    """Return JSON types: what the page is written from.

    Args:
        outcomes: By test and target.
        tests: The tests that were run, by operator.
        most: How many of an operator at most.
    """
    held = {target: {} for target in TARGETS}
    failing = {target: {} for target in TARGETS}
    for (name, target), one in outcomes.items():
        if one["outcome"] == PASS:
            held[target].setdefault(one["held"], []).append(name)
        else:
            reason = _PLACE.sub("", one["reason"])
            failing[target][name] = [one["outcome"], one["code"], reason]
    return {
        "versions": versions(),
        "most": most,
        "whole": {o: len(names) for o, names in corpus.tests().items()},
        "tests": tests,
        "held": {
            t: {way: sorted(names) for way, names in ways.items() if way != corpus.WAYS[0]}
            for t, ways in held.items()
        },
        "failing": failing,
    }


def merged(before, found, asked):
    """Return results with some pairs of a test and a target measured again.

    Args:
        before: The results so far.
        found: Those of the pairs that were run.
        asked: These pairs.

    Raises:
        ValueError: They are of other tests or versions.
    """
    for key in ("versions", "most", "whole", "tests"):
        if before[key] != found[key]:
            raise ValueError(f"measured with other {key}; measure all operators again")
    for name, target in asked:
        before["failing"][target].pop(name, None)
        for names in before["held"][target].values():
            if name in names:
                names.remove(name)
    for target in TARGETS:
        before["failing"][target] |= found["failing"][target]
        for way, names in found["held"][target].items():
            own = before["held"][target].setdefault(way, [])
            own[:] = sorted({*own, *names})
    return before


__all__ = ["TARGETS", "Bench", "difference", "merged", "results", "run", "versions"]
