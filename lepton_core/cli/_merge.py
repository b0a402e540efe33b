"""Merging a device proof into the passport of the variant that it is about."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lepton_core import _device_proof as proofs
from lepton_core.errors import LeptonError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lepton_core.built import Built
    from lepton_core.cli._reverify import Outcome
    from lepton_core.dispatch import Hooks


def merge(text: str, file: Path, *, hooks: Hooks, out: Path | None, store: Path | None) -> Outcome:
    """Check a device proof, judge it anew, and write the variant's passport with it.

    Nothing is written before everything has been checked.

    Args:
        text: An artifact, its directory, its passport, or the bundle that was deployed of it.
        file: The proof.
        hooks: Knows the targets.
        out: Where to write the passport; in place if ``None``.
        store: The store that has the deployment's golden pairs, if *text* is no bundle.

    Raises:
        UsageError: There is no passport there; LPT-CLI-009, a bundle's passport stays as it is;
            LPT-CLI-011, the proof is not there.
        LeptonError: LPT-CLI-003, the artifact is not the one that was proved; LPT-PASS-003 …
            LPT-PASS-008, the proof is damaged or does not belong to it.
        StorageError: The passport cannot be written; it is as before.
    """
    from lepton_core.built import BUNDLE
    from lepton_core.cli._reverify import check_digests, find_variant
    from lepton_core.files import disk_errors, write_named
    from lepton_core.passport import dump_passport
    from lepton_core.report import render_passport
    from lepton_core.report.thumbnails import pictures_on
    from lepton_core.types import Target

    built = find_variant(text)
    bundle = built.marker.get("kind") == BUNDLE
    if bundle and out is None:
        raise UsageError(
            "LPT-CLI-009",
            "The passport in a bundle is not changed: its digest stands in SHA256SUMS",
            remedy="Name the variant that was deployed, or write the new passport with --out FILE.",
        )
    if not file.exists():
        raise UsageError(
            "LPT-CLI-011",
            f"The device proof {str(file)!r} is not there",
            cause="there is no file of that name",
            remedy="Copy the file here that the device wrote, and name it with --merge.",
        )
    outcome = check_digests(built)
    proof = proofs.read_proof(file)
    proofs.check_artifact(proof, built.model.digest)
    target = Target.parse(built.target)
    proofs.check_platform(proof, target.id, hooks.registry.target(target.id).platforms)
    golden = _golden_of(built, proof, store)
    proofs.check_golden(proof, golden)
    device = proofs.judged(proof, golden, built.passport or {})
    passport = proofs.with_devices(built.passport or {}, [device])
    place = out or built.place
    assert place is not None  # noqa: S101 - what has a passport has a place
    page = place.with_suffix(".html")
    drawn = None
    if out is None and page.is_file():  # the samples are not here, so its pictures are taken over
        with disk_errors(f"the page {page}"):
            pictures = pictures_on(page.read_text(encoding="utf-8", errors="replace"))
        drawn = render_passport(passport, pictures=pictures)
    write_named(place, dump_passport(passport))
    if drawn is not None:  # the page follows from the passport
        write_named(page, drawn)
    return replace(
        outcome,
        verdict=device["verdict"],
        why=device["why"],
        proof=passport["variant"]["session"]["proof"],
        device=device,
        passport=passport,
        written=str(place),
    )


def _golden_of(built: Built, proof: Mapping[str, Any], store: Path | None) -> proofs.Golden:
    """Return the golden pairs of the deployment that the proof names.

    A bundle has them itself; those of a variant are looked up in the store, where their digests
    are checked.
    """
    from lepton_core.built import BUNDLE

    if built.marker.get("kind") == BUNDLE and built.place is not None:
        return proofs.read_golden_of(built.place.parents[1] / "golden")
    reference = "{name}@{version}".format(**proof["bundle"])
    cause = "that version is of another artifact, or has no golden pairs"
    try:
        found = _stored(reference, built.model.digest, store)
    except LeptonError as error:
        found, cause = None, f"{error.code}: {error.message}"
    if found is None:
        raise LeptonError(
            "LPT-PASS-007",
            f"The golden pairs of {reference!r} are not known here",
            cause=cause,
            remedy="Name the store that it was deployed to (--store or LEPTON_STORE), or the "
            "bundle in the place of the variant, with --out.",
        )
    return found


def _stored(reference: str, digest: str, place: Path | None) -> proofs.Golden | None:
    from lepton_core.store import Store

    with Store(place, create=False) as store:
        found = store.resolve(reference).version
        if found.model.digest != digest or not found.role("golden"):
            return None
        with store.view(found) as view:
            return proofs.read_golden_of(view.folder / "golden")


__all__ = ["merge"]
