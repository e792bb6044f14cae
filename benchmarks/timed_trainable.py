"""A worker that writes down when it is inside the engine. It is what the product's own worker is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from study.trainable import NoiseTrainable
from ude_core.trial import Trial

SPANS = "engine_spans"
"""The folder under the root with one file a worker: `[began, ended, trial]` a line, Unix seconds."""

T = TypeVar("T")


class TimedTrainable(NoiseTrainable):
    """Writes down when it is inside the engine."""

    def setup(self, config: dict[str, Any], order: Any) -> None:  # type: ignore[override]
        super().setup(config, order)
        spans = Path(order.root) / SPANS
        spans.mkdir(exist_ok=True)
        self._spans = spans / f"{time.time_ns()}.jsonl"

    def _begin(self) -> Trial:
        trial = super()._begin()
        trial.step = self._timed(trial.step)  # type: ignore[method-assign]
        trial.result = self._timed(trial.result)  # type: ignore[method-assign]
        return trial

    def _timed(self, call: Callable[[], T]) -> Callable[[], T]:
        def timed() -> T:
            began = time.time()
            try:
                return call()
            finally:
                with self._spans.open("a") as stream:
                    stream.write(json.dumps([began, time.time(), self._number]) + "\n")

        return timed
