"""Splitting a cohort by patient, so that no patient is ever on two sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from ude_core.cohorts.base import NEGATIVE, POSITIVE, Cohort
from ude_core.errors import CohortError, SettingError
from ude_core.types import Indices, SplitConfig

_TRAIN, _VALIDATION, _TEST = 0, 1, 2
_SHUFFLED_TOGETHER = 12
_CANDIDATES = 40

_Labels = Mapping[str, Int[np.ndarray, " images"]]
_Parts = Int[np.ndarray, " people"]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Image indices of each part, sorted; patients are disjoint. Search never sees `test`."""

    train: Int[np.ndarray, " train"]
    validation: Int[np.ndarray, " validation"]
    test: Int[np.ndarray, " test"]

    @property
    def development(self) -> Indices:
        """Everything that is not test, sorted."""
        return np.sort(np.concatenate([self.train, self.validation]))


def split_by_patient(cohort: Cohort, config: SplitConfig, rng: np.random.Generator) -> Split:
    """Return a random split by patient whose shares hold within every attribute group.

    Patients of a group are ordered by number of images and positives and dealt out in the
    configured shares, stretch by stretch. Of 40 such random splits the one is kept whose cells
    (disease, label, group) are nearest to their shares in images, so that small cells do not depend
    on luck; a patient with very many images trains more often than not. A patient whose images lie
    in several groups counts for that of the first image.

    A cohort published with a test split keeps it: the others alone are divided, so that training
    and validation patients stand in the configured proportion. Raises SettingError for shares
    outside their range, CohortError where a group has too few patients.
    """
    _check_shares(config)
    if cohort.official_test is None:
        shares = config
        images = np.arange(len(cohort))
    else:
        # Nobody of the development patients tests, so validation takes over its part of the test.
        shares = replace(config, validation=config.validation / (1 - config.test), test=0.0)
        images = np.flatnonzero(~cohort.official_test)
        if len(images) == len(cohort):
            raise CohortError(
                "the published split marks no test image; mend it, or set split: random"
            )
    part = _random_parts(cohort, images, shares, rng)
    chosen = np.full(len(cohort), _TEST)
    chosen[images] = part
    split = Split(
        train=np.flatnonzero(chosen == _TRAIN),
        validation=np.flatnonzero(chosen == _VALIDATION),
        test=np.flatnonzero(chosen == _TEST),
    )
    check_no_leak(cohort, split)
    return split


def _random_parts(
    cohort: Cohort, images: Indices, config: SplitConfig, rng: np.random.Generator
) -> Int[np.ndarray, " images"]:
    """Return the part of each of these images: patients go together, shares hold in each group."""
    codes, first, person = np.unique(
        cohort.patients[images], return_index=True, return_inverse=True
    )
    attribute = cohort.attribute[images]
    labels = {disease: values[images] for disease, values in cohort.labels.items()}
    groups = [np.flatnonzero(attribute[first] == g) for g in range(len(cohort.groups))]
    for name, members in zip(cohort.groups, groups, strict=True):
        due = _due(len(members), config)
        if min(due if config.test else due[:2]) < 1:
            raise CohortError(
                f"group {name} has {len(members)} patients, too few for splits of "
                f"{config.validation:g} validation and {config.test:g} test; add patients or "
                "change split.validation and split.test"
            )
    held = _cells_per_patient(labels, attribute, len(cohort.groups), person, len(codes))
    traits = _traits(labels, person, len(codes))
    best, best_unevenness = np.zeros(len(codes), dtype=np.int64), np.inf
    for _ in range(_CANDIDATES):
        parts = np.zeros(len(codes), dtype=np.int64)
        for members in groups:
            shuffled = rng.permutation(members)
            parts[shuffled[np.lexsort(traits[shuffled].T)]] = _deal(len(members), config, rng)
        unevenness = _unevenness(held, parts, config)
        if unevenness < best_unevenness:
            best, best_unevenness = parts, unevenness
    return best[person]


def check_no_leak(cohort: Cohort, split: Split) -> None:
    """Raise CohortError, listing image positions and no id, where a patient is in two splits."""
    named = (("train", split.train), ("validation", split.validation), ("test", split.test))
    for position, (left, left_images) in enumerate(named):
        for right, right_images in named[position + 1 :]:
            shared = np.intersect1d(cohort.patients[left_images], cohort.patients[right_images])
            if not len(shared):
                continue
            images = [
                ", ".join(str(i) for i in side[np.isin(cohort.patients[side], shared)][:10])
                for side in (left_images, right_images)
            ]
            raise CohortError(
                f"{len(shared)} patients are both in {left} (images {images[0]}) and in {right} "
                f"(images {images[1]}); keep every patient in one split"
            )


def _check_shares(config: SplitConfig) -> None:
    for name, share in (("validation", config.validation), ("test", config.test)):
        if not 0 < share < 1:
            raise SettingError(f"split.{name} is {share} (expected a share between 0 and 1)")
    if config.validation + config.test >= 1:
        raise SettingError(
            f"split.validation + split.test is {config.validation + config.test} (expected less "
            "than 1); lower one so that patients remain for training"
        )


def _due(people: int, config: SplitConfig) -> tuple[int, int, int]:
    """Return how many of `people` train, validate and test."""
    test = int(np.floor(people * config.test + 0.5))
    validation = int(np.floor(people * config.validation + 0.5))
    return people - validation - test, validation, test


def _deal(people: int, config: SplitConfig, rng: np.random.Generator) -> _Parts:
    """Return the part of each of `people` in order: shares hold in every stretch, order random."""
    due = _due(people, config)
    parts = np.repeat(np.array([_TRAIN, _VALIDATION, _TEST]), due)
    turn = np.concatenate([(np.arange(count) + rng.random()) / count for count in due])
    parts = parts[np.argsort(turn, kind="stable")]
    for begin in range(0, people, _SHUFFLED_TOGETHER):
        stretch = slice(begin, begin + _SHUFFLED_TOGETHER)
        parts[stretch] = rng.permutation(parts[stretch])
    return parts


def _traits(
    labels: _Labels, person: Int[np.ndarray, " images"], people: int
) -> Int[np.ndarray, "people keys"]:
    """Return what splits should share evenly: a patient's images, and positives per disease."""
    positives = [
        np.bincount(person[values == POSITIVE], minlength=people) for values in labels.values()
    ]
    return np.stack([np.bincount(person, minlength=people), *positives], axis=1)


def _cells_per_patient(
    labels: _Labels,
    attribute: Int[np.ndarray, " images"],
    groups: int,
    person: Int[np.ndarray, " images"],
    people: int,
) -> Int[np.ndarray, "people cells"]:
    """Return each patient's images per (disease, label, group), leaving out empty cells."""
    columns = [
        np.bincount(person[(values == label) & (attribute == group)], minlength=people)
        for values in labels.values()
        for label in (POSITIVE, NEGATIVE)
        for group in range(groups)
    ]
    held = np.stack(columns, axis=1) if columns else np.ones((people, 1), dtype=np.int64)
    return held[:, held.sum(axis=0) > 0]


def _unevenness(held: Int[np.ndarray, "people cells"], parts: _Parts, config: SplitConfig) -> float:
    """Return how far the worst cell of any part is from its share, relative to that share."""
    shares = (1 - config.validation - config.test, config.validation, config.test)
    total = held.sum(axis=0)
    return max(
        float(np.abs(held[parts == part].sum(axis=0) / (total * share) - 1).max(initial=0.0))
        for part, share in zip((_TRAIN, _VALIDATION, _TEST), shares, strict=True)
        if share
    )
