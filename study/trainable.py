"""What runs inside a worker: one process, one encoder, one trial after another."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune

from study.attempts import (
    Failure,
    FencedError,
    GivenUpError,
    read_failure,
    reason_of,
    write_failure,
)
from study.config import StudyConfig
from study.crew import RayCrew
from study.materials import Materials
from study.meter import MeteredEncoder
from study.names import Layout
from study.package import Package, worker_materials
from study.rung_records import RungRecord, read_pruned, write_rungs
from study.spaces import method_of, most_queries
from study.trial_files import SharedFiles, StoredFiles, TrialFiles, write_worker
from study.trial_store import TrialStore
from ude_core.batching import is_out_of_memory
from ude_core.errors import EncoderMemoryError, PermanentEncoderError, UserError
from ude_core.results import save_result
from ude_core.runtime import prepare_process
from ude_core.trial import CHECKPOINT, PREVIOUS, Trial
from ude_core.types import Progress

CHECKPOINT_SECONDS = 0.25
"""How much of a trial a killed worker may have to repeat, beside the epoch it is in."""

CHECKPOINT_SHARE = 0.01
"""The share of a worker's time that checkpoints may take: on slow storage they come less often."""

LONGEST_SECONDS = 1.0
"""However slow the storage, a checkpoint comes after this long."""

STORED_CHECKPOINT_SECONDS = 15.0
"""The same where a checkpoint travels to a store."""

STEP_SECONDS = 2.0
"""How long a worker may be deaf to Tune, beside the iteration it is in. It waits while it reports."""

REPORTING_WORKERS = 200
"""From so many workers on, steps are longer: all together report a hundred times a second."""


@dataclass(frozen=True, slots=True)
class WorkerOrder:
    """What every worker of a study is told once."""

    config: str  # StudyConfig as JSON
    root: str  # absolute
    package: Package | None = None  # what the driver prepared; None: make it from the config


