"""Device proofs: what a device measured on golden pairs, checked here and judged anew.

A bundle is run on the device by a program that it ships, which writes a file of the form that
``docs/reference/passport.md`` describes. Nothing here knows a target: whoever writes such a file
about an artifact and its golden pairs can have it merged into the artifact's passport.

The verdicts in the file are not read. Its seal shows damage and careless changes; it is no
signature, and does not show who measured.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core._passport_schema import check_form, decode_number, encode, validate_passport
from lepton_core.errors import LeptonError
from lepton_core.verdicts import ClassLimits, output_failures

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]

KIND = "lepton.device-proof"
SCHEMA = 1
GRAPH_PROOF = "graph proof, not device proof"
"""What ``variant.session.proof`` says where no device has run the artifact."""
DEVICE_PROOF = "device proof on"
"""What it begins with where one has."""
_NOTE = (
    "The errors by output are those of the graph; on the device the golden pairs were run, not the "
    "held-out samples."
)
_LARGEST = 64 << 20
_LINE = 400

_FORM: dict[str, Any] = {
    "kind": "text",
    "schema": "count",
    "created": "text",
    "bundle": {"name": "text", "version": "text"},
    "artifact": {"digest": "text"},
    "golden": {"digest": "text"},
    "device": {"platform": "text", "os": "text", "chip": "text"},
    "runtime": {},
    "runs": [{"units": "text", "problem?": "text", "outputs": {}, "load_ms?": "number",
              "latency?": {"p50_ms": "number", "p95_ms": "number", "batch": "count",
                           "runs": "count"}}],
    "seal": "text",
}  # fmt: skip
_PROBLEM: dict[str, Any] = {"problem": "text"}
_COUNTS = ("mismatched_rows", "nonfinite_mismatched")
_FLOATS = ("max_abs", "mean_abs", "rel_l2", "cosine")
_NUMBERS: dict[str, Any] = {
    **dict.fromkeys(_COUNTS, "count"),
    **{f"{name}?": "number" for name in _FLOATS},
}


@dataclass(frozen=True, slots=True)
class Golden:
    """Golden pairs as they are known here.

    Attributes:
        digest: Digest of their folder.
        origin: Where their inputs come from.
        outputs: The outputs that the device was to give, by name.
    """

    digest: str
    origin: str
    outputs: Mapping[str, Array]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return max((_rows(array) for array in self.outputs.values()), default=0)


def _rows(array: Array) -> int:
    return max(1, len(array)) if array.ndim else 1


def read_golden_of(folder: Path) -> Golden:
    """Return the golden pairs of a folder.

    Raises:
        DeployError: LPT-DEP-006, it holds none.
    """
    from lepton_core.deployment._golden import origin_of, read_golden
    from lepton_core.files import digest_path

    _, outputs, _ = read_golden(folder)
    return Golden(digest_path(folder), origin_of(folder), outputs)


# --- the file -------------------------------------------------------------------------------------


def seal_of(proof: Mapping[str, Any]) -> str:
    """Return the digest of everything in a proof but its seal.

    It is the SHA-256 of the object as JSON with sorted keys and without spaces, in UTF-8.
    """
    rest = {key: value for key, value in proof.items() if key != "seal"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode(errors='replace')).hexdigest()}"


def read_proof(path: str | Path) -> dict[str, Any]:
    """Read a proof and check that it is whole.

    Raises:
        LeptonError: LPT-PASS-003 (it cannot be read, is truncated, altered, or no proof),
            LPT-PASS-004 (it is of a later schema).
    """
    place = Path(path)
    try:
        if place.stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST >> 20} MiB")
        data = json.loads(place.read_text(encoding="utf-8"), parse_constant=_no_constant)
        found = seal_of(data) if isinstance(data, dict) else ""
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise _damaged(f"{path} does not say that it is of the kind {KIND}")
    schema = data.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise LeptonError(
            "LPT-PASS-004",
            f"The device proof is of schema {schema}; this version reads up to {SCHEMA}",
            remedy="Upgrade lepton-core.",
        )
    if data.get("seal") != found:
        raise _damaged("its seal is not that of its contents, so it was altered")
    try:
        _check(data)
    except LeptonError as error:
        raise _damaged(error.cause or error.message) from error
    except OverflowError as error:  # an integer that no float holds
        raise _damaged(str(error)) from error
    return data


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _check(proof: Mapping[str, Any]) -> None:
    check_form(proof, _FORM, "")
    for part in ("bundle", "device", "runtime"):
        if not all(isinstance(text, str) for text in proof[part].values()):
            raise _damaged(f"{part} holds something else than text")
    units = [run["units"] for run in proof["runs"]]
    if not units or len(set(units)) < len(units):
        raise _damaged("it has no runs, or two on the same units")
    for run in proof["runs"]:
        times = [run.get("load_ms"), *(run.get("latency") or {}).values()]
        if any(isinstance(time, str) or (time is not None and time < 0) for time in times):
            raise _damaged(f"the times on {run['units']} cannot be")
        for name, output in run["outputs"].items():
            known = isinstance(output, dict) and "problem" in output
            check_form(output, _PROBLEM if known else _NUMBERS, f"outputs.{name}")


def _damaged(cause: str) -> LeptonError:
    return LeptonError(
        "LPT-PASS-003",
        "This is not a whole device proof",
        cause=cause,
        remedy="Take the file from the device again, or run the bundle's program there once more.",
    )


# --- does it belong -------------------------------------------------------------------------------


def check_artifact(proof: Mapping[str, Any], digest: str) -> None:
    """Refuse a proof that is about another artifact.

    Raises:
        LeptonError: LPT-PASS-005.
    """
    found = proof["artifact"]["digest"]
    if found != digest:
        raise LeptonError(
            "LPT-PASS-005",
            "The device proof is about another artifact",
            cause=f"the device ran {found}, the passport is about {digest}",
            remedy="Name the variant that was deployed as this bundle.",
            details={"passport": digest, "proof": found},
        )


def check_golden(proof: Mapping[str, Any], golden: Golden) -> None:
    """Refuse a proof that was made with other golden pairs.

    Raises:
        LeptonError: LPT-PASS-006.
    """
    found = proof["golden"]["digest"]
    if found != golden.digest:
        raise LeptonError(
            "LPT-PASS-006",
            "The device proof was made with other golden pairs",
            cause=f"the device ran {found}, the deployment has {golden.digest}",
            remedy="Copy the bundle to the device again, and run its program there once more.",
            details={"deployment": golden.digest, "proof": found},
        )


def check_platform(proof: Mapping[str, Any], target: str, platforms: Collection[str]) -> None:
    """Refuse a proof from a system that the target does not run on.

    Raises:
        LeptonError: LPT-PASS-008.
    """
    found = proof["device"]["platform"]
    if platforms and found not in platforms:
        raise LeptonError(
            "LPT-PASS-008",
            f"The device proof was made on {proof['device']['os']}, where {target} does not run",
            cause=f"{target} runs on {', '.join(platforms)}",
            remedy="Run the bundle's program on one of these.",
            details={"platform": found, "platforms": list(platforms)},
        )


# --- judged anew ----------------------------------------------------------------------------------


def judged(proof: Mapping[str, Any], golden: Golden, passport: Mapping[str, Any]) -> dict[str, Any]:
    """Return the device's part of a passport, judged by the limits that the passport states.

    Every run is held against the numeric limits of the variant's class. How many rows there are,
    and whether they are noise, does not matter here: they show that the device computes what the
    graph does, not how good the variant is.

    Args:
        proof: What :func:`read_proof` returned.
        golden: The golden pairs that it was made with.
        passport: The variant's passport.

    Raises:
        LeptonError: LPT-PASS-003, it has other outputs than the pairs, or numbers that cannot be.
    """
    applied = passport["limits"]["applied"]
    limits = ClassLimits(**{key: applied[key] for key in ("rel_l2", "cosine", "max_drop")})
    precision = passport["variant"]["precision"]
    runs = [_judged_run(run, golden, precision, limits) for run in proof["runs"]]
    reasons = [f"{run['units']}: {run['why']}" for run in runs if run["verdict"] == "fail"]
    noise = " of noise" if golden.origin.startswith("random") else ""
    within = f"within the numeric limits on {golden.rows} rows{noise}"
    return {
        **_lines(proof["device"]),
        "runtime": _lines(proof["runtime"]),
        "created": _line(proof["created"]),
        "proof": proof["seal"],
        "golden": {"digest": golden.digest, "origin": golden.origin, "rows": golden.rows},
        "runs": runs,
        "verdict": "fail" if reasons else "pass",
        "why": "; ".join(reasons) or within,
    }


def _judged_run(
    run: Mapping[str, Any], golden: Golden, precision: str, limits: ClassLimits
) -> dict[str, Any]:
    if set(run["outputs"]) != set(golden.outputs):
        raise _damaged(f"its outputs are {', '.join(run['outputs'])}")
    facts = {n: _facts(n, run["outputs"][n], array) for n, array in golden.outputs.items()}
    found = output_failures(precision, facts, limits)
    if run.get("problem"):
        found.append(_line(run["problem"]))
    return {
        "units": _line(run["units"]),
        "verdict": "fail" if found else "pass",
        "why": "; ".join(found) or "within the numeric limits",
        "outputs": encode(facts),
        "load_ms": run.get("load_ms"),
        "latency": run.get("latency"),
    }


def _lines(told: Mapping[str, str]) -> dict[str, str]:
    return {_line(key): _line(text) for key, text in told.items()}


def _line(text: object) -> str:
    """Return what a device tells as a short line that a terminal may print."""
    return "".join(c for c in str(text) if c.isprintable()).strip()[:_LINE]


def _facts(name: str, given: Mapping[str, Any], wanted: Array) -> dict[str, Any]:
    """Return an output's errors; what it is, and how many rows it has, the pairs say."""
    from lepton_core.metrics import is_exact

    if "problem" in given:
        return {"exact": is_exact(wanted), "problem": _line(given["problem"])}
    rows = _rows(wanted)
    facts: dict[str, Any] = {key: given[key] for key in _COUNTS}
    facts |= {key: decode_number(given.get(key)) for key in _FLOATS}
    odd = any(facts[key] < 0 for key in facts if key != "cosine") or abs(facts["cosine"]) > 1
    if odd or facts["mismatched_rows"] > rows:
        raise _damaged(f"the numbers of the output {name!r} cannot be")
    return {"exact": is_exact(wanted), "rows": rows, **facts}


