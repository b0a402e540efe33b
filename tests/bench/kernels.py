"""Times the kernels beside their peers, round-robin in one run, and writes JSON and a chart.

Usage: python tests/bench/kernels.py [--rounds 7] [--rows 4096] [--columns 11008] [--out FILE]
                                     [--chart FILE.svg] [--page FILE.md]

Every peer does the same work on the same array; peers that are not installed are left out and
named. Each round runs every peer of a case once, in turn, so that a change of the machine's load
meets all of them; the first round warms up and is dropped. Reported are the best and the median of
wall time and of CPU time (user and system, all threads), the growth of memory in the first round,
where integers come out how many differ from the definition, and the error where there is one.
Peers run on one thread unless their name says otherwise (what takes threads of its own is counted
in CPU time), and so does the linear algebra below NumPy; quick ones take part in three times as
many rounds, those that take seconds in two. Between two of them, threads that spin come to rest.
At the end stand the goals, with what was measured. They are reported, not enforced: what is
measured depends on the machine and on what else it does, so a goal that is missed does not change
the exit code.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import _compression_cases as compression_cases
import _weight_cases as weight_cases
import numpy as np
from _kernel_chart import write_chart
from _kernel_goals import judge
from _kernel_page import write_page
from _kernel_peers import Peer, add_peers
from threadpoolctl import threadpool_limits

import lepton_kernels as lk

# CPU seconds from which on a peer is run twice instead of in every round, and below which it takes
# part in three times as many rounds.
SLOW, QUICK = 4.0, 0.15

# How many times the rows of the others a case takes: the histogram's goals are for 160 M values.
TIMES_THE_ROWS = {"histogram": 3.55}

CASES = {
    name.removeprefix("case_"): function
    for module in (weight_cases, compression_cases)
    for name, function in vars(module).items()
    if name.startswith("case_")
}


def settle():
    """Wait, a second at most, until threads that the last peer left waiting stop spinning.

    They would be counted to the next one, and take the processor that its second thread wants.
    """
    for _ in range(100):
        before = time.process_time()
        time.sleep(0.01)
        if time.process_time() - before < 0.001:
            return


def measure(run):
    settle()
    cpu, wall = time.process_time(), time.perf_counter()
    result = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return wall, cpu, result


def memory(key):
    """Resident kilobytes by a name of Linux (VmRSS, VmHWM); None elsewhere."""
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    lines = dict(line.split(":", 1) for line in text.splitlines())
    return int(lines[key].split()[0]) if key in lines else None


def forget_peak():
    """Makes the peak of resident memory begin anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def give_back():
    """Returns freed memory to the system, where the C library can.

    What glibc keeps in its heap is resident already: a result that is placed there would seem to
    take no memory.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def first_round(peer, want):
    """What one run says besides its time."""
    give_back()
    began = memory("VmRSS") if forget_peak() else None
    _, cpu, result = measure(peer.run)
    peak = memory("VmHWM")
    row = {"values_unlike_definition": None, "error": None, "peak_mb": None, "first_cpu_s": cpu}
    if began is not None and peak is not None:
        row["peak_mb"] = max(0, peak - began) / 1024
    if want is not None and isinstance(result, np.ndarray) and result.shape == want.shape:
        row["values_unlike_definition"] = int(np.count_nonzero(result != want))
    if peer.error is not None:
        row["error"] = peer.error(result)
    return row


def compare(name, w, rounds):
    # NumPy's linear algebra, which some peers spend most of their time in, has threads of its own.
    with threadpool_limits(1):
        return _compare(name, w, rounds)


def _compare(name, w, rounds):
    peers, want = CASES[name](w)
    peers = {name: peer if isinstance(peer, Peer) else Peer(peer) for name, peer in peers.items()}
    more, absent = add_peers(name, w)
    peers |= more
    rows, failed = {}, {}
    for peer, work in peers.items():
        try:
            rows[peer] = first_round(work, want)
        except Exception as error:
            if peer.startswith("lepton"):
                raise
            failed[peer] = f"{type(error).__name__}: {error}"
    times = {peer: [] for peer in rows}
    for number in range(3 * rounds):
        for peer, row in rows.items():
            if number < rounds_of(row["first_cpu_s"], rounds):
                wall, cpu, result = measure(peers[peer].run)
                del result
                times[peer].append((wall / peers[peer].share, cpu / peers[peer].share))
    for peer, row in rows.items():
        row |= {
            "rounds": len(times[peer]),
            "wall_s": summary([wall for wall, _ in times[peer]]),
            "cpu_s": summary([cpu for _, cpu in times[peer]]),
        }
    return rows, absent | failed


def rounds_of(cpu, rounds):
    """How many rounds a peer of so many CPU seconds takes part in."""
    return 2 if cpu > SLOW else 3 * rounds if cpu < QUICK else rounds


def summary(values):
    return {"best": min(values), "median": statistics.median(values), "worst": max(values)}


def environment():
    packages = ("numpy", "torch", "onnxruntime", "openvino", "nncf", "coremltools")
    packages += ("ai-edge-quantizer", "torchao", "gguf", "ml-dtypes")
    versions = {"lepton_kernels": lk.__version__}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    reasons = Path(sys.prefix) / "absent.json"
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": processor(),
        "simd": lk.simd_level(),
        "threads": lk.available_threads(),
        "versions": versions,
        "not_installed": json.loads(reasons.read_text()) if reasons.exists() else None,
    }


def processor():
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.processor()


def weights(name, shape):
    """Gaussian weights of a case."""
    rows = round(shape[0] * TIMES_THE_ROWS.get(name, 1))
    return np.random.default_rng(0).standard_normal((rows, shape[1]), dtype=np.float32)


def about(name, w):
    """What a case does, with the number of its values where it names it."""
    return CASES[name].__doc__.replace("{values}", f"{w.size / 1e6:.1f} M")


def show(name, what, rows, absent):
    print(f"{name}: {what}", file=sys.stderr)
    for peer, row in rows.items():
        best, median = row["cpu_s"]["best"] * 1e3, row["cpu_s"]["median"] * 1e3
        text = f"  {peer:44s} cpu {best:9.1f} (median {median:9.1f})"
        text += f"  wall {row['wall_s']['best'] * 1e3:9.1f} ms"
        if row["peak_mb"] is not None:
            text += f"  +{row['peak_mb']:.0f} MB"
        if row["values_unlike_definition"] is not None:
            text += f"  {row['values_unlike_definition']} unlike"
        if row["error"] is not None:
            text += f"  error {row['error']:.6g}"
        print(text, file=sys.stderr)
    for peer, why in absent.items():
        print(f"  {peer:44s} absent: {why}", file=sys.stderr)


def begin(options, shape):
    """A report without cases, or with those of an earlier one of the same shape."""
    report = {"environment": environment(), "shape": list(shape)}
    report |= {"rounds": max(5, options.rounds), "cases": {}}
    if options.update and options.out and options.out.exists():
        earlier = json.loads(options.out.read_text(encoding="utf-8"))
        if earlier["shape"] == report["shape"]:
            now = report["environment"]
            report["cases"] = {n: c for n, c in earlier["cases"].items() if comparable(c, now)}
        for name in earlier["cases"].keys() - report["cases"].keys():
            print(f"dropped, of another machine, size or version: {name}", file=sys.stderr)
    return report


def comparable(case, environment):
    """Whether a case was measured on the same processor, by the same releases of ours and others.

    Kernels that changed since the release have to be measured again by name (`--case`).
    """
    then = case.get("environment", {})
    return all(then.get(key) == environment[key] for key in ("processor", "simd", "versions"))


def load():
    return os.getloadavg() if hasattr(os, "getloadavg") else None


def finish(out, report):
    """Judges what there is so far and writes it: a run that is stopped leaves its cases."""
    report["goals"] = judge(report["cases"])
    if out:
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Goals are reported and not enforced, because they depend on the machine: the exit "
        "code is 0 also where one is missed.",
    )
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds (at least 5)")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=11008)
    parser.add_argument("--case", action="append", choices=sorted(CASES), help="only these")
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--update", action="store_true", help="keep other cases of the file --out")
    parser.add_argument("--chart", type=Path, help="write a chart (SVG) here")
    parser.add_argument("--page", type=Path, help="write tables between the marks of this page")
    options = parser.parse_args(argv)
    shape = (options.rows, options.columns)
    report = begin(options, shape)
    for name in options.case or CASES:
        w = weights(name, shape)
        before, what = load(), about(name, w)
        rows, absent = compare(name, w, report["rounds"])
        loads = {"load": before, "load_after": load()}
        report["cases"][name] = {"what": what, "peers": rows, "absent": absent}
        report["cases"][name]["environment"] = report["environment"] | loads
        show(name, what, rows, absent)
        finish(options.out, report)
    for goal in report["goals"]:
        line = f"  {goal['verdict']:12s} {goal['goal']}: {goal['measured']} ({goal['set_by']})"
        print(line, file=sys.stderr)
    if options.chart:
        options.chart.write_text(write_chart(report), encoding="utf-8")
    if options.page:
        write_page(options.page, report)
    if not options.out:
        print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
