"""Confirmation: the front's noises, once, on the untouched test split, beside ERM and random noise.

A search takes the best of many noisy scores, so its front looks better than it is. Here heads are
trained anew from fresh seeds and scored on test patients. The result is `confirmation.json`; it is
kept for as long as the points, the settings and the data are the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.names import Layout
from study.pareto import Front, Levelling, front_of
from study.records import TrialRecord
from study.standing import Standing, dominance, shown_levelling, standings
from ude_core.errors import UserError
from ude_core.results import metrics_from_json, metrics_to_json
from ude_core.seeding import derive_seed
from ude_core.storage import atomic_write, digest, sha256_file
from ude_core.types import Interval, Measured, MethodConfig, Noise

if TYPE_CHECKING:
    from study.api import Study
    from ude_core.confirmation import Confirmation as Measurements

SCHEMA_VERSION = 2
FILE = "confirmation.json"


@dataclass(frozen=True, slots=True)
class ConfirmedPoint:
    """One noise on the test split. Metric names are those of the contract, with the disease.

    `fronts` are the diseases on whose front it was. `random` is the mean of its norm-matched random
    noises (low and high: the smallest and largest of them). `dominance` is, by disease, the
    probability that it beats ERM on every objective at once (see `study.standing`). `optimism` is the
    validation mean minus the test mean of every objective, in the metric's own unit. `standing` is,
    for each of `fronts`, whether the point is `confirmed` there.
    """

    trial: int
    fronts: tuple[str, ...]
    metrics: Mapping[str, Measured]
    random: Mapping[str, Measured]
    dominance: Mapping[str, float]
    optimism: Mapping[str, float]
    standing: Mapping[str, Standing]
    levelling: Mapping[str, Levelling]


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What `confirm` found. `key` is a digest of all that it depends on."""

    study: str
    key: str
    repeats: int
    controls: int
    erm: Mapping[str, Measured]
    points: tuple[ConfirmedPoint, ...]
    queries: int

    def standing(self, trial: int, disease: str) -> Standing | None:
        """Return how a trial stands for a disease; None where it was not among those confirmed."""
        point = self.point(trial)
        return None if point is None else point.standing.get(disease)

    def point(self, trial: int) -> ConfirmedPoint | None:
        """Return the confirmed point of a trial, or None."""
        return next((point for point in self.points if point.trial == trial), None)


def confirm(
    study: Study, *, repeats: int | None = None, controls: int | None = None
) -> tuple[Confirmation, bool]:
    """Confirm the front's points of every disease; False beside it: nothing changed, nothing ran.

    Points labelled `no better than noise` are left out. Raises UserError where no trial is on a
    front, and FingerprintError where data or weights are no longer the study's.
    """
    settings = study.config.confirm
    repeats = settings.repeats if repeats is None else repeats
    controls = settings.controls if controls is None else controls
    diseases = study.config.cohort.diseases
    fronts = {disease: front_of(study, disease) for disease in diseases}
    if not any(front.best for front in fronts.values()):
        raise UserError(f"study {study.name} has no complete trial to confirm; launch it first")
    chosen = worth_confirming(fronts)
    records = {record.number: record for record in study.ledger.trials()}
    key = digest(
        SCHEMA_VERSION,
        {number: sha256_file(noise_file(records[number])) for number in chosen},
        {number: list(names) for number, names in chosen.items()},
        [repeats, controls],
        study.config.science(),
        dict(study.ledger.fingerprints),
    )
    try:
        known = load_confirmation(study)
    except UserError:
        known = None
    if known is not None and known.key == key:
        return known, False
    found = measure(study, chosen, fronts, repeats=repeats, controls=controls, key=key)
    atomic_write(confirmation_file(study), confirmation_bytes(found))
    return found, True


def worth_confirming(fronts: Mapping[str, Front]) -> dict[int, tuple[str, ...]]:
    """Return, by trial, the diseases on whose front it is without being no better than noise."""
    chosen: dict[int, tuple[str, ...]] = {}
    for disease, front in fronts.items():
        for point in front.best:
            if point.control != "no better than noise":
                chosen[point.trial] = (*chosen.get(point.trial, ()), disease)
    return dict(sorted(chosen.items()))


def load_confirmation(study: Study) -> Confirmation | None:
    """Return the study's confirmation, or None. Raises UserError where the file is damaged."""
    path = confirmation_file(study)
    if not path.is_file():
        return None
    return read_confirmation(path)


