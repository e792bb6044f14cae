"""The next parameters to try: a function of the study's seed, a trial's number and what is known.

The proposer keeps what samplers may see of a study in memory, and writes nothing itself: a proposal
is only made once it is recorded. Its cost beside the sampler's own does not grow with the study.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from study.config import StudyConfig
from study.records import Parameters, ParameterValue
from study.samplers import (
    grid_levels,
    key_of,
    make_sampler,
    random_point,
    sequence_point,
    space_size,
)
from study.spaces import distributions
from ude_core.seeding import derive_seed, numpy_generator

_RESAMPLED, _REDRAWN = 8, 200
_NAME = "known"

Keep = Callable[[str, Any], None]


class NothingToAskError(RuntimeError):
    """The study ends before its target, for a reason that is no failure; the message says it."""


class SpaceExhaustedError(NothingToAskError):
    """Every point of the search was tried."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Parameters for trial `number`; `waiting` where the trial was enqueued and is in the ledger.

    `notes` is what the sampler wants to find again beside the trial.
    """

    number: int
    params: Parameters
    waiting: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)


class _Known(InMemoryStorage):
    """What samplers see. What they note about the study is kept in the ledger, for a later driver."""

    def __init__(self, keep: Keep) -> None:
        super().__init__()
        self._keep = keep

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        super().set_study_system_attr(study_id, key, value)
        self._keep(key, value)


class Proposer:
    """Proposes parameters, one trial after another.

    `trials` is all that the ledger holds, by number, `notes` what samplers noted about the study
    and `keep` where they note more. With `sampler.batch` only the results of earlier batches are
    shown to the sampler; of its own batch it sees the parameters.
    """

    def __init__(
        self,
        config: StudyConfig,
        trials: Sequence[FrozenTrial],
        notes: Mapping[str, Any],
        keep: Keep,
    ) -> None:
        self._seed = config.seed
        self._settings = config.sampler
        self._searched = distributions(config)
        self._size = space_size(self._searched)
        self._tried: Counter[tuple[float, ...]] = Counter()
        self._waiting = deque(t.number for t in trials if t.state == TrialState.WAITING)
        self._open = {t.number for t in trials if t.state == TrialState.RUNNING}
        self._count = len(trials)
        self._unseen: dict[int, FrozenTrial] = {}
        self._known = _Known(keep)
        directions = [
            optuna.study.StudyDirection[goal.direction.upper()] for goal in config.objectives
        ]
        self._study_id = self._known.create_new_study(directions, _NAME)
        for key, value in notes.items():
            InMemoryStorage.set_study_system_attr(self._known, self._study_id, key, value)
        start = self._batch_start(self.next_number)
        for trial in trials:
            self._remember(trial, seen=trial.number < start)
        self._grid = self._grid_points() if self._settings.name == "grid" else iter(())

    @property
    def next_number(self) -> int:
        """The number of the trial that is proposed next."""
        return self._waiting[0] if self._waiting else self._count

    @property
    def shown_below(self) -> int | None:
        """With batches: the first trial of the present one, whose results nothing may depend on."""
        return None if self._settings.batch is None else self._batch_start(self.next_number)

    def blocked(self) -> bool:
        """Return whether the next proposal has to wait for results of the batch before."""
        start = self.shown_below
        return start is not None and any(number < start for number in self._open)

    def propose(self) -> Proposal:
        """Return the next trial's parameters. It must then be `begun`, or this object dropped.

        Raises SpaceExhaustedError where every point was tried.
        """
        self._show()
        number = self.next_number
        if self._waiting:
            fixed = self._known.get_trial(number).system_attrs.get("fixed_params") or {}
            return Proposal(number, self.completed(number, fixed), waiting=True)
        if self._settings.name == "grid":
            params = self._next_of_grid()
            self._known.create_new_trial(self._study_id)
            return Proposal(number, params)
        if self._size is not None and len(self._tried) >= self._size:
            raise SpaceExhaustedError(f"all {self._size:,} points of the search were tried")
        self._known.create_new_trial(self._study_id)
        for attempt in range(1 if self._settings.name == "qmc" else _RESAMPLED):
            params = self._sampled(number, attempt, {})
            if self._is_new(params):
                break
        else:
            params = self._untried(number)
        return Proposal(number, params, notes=dict(self._known.get_trial(number).system_attrs))

    def completed(self, number: int, params: Parameters) -> Parameters:
        """Return `params` of trial `number` with what they lack sampled."""
        if params.keys() >= self._searched.keys():
            return {name: params[name] for name in self._searched}
        return self._sampled(number, 0, params)

    def begun(self, proposal: Proposal) -> None:
        """Take note that the proposal is recorded and its trial handed out."""
        number = proposal.number
        if proposal.waiting:
            self._waiting.popleft()
            self._known.set_trial_state_values(number, TrialState.RUNNING)
        else:
            self._count += 1
        for name, value in proposal.params.items():
            distribution = self._searched[name]
            self._known.set_trial_param(
                number, name, distribution.to_internal_repr(value), distribution
            )
        self._open.add(number)
        self._count_key(proposal.params, 1)

    def ended(self, trial: FrozenTrial) -> None:
        """Take note of a finished trial; the sampler sees it at once, or after its batch."""
        self._open.discard(trial.number)
        self._unseen[trial.number] = trial

    def _show(self) -> None:
        start = self.shown_below
        for number in sorted(self._unseen):
            if start is None or number < start:
                trial = self._unseen.pop(number)
                for key, value in trial.system_attrs.items():
                    if key not in self._known.get_trial(number).system_attrs:
                        self._known.set_trial_system_attr(number, key, value)
                self._known.set_trial_state_values(number, trial.state, trial.values)
                if self._may_be_retried(trial):
                    self._count_key(trial.params, -1)

    def _remember(self, trial: FrozenTrial, *, seen: bool) -> None:
        finished = trial.state.is_finished()
        shown = trial.state if seen or not finished else TrialState.RUNNING
        self._known.create_new_trial(
            self._study_id,
            FrozenTrial(
                number=trial.number,
                trial_id=trial.number,
                state=shown,
                value=None,
                values=trial.values if shown.is_finished() else None,
                datetime_start=trial.datetime_start,
                datetime_complete=trial.datetime_complete if shown.is_finished() else None,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={},
                system_attrs={
                    key: value
                    for key, value in trial.system_attrs.items()
                    if shown == trial.state or not key.startswith("constraints")
                },
                intermediate_values={},
            ),
        )
        if finished and not seen:
            self._unseen[trial.number] = trial
        if not (seen and self._may_be_retried(trial)):
            self._count_key(trial.params, 1)

    def _may_be_retried(self, trial: FrozenTrial) -> bool:
        return trial.state == TrialState.FAIL and self._settings.name != "grid"

    def _batch_start(self, number: int) -> int:
        return number - number % self._settings.batch if self._settings.batch else number

    def _sampled(self, number: int, attempt: int, fixed: Parameters) -> Parameters:
        if self._settings.name == "qmc":
            seed = derive_seed(self._seed, "sampler")
            return {**sequence_point(self._settings, self._searched, number, seed), **fixed}
        if self._settings.name == "grid":
            return {**random_point(self._searched, self._rng("grid", number)), **fixed}
        again = (attempt,) if attempt else ()
        seed = derive_seed(self._seed, "sampler", number, *again) % 2**32
        noted = len(self._known.get_study_system_attrs(self._study_id))
        params = self._asked(number, seed, fixed)
        if len(self._known.get_study_system_attrs(self._study_id)) > noted:
            # Optuna goes on otherwise from what it noted than from what it computed just now: a
            # driver that takes over has only the notes.
            params = self._asked(number, seed, fixed)
        return params

    def _asked(self, number: int, seed: int, fixed: Parameters) -> Parameters:
        sampler = make_sampler(self._settings, seed)
        # A study object of its own: Optuna keeps what it read for the whole of one trial.
        study = optuna.load_study(study_name=_NAME, storage=self._known, sampler=sampler)
        trial = self._known.get_trial(number)
        sampler.before_trial(study, trial)
        space = sampler.infer_relative_search_space(study, trial)
        relative = sampler.sample_relative(study, trial, space)
        return {
            name: fixed[name]
            if name in fixed
            else relative[name]
            if name in relative
            else sampler.sample_independent(study, trial, name, distribution)
            for name, distribution in self._searched.items()
        }

    def _untried(self, number: int) -> Parameters:
        rng = self._rng("untried", number)
        for _ in range(_REDRAWN):
            params = random_point(self._searched, rng)
            if self._is_new(params):
                return params
        if self._size is None:
            return params
        levels = self._all_values()
        points = (
            dict(zip(levels, one, strict=True)) for one in itertools.product(*levels.values())
        )
        return next(point for point in points if self._is_new(point))

    def _all_values(self) -> dict[str, Sequence[ParameterValue]]:
        everything = self._settings.model_copy(update={"grid_points": self._size})
        return grid_levels(everything, self._searched)

    def _grid_points(self) -> Iterator[Parameters]:
        """Yield the grid's points in the study's own order, each once."""
        levels = grid_levels(self._settings, self._searched)
        sizes = [len(values) for values in levels.values()]
        for index in self._rng("grid order").permutation(math.prod(sizes)):
            places = np.unravel_index(index, sizes)
            yield {
                name: values[int(place)]
                for (name, values), place in zip(levels.items(), places, strict=True)
            }

    def _next_of_grid(self) -> Parameters:
        for params in self._grid:
            if self._is_new(params):
                return params
        raise SpaceExhaustedError("every point of the grid was tried")

    def _is_new(self, params: Parameters) -> bool:
        return self._tried[key_of(self._searched, params) or ()] <= 0

    def _count_key(self, params: Parameters, change: int) -> None:
        key = key_of(self._searched, params)
        if key is not None:
            self._tried[key] += change
            if self._tried[key] <= 0:
                del self._tried[key]

    def _rng(self, *path: str | int) -> np.random.Generator:
        return numpy_generator(self._seed, *path)