class NoiseTrainable(tune.Trainable):
    """Tune's face of a trial.

    Cohort, encoder and assets are loaded once a process; each trial then only swaps its parameters.
    Checkpoints and results go to the trial's own folder, not through Tune: a later launch reads
    them without Tune, and no pickle is involved.
    """

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], order: WorkerOrder
    ) -> None:
        """Take the first trial; what all trials share is loaded with its first step."""
        self._config = StudyConfig.model_validate_json(order.config)
        prepare_process(self._config.resources.cpus_per_trial)
        self._layout = Layout.at(order.root)
        self._package = order.package
        self._places = self._layout.study(self._config.name)
        url = self._config.resources.trial_store
        self._store = TrialStore.open(url) if url is not None else None
        shared = self._config.resources.workers_per_trial > 1
        self._materials: Materials | None = None
        self._encoder: MeteredEncoder
        self._crew = (
            RayCrew(
                self._config,
                self._layout.cache,
                order.package,
                note=self._note,
            )
            if shared
            else None
        )
        self._choose(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial into the same process."""
        self._let_go()
        self._choose(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Learn for a moment; when all is learnt, score and write the result."""
        try:
            return self._step()
        except FencedError as error:
            return {"done": True, "note": str(error)}
        except GivenUpError as error:
            return self._fail(str(error))
        except (UserError, PermanentEncoderError) as error:
            return self._fail(reason_of(error))
        except Exception as error:
            memory = is_out_of_memory(error) or isinstance(error, EncoderMemoryError)
            if memory and self._frugal:
                return self._fail(f"{reason_of(error)} (again, in batches half as large)")
            # It is tried again in a new process; the word left here outlives this one.
            self._leave_word(Failure(reason_of(error), permanent=False, out_of_memory=memory))
            raise

    def cleanup(self) -> None:
        """Keep what was learnt of a trial that is being stopped, and end its other workers."""
        try:
            # A pruned trial's state is of no more use, and the driver has removed it.
            if read_pruned(self._folder) is None:
                with contextlib.suppress(FencedError):
                    self._checkpoint()
        finally:
            self._let_go()
            if self._crew is not None:
                self._crew.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the trial's state where Tune wants it, for schedulers that pause trials."""
        if self._trial is not None:
            self._trial.save(Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]
        """Continue from a state that Tune kept."""
        self._begin().restore(Path(checkpoint))

    def _fail(self, reason: str) -> dict[str, Any]:
        self._leave_word(Failure(reason, permanent=True))
        return {"done": True, "note": reason}

    def _choose(self, config: dict[str, Any]) -> None:
        self._number = int(config["number"])
        self._seed = int(config["seed"])
        self._params = dict(config["params"])
        self._trial: Trial | None = None
        self._frugal = False
        self._saved = self._save_seconds = 0.0
        self._files: TrialFiles = (
            SharedFiles(self._places.trial(self._number))
            if self._store is None
            else StoredFiles(self._store, self._config.name, self._number)
        )
        self._folder = self._files.folder
        self._decided = 0

    def _begin(self) -> Trial:
        token = self._files.begin()
        write_worker(self._folder, _where())
        failure = read_failure(self._folder)
        self._frugal = failure is not None and failure.out_of_memory
        if self._materials is None:
            self._materials = worker_materials(self._config, self._package, self._layout.cache)
            self._encoder = MeteredEncoder(self._materials.encoder)
        materials = self._materials
        self._encoder.open(self._folder, token[:8], frugal=self._frugal)
        method = method_of(self._config, self._params)
        trial = Trial(
            method,
            materials.cohort,
            self._encoder,
            materials.assets,
            self._seed,
            materials.guide(method),
            self._crew,
            looks=self._config.pruning.plan(),
        )
        trial.restore(self._folder)
        self._files.reached(trial.iteration)
        # What was learnt after a rung was learnt because the trial was let go on there.
        self._decided = sum(rung.iteration < trial.learner.iteration for rung in trial.rungs)
        self._trial = trial
        self._saved = time.monotonic()
        return trial

    def _note(self, images: int) -> None:
        self._encoder.note(images)

    def _let_go(self) -> None:
        if self._materials is not None:
            self._encoder.close()
        self._files.close()

    def _step(self) -> dict[str, Any]:
        if self._files.done():
            return {"done": True}
        trial = self._trial or self._begin()
        if not trial.finished:
            waiting = len(trial.rungs) > self._decided
            seconds = step_seconds(self._config.resources.workers)
            progress = None if waiting else self._advance(trial, seconds)
            if len(trial.rungs) > self._decided:
                return self._at_rung(trial, progress)
            if trial.finished:
                self._checkpoint()
            return {"done": False, "progress": asdict(progress) if progress else None}
        result = trial.result()
        self._files.check()
        save_result(result, self._folder)
        self._trial = None
        self._encoder.close()
        for name in (CHECKPOINT, PREVIOUS):
            (self._folder / name).unlink(missing_ok=True)
        self._files.publish()
        return {"done": True}

    def _advance(self, trial: Trial, seconds: float) -> Progress | None:
        """Learn for `seconds`, or to a rung or the end; return the last epoch that ended, if one did.

        Shorter epochs are not reported one by one.
        """
        deadline = time.monotonic() + seconds
        latest = None
        while True:
            latest = trial.step() or latest
            if trial.finished or len(trial.rungs) > self._decided:
                return latest
            if self._due():
                self._checkpoint()
            if time.monotonic() >= deadline:
                return latest

    def _due(self) -> bool:
        pause = min(LONGEST_SECONDS, max(CHECKPOINT_SECONDS, self._save_seconds / CHECKPOINT_SHARE))
        if self._store is not None:
            pause = STORED_CHECKPOINT_SECONDS
        return time.monotonic() - self._saved >= pause

    def _at_rung(self, trial: Trial, progress: Progress | None) -> dict[str, Any]:
        """Put the rung where the driver decides on it; the state first: no look is paid for twice."""
        self._checkpoint()
        assets, method = trial.assets, trial.method
        planned = most_queries(self._config, method, len(assets.scored), len(assets.split.train))
        write_rungs(self._folder, RungRecord(tuple(trial.rungs), tuple(trial.curve), planned))
        self._files.publish()
        self._decided = len(trial.rungs)
        return {
            "done": False,
            "progress": asdict(progress) if progress else None,
            "rung": len(trial.rungs),
        }

    def _checkpoint(self) -> None:
        if self._trial is not None:
            began = time.monotonic()
            self._files.check()
            self._trial.save(self._folder)
            self._files.publish()
            self._saved = time.monotonic()
            self._save_seconds = self._saved - began

    def _leave_word(self, failure: Failure) -> None:
        write_failure(self._folder, failure)
        self._files.publish()


def _where() -> dict[str, Any]:
    """Return the Ray node and the GPUs this process was given; nothing outside Ray."""
    if not ray.is_initialized():
        return {}
    context = ray.get_runtime_context()
    return {"node": context.get_node_id(), "gpus": context.get_accelerator_ids().get("GPU", [])}


def step_seconds(workers: int) -> float:
    """Return how long a step of each of so many workers lasts, so that the driver keeps up.

    >>> step_seconds(8), step_seconds(1000)
    (2.0, 10.0)
    """
    return STEP_SECONDS * max(1.0, workers / REPORTING_WORKERS)
