"""Prove this bundle on a Mac.

``python prove_on_mac.py`` checks every file of the bundle by its digest, runs the golden pairs
through Core ML on each of the compute units asked for, measures errors and times, and writes
device-proof.json. Take that file to where the model was ported::

    lepton verify VARIANT --merge device-proof.json

Needs a Mac, Python 3.10 or later, NumPy and coremltools; lepton itself is not needed. Exit code: 0
every unit is within the limits, 1 one is not, 2 the bundle is damaged or cannot be tried.

No Mac has run this file yet: tests run it with a stand-in for coremltools.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Run = Callable[[Mapping[str, Any]], dict[str, Any]]

HERE = Path(__file__).resolve().parent
UTC = datetime.timezone.utc  # noqa: UP017 - Python 3.10 has no other name for it
UNITS = ("CPU_ONLY", "CPU_AND_NE", "ALL")
NEEDED = ("lepton.json", "runtime.py", "features.json", "signature.json", "golden/golden.json")
WARM_UP = 3


class DamagedError(Exception):
    """The bundle is not the one that was shipped."""


# --- the bundle -----------------------------------------------------------------------------------


def checked_files() -> dict[str, str]:
    """Return the digest of every file by name, after comparing each with SHA256SUMS."""
    listed = {}
    try:
        lines = (HERE / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DamagedError(f"SHA256SUMS cannot be read: {error}") from error
    for line in lines:
        digest, _, name = line.partition("  ")
        path = HERE / name
        if not path.is_file() or digest_of(path) != f"sha256:{digest}":
            raise DamagedError(f"{name} is missing or is not the file that was shipped")
        listed[name] = f"sha256:{digest}"
    for name in (*NEEDED, Path(__file__).name):
        if name not in listed:
            raise DamagedError(f"SHA256SUMS does not list {name}")
    return listed


def digest_of(path: Path) -> str:
    """Return ``sha256:<hex>`` of a file."""
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def tree_digest(listed: Mapping[str, str], folder: str) -> str:
    """Return the digest of a folder as lepton takes it, over sorted names and their digests.

    What the Finder writes beside them does not count; any other file that is not listed is refused.
    """
    names = {name[len(folder) + 1 :]: name for name in listed if name.startswith(f"{folder}/")}
    for path in (HERE / folder).rglob("*"):
        name = path.relative_to(HERE / folder).as_posix()
        if path.is_file() and name not in names and not path.name.startswith((".DS_Store", "._")):
            raise DamagedError(f"{folder}/{name} does not belong to the bundle")
    tree = hashlib.sha256()
    for name in sorted(names):
        tree.update(f"{len(name)}:{name}={listed[names[name]]}\n".encode())
    return f"sha256:{tree.hexdigest()}"


def read_json(name: str) -> Any:  # noqa: ANN401 - JSON types
    """Return what a file of the bundle holds."""
    return json.loads((HERE / name).read_text(encoding="utf-8"))


def golden() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return the index of the golden pairs, their inputs and their outputs."""
    import numpy as np

    index = read_json("golden/golden.json")

    def arrays(kind: str) -> dict[str, Any]:
        return {
            name: np.load(HERE / "golden" / file, allow_pickle=False)
            for name, file in index[kind].items()
        }

    return index, arrays("inputs"), arrays("outputs")


def limits_of(listed: Mapping[str, str], index: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits that the passport states; without one, what golden.json states."""
    if "passport/passport.json" not in listed:
        return {"rel_l2": index["rel_l2"], "cosine": -1.0, "max_drop": 0.0, "from": "golden.json"}
    applied = read_json("passport/passport.json")["limits"]["applied"]
    return {key: applied[key] for key in ("rel_l2", "cosine", "max_drop")} | {"from": "passport"}


def loader() -> Callable[..., Run]:
    """Return the function of the bundle's runtime.py that opens a package."""
    sys.path.insert(0, str(HERE))
    try:
        import runtime  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(HERE))
    load: Callable[..., Run] = runtime.load
    return load


# --- numbers --------------------------------------------------------------------------------------


