"""Misbehaves on request, in each of the ways that a backend may."""

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

from lepton_core.errors import ConversionError
from lepton_core.markers import hookimpl
from lepton_core.types import CheckResult, ConvertRequest, ConvertResult


class _ForeignResult:
    pass


def _raise(request, context):
    raise ZeroDivisionError("a fault of the plugin")


def _expected(request, context):
    raise ConversionError(
        "ROGUE-CONV-001",
        "The operator Frobnicate has no counterpart",
        cause="net.py:31",
        remedy="Replace it.",
        details={"operator": "Frobnicate"},
    )


def _odd_details(request, context):
    raise ConversionError("ROGUE-CONV-002", "An error with odd details", details={"x": object()})


def _disk_full(request, context):
    raise OSError(28, "No space left on device", "model.bin")


def _exit(request, context):
    print("last words on stdout", flush=True)
    print("last words on stderr", file=sys.stderr, flush=True)
    os._exit(7)


def _fork_and_exit(request, context):
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    os._exit(9)


def _abort(request, context):
    os.abort()


def _segfault(request, context):
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)


def _quit(request, context):
    sys.exit("a backend that calls sys.exit")


def _hang(request, context):
    Path(context.workdir, "pid").write_text(str(os.getpid()))
    time.sleep(600)


def _eat(request, context):
    eaten = []
    while True:
        eaten.append(bytearray(b"x" * (16 << 20)))
        time.sleep(0.01)


def _out_of_memory(request, context):
    return bytearray(1 << 62)


def _chatter(request, context):
    for number in range(20_000):
        print("chatter of a backend", number, "x" * 100)
    os.write(1, b"raw bytes to the standard output\n")
    os.write(2, b"raw bytes to the standard error\n")


def _report(request, context):
    context.reporter.note("a remark")
    context.reporter.warn("a warning")
    bar = context.reporter.task("convert", 3)
    for _ in range(3):
        bar.advance()
    bar.finish("done")


def _report_later(request, context):
    bar = context.reporter.task("from a thread", 1)

    def later():
        time.sleep(0.2)
        bar.advance()

    threading.Thread(target=later, daemon=True).start()


def _sleep(request, context):
    time.sleep(request.options["seconds"])


def _words(request, context):
    context.about_to("reading", reproducer=request.options.get("reproducer"))
    context.about_to("lowering", operator="Frobnicate", where="net.py:31")


def _words_and_raise(request, context):
    _words(request, context)
    shutil.rmtree(request.options["reproducer"])  # as a plugin that ends in order does
    _raise(request, context)


def _words_and_exit(request, context):
    _words(request, context)
    os._exit(7)


def _words_and_hang(request, context):
    _words(request, context)
    _hang(request, context)


def _words_and_note(request, context):
    _words(request, context)
    context.reporter.note("a remark")
    _hang(request, context)


def _bar_and_exit(request, context):
    context.reporter.task("read", 1).finish("done")
    context.reporter.task("fold constants", 3).advance()
    os._exit(7)


_ACTIONS = {
    "raise": _raise,
    "expected": _expected,
    "odd-details": _odd_details,
    "disk-full": _disk_full,
    "exit": _exit,
    "fork-and-exit": _fork_and_exit,
    "abort": _abort,
    "segfault": _segfault,
    "quit": _quit,
    "hang": _hang,
    "eat": _eat,
    "out-of-memory": _out_of_memory,
    "chatter": _chatter,
    "report": _report,
    "report-later": _report_later,
    "sleep": _sleep,
    "words": _words,
    "words-and-exit": _words_and_exit,
    "words-and-raise": _words_and_raise,
    "words-and-hang": _words_and_hang,
    "words-and-note": _words_and_note,
    "bar-and-exit": _bar_and_exit,
}
_ODD_RESULTS = {
    "decline": None,
    "text": "a string",
    "foreign": _ForeignResult(),
    "check": CheckResult("fits"),
}


@hookimpl
def lepton_convert(model, request, context):
    """Do what ``options["do"]`` says, else return the model with facts about this process."""
    what = request.options.get("do", "")
    if what in _ODD_RESULTS:
        return _ODD_RESULTS[what]
    if what in _ACTIONS:
        _ACTIONS[what](request, context)
    facts = {"pid": os.getpid(), "seed": context.seed, "workdir": str(context.workdir)}
    if what == "big":
        facts["big"] = "x" * request.options["size"]
    if what == "unencodable":
        facts["lock"] = threading.Lock()
    return ConvertResult(model.evolve(format=request.to_format), facts)


@hookimpl
def lepton_optimize(model, request, context):
    """Convert in this process, as engines do, then do what ``options["then"]`` says."""
    asked = ConvertRequest("rogue", options=request.options)
    with contextlib.suppress(ConversionError):
        context.hooks.convert(model, asked, context)
    _ACTIONS[request.options["then"]](request, context)


@hookimpl
def lepton_open(model, request, context):
    """Return something that is no session."""
    return "not a session"
