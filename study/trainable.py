"""What runs inside a worker: one process, one encoder, one trial after another."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray import tune

from study.config import StudyConfig
from study.crew import RayCrew
from study.harvest import Attempt, Failure, FencedError, reason_of, write_failure
from study.materials import Materials, load_materials
from study.names import Layout
from study.rung_records import RungRecord, read_pruned, write_rungs
from study.spaces import method_of
from ude_core.errors import EncoderMemoryError, PermanentEncoderError, UserError
from ude_core.results import has_result, save_result
from ude_core.runtime import prepare_process
from ude_core.trial import CHECKPOINT, PREVIOUS, Trial, planned_queries
from ude_core.types import Progress

CHECKPOINT_SECONDS = 2.0
"""How much of a trial a killed worker may have to repeat, beside the iteration it is in."""

STEP_SECONDS = 1.0
"""How long a worker may be deaf to Tune, beside the iteration it is in."""

STEPS_A_SECOND = 100
"""How many steps all workers together may report: with more workers than that, steps are longer."""


@dataclass(frozen=True, slots=True)
class WorkerOrder:
    """What every worker of a study is told once."""

    config: str  # StudyConfig as JSON
    root: str  # absolute


class NoiseTrainable(tune.Trainable):
    """Tune's face of a trial.

    `setup` loads cohort, encoder and assets once a process; each trial then only swaps its
    parameters. Checkpoints and results go to the trial's own folder, not through Tune: a later
    launch reads them without Tune, and no pickle is involved.
    """

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], order: WorkerOrder
    ) -> None:
        """Load what all trials share."""
        self._config = StudyConfig.model_validate_json(order.config)
        prepare_process(self._config.resources.cpus_per_trial)
        layout = Layout.at(order.root)
        self._places = layout.study(self._config.name)
        shared = self._config.resources.workers_per_trial > 1
        self._crew = RayCrew(self._config, layout.cache) if shared else None
        self._materials: Materials = load_materials(self._config, layout.cache)
        self._choose(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial into the same process."""
        self._choose(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Learn for a moment, at most an epoch; when all is learnt, score and write the result."""
        try:
            return self._step()
        except FencedError as error:
            return {"done": True, "note": str(error)}
        except (UserError, PermanentEncoderError, EncoderMemoryError) as error:
            write_failure(self._folder, Failure(reason_of(error), permanent=True))
            return {"done": True, "note": reason_of(error)}
        except Exception as error:
            # Tune tries again, a bounded number of times; the word left here outlives this process.
            write_failure(self._folder, Failure(reason_of(error), permanent=False))
            raise

    def cleanup(self) -> None:
        """Keep what was learnt of a trial that is being stopped, and end its other workers."""
        try:
            # A pruned trial's state is of no more use, and the driver has removed it.
            if read_pruned(self._folder) is None:
                with contextlib.suppress(FencedError):
                    self._checkpoint()
        finally:
            if self._crew is not None:
                self._crew.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the trial's state where Tune wants it, for schedulers that pause trials."""
        if self._trial is not None:
            self._trial.save(Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]
        """Continue from a state that Tune kept."""
        self._begin().restore(Path(checkpoint))

    def _choose(self, config: dict[str, Any]) -> None:
        self._number = int(config["number"])
        self._seed = int(config["seed"])
        self._params = dict(config["params"])
        self._folder = self._places.trial(self._number)
        self._trial: Trial | None = None
        self._attempt: Attempt | None = None
        self._saved = 0.0
        self._decided = 0

    def _begin(self) -> Trial:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._attempt = Attempt.begin(self._folder)
        method = method_of(self._config, self._params)
        trial = Trial(
            method,
            self._materials.cohort,
            self._materials.encoder,
            self._materials.assets,
            self._seed,
            self._materials.prior(method),
            self._crew,
            looks=self._config.pruning.plan(),
        )
        trial.restore(self._folder)
        # What was learnt after a rung was learnt because the trial was let go on there.
        self._decided = sum(rung.iteration < trial.learner.iteration for rung in trial.rungs)
        self._trial = trial
        self._saved = time.monotonic()
        return trial

    def _step(self) -> dict[str, Any]:
        if has_result(self._folder):
            return {"done": True}
        trial = self._trial or self._begin()
        if not trial.finished:
            waiting = len(trial.rungs) > self._decided
            seconds = step_seconds(self._config.resources.workers)
            progress = None if waiting else _advance(trial, seconds)
            if len(trial.rungs) > self._decided:
                return self._at_rung(trial, progress)
            if trial.finished or time.monotonic() - self._saved >= CHECKPOINT_SECONDS:
                self._checkpoint()
            return {"done": False, "progress": asdict(progress) if progress else None}
        result = trial.result()
        self._check_claim()
        save_result(result, self._folder)
        self._trial = None
        for name in (CHECKPOINT, PREVIOUS):
            (self._folder / name).unlink(missing_ok=True)
        return {"done": True}

    def _at_rung(self, trial: Trial, progress: Progress | None) -> dict[str, Any]:
        """Put the rung where the driver decides on it; the state first: no look is paid for twice."""
        self._checkpoint()
        assets, method = self._materials.assets, trial.method
        planned = planned_queries(
            method, len(assets.development), len(assets.split.train), assets.scoring.controls
        )
        write_rungs(self._folder, RungRecord(tuple(trial.rungs), tuple(trial.curve), planned))
        self._decided = len(trial.rungs)
        return {
            "done": False,
            "progress": asdict(progress) if progress else None,
            "rung": len(trial.rungs),
        }

    def _checkpoint(self) -> None:
        if self._trial is not None:
            self._check_claim()
            self._trial.save(self._folder)
            self._saved = time.monotonic()

    def _check_claim(self) -> None:
        if self._attempt is not None:
            self._attempt.check()


def step_seconds(workers: int) -> float:
    """Return how long a step of each of so many workers lasts, so that the driver keeps up.

    >>> step_seconds(8), step_seconds(1000)
    (1.0, 10.0)
    """
    return STEP_SECONDS * max(1.0, workers / STEPS_A_SECOND)


def _advance(trial: Trial, seconds: float) -> Progress | None:
    """Learn to the end of the epoch and return it; None where a rung or `seconds` are over before."""
    deadline = time.monotonic() + seconds
    rungs = len(trial.rungs)
    progress = trial.step()
    while progress is None and len(trial.rungs) == rungs and time.monotonic() < deadline:
        progress = trial.step()
    return progress