# --- in the passport ------------------------------------------------------------------------------


def with_devices(
    passport: Mapping[str, Any], devices: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return a passport with devices added; one that is there already is replaced.

    Args:
        passport: The passport; it is not changed.
        devices: What :func:`judged` returned, or what another passport of the artifact has.

    Raises:
        LeptonError: LPT-PASS-001, what comes out is no passport.
    """
    known: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for device in (*(passport.get("devices") or ()), *devices):
        known[tuple(str(device.get(key, "")) for key in ("chip", "model", "os", "build"))] = device
    everything = list(known.values())
    session = dict(passport["variant"]["session"])
    session["proof"] = words = statement(everything)
    warnings = list(passport["warnings"])
    if words.startswith(DEVICE_PROOF):
        warnings = [w for w in warnings if not w.lower().startswith(GRAPH_PROOF) and w != _NOTE]
        warnings.append(_NOTE)
    made = {
        **passport,
        "variant": {**passport["variant"], "session": session},
        "devices": everything,
        "warnings": warnings,
    }
    validate_passport(made)
    return made


def statement(devices: Sequence[Mapping[str, Any]]) -> str:
    """Return which proof devices give, in words."""

    def where(verdict: str) -> str:
        found = []
        for device in devices:
            units = [run["units"] for run in device["runs"] if run["verdict"] == verdict]
            if units:
                found.append(f"{device['chip']}, {device['os']} ({', '.join(units)})")
        return "; ".join(found)

    passed, failed = where("pass"), where("fail")
    text = f"{DEVICE_PROOF} {passed}" if passed else GRAPH_PROOF
    return f"{text}; fails on {failed}" if failed else text


__all__ = [
    "DEVICE_PROOF",
    "GRAPH_PROOF",
    "KIND",
    "SCHEMA",
    "Golden",
    "check_artifact",
    "check_golden",
    "check_platform",
    "judged",
    "read_golden_of",
    "read_proof",
    "seal_of",
    "statement",
    "with_devices",
]