def errors_of(reference: Any, actual: Any) -> dict[str, Any]:  # noqa: ANN401 - arrays
    """Return the errors of an output, by the definitions of lepton's passports, in float64."""
    import numpy as np

    if actual is None:
        return {"problem": "is missing on the device"}
    if actual.shape != reference.shape:
        return {"problem": f"has shape {list(actual.shape)}, not {list(reference.shape)}"}
    rows = max(1, len(reference)) if reference.ndim else 1
    exact = reference.dtype.kind in "iub"
    left, right = reference.astype(np.float64), actual.astype(np.float64)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    if exact:
        same = np.equal(reference, actual)
    both = np.isfinite(left) & np.isfinite(right)
    strange = int(np.count_nonzero(~both & ~same))
    wanted, found = left[both], right[both]
    difference = np.abs(found - wanted)
    error, size, other = (float(np.linalg.norm(part)) for part in (difference, wanted, found))
    result = {
        "exact": exact,
        "rows": rows,
        "mismatched_rows": int((~same).reshape(rows, -1).any(axis=1).sum()),
        "nonfinite_mismatched": strange,
        "max_abs": math.inf if strange else float(difference.max(initial=0.0)),
        "mean_abs": math.inf if strange else float(difference.sum() / max(1, len(difference))),
        "rel_l2": 0.0 if error == 0 else (error / size if size else math.inf),
        "cosine": float(size == other),
    }
    if size and other:
        result["cosine"] = max(-1.0, min(1.0, float(wanted @ found) / size / other))
    if strange:
        result |= {"rel_l2": math.inf, "cosine": math.nan}
    return result


def failures(outputs: Mapping[str, Mapping[str, Any]], limits: Mapping[str, Any]) -> list[str]:
    """Return what exceeds the limits, in words; `lepton verify --merge` judges anew."""
    found = []
    for name, facts in outputs.items():
        if "problem" in facts:
            found.append(f"output {name!r} {facts['problem']}")
        elif facts["exact"]:
            if facts["mismatched_rows"] > limits["max_drop"] * facts["rows"]:
                found.append(
                    f"output {name!r} differs in {facts['mismatched_rows']} of {facts['rows']} rows"
                )
        elif facts["nonfinite_mismatched"]:
            found.append(f"output {name!r} has NaN or infinite values that the pairs have not")
        elif not (facts["rel_l2"] <= limits["rel_l2"] and facts["cosine"] >= limits["cosine"]):
            error, cosine = facts["rel_l2"], facts["cosine"]
            found.append(
                f"output {name!r}: relative L2 error {error:.2g} of at most "
                f"{limits['rel_l2']:g}, cosine {cosine:.6g} of at least {limits['cosine']:g}"
            )
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile of measured times, between neighbours by their distance."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


# --- one run --------------------------------------------------------------------------------------


def try_units(
    load: Callable[[], Run],
    inputs: Mapping[str, Any],
    wanted: Mapping[str, Any],
    times: int,
) -> dict[str, Any]:
    """Open the package, run the golden pairs, and time them.

    Whatever Core ML refuses becomes a problem of every output, not an end of the program.
    """
    began = time.perf_counter()
    try:
        run = load()
        loaded = time.perf_counter() - began
        made = run(inputs)
        outputs = {name: errors_of(array, made.get(name)) for name, array in wanted.items()}
        for _ in range(WARM_UP):
            run(inputs)
        taken = []
        for _ in range(times):
            began = time.perf_counter()
            run(inputs)
            taken.append(1e3 * (time.perf_counter() - began))
    except Exception as error:  # coremltools and Core ML raise what they like
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        return {
            "problem": text,
            "outputs": {name: {"problem": "could not be computed"} for name in wanted},
            "load_ms": None,
            "latency": None,
        }
    batch = next((len(array) for array in inputs.values() if array.ndim), 1)
    return {
        "problem": None,
        "outputs": outputs,
        "load_ms": 1e3 * loaded,
        "latency": {
            "p50_ms": quantile(taken, 0.5),
            "p95_ms": quantile(taken, 0.95),
            "batch": batch,
            "runs": times,
        },
    }


# --- the machine ----------------------------------------------------------------------------------


