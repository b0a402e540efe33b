"""The form of a passport: how numbers are encoded, and what must be where."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from lepton_core.errors import LeptonError

SCHEMA = 1

_TEXT, _NUMBER, _COUNT, _FLAG = "text", "number", "count", "flag"
_ANY = "anything"

_FORM: dict[str, Any] = {
    "schema": _COUNT,
    "created?": _TEXT,
    "source": {"format": _TEXT, "path": _TEXT, "digest": _TEXT, "files?": {}, "size_bytes?": _COUNT,
               "lineage": [{"step": _TEXT, "owner": _TEXT}]},
    "variant": {"target": _TEXT, "precision": _TEXT, "format": _TEXT, "path": _TEXT,
                "digest": _TEXT, "files?": {}, "size_bytes?": _COUNT, "storage_precision?": _TEXT,
                "execution_precision?": _TEXT, "session": {},
                "lineage": [{"step": _TEXT, "owner": _TEXT}]},
    "samples": {"origin": _TEXT, "source": _TEXT, "n": _COUNT, "distinct": _COUNT,
                "constant": _FLAG, "digest": _TEXT, "labels": _FLAG, "coverage?": _NUMBER,
                "split": {"seed?": _COUNT, "calibration?": {"n": _COUNT, "digest": _TEXT}}},
    "outputs": {},
    "metric?": {"name": _TEXT, "output": _TEXT, "unit": _TEXT, "higher_is_better": _FLAG,
                "source?": _NUMBER, "variant?": _NUMBER, "drop?": _NUMBER,
                "changed?": {"k": _COUNT, "n": _COUNT}, "why": _TEXT},
    "latency": {"variant?": {"p50_ms": _NUMBER, "p95_ms": _NUMBER},
                "source?": {"p50_ms": _NUMBER, "p95_ms": _NUMBER}},
    "gain?": {"size_bytes": {"before": _COUNT, "after": _COUNT}, "size_ratio?": _NUMBER,
              "time?": {"before_ms": _NUMBER, "after_ms": _NUMBER, "speedup": _NUMBER,
                        "interval": [_NUMBER]},
              "untimed?": _TEXT, "inputs": _TEXT, "smaller": _FLAG, "faster": _FLAG,
              "text": _TEXT},
    "limits": {"applied": {"rel_l2": _NUMBER, "cosine": _NUMBER, "max_drop": _NUMBER},
               "min_samples": _COUNT, "confidence": _NUMBER},
    "verdict": {"verdict": _TEXT, "why": _TEXT, "reasons": [_TEXT], "proved": _FLAG,
                "budget?": _NUMBER,
                "bound?": {"k": _COUNT, "n": _COUNT, "confidence": _NUMBER, "upper": _NUMBER,
                           "claim": _TEXT}},
    "worst": [{"row": _COUNT, "error": _NUMBER, "loss?": _NUMBER}],
    "picture?": {"output": _TEXT, "samples": _COUNT, "errors": [_NUMBER], "density?": {}},
    "environment": {},
    "warnings": [_TEXT],
    "devices?": [{"platform": _TEXT, "os": _TEXT, "chip": _TEXT, "runtime": {}, "created": _TEXT,
                  "proof": _TEXT, "verdict": _TEXT, "why": _TEXT,
                  "golden": {"digest": _TEXT, "origin": _TEXT, "rows": _COUNT},
                  "runs": [{"units": _TEXT, "verdict": _TEXT, "why": _TEXT, "outputs": {},
                            "load_ms?": _NUMBER,
                            "latency?": {"p50_ms": _NUMBER, "p95_ms": _NUMBER}}]}],
}  # fmt: skip

_OUTPUT_FORM: dict[str, Any] = {
    "max_abs?": _NUMBER,
    "mean_abs?": _NUMBER,
    "rel_l2?": _NUMBER,
    "sqnr_db?": _NUMBER,
    "cosine?": _NUMBER,
    "dtype": _TEXT,
    "shape": [_COUNT],
    "exact": _FLAG,
}
_VERDICTS = ("pass", "weak", "fail")


def encode(value: Any) -> Any:  # noqa: ANN401 - any plain value
    """Return *value* as strict JSON types.

    NaN becomes ``None``, infinities ``"Infinity"`` and ``"-Infinity"``; tuples become lists, NumPy
    scalars numbers, dataclasses objects, and what has no JSON form its text.
    """
    if hasattr(value, "tolist"):  # an array or a scalar of NumPy, which this module need not import
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    return [encode(item) for item in value] if isinstance(value, list | tuple) else str(value)


def decode_number(value: Any) -> float:  # noqa: ANN401 - as it stands in JSON
    """Return a number of a passport as a float; ``None`` is NaN."""
    return math.nan if value is None else float(value)


def validate_passport(passport: object) -> None:
    """Check that *passport* is one of schema 1.

    Raises:
        LeptonError: ``LPT-PASS-001`` it is not, naming the first field that is wrong;
            ``LPT-PASS-002`` it is of a later schema.
    """
    if not isinstance(passport, Mapping):
        raise invalid(f"it is a {type(passport).__name__}, not an object")
    schema = passport.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise LeptonError(
            "LPT-PASS-002",
            f"The passport is of schema {schema}; this version reads up to {SCHEMA}",
            remedy="Upgrade lepton-core.",
        )
    check_form(passport, _FORM, "")
    for name, output in passport["outputs"].items():
        check_form(output, _OUTPUT_FORM, f"outputs.{name}")
    if passport["verdict"]["verdict"] not in _VERDICTS:
        raise invalid(f"verdict.verdict is {passport['verdict']['verdict']!r}")


def invalid(cause: str) -> LeptonError:
    """Return the error for something that is no passport."""
    return LeptonError(
        "LPT-PASS-001",
        "This is not a valid passport",
        cause=cause,
        remedy="Port the model again to get a new one.",
    )


def check_form(value: object, form: Any, where: str) -> None:  # noqa: ANN401 - nested
    """Check plain data against a form: nested names with the kinds of what they hold.

    Args:
        value: The data.
        form: A kind of value, a list of one form, or forms by name; ``?`` marks what may miss.
        where: Where the data stands, for the message.

    Raises:
        LeptonError: ``LPT-PASS-001``, it names the first field that is wrong.
    """
    if isinstance(form, dict):
        _check_object(value, form, where)
    elif isinstance(form, list):
        if not isinstance(value, list):
            raise invalid(f"{where} is not a list")
        for index, item in enumerate(value):
            check_form(item, form[0], f"{where}[{index}]")
    elif not _is(value, form):
        raise invalid(f"{where} is {value!r}, not a {form}")


def _check_object(value: object, form: dict[str, Any], where: str) -> None:
    if not isinstance(value, Mapping):
        raise invalid(f"{where or 'it'} is not an object")
    for key, part in form.items():
        name = key.removesuffix("?")
        at = f"{where}.{name}" if where else name
        item = value.get(name)
        if item is None:
            if key.endswith("?"):
                continue
            raise invalid(f"{at} is missing")
        check_form(item, part, at)


def _is(value: object, kind: str) -> bool:
    if kind == _TEXT:
        return isinstance(value, str)
    if kind == _FLAG:
        return isinstance(value, bool)
    if kind == _COUNT:
        return isinstance(value, int) and not isinstance(value, bool)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number:
        return math.isfinite(value)  # type: ignore[arg-type]
    return value in ("Infinity", "-Infinity")


__all__ = ["SCHEMA", "check_form", "decode_number", "encode", "invalid", "validate_passport"]
