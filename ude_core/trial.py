"""One trial: learn a noise, embed once, train the heads, measure. The engine's front door."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ude_core.assets import StudyAssets
from ude_core.cohorts.base import Cohort
from ude_core.encoders.base import Encoder
from ude_core.errors import FingerprintError
from ude_core.evaluator import LocalEvaluator
from ude_core.image_rows import ImageRows
from ude_core.learner import NoiseLearner, plan
from ude_core.scoring import score_noise
from ude_core.seeding import derive_seed
from ude_core.spread import Crew, SpreadEvaluator
from ude_core.storage import CorruptFileError, digest, load_checked, save_checked
from ude_core.surrogate import SurrogatePrior
from ude_core.types import (
    Measured,
    MethodConfig,
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
    """One noise from start to score; a pure function of its arguments, resumable at any epoch.

    `prior` guides the method `guided`, and no other (`surrogate.prepare_surrogate`). A `crew` shares
    the evaluation of candidates and changes no bit of the result; each of its replicas holds the
    `trial_evaluator` of the same cohort, encoder and assets.
    """

    def __init__(
        self,
        method: MethodConfig,
        cohort: Cohort,
        encoder: Encoder,
        assets: StudyAssets,
        seed: int,
        prior: SurrogatePrior | None = None,
        crew: Crew | None = None,
    ) -> None:
        self.method = method
        self.cohort = cohort
        self.encoder = encoder
        self.assets = assets
        self.seed = seed
        self.curve: list[Progress] = []
        local = trial_evaluator(method, cohort, encoder, assets)
        evaluator = local if crew is None else SpreadEvaluator(local, crew)
        self.learner = NoiseLearner(method, evaluator, derive_seed(seed, "noise"), prior)

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
        """Make one local iteration; return what the epoch came to where it ends one."""
        self.learner.step()
        if not self.learner.at_epoch_end:
            return None
        progress = self.learner.progress()
        self.curve.append(progress)
        return progress

    def result(self) -> TrialResult:
        """Score the noise. Deterministic: asked twice, it answers the same."""
        learner = self.learner
        scored = score_noise(
            learner.noise, self.method, self.cohort, self.encoder, self.assets, seed=self.seed
        )
        queries = QueryCount(
            noise=learner.queries, scoring=scored.queries, surrogate=learner.surrogate_passes
        )
        metrics: dict[str, Measured] = {
            **scored.metrics,
            "queries": exactly(queries.total),
            "queries_noise": exactly(queries.noise),
            "queries_scoring": exactly(queries.scoring),
        }
        if learner.prior is not None:
            metrics["surrogate_passes"] = exactly(queries.surrogate)
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
        }
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / CHECKPOINT
        if path.exists():
            path.replace(folder / PREVIOUS)
        save_checked(path, tensors, scalars)

    def restore(self, folder: Path) -> bool:
        """Continue from the newest whole checkpoint in `folder`; False where there is none.

        Raises FingerprintError where the checkpoint belongs to another trial, data or weights.
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
    """Return what scores a trial's candidates: the training images under the study's attribute head."""
    train = assets.split.train
    return LocalEvaluator(
        encoder=encoder,
        attribute_head=assets.attribute_head,
        images=ImageRows(cohort.images, train),
        attribute=cohort.attribute[train],
        objective=method.objective,
        regularization=method.regularization,
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
    prior: SurrogatePrior | None = None,
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


def planned_queries(method: MethodConfig, cohort_size: int, train_size: int, controls: int) -> int:
    """Return an upper bound of the queries a trial will spend, without running it."""
    return plan(method, train_size).queries + cohort_size * (1 + controls)
