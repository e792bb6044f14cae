"""MLflow as the window of a study: one experiment, one parent run, one nested run a trial.

Every write is idempotent, so it may be repeated after any loss: runs are looked up by tag before
they are created, and every value has one timestamp that follows from the ledger alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from study.config import StudyConfig
from study.names import Layout, trial_name
from study.records import Assignment, Parameters, TrialRecord, TrialState
from study.run_marks import labels
from study.run_metrics import (
    curve_metrics,
    interval_metrics,
    milliseconds,
    rung_metrics,
)
from study.run_table import VIEW_TAG, view_of
from study.spaces import method_of
from ude_core.baselines.registry import settings_read
from ude_core.results import PICTURE_FILE
from ude_core.rungs import Rung
from ude_core.types import Measured, Progress, Undefined

_METRICS_A_BATCH, _TAG_LENGTH = 800, 5000  # at most 100 tags and 100 params beside them
_STUDY_TAG, _TRIAL_TAG, _STATE_TAG = "ude.study", "ude.trial", "ude.state"
_PARENT, _NOTE = "study", "mlflow.note.content"
_NOTE_LENGTH = 7900
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
_STATUS: Mapping[TrialState, str] = {
    "complete": "FINISHED",
    "failed": "FAILED",
    "pruned": "KILLED",
    "running": "RUNNING",
    "waiting": "SCHEDULED",
}


def trial_run(client: MlflowClient, study: str, number: int) -> str | None:
    """Return the id of the run that records a trial, or None; nothing is written."""
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        return None
    query = f"tags.`{_STUDY_TAG}` = '{study}' and tags.`{_TRIAL_TAG}` = '{trial_name(number)}'"
    runs = client.search_runs([experiment.experiment_id], query)
    oldest = min(runs, key=lambda one: (one.info.start_time, one.info.run_id), default=None)
    return None if oldest is None else str(oldest.info.run_id)


class StudyRuns:
    """The MLflow runs of one study. Not thread-safe; every call may raise what MLflow raises."""

    def __init__(self, config: StudyConfig, layout: Layout, uri: str | None = None) -> None:
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self._config = config
        self._layout = layout
        self._embedded = uri is None
        self._client = MlflowClient(tracking_uri=uri or layout.mlflow_uri)
        self._experiment = self._ensure_experiment()
        self._runs: dict[str, str] = {}
        self._artifacts: dict[str, str] = {}
        self._states: dict[str, str] = {}
        self._described: set[str] = set()
        self._epochs: dict[str, int] = {}  # how many of a trial's this object has written
        self._doubtful: set[str] = set()
        self._erm: Mapping[str, Measured] = {}
        self._marks: dict[str, Mapping[str, str]] = {}
        self.look()
        self._parent = self._ensure_run(_PARENT, self._parent_tags(), config.study)

    def look(self) -> None:
        """See what the server holds of this study, and delete the ghosts among it."""
        found: dict[str, list[Run]] = {}
        for run in self._search():
            found.setdefault(run.data.tags[_TRIAL_TAG], []).append(run)
        for runs in found.values():
            self._adopt(runs)

    def states(self) -> Mapping[int, str]:
        """Return the ledger state last recorded whole for each trial that has a run."""
        return {int(key): state for key, state in self._states.items() if key != _PARENT}

    def begin(self) -> None:
        """Mark the study as running, and write down what it is."""
        self._client.update_run(self._parent, status="RUNNING")
        facts = {
            "encoder": self._config.encoder.kind,
            "cohort": self._config.cohort.kind,
            "sampler": self._config.sampler.name,
            "pruning": self._config.pruning.name,
            "seed": self._config.seed,
            "trials": self._config.budget.trials,
        }
        self._log(self._parent, tags={f"ude.{key}": str(value) for key, value in facts.items()})
        self._client.log_dict(self._parent, self._config.science(), "config.json")

    def reference(self, metrics: Mapping[str, Measured]) -> None:
        """Record ERM's metrics on the study's run, as `erm/<metric>`."""
        self._erm = metrics
        named = {f"erm/{name}": measured for name, measured in metrics.items()}
        self._log(self._parent, metrics=list(interval_metrics(named, timestamp=0)))

    def started(self, assignment: Assignment, began: datetime | None) -> None:
        """Open the run of a trial, or the one it had before it was interrupted."""
        key = trial_name(assignment.number)
        closed = self._states.get(key, "running") != "running"
        run = self._trial_run(assignment.number, began)
        if key not in self._described:
            params, tags = self._description(assignment.number, assignment.params)
            self._log(run, params=params, tags=tags)
            self._described.add(key)
        if closed:
            self._client.update_run(run, status="RUNNING")
        self._states[key] = "running"

    def epochs(self, number: int, curve: Sequence[Progress], started: datetime | None) -> None:
        """Record some epochs of a trial's curve."""
        key = trial_name(number)
        if key in self._runs:
            self._log(self._runs[key], metrics=list(curve_metrics(curve, started)))
            self._epochs[key] = max(progress.epoch for progress in curve)

    def finished(
        self, record: TrialRecord, curve: Sequence[Progress], rungs: Sequence[Rung] = ()
    ) -> None:
        """Record everything of a finished trial, and close its run."""
        key = trial_name(record.number)
        run = self._trial_run(record.number, record.started)
        params, marks = (
            ({}, {}) if key in self._described else self._description(record.number, record.params)
        )
        timestamp, known = milliseconds(record.ended), self._epochs.get(key, 0)
        metrics = [
            *curve_metrics((one for one in curve if one.epoch > known), record.started),
            *rung_metrics(rungs, timestamp),
            *interval_metrics(record.metrics, timestamp),
            Metric("queries_spent", record.queries, timestamp, 0),
        ]
        if record.state == "pruned":
            metrics.append(Metric("queries_saved", record.saved, timestamp, 0))
        undefined = "; ".join(
            f"{name}: {measured.reason}"
            for name, measured in record.metrics.items()
            if isinstance(measured, Undefined)
        )
        facts = {
            "ude.outcome": record.outcome,
            "ude.reason": record.reason,
            "ude.undefined": undefined,
        }
        tags = {name: text[:_TAG_LENGTH] for name, text in facts.items() if text}
        if record.state == "complete":
            own = labels(record.metrics, self._erm, self._config.cohort.diseases)
            said = self._marks.get(key, {})
            # Who is on a front is for `mark` to say; what it said last holds until then.
            tags |= own | {
                name: said[name] for name in own if name in said and not name.startswith("label.")
            }
            self._marks[key] = {**said, **tags}
        try:
            picture = record.folder / PICTURE_FILE
            if picture.exists():
                self._keep_file(run, picture)
            # The state goes last: without it the next launch records this trial again.
            self._log(
                run,
                metrics=metrics,
                params=params,
                tags={**marks, **tags, _STATE_TAG: record.state},
            )
            self._described.add(key)
        finally:
            self._client.set_terminated(run, _STATUS[record.state], end_time=timestamp)
        self._states[key] = record.state

    def mark(self, wanted: Mapping[int, Mapping[str, str]], note: str) -> None:
        """Write the study's description, and the tags of those trials whose tags have changed."""
        for number, tags in wanted.items():
            key = trial_name(number)
            known = self._marks.get(key, {})
            changed = {name: value for name, value in tags.items() if known.get(name) != value}
            if changed and key in self._runs:
                self._log(self._runs[key], tags=changed)
                self._marks[key] = {**known, **changed}
        if self._marks.get(_PARENT, {}).get(_NOTE) != note:
            self._log(self._parent, tags={_NOTE: note[:_NOTE_LENGTH]})
            self._marks[_PARENT] = {_NOTE: note}

    def show_fronts(self, page: str, tables: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the interactive front and the tables as artefacts that MLflow's viewer shows."""
        self._client.log_text(self._parent, page, "fronts/fronts.html")
        for path, table in tables.items():
            self._client.log_dict(self._parent, dict(table), path)
        shown = json.dumps([{"path": path, "type": "table"} for path in tables])
        self._log(self._parent, tags={"mlflow.loggedArtifacts": shown[:_TAG_LENGTH]})

    def end(self, *, complete: bool, saved: int = 0) -> None:
        """Close the study's run, and those of trials that were interrupted.

        `saved` are the queries that pruning left unspent.
        """
        self.look()
        for key, state in self._states.items():
            if key != _PARENT and state == "running":
                self._client.set_terminated(self._runs[key], "KILLED")
                self._states[key] = "interrupted"
        if self._config.pruning.name != "off":
            self._client.set_tag(self._parent, "ude.queries_saved", str(saved))
        self._client.set_terminated(self._parent, "FINISHED" if complete else "KILLED")

    def _ensure_experiment(self) -> str:
        name = self._config.name
        found = self._client.get_experiment_by_name(name)
        kept = {**_EXPERIMENT_TAGS, VIEW_TAG: view_of(self._config)}
        if found is None:
            place = self._layout.mlflow_artifacts / name
            tags = {**kept, _STUDY_TAG: name}
            return str(
                self._client.create_experiment(
                    name, artifact_location=place.as_uri() if self._embedded else None, tags=tags
                )
            )
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        for key, value in kept.items():
            if found.tags.get(key) != value:
                self._client.set_experiment_tag(found.experiment_id, key, value)
        return str(found.experiment_id)

    def _search(self, key: str | None = None) -> Iterator[Run]:
        query = f"tags.`{_STUDY_TAG}` = '{self._config.name}'"
        if key is not None:
            query += f" and tags.`{_TRIAL_TAG}` = '{key}'"
        token: str | None = None
        while True:
            page = self._client.search_runs([self._experiment], query, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _adopt(self, runs: Sequence[Run]) -> str:
        """Take one of a key's runs, the one in use or else the oldest, and delete the others.

        Others are there where a run was made and the reply was lost, or came after we had given up.
        """
        key = runs[0].data.tags[_TRIAL_TAG]
        used = self._runs.get(key)
        run, *ghosts = sorted(
            runs, key=lambda one: (one.info.run_id != used, one.info.start_time, one.info.run_id)
        )
        for ghost in ghosts:
            self._client.set_terminated(ghost.info.run_id, "KILLED")
            self._client.delete_run(ghost.info.run_id)
        self._runs[key] = run.info.run_id
        self._artifacts[run.info.run_id] = run.info.artifact_uri
        state = run.data.tags.get(_STATE_TAG, "interrupted")
        self._states[key] = "running" if run.info.status == "RUNNING" else state
        self._marks[key] = dict(run.data.tags)
        return str(run.info.run_id)

    def _ensure_run(
        self, key: str, tags: Mapping[str, str], name: str, began: datetime | None = None
    ) -> str:
        if key in self._runs:
            return self._runs[key]
        if key in self._doubtful:  # its creation may have been done and its reply lost
            found = list(self._search(key))
            if found:
                return self._adopt(found)
        self._doubtful.add(key)
        run = self._client.create_run(
            self._experiment, milliseconds(began) or None, dict(tags), run_name=name
        )
        return self._adopt([run])

    def _trial_run(self, number: int, began: datetime | None) -> str:
        key = trial_name(number)
        tags = {_STUDY_TAG: self._config.name, _TRIAL_TAG: key, "mlflow.parentRunId": self._parent}
        return self._ensure_run(key, tags, f"trial {key}", began)

    def _description(
        self, number: int, params: Parameters
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Return what a trial's run says of its method, as params and as tags."""
        method = method_of(self._config, params)
        read = settings_read(method.name)
        kept = {name: value for name, value in asdict(method).items() if name in read}
        shown = {name: str(value) for name, value in {**kept, "trial": number}.items()}
        return shown, {"ude.method": method.name}

    def _keep_file(self, run: str, path: Path) -> None:
        # The client's own `log_artifact` reads the whole run again to learn this address.
        place = get_artifact_repository(
            self._artifacts[run], tracking_uri=self._client.tracking_uri
        )
        place.log_artifact(str(path))  # type: ignore[no-untyped-call]

    def _parent_tags(self) -> dict[str, str]:
        goals = "".join(f"\n- {goal.direction} `{goal.metric}`" for goal in self._config.objectives)
        note = f"{self._config.description}\n\nObjectives:{goals}\n\nOne nested run a trial."
        return {
            _STUDY_TAG: self._config.name,
            _TRIAL_TAG: _PARENT,
            _NOTE: note.strip(),
        }

    def _log(
        self,
        run: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Write in as few requests as the server's limits allow; tags go with the last."""
        kept = [Param(name, value) for name, value in (params or {}).items()]
        marks = [RunTag(name, value) for name, value in (tags or {}).items()]
        whole = len(metrics) // _METRICS_A_BATCH * _METRICS_A_BATCH
        for start in range(0, whole, _METRICS_A_BATCH):
            self._client.log_batch(run, metrics=metrics[start : start + _METRICS_A_BATCH])
        self._client.log_batch(run, metrics=metrics[whole:], params=kept, tags=marks)
