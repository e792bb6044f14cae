"""The workers of one trial on Ray: actors that each hold the study's materials and a replica."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from study.config import StudyConfig
from study.package import Package, worker_materials
from ude_core.replica import Replica
from ude_core.runtime import prepare_process
from ude_core.spread import WorkerLostError
from ude_core.trial import trial_evaluator
from ude_core.types import MethodConfig

_RESTARTS = 3
_TIMEOUT_SECONDS = 600.0


class ReplicaActor:
    """One process beside a trial's own, with an encoder on a device of its own."""

    def __init__(self, config: str, cache: str, package: Package | None) -> None:
        """Load what the trial's process loaded, from the same cache."""
        loaded = StudyConfig.model_validate_json(config)
        prepare_process(loaded.resources.cpus_per_trial)
        materials = worker_materials(loaded, package, Path(cache))
        held = trial_evaluator(
            MethodConfig(), materials.cohort, materials.encoder, materials.assets
        )
        self._replica = Replica(held, materials.prior)

    def answer(self, message: bytes) -> bytes:
        """Return the reply to one order."""
        return self._replica.answer(message)


class RayCrew:
    """`resources.workers_per_trial` - 1 actors, placed with the trial; see `ude_core.spread.Crew`.

    Ray restarts an actor that dies; it begins again, blank, with the trial that follows. `note`
    hears how many images an actor is about to encode.
    """

    def __init__(
        self,
        config: StudyConfig,
        cache: Path,
        package: Package | None = None,
        note: Callable[[int], None] = lambda images: None,
    ) -> None:
        self._note = note
        resources = config.resources
        actor: Any = ray.remote(ReplicaActor).options(
            num_cpus=resources.cpus_per_trial,
            num_gpus=resources.gpus_per_trial,
            max_restarts=_RESTARTS,
        )
        text = config.model_dump_json(by_alias=True)
        self._actors: list[Any] = [
            actor.remote(text, str(cache), package) for _ in range(resources.workers_per_trial - 1)
        ]
        self._replies: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._actors)

    def send(self, worker: int, message: bytes, images: int) -> None:
        """Hand an actor an order. Raises WorkerLostError where Ray knows it is gone."""
        self._note(images)
        try:
            self._replies[worker] = self._actors[worker].answer.remote(message)
        except RayError as error:
            raise WorkerLostError(_line(error)) from error

    def receive(self, worker: int) -> bytes:
        """Wait for a reply. Raises WorkerLostError where the actor ends, fails or takes too long."""
        try:
            reply: bytes = ray.get(self._replies.pop(worker), timeout=_TIMEOUT_SECONDS)
        except RayError as error:
            raise WorkerLostError(_line(error)) from error
        return reply

    def close(self) -> None:
        """End every actor."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors.clear()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
