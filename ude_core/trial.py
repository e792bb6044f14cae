"""One trial: learn a noise, embed once, train the heads, measure. The engine's front door."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ude_core.assets import StudyAssets
from ude_core.baselines.base import learns_noise
from ude_core.baselines.registry import check_encoder, make_baseline
from ude_core.cohorts.base import Cohort
from ude_core.encoders.base import Encoder
from ude_core.errors import FingerprintError, SettingError
from ude_core.evaluator import LocalEvaluator
from ude_core.fixed_noise import FixedNoise
from ude_core.image_rows import ImageRows
from ude_core.learner import NoiseLearner, plan
from ude_core.rungs import FREE_METRICS, Rung, RungPlan, look_at, rung_from_json, rung_to_json
from ude_core.scoring import score_noise
from ude_core.seeding import derive_seed
from ude_core.spread import Crew, SpreadEvaluator
from ude_core.storage import CorruptFileError, digest, load_checked, save_checked
from ude_core.surrogate import Guide
from ude_core.types import (
    MethodConfig,
    Metrics,
    Progress,
    QueryCount,
    Report,
    TrialResult,
    exactly,
)

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"
SCHEMA_VERSION = 1


class Trial:
    """One method from start to score; a pure function of its arguments, resumable at any epoch.

    Most learn a noise first; a baseline (`baselines`) is finished with that at once.
    `prior` guides `guided` (a prior), `jacobian` (directions) or `distilled` (a student), and no other
    method (`surrogate`). A `crew` shares
    the evaluation of candidates and changes no bit of the result; each of its replicas holds the
    `trial_evaluator` of the same cohort, encoder and assets. `looks` says when the trial is looked at
    before its end (`rungs`); looking changes its cost, never its noise.
    """

    def __init__(
        self,
        method: MethodConfig,
        cohort: Cohort,
        encoder: Encoder,
        assets: StudyAssets,
        seed: int,
        prior: Guide | None = None,
        crew: Crew | None = None,
        looks: RungPlan | None = None,
    ) -> None:
        check_encoder(method.name, encoder)
        self.method = method
        self.cohort = cohort
        self.encoder = encoder
        self.assets = assets
        self.seed = seed
        self.looks = looks or RungPlan(())
        self.curve: list[Progress] = []
        self.rungs: list[Rung] = []
        local = trial_evaluator(method, cohort, encoder, assets)
        evaluator = local if crew is None else SpreadEvaluator(local, crew)
        self.learner: NoiseLearner | FixedNoise
        own = derive_seed(seed, "noise")
        if learns_noise(method.name):
            self.learner = NoiseLearner(method, evaluator, own, prior)
        else:
            self.learner = FixedNoise(make_baseline(method).noise(encoder.image_size, own))

    @property
    def finished(self) -> bool:
        """Whether the noise is learnt; `result` may be asked for."""
        return self.learner.finished

    @property
    def iteration(self) -> int:
        """How many local iterations are behind it."""
        return self.learner.iteration

    def advance(self) -> Progress:
        """Learn to the end of the epoch and return what it came to."""
        while True:
            progress = self.step()
            if progress is not None:
                return progress

    def step(self) -> Progress | None:
        """Make one local iteration, and look if a rung is reached; return the epoch it ends, if any."""
        self.learner.step()
        self._look()
        if not self.learner.at_epoch_end:
            return None
        progress = self.learner.progress()
        self.curve.append(progress)
        return progress

    @property
    def looking_queries(self) -> int:
        """Queries spent on looks so far."""
        return sum(rung.scoring_queries for rung in self.rungs)

    def _look(self) -> None:
        """Add a rung for every share reached just now; shares reached together cost one look."""
        learner = self.learner
        due = self.looks.due(learner.iteration, learner.schedule.iterations)[len(self.rungs) :]
        if not due or learner.finished:
            return
        progress = learner.progress()
        free = {name: float(getattr(progress, name)) for name in FREE_METRICS}
        metrics = {name: value for name, value in free.items() if math.isfinite(value)}
        paid = 0
        if self.looks.repeats:
            look = look_at(
                learner.noise,
                self.method,
                self.cohort,
                self.encoder,
                self.assets,
                repeats=self.looks.repeats,
                images=self.looks.images,
            )
            metrics, paid = {**metrics, **look.metrics}, look.queries
        for share in due:
            self.rungs.append(Rung(share, learner.iteration, learner.queries, paid, metrics))
            paid = 0

    def result(self) -> TrialResult:
        """Score the noise. Deterministic: asked twice, it answers the same."""
        learner = self.learner
        scored = score_noise(
            learner.noise, self.method, self.cohort, self.encoder, self.assets, seed=self.seed
        )
        queries = QueryCount(
            noise=learner.queries,
            scoring=scored.queries + self.looking_queries,
            surrogate=learner.surrogate_passes,
        )
        metrics: Metrics = {
            **scored.metrics,
            "queries": exactly(queries.total),
            "queries_noise": exactly(queries.noise),
            "queries_scoring": exactly(queries.scoring),
        }
        if learner.prior is not None:
            metrics["surrogate_passes"] = exactly(queries.surrogate)
        if self.looking_queries:
            metrics["queries_rungs"] = exactly(self.looking_queries)
        return TrialResult(
            noise=learner.noise,
            metrics=metrics,
            curve=tuple(self.curve),
            queries=queries,
            outcome=learner.outcome,
            note=learner.note,
        )

    def save(self, folder: Path) -> None:
        """Write a checkpoint; the one before it is kept, in case this one is torn or flipped."""
        tensors, scalars = self.learner.state_dict()
        scalars |= {
            "schema_version": SCHEMA_VERSION,
            "identity": self._identity(),
            "curve": [asdict(progress) for progress in self.curve],
            "rungs": [rung_to_json(rung) for rung in self.rungs],
        }
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / CHECKPOINT
        if path.exists():
            path.replace(folder / PREVIOUS)
        save_checked(path, tensors, scalars)

    def restore(self, folder: Path) -> bool:
        """Continue from the newest whole checkpoint in `folder`; False where there is none.

        Raises FingerprintError where the checkpoint belongs to another trial, data or weights, or
        where another release wrote it and this one cannot read its state.
        """
        for name in (CHECKPOINT, PREVIOUS):
            path = folder / name
            if not path.exists():
                continue
            try:
                tensors, scalars = load_checked(path)
            except CorruptFileError as error:
                log.warning("checkpoint left aside: %s", error)
                continue
            if scalars["identity"] != self._identity():
                raise FingerprintError(
                    f"{path}: the checkpoint was made with other parameters, data or weights; "
                    "start a study under another name"
                )
            self.curve = [Progress(**progress) for progress in scalars["curve"]]
            self.rungs = [rung_from_json(rung) for rung in scalars.get("rungs", [])]
            self.learner.load_state_dict(tensors, scalars)
            return True
        return False

    def _identity(self) -> str:
        return digest(
            asdict(self.method),
            self.seed,
            self.cohort.fingerprint,
            self.encoder.fingerprint,
            self.assets.seed,
            np.asarray(self.assets.split.train).tolist(),
            None if self.learner.prior is None else self.learner.prior.fingerprint,
        )


def trial_evaluator(
    method: MethodConfig, cohort: Cohort, encoder: Encoder, assets: StudyAssets
) -> LocalEvaluator:
    """Return what scores a trial's candidates: the training images under the study's attribute head.

    Raises SettingError where `target_group` is none of the cohort's groups.
    """
    if method.target_group >= len(cohort.groups):
        raise SettingError(
            f"target_group is {method.target_group} (expected 0 to {len(cohort.groups) - 1}, one of "
            f"{', '.join(cohort.groups)}); change it"
        )
    train = assets.split.train
    return LocalEvaluator(
        encoder=encoder,
        attribute_head=assets.attribute_head,
        images=ImageRows(cohort.images, train),
        attribute=cohort.attribute[train],
        objective=method.objective,
        regularization=method.regularization,
        target_group=method.target_group,
        pixels=method.pixels,
    )


def run_trial(
    method: MethodConfig,
    cohort: Cohort,
    encoder: Encoder,
    assets: StudyAssets,
    *,
    seed: int,
    report: Report | None = None,
    prior: Guide | None = None,
    crew: Crew | None = None,
) -> TrialResult:
    """Learn and score one noise; `report` hears of every epoch, a `crew` shares the candidates.

    A pure function of its arguments: the same call gives the same ε bit for bit on one machine.
    """
    trial = Trial(method, cohort, encoder, assets, seed, prior, crew)
    while not trial.finished:
        progress = trial.advance()
        if report is not None:
            report(progress)
    return trial.result()


def planned_queries(
    method: MethodConfig,
    scored_size: int,
    train_size: int,
    controls: int,
    looks: int = 0,
    *,
    diseases: int,
    head_epochs: int,
) -> int:
    """Return an upper bound of the queries a trial will spend, without running it.

    `scored_size` images are scored, and `looks` counts the paid looks (`rungs`). `diseases` and
    `head_epochs` decide what training the heads may cost where that takes queries (bias_adv).
    """
    if learns_noise(method.name):
        return plan(method, train_size).queries + scored_size * (1 + controls + looks)
    baseline = make_baseline(method)
    embedded = 0 if baseline.edit == "nothing" else scored_size
    return embedded + baseline.training_queries(scored_size * diseases, head_epochs)
