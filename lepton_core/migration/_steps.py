"""The steps of a migration; each ends with a transaction that also moves the journal on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lepton_core.artifacts import artifact_size
from lepton_core.files import write_named
from lepton_core.migration._build import built
from lepton_core.migration._plan import plan
from lepton_core.migration._verify import Side, compare
from lepton_core.migration._watch import judge, probe
from lepton_core.store import _faults
from lepton_core.types import MigrateResult

if TYPE_CHECKING:
    from lepton_core.context import Context
    from lepton_core.dispatch import Hooks
    from lepton_core.migration._build import Candidate
    from lepton_core.migration._journal import Journal, Record
    from lepton_core.migration._options import Options
    from lepton_core.migration._plan import Plan
    from lepton_core.migration._verify import Proof
    from lepton_core.store import AliasState, Store, Version, View
    from lepton_core.store._database import Transaction
    from lepton_core.types import Model, OpenRequest

_POLL = 0.2


@dataclass
class Job:
    """What the steps of one migration share.

    Attributes:
        store: The store.
        hooks: Calls the plugins.
        name: Name of the deployment.
        given: What it was built from, or a model of format ``deployment``.
        options: What was asked for.
        context: Where scratch files go.
    """

    store: Store
    hooks: Hooks
    name: str
    given: Model
    options: Options
    context: Context
    _folders: list[str] = field(default_factory=list)

    def scratch(self, name: str) -> Context:
        """Return a context with a new folder."""
        folder = self.context.workdir / f"{len(self._folders):02d}-{name}"
        self._folders.append(name)
        folder.mkdir()
        return replace(self.context, workdir=folder)

    def opening(self, target: str) -> OpenRequest:
        """Return how handles of this deployment open a version for a target."""
        from lepton_core.deployment._slot import Opening

        return Opening().request(target, self.store.settings(self.name).get("open"))

    def plan(self, alias: str, target: str) -> Plan:
        """See :func:`._plan.plan`."""
        return plan(self.store, self.hooks, self.name, alias=alias, target=target, given=self.given)

    def check_alias(self, record: Record, generation: int) -> None:
        """Make sure that nobody moved the alias.

        Raises:
            DeployError: LPT-STORE-010.
        """
        state = self.store.alias(self.name, record.alias)
        if state is None or state.generation != generation:
            shown = state.to_dict() if state else {"version": None, "generation": 0}
            raise _faults.moved(self.name, record.alias, generation, shown)

    def version(self, version: str) -> Version:
        """Return a version of this deployment, its manifest checked."""
        return self.store.resolve(f"{self.name}@{version}").version

    def side(self, version: Version, view: View) -> Side:
        """Return a version as one side of a comparison."""
        return Side(
            f"{self.name}@{version.id}",
            version.target,
            view.model,
            view.folder / "golden" if version.role("golden") else None,
            self.opening(version.target),
            version.size_bytes,
        )

    def prove(self, old: Side, new: Side, precision: str) -> Proof:
        """Compare two sides, and write the page if one was asked for; see :func:`.compare`."""
        place = self.scratch("verify")
        proof = compare(self.hooks, old, new, precision, options=self.options, context=place)
        if self.options.page:
            from lepton_core.report import render_passport

            write_named(self.options.page, render_passport(dict(proof.passport)))
        return proof


def planned(job: Job, journal: Journal) -> None:
    """Make sure that what was planned still holds, and go on."""
    record = journal.present
    job.check_alias(record, record.generation)
    job.plan(record.alias, record.target)
    journal.write(replace(record, step="build"))


def build(job: Job, journal: Journal) -> None:
    """Build the candidate and store it as a version, pinned and under no alias."""
    record = journal.present
    job.check_alias(record, record.generation)
    made = job.plan(record.alias, record.target)
    opening = job.opening(record.target)

    def note(transaction: Transaction, version: Version) -> None:
        journal.within(
            transaction,
            replace(record, step="verify", candidate=version.id),
            pin=(version.id,),
        )

    with built(job.store, job.hooks, made, opening, job.scratch("build")) as candidate:
        job.context.checkpoint()
        job.store.add(
            job.name,
            candidate.model,
            target=record.target,
            precision=candidate.precision,
            recipe=candidate.recipe,
            golden=candidate.golden,
            origin=candidate.origin,
            facts={"migrated_from": record.source},
            why=f"candidate of migration {record.id}",
            also=note,
        )
    journal.settle()


def verify(job: Job, journal: Journal) -> None:
    """Compare both; store the candidate with its passport, or return."""
    record = journal.present
    job.check_alias(record, record.generation)
    old, new = job.version(record.source), job.version(record.candidate)
    with job.store.view(old) as before, job.store.view(new, origin=True) as after:
        sides = job.side(old, before), job.side(new, after)
        proof = job.prove(*sides, new.precision)
        refused = refusal(proof, job.options)
        if refused:
            journal.finish("returned", refused, **proof.facts)
            return

        def note(transaction: Transaction, version: Version) -> None:
            journal.within(
                transaction,
                replace(record, step="switch", result=version.id, facts=proof.facts),
                pin=(version.id,),
            )

        job.store.add(
            job.name,
            after.model,
            target=new.target,
            precision=new.precision,
            passport=proof.passport,
            recipe=[after.folder / file.path for file in new.role("recipe")],
            golden=after.folder / "golden" if new.role("golden") else None,
            origin=after.folder / "origin" if new.role("origin") else None,
            facts=new.facts,
            why=f"compared by migration {record.id}: {proof.why}",
            also=note,
        )
    journal.settle()


def switch(job: Job, journal: Journal) -> None:
    """Move the alias, if it is where it was when the migration was planned."""
    record = journal.present
    rows = job.store.metrics.read(job.name, limit=1)

    def note(transaction: Transaction, state: AliasState) -> None:
        switched = replace(
            record,
            step="watch",
            moved=state.generation,
            since=state.seq,
            measured=rows[-1].id if rows else 0,
            until=round(time.time() + job.options.watch, 3),
        )
        journal.within(transaction, switched)

    job.store.promote(
        job.name,
        record.result,
        record.alias,
        expect=record.generation,
        why=job.options.why or f"migration {record.id} to {record.target}",
        also=note,
    )
    journal.settle()


def watch(job: Job, journal: Journal) -> None:
    """Follow the deployment until the time is over, or until something speaks against it."""
    record = journal.present
    version = job.version(record.result)
    why = probe(job.store, job.hooks, version, job.opening(version.target), job.scratch("watch"))
    facts: dict[str, Any] = {"probe": why or "ok"}
    while True:
        _check_journal(job, journal)
        job.check_alias(record, record.moved)
        if not why:
            why, found = judge(job.store, job.name, record, job.options)
            facts |= found
        if why:
            journal.roll_back(why, watch=facts)
            return
        left = record.until - time.time()
        if left <= 0:
            break
        job.context.checkpoint()
        time.sleep(min(_POLL, left))
    journal.finish("done", str(record.facts.get("verdict_why", "")), watch=facts)


def _check_journal(job: Job, journal: Journal) -> None:
    """Make sure that no handle returned the migration, and no process took it over.

    Raises:
        DeployError: LPT-STORE-010.
    """
    before = journal.present
    now = journal.refresh()
    if now != before:
        shown = {"version": now.step if now else None, "generation": 0}
        raise _faults.moved(job.name, journal.alias, 0, shown)


def refusal(proof: Proof, options: Options) -> str:
    """Return why a proof does not allow the switch, ``""`` if it does."""
    if proof.verdict == "fail":
        return f"not the same model: {proof.why}"
    if proof.verdict == "weak" and not options.allow_weak:
        return (
            f"weak: {proof.why}; give recorded inputs with --data, or accept it with --allow-weak"
        )
    return ""


def try_out(job: Job, target: str) -> MigrateResult:
    """Plan, build and verify without writing anything into the store."""
    made = job.plan(job.options.alias, target)
    opening = job.opening(str(made.target))
    with (
        job.store.view(made.old) as view,
        built(job.store, job.hooks, made, opening, job.scratch("build")) as candidate,
    ):
        new = _unstored(job, candidate, opening, str(made.target))
        proof = job.prove(job.side(made.old, view), new, made.precision)
    refused = refusal(proof, job.options)
    facts = {
        "dry_run": True,
        "would_switch": not refused,
        "alias": job.options.alias,
        "from": {"version": made.old.id, "target": made.old.target},
        "to": {"version": None, "target": str(made.target)},
        "generation": made.state.generation,
        **proof.facts,
    }
    why = refused or f"a dry run: nothing was moved; {proof.why}"
    return MigrateResult(job.name, "returned", why, facts)


def _unstored(job: Job, candidate: Candidate, opening: OpenRequest, target: str) -> Side:
    return Side(
        f"{job.name} for {target}",
        target,
        candidate.model,
        candidate.golden,
        opening,
        artifact_size(candidate.model),
    )


STEPS = {
    "plan": planned,
    "build": build,
    "verify": verify,
    "switch": switch,
    "watch": watch,
}

__all__ = ["STEPS", "Job", "refusal", "try_out"]