def told(*command: str) -> str:
    """Return what a command of the system prints, nothing if there is no such command."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()
    return ""


def machine() -> dict[str, str]:
    """Return what computed: system and chip; no name and no serial number of the machine."""
    system, release = platform.system(), platform.release()
    chip = platform.processor() or platform.machine()
    found = {"platform": system.lower(), "os": f"{system} {release}", "build": "", "model": ""}
    if system == "Darwin":
        chip = told("sysctl", "-n", "machdep.cpu.brand_string") or chip
        found = {
            "platform": "macos",
            "os": f"macOS {platform.mac_ver()[0]}",
            "build": told("sw_vers", "-buildVersion"),
            "model": told("sysctl", "-n", "hw.model"),
        }
    return {**found, "chip": chip, "machine": platform.machine()}


def versions() -> dict[str, str]:
    """Return the versions of what ran."""
    import coremltools
    import numpy as np

    return {
        "coremltools": str(coremltools.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


# --- the proof ------------------------------------------------------------------------------------


def encoded(value: Any) -> Any:  # noqa: ANN401 - plain data
    """Return plain data as strict JSON: NaN is null, infinities are texts."""
    if isinstance(value, dict):
        return {str(key): encoded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encoded(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def seal_of(proof: Mapping[str, Any]) -> str:
    """Return the digest of everything in a proof but its seal."""
    rest = {key: value for key, value in proof.items() if key != "seal"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def write(path: Path, proof: Mapping[str, Any]) -> None:
    """Write the proof whole or not at all."""
    text = json.dumps(proof, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)  # noqa: PTH105 - says that it replaces


def prove(units: Sequence[str], times: int) -> dict[str, Any]:
    """Return the proof."""
    listed = checked_files()
    about = read_json("lepton.json")
    folder = str(about["model"])
    digests = {"artifact": tree_digest(listed, folder), "golden": tree_digest(listed, "golden")}
    index, inputs, wanted = golden()
    limits = limits_of(listed, index)
    load = loader()
    runs = []
    for unit in units:
        result = try_units(lambda u=unit: load(HERE / folder, units=u), inputs, wanted, times)
        reasons = failures(result["outputs"], limits)
        verdict = {"verdict": "fail" if reasons else "pass", "why": "; ".join(reasons)}
        runs.append({"units": unit, **result, **verdict})
    proof = {
        "kind": "lepton.device-proof",
        "schema": 1,
        "created": datetime.datetime.now(UTC).isoformat(timespec="seconds"),
        "bundle": {"name": about["name"], "version": about["version"],
                   "sums": digest_of(HERE / "SHA256SUMS")},
        "artifact": {"format": about["format"], "target": about["target"],
                     "precision": about["precision"], "digest": digests["artifact"]},
        "golden": {"digest": digests["golden"], "origin": index["origin"],
                   "rel_l2": index["rel_l2"]},
        "device": machine(),
        "runtime": versions(),
        "limits": limits,
        "runs": runs,
    }  # fmt: skip
    proof = encoded(proof)
    return {**proof, "seal": seal_of(proof)}


def asked() -> argparse.Namespace:
    """Return the arguments of the command line."""
    known = (*UNITS, "CPU_AND_GPU")
    parser = argparse.ArgumentParser(description="Prove this bundle on a Mac.")
    parser.add_argument(
        "--units",
        "--compute-units",
        default=",".join(UNITS),
        help=f"compute units to try, of {', '.join(known)}; default: %(default)s",
    )
    parser.add_argument("--runs", type=int, default=50, help="timed runs; default: %(default)s")
    parser.add_argument(
        "--out", type=Path, default=HERE / "device-proof.json", help="default: %(default)s"
    )
    given = parser.parse_args()
    given.units = [unit.strip() for unit in given.units.split(",") if unit.strip()]
    strange = [unit for unit in given.units if unit not in known]
    if strange or not given.units:
        parser.error(f"compute units are {', '.join(known)}, not {', '.join(strange) or 'none'}")
    if given.runs < 1:
        parser.error("--runs is at least 1")
    given.units = list(dict.fromkeys(given.units))
    return given


def show(proof: Mapping[str, Any], out: Path) -> None:
    """Print what was found."""
    device = proof["device"]
    print(f"{device['chip']}, {device['os']}")
    for run in proof["runs"]:
        times = ""
        if run["latency"] is not None:
            times = "  p50 {p50_ms:.3g} ms, p95 {p95_ms:.3g} ms".format(**run["latency"])
        print(f"  {run['units']:12} {run['verdict']}{times}")
        for line in filter(None, (run["problem"], run["why"])):
            print(f"    {line}")
    print(f"written: {out}\nnext:    lepton verify VARIANT --merge {out.name}")


def main() -> int:
    """Do it; returns the exit code."""
    sys.dont_write_bytecode = True
    given = asked()
    try:
        proof = prove(given.units, given.runs)
    except DamagedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"error: {error}\nhint: pip install numpy coremltools", file=sys.stderr)
        return 2
    write(given.out, proof)
    show(proof, given.out)
    return 0 if all(run["verdict"] == "pass" for run in proof["runs"]) else 1


if __name__ == "__main__":
    sys.exit(main())
