"""Those who watch a study run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from study.records import Assignment, TrialRecord


class Observer(Protocol):
    """Who wants to hear of the study while it runs. Calls must return at once and never raise."""

    def started(self, assignment: Assignment) -> None:
        """A trial was handed to a worker."""

    def epoch(self, number: int, progress: Mapping[str, Any]) -> None:
        """A trial ended an epoch; `progress` has the fields of `ude_core.types.Progress`."""

    def finished(self, record: TrialRecord) -> None:
        """A trial was closed in the ledger."""
