"""The migration: one step after the other, taken up where it was left."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_core.errors import (
    DeployError,
    LeptonError,
    MigrateError,
    OperationCancelledError,
    UsageError,
)
from lepton_core.migration import _owner
from lepton_core.migration._journal import Journal, Record, lost_race, new_id
from lepton_core.migration._options import Options
from lepton_core.migration._owner import Owner
from lepton_core.migration._steps import STEPS, Job, try_out
from lepton_core.types import MigrateResult

if TYPE_CHECKING:
    from lepton_core.context import Context
    from lepton_core.types import MigrateRequest, Model


def migrate(model: Model, request: MigrateRequest, context: Context) -> MigrateResult:
    """Move a deployment to another target, if it proves to be the same there.

    Args:
        model: Of format ``deployment``, or what the deployment was built from.
        request: Name and target; the target of the interrupted migration if it is ``""``.
            ``options`` are those of :class:`.Options`.
        context: Progress, cancellation, scratch files.

    Returns:
        ``done``, or ``returned`` with the old version under the alias; and the numbers.

    Raises:
        UsageError: LPT-MIG-001, LPT-MIG-002, LPT-MIG-010 (nothing to resume), LPT-STORE-007,
            LPT-STORE-009.
        MigrateError: LPT-MIG-003 … 006, LPT-MIG-008 (another process is at it), LPT-MIG-009,
            LPT-MIG-011 (this machine only interprets what is for the target).
        PlanError: The target cannot be built at this precision.
        PluginError: The target is not installed or cannot be used.
        VerbError: It cannot be lowered.
        StorageError: The store is damaged, busy or full; the alias is where it was.
    """
    from lepton_core.hooks import default
    from lepton_core.store import Store

    options = Options.of(request.options)
    hooks = context.hooks or default()
    with (
        Store(options.store, create=False) as store,
        tempfile.TemporaryDirectory(dir=context.workdir, prefix=".migrate-") as scratch,
    ):
        place = replace(context, workdir=Path(scratch), hooks=hooks)
        job = Job(store, hooks, request.name, model, options, place)
        if options.dry_run:
            return try_out(job, request.target)
        return Migration(job).run(request.target)


class Migration:
    """One migration of one alias by this process.

    Args:
        job: What the steps share.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.given = job.options
        self._seconds: dict[str, float] = {}

    def run(self, target: str) -> MigrateResult:
        """Do it, or take up what another process left; see :func:`migrate`."""
        journal = Journal(self.job.store, self.job.name, self.given.alias)
        left = journal.record
        if left is None or left.ended:
            if self.given.resume or not target:
                raise self._nothing_to_resume(left)
        else:
            ended = self._settle(journal, left, target)
            if ended is not None:
                return ended
        return self._start(journal, target)

    # --- who does it --------------------------------------------------------------------------

    def _settle(self, journal: Journal, left: Record, target: str) -> MigrateResult | None:
        """End the migration that another process left.

        Returns:
            How it ended; ``None`` if another one was asked for, which may begin now.

        Raises:
            MigrateError: LPT-MIG-008, that process is still at it.
        """
        if left.owner.lives(left.id, left.until) or not _owner.claim(left.id):
            raise self._busy(left)
        try:
            self._take_over(journal, left)
            other = bool(target) and target != left.target
            if other and left.step != "watch":
                journal.finish("returned", f"given up for a migration to {target}")
                return None
            result = self._run_from(journal)
            return None if other else result
        finally:
            _owner.release(left.id)
            self.job.options = self.given

    def _take_over(self, journal: Journal, left: Record) -> None:
        """Become the owner; what was asked for is what the journal says."""
        asked = replace(Options.of(left.options), store=self.given.store, page=self.given.page)
        try:
            journal.write(replace(left, owner=Owner.me()))
        except DeployError as error:
            raise self._busy(journal.refresh() or left) from error
        self.job.options = asked
        text = f"taking up migration {left.id} to {left.target} at the step {left.step}"
        self.job.context.reporter.note(text)

    def _start(self, journal: Journal, target: str) -> MigrateResult:
        from lepton_core.migration._verify import check_samples

        options = self.given
        made = self.job.plan(options.alias, target)
        check_samples(made.old.model.signature, options)
        record = Record(
            id=new_id(),
            step="plan",
            alias=options.alias,
            generation=made.state.generation,
            source=made.old.id,
            source_target=made.old.target,
            target=str(made.target),
            owner=Owner.me(),
            options=options.recorded(),
        )
        _owner.claim(record.id)
        try:
            journal.write(record, pin=(made.old.id,))
        except DeployError as error:
            if not lost_race(error):
                raise
            raise self._busy(journal.refresh() or record) from error
        else:
            return self._run_from(journal)
        finally:
            _owner.release(record.id)

    def _busy(self, record: Record) -> MigrateError:
        return MigrateError(
            "LPT-MIG-008",
            f"A migration of {self.job.name}@{record.alias} to {record.target} is under way",
            cause=f"{record.id} is at the step {record.step}, by {record.owner}",
            remedy="Wait until it ends; if its process died, `lepton migrate "
            f"{self.job.name} --resume` takes it up.",
            details={"id": record.id, "step": record.step, "owner": str(record.owner)},
        )

    def _nothing_to_resume(self, last: Record | None) -> UsageError:
        return UsageError(
            "LPT-MIG-010",
            f"There is no interrupted migration of {self.job.name}@{self.given.alias}",
            cause=f"the last one, {last.id}, is {last.step}" if last else "there was none yet",
            remedy="Begin one with --to TARGET.",
        )

    # --- the run ------------------------------------------------------------------------------

    def _run_from(self, journal: Journal) -> MigrateResult:
        reporter = self.job.context.reporter
        bar = reporter.task(f"migrate {self.job.name}@{journal.alias}", len(STEPS))
        while not journal.present.ended:
            step = journal.present.step
            reporter.note(f"{step}: {self._what(journal.present)}")
            began = time.perf_counter()
            self._one(journal, step)
            self._seconds[step] = round(time.perf_counter() - began, 3)
            bar.advance()
        bar.finish(journal.present.step)
        return self._result(journal.present)

    def _one(self, journal: Journal, step: str) -> None:
        try:
            STEPS[step](self.job, journal)
        except DeployError as error:
            if not lost_race(error):
                raise
            self._lost(journal, error)
        except (LeptonError, KeyboardInterrupt) as error:
            if not self._give_up(journal, error):
                raise

    def _what(self, record: Record) -> str:
        return {
            "plan": f"{record.source} ({record.source_target}) to {record.target}",
            "build": f"lower what {record.source} was lowered from for {record.target}",
            "verify": f"compare {record.candidate} with {record.source}",
            "switch": f"move {self.job.name}@{record.alias} to {record.result}",
            "watch": f"follow {record.result} for {max(0.0, record.until - time.time()):.0f} s",
        }[record.step]

    def _result(self, record: Record) -> MigrateResult:
        facts = {
            "id": record.id,
            "alias": record.alias,
            "from": {"version": record.source, "target": record.source_target},
            "to": {"version": record.result or record.candidate or None, "target": record.target},
            "generation": record.moved or record.generation,
            "code": record.code or None,
            "seconds": self._seconds,
            **record.facts,
        }
        return MigrateResult(self.job.name, record.step, record.why, facts)

    # --- what goes wrong ----------------------------------------------------------------------

    def _lost(self, journal: Journal, error: DeployError) -> None:
        """Settle what happened when the alias or the journal was moved by someone else.

        Raises:
            MigrateError: LPT-MIG-008, another process took the migration over.
        """
        before = journal.present
        now = journal.refresh()
        if now is None:
            journal.record = before
            raise self._busy(before) from error
        if now.id == before.id and now.ended:  # a deployment handle returned it
            return
        if now.id != before.id or not _same_process(now.owner, before.owner):
            raise self._busy(now) from error
        state = self.job.store.alias(self.job.name, journal.alias)
        where = f"{state.version} (generation {state.generation})" if state else "nothing"
        why = f"someone else moved {self.job.name}@{journal.alias} meanwhile, to {where}"
        journal.finish("returned", why, code=error.code)

    def _give_up(self, journal: Journal, error: BaseException) -> bool:
        """Write down that an error ended the migration; tells whether that is the answer.

        A stop on request while the deployment is watched leaves the migration to whoever resumes
        it: the switch is done, and handles go on watching.
        """
        stopped = isinstance(error, KeyboardInterrupt | OperationCancelledError)
        watched = journal.present.step == "watch"
        if watched and stopped:
            return False
        code = error.code if isinstance(error, LeptonError) else ""
        why = _reason(error)
        try:
            if watched:
                journal.roll_back(why)
            else:
                journal.finish("returned", why, code=code)
        except LeptonError:
            return False  # the store itself fails; --resume settles it
        return code == "LPT-MIG-007"  # not the same: that is an answer, not a failure


def _same_process(one: Owner, other: Owner) -> bool:
    return (one.host, one.pid, one.started) == (other.host, other.pid, other.started)


def _reason(error: BaseException) -> str:
    if not isinstance(error, LeptonError):
        return "stopped on request"
    if not error.cause:
        return error.message
    return f"{error.message} ({error.cause.splitlines()[0].strip()})"


__all__ = ["Migration", "migrate"]
