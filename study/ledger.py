"""The study database, the truth of a study: every trial, its parameters, seed, state and result.

One Optuna study in SQLite (embedded) or PostgreSQL. A trial's number is Optuna's and never
changes: a trial that a dead driver left running is handed out again, with its parameters and seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from study import rows
from study.constraints import sampler_notes, violations
from study.database import LedgerUnavailableError, patiently
from study.names import Layout
from study.open_study import OpenStudy
from study.proposals import Proposal, Proposer
from study.records import Assignment, Parameters, TrialRecord, looks_of
from study.spaces import distributions
from study.verdicts import RESULT, STATES, judge, record_of
from ude_core.errors import SettingError, UserError
from ude_core.seeding import derive_seed
from ude_core.types import QueryCount, TrialResult

__all__ = ["Ledger", "LedgerUnavailableError", "TrialRecord"]

_NOTE = "ude.sampler."


class Ledger(OpenStudy):
    """One study's trials.

    Guarantees: `tell`, `fail` and `prune` are idempotent; a trial is COMPLETE only if every
    objective is finite; `ask` never hands out more trials than were asked for. One process writes
    (the holder of `lease()`), through one ledger; any number may read. Every call raises
    LedgerUnavailableError where the database stays away for minutes.
    """

    def __init__(self, study: optuna.Study, storage: optuna.storages.RDBStorage, layout: Layout):
        super().__init__(study, storage, layout)
        self._known: dict[int, TrialRecord] = {}
        self._open: dict[int, FrozenTrial] = {}
        self._proposer: Proposer | None = None
        self._proposed: Proposal | None = None

    def trials(self) -> list[TrialRecord]:
        """Return every trial, by number."""
        frozen = self._frozen()
        return [self._record(trial) for trial in frozen]

    def trial(self, number: int) -> TrialRecord:
        """Return one trial. Raises UserError where there is none."""
        if number in self._open:
            return self._record(self._open[number])
        try:
            return self._known.get(number) or self._record(self._read(number))
        except KeyError:
            raise UserError(f"study {self.name!r} has no trial {number}") from None

    def counts(self) -> dict[str, int]:
        """Return how many trials are complete, failed, running, waiting and pruned."""
        counts = dict.fromkeys(("complete", "failed", "running", "waiting", "pruned"), 0)
        for trial in self._frozen():
            counts[STATES[trial.state]] += 1
        return counts

    def queries(self) -> int:
        """Return the queries spent: preparation and every finished trial."""
        return self.preparation_queries + sum(record.queries for record in self.trials())

    def queries_saved(self) -> int:
        """Return what pruning saved, in queries: left unspent, less the looks at trials that ended."""
        return sum(record.saved - looks_of(record) for record in self.trials())

    def running(self) -> list[Assignment]:
        """Return the trials handed out and not told of yet, by number, to be handed out again.

        One that an earlier release left without some of its parameters has them sampled now.
        """
        searched = distributions(self.config)
        for trial in self._frozen():
            if trial.state != TrialState.RUNNING:
                continue
            self._open[trial.number] = trial
            if trial.params.keys() != searched.keys():
                params = self._proposals().completed(trial.number, trial.params)
                self._open[trial.number] = rows.begin_waiting(
                    self._storage, trial._trial_id, params, searched
                )
                self._proposer = None
        return [
            Assignment(number, dict(trial.params), self.seed_of(number))
            for number, trial in sorted(self._open.items())
        ]

    def enqueue(self, params: Parameters) -> None:
        """Have `params` handed out before the sampler is asked; once, however often enqueued.

        Parameters that are not given are sampled. Raises SettingError for unknown ones.
        """
        known = distributions(self.config)
        for name, value in params.items():
            if name not in known:
                raise SettingError(f"{name!r} is not searched by study {self.name!r}")
            if not known[name]._contains(known[name].to_internal_repr(value)):
                raise SettingError(f"{name} is {value!r}, outside its search ({known[name]})")
        patiently(lambda: self._study.enqueue_trial(dict(params), skip_if_exists=True))
        self._proposer = self._proposed = None

    def blocked(self) -> bool:
        """Return whether the next trial waits for the end of those running (`sampler.batch`)."""
        return self._proposals().blocked()

    def ask(self, admit: Callable[[Proposal, int | None], None] | None = None) -> Assignment:
        """Hand out one new trial: the next enqueued one, or one the sampler proposes.

        The proposal is a function of the study's seed, the trial's number and the results so far
        (with `sampler.batch`: those of earlier batches). `admit` may raise to refuse it: it is then
        what the next call proposes. It also hears whose results it may go by: those of trials below
        a number, or all. Raises SpaceExhaustedError where everything was tried.
        """
        proposer = self._proposals()
        self._proposed = proposal = self._proposed or proposer.propose()
        if admit is not None:
            admit(proposal, proposer.shown_below)
        number, searched = proposal.number, distributions(self.config)
        if proposal.waiting:
            trial_id = self._trial_id(number)
            trial = rows.begin_waiting(self._storage, trial_id, proposal.params, searched)
        else:
            trial = rows.begin(
                self._storage,
                self._study._study_id,
                number,
                proposal.params,
                searched,
                proposal.notes,
            )
        self._proposed = None
        if trial.number == number:
            proposer.begun(proposal)
        else:
            self._proposer = None
        self._open[trial.number] = trial
        return Assignment(trial.number, dict(trial.params), self.seed_of(trial.number))

    def seed_of(self, number: int) -> int:
        """Return the seed of a trial: a function of the study's seed and the trial's number."""
        return derive_seed(self.config.seed, "trial", number)

    def tell(self, number: int, result: TrialResult) -> TrialRecord:
        """Close a trial with its result: complete, or failed where an objective has no value."""
        verdict = judge(result, [objective.metric for objective in self.config.objectives])
        if verdict.values is None:
            return self._close(number, verdict.content, TrialState.FAIL)
        violated = violations(
            self.config.constraints,
            result.metrics,
            self.reference if self.config.constraints else {},
            self.config.cohort.diseases,
        )
        return self._close(
            number, verdict.content, TrialState.COMPLETE, verdict.values, sampler_notes(violated)
        )

    def fail(self, number: int, reason: str, *, queries: int = 0) -> TrialRecord:
        """Close a trial as failed, with its reason."""
        return self._close(number, {"reason": reason, "queries": queries}, TrialState.FAIL)

    def prune(
        self, number: int, reason: str, *, spent: QueryCount | None = None, saved: int = 0
    ) -> TrialRecord:
        """Close a trial as stopped early, `saved` queries before its end; it never enters a front."""
        spent = spent or QueryCount()
        content = {
            "reason": reason,
            "queries": spent.total,
            "queries_by_phase": asdict(spent),
            "saved": saved,
        }
        return self._close(number, content, TrialState.PRUNED)

    def _close(
        self,
        number: int,
        content: Mapping[str, Any],
        state: TrialState,
        values: list[float] | None = None,
        notes: Mapping[str, Any] = MappingProxyType({}),
    ) -> TrialRecord:
        trial = self._open.get(number) or self._read(number)
        ended = rows.end(
            self._storage, trial._trial_id, state, values, {RESULT: dict(content)}, notes
        )
        self._open.pop(number, None)
        if ended is None:
            return self.trial(number)
        closed = copy(trial)
        closed.state, closed.values, closed.datetime_complete = state, values, ended
        closed.user_attrs = {RESULT: dict(content)}
        closed.system_attrs = {**trial.system_attrs, **notes}
        if self._proposer is not None:
            self._proposer.ended(closed)
        return self._record(closed)

    def _proposals(self) -> Proposer:
        """Return the proposer of this driver, which begins with all that the database holds."""
        if self._proposer is None:
            attrs = self._study.user_attrs
            self._proposed = None
            self._proposer = Proposer(
                self.config,
                self._frozen(),
                notes={
                    key.removeprefix(_NOTE): value
                    for key, value in attrs.items()
                    if key.startswith(_NOTE)
                },
                keep=lambda key, value: self._study.set_user_attr(f"{_NOTE}{key}", value),
            )
        return self._proposer

    def _frozen(self) -> list[FrozenTrial]:
        return patiently(lambda: self._study.get_trials(deepcopy=False))

    def _read(self, number: int) -> FrozenTrial:
        return patiently(lambda: self._storage.get_trial(self._trial_id(number)))

    def _trial_id(self, number: int) -> int:
        return patiently(
            lambda: self._study._storage.get_trial_id_from_study_id_trial_number(
                self._study._study_id, number
            )
        )

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        known = self._known.get(trial.number)
        if known is not None:
            return known
        record = record_of(
            trial,
            self.seed_of(trial.number),
            self.places.trial(trial.number),
            self.config.method.name,
        )
        if trial.state.is_finished():
            self._known[trial.number] = record
        return record