def read_confirmation(path: Path) -> Confirmation:
    """Return the confirmation in a file. Raises UserError where the file is damaged."""
    try:
        content = json.loads(path.read_bytes())
        if content["schema_version"] != SCHEMA_VERSION:
            raise UserError(
                f"{path}: schema version {content['schema_version']!r} (expected "
                f"{SCHEMA_VERSION}); run confirm again"
            )
        return Confirmation(
            study=str(content["study"]),
            key=str(content["key"]),
            repeats=int(content["repeats"]),
            controls=int(content["controls"]),
            erm=metrics_from_json(content["erm"]),
            points=tuple(
                ConfirmedPoint(
                    trial=int(point["trial"]),
                    fronts=tuple(point["fronts"]),
                    metrics=metrics_from_json(point["metrics"]),
                    random=metrics_from_json(point["random"]),
                    dominance=point["dominance"],
                    optimism=point["validation_minus_test"],
                    standing=point["standing"],
                    levelling=point["levelling"],
                )
                for point in content["points"]
            ),
            queries=int(content["queries"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged ({error!r}); run confirm again") from error


def standings_of(study: Study, disease: str) -> dict[int, Standing]:
    """Return how each confirmed point of a disease's front stands; empty before `confirm`.

    Raises UserError as `load_confirmation` does.
    """
    found = load_confirmation(study)
    if found is None:
        return {}
    return {p.trial: p.standing[disease] for p in found.points if disease in p.standing}


def confirmation_file(study: Study) -> Path:
    """Return where a study's confirmation is kept."""
    return Layout.at(study.root).study(study.name).folder / FILE


def noise_file(record: TrialRecord) -> Path:
    """Return the file of a trial's noise. Raises UserError where it is gone."""
    path = record.folder / "noise.safetensors"
    if not path.is_file():
        raise UserError(f"{path} is missing: trial {record.number} has no noise any more")
    return path


def measure(
    study: Study,
    chosen: Mapping[int, tuple[str, ...]],
    fronts: Mapping[str, Front],
    *,
    repeats: int,
    controls: int | Mapping[int, int],
    key: str,
) -> Confirmation:
    """Return what the test split says of these trials, each with the diseases on whose front it is.

    `controls` random noises stand beside each of them, or as many as it says for that trial.
    Raises FingerprintError where data or weights are no longer the study's.
    """
    from study.materials import load_materials
    from study.spaces import method_of
    from ude_core.confirmation import confirm_noises
    from ude_core.runtime import prepare_process

    prepare_process()
    materials = load_materials(study.config, Layout.at(study.root).cache)
    study.ledger.check_fingerprints(materials.fingerprints)
    records = {record.number: record for record in study.ledger.trials()}
    noises: dict[int, Noise] = {number: load_noise(records[number]) for number in chosen}
    methods: dict[int, MethodConfig] = {
        number: method_of(study.config, records[number].params) for number in chosen
    }
    measured = confirm_noises(
        noises,
        methods,
        materials.cohort,
        materials.encoder,
        materials.assets,
        repeats=repeats,
        controls=controls,
        seed=derive_seed(study.config.seed, "confirm"),
    )
    stand = standings(measured.learnt, chosen)
    points = [
        _point(records[number], names, fronts, measured, stand[number])
        for number, names in chosen.items()
    ]
    return Confirmation(
        study=study.name,
        key=key,
        repeats=repeats,
        controls=controls if isinstance(controls, int) else max(controls.values(), default=0),
        erm=measured.erm,
        points=tuple(points),
        queries=measured.queries,
    )


def _point(
    record: TrialRecord,
    names: tuple[str, ...],
    fronts: Mapping[str, Front],
    measured: Measurements,
    standing: Mapping[str, Standing],
) -> ConfirmedPoint:
    ours, random = measured.learnt[record.number], measured.random.get(record.number, {})
    chances: dict[str, float] = {}
    optimism: dict[str, float] = {}
    for disease, front in fronts.items():
        chance = dominance(ours, measured.erm, front.goals, disease)
        if chance is not None:
            chances[disease] = chance
        for goal in front.goals:
            name = f"{disease}/{goal.name}"
            before, after = record.metrics.get(name), ours.get(name)
            if isinstance(before, Interval) and isinstance(after, Interval):
                optimism[name] = before.mean - after.mean
    return ConfirmedPoint(
        trial=record.number,
        fronts=names,
        metrics=dict(ours),
        random=dict(random),
        dominance=chances,
        optimism=optimism,
        standing=dict(standing),
        levelling={disease: shown_levelling(ours, disease) for disease in names},
    )


def load_noise(record: TrialRecord) -> Noise:
    """Return a trial's learnt noise. Raises UserError where its files are not what was scored."""
    from ude_core.results import load_result
    from ude_core.storage import CorruptFileError

    noise_file(record)
    try:
        return load_result(record.folder).noise
    except (CorruptFileError, OSError, KeyError, ValueError) as error:
        raise UserError(f"trial {record.number}: its result was altered ({error})") from error


def confirmation_bytes(found: Confirmation) -> bytes:
    """Return a confirmation as it is written to a file."""
    text = json.dumps(_to_json(found), indent=1, sort_keys=True, allow_nan=False)
    return f"{text}\n".encode()


def _to_json(found: Confirmation) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "study": found.study,
        "key": found.key,
        "split": "test",
        "repeats": found.repeats,
        "controls": found.controls,
        "queries": found.queries,
        "erm": metrics_to_json(found.erm),
        "points": [
            {
                "trial": point.trial,
                "fronts": list(point.fronts),
                "metrics": metrics_to_json(point.metrics),
                "random": metrics_to_json(point.random),
                "dominance": dict(point.dominance),
                "validation_minus_test": dict(point.optimism),
                "standing": dict(point.standing),
                "levelling": dict(point.levelling),
            }
            for point in found.points
        ],
    }
