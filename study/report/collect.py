"""Everything a report reads, gathered once: fronts, what the test split says, cohort and noises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from study.config import StudyConfig
from study.confirm import Confirmation, ConfirmedPoint, confirm, load_confirmation
from study.confirm_named import confirm_named
from study.names import Layout
from study.pareto import MEAN, WORST, Front, Levelling, front_of
from study.records import TrialRecord
from study.report.choices import (
    ERM,
    RANDOM,
    best_by_disease,
    best_by_method,
    methods_of,
    minimax_trial,
)
from study.standing import shown_levelling
from ude_core.baselines.base import learns_noise
from ude_core.cohorts.bias import confirmation_draws
from ude_core.cohorts.cells import CellTable, cell_table
from ude_core.errors import UserError
from ude_core.types import Interval, Measured, MethodName

if TYPE_CHECKING:
    from study.api import Study
    from study.materials import Materials

Say = Callable[[str], None]
CONTROLS_OF = ("gezo", "whitebox")
"""Whose norm-matched random noises fill the row of random noise, where it was no method of its own."""


@dataclass(frozen=True, slots=True)
class Ablation:
    """A study whose trials Fig. 2 is drawn from."""

    study: str
    config: StudyConfig
    fronts: Mapping[str, Front]


@dataclass(frozen=True, slots=True)
class Collected:
    """What the tables and figures are made of.

    `methods` maps each method that ran to its trial for Table 2; `named` holds the test figures of
    every trial spoken of, `confirmation` those of the front alone. `queries` is what this report
    paid. `fronts` has one front a disease, and those of `mean` and `worst`.
    """

    study: str
    config: StudyConfig
    records: Mapping[int, TrialRecord]
    fronts: Mapping[str, Front]
    methods: Mapping[str, int]
    by_disease: Mapping[str, int]
    minimax: int | None
    confirmation: Confirmation
    named: Confirmation
    materials: Materials
    study_queries: int
    fingerprints: Mapping[str, str]
    queries: int = 0
    ran: Mapping[str, int] = field(default_factory=dict)

    @property
    def diseases(self) -> tuple[str, ...]:
        return self.config.cohort.diseases

    def tested(self, trial: int) -> ConfirmedPoint:
        """Return a named trial's test figures."""
        found = self.named.point(trial)
        if found is None:
            raise KeyError(trial)
        return found

    def method_of(self, trial: int) -> MethodName:
        """Return the name of a trial's method."""
        return self.records[trial].method

    def levelling(self, trial: int, disease: str) -> Levelling:
        """Return whom a named trial helped or hurt on the test split, against ERM there."""
        return shown_levelling(self.tested(trial).metrics, disease)

    def row(self, method: str) -> Mapping[str, Measured] | None:
        """Return a method's test metrics, `<disease>/<metric>`; None where it was not run.

        ERM is the confirmation's own. Random noise without a trial of its own is the mean of the
        random noises beside UDE-GeZO's row (or the white-box's): see `random_of`.
        """
        if method == ERM:
            return self.named.erm
        if method in self.methods:
            return self.tested(self.methods[method]).metrics
        if method == RANDOM and (of := self.random_of()) is not None:
            return self.tested(self.methods[of]).random
        return None

    def random_of(self) -> str | None:
        """Return whose random controls stand in for the method `random_noise`; None where it ran."""
        if RANDOM in self.methods:
            return None
        return next(
            (
                method
                for method in CONTROLS_OF
                if method in self.methods and self.tested(self.methods[method]).random
            ),
            None,
        )


def collect(study: Study, say: Say) -> Collected:
    """Return what a report of `study` is made of; trials that it names are confirmed where needed.

    Raises UserError where no trial is complete, FingerprintError where data or weights changed.
    """
    from study.materials import load_materials
    from ude_core.runtime import prepare_process

    config = study.config
    known = _earlier(study)
    settings = config.confirm if known is None else known
    if known is None:
        say("confirming the front on the test split")
    confirmation, fresh = confirm(study, repeats=settings.repeats, controls=settings.controls)
    queries = confirmation.queries if fresh else 0
    fronts = fronts_of(study)
    methods: dict[str, int] = {
        name: trial for name, trial in best_by_method(fronts).items() if name != ERM
    }
    by_disease = best_by_disease(fronts, config.cohort.diseases)
    one_for_all = minimax_trial(fronts)
    wanted = {point.trial: 0 for point in confirmation.points}
    wanted |= dict.fromkeys(by_disease.values(), 0)
    if one_for_all is not None:
        wanted[one_for_all] = 0
    compared = {
        trial: confirmation.controls if _has_controls(study.ledger.trial(trial)) else 0
        for trial in methods.values()
    }
    wanted |= compared
    say(f"confirming the trials of the tables ({len(wanted)} in all)")
    named, paid = confirm_named(study, wanted, repeats=confirmation.repeats, front=confirmation)
    prepare_process()
    materials = load_materials(config, Layout.at(study.root).cache)
    study.ledger.check_fingerprints(materials.fingerprints)
    return Collected(
        study=study.name,
        config=config,
        records={record.number: record for record in study.ledger.trials()},
        fronts=fronts,
        methods=methods,
        by_disease=by_disease,
        minimax=one_for_all,
        confirmation=confirmation,
        named=named,
        materials=materials,
        study_queries=study.ledger.queries(),
        fingerprints=study.ledger.fingerprints,
        queries=queries + paid + materials.assets.queries,
        ran={name: len(points) for name, points in methods_of(fronts[MEAN]).items()},
    )


def cells_of(found: Collected) -> CellTable:
    """Return the cells of the cohort, of its splits, and of a draw of every kind."""
    cohort, assets = found.materials.cohort, found.materials.assets
    tested = confirmation_draws(cohort, assets.split, assets.bias, 1, assets.seed)
    return cell_table(cohort, assets.split, assets.draws, tested)


def fronts_of(study: Study) -> dict[str, Front]:
    """Return the front of every disease, of their mean and of the worst."""
    return {name: front_of(study, name) for name in (*study.config.cohort.diseases, MEAN, WORST)}


def ablation_of(study: Study) -> Ablation:
    """Return what Fig. 2 needs of a study."""
    return Ablation(study.name, study.config, fronts_of(study))


def _has_controls(record: TrialRecord) -> bool:
    """Return whether random noise of a trial's norm is something to hold it against."""
    norm = record.metrics.get("noise_l2")
    return learns_noise(record.method) and isinstance(norm, Interval) and norm.mean > 0


def _earlier(study: Study) -> Confirmation | None:
    """Return the study's confirmation, for its repeats and controls; None where there is none."""
    try:
        return load_confirmation(study)
    except UserError:
        return None
