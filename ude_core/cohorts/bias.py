"""Tying a disease to the attribute in training, and measuring on equal cells (section 3.1).

A cell is (attribute group, label). A draw takes images without replacement: the training cells
follow the chosen gap between the groups' positive rates, every evaluation cell has one size. Where
the cohort names a confounder, every cell takes equally many images of each of its values, so that
the confounder tells neither group nor label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from ude_core.cohorts.base import POSITIVE, Cohort
from ude_core.cohorts.cells import LABELS, cell_names, cells, count_cells
from ude_core.cohorts.splits import Split
from ude_core.errors import CohortError, SettingError
from ude_core.seeding import numpy_generator
from ude_core.types import BiasConfig, Indices

_PARTITIONS = 50

_Counts = Int[np.ndarray, "people cells"]
_Need = Int[np.ndarray, " cells"]


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """Image indices to train heads on and to evaluate them on, sorted; patients are disjoint."""

    train: Int[np.ndarray, " train"]
    evaluation: Int[np.ndarray, " evaluation"]


def train_cells(config: BiasConfig, groups: Sequence[str]) -> Mapping[tuple[str, int], int]:
    """Return how many training images each (group, label) cell has.

    The favored group has positive rate 0.5 + gap/2, every other 0.5 - gap/2, rounded so that the
    groups mirror each other. Raises SettingError where the configuration cannot be met.

    >>> train_cells(BiasConfig(gap=0.675, train_per_group=80), ("female", "male"))
    {('female', 1): 67, ('female', 0): 13, ('male', 1): 13, ('male', 0): 67}
    """
    if not 0 <= config.gap <= 1:
        raise SettingError(f"bias.gap is {config.gap} (expected 0 to 1); turn it with favoured")
    if config.favoured not in groups:
        raise SettingError(
            f"bias.favoured is {config.favoured!r} (expected one of {', '.join(groups)})"
        )
    for name in ("train_per_group", "validation_per_cell", "test_per_cell"):
        value = getattr(config, name)
        if value < 1:
            raise SettingError(f"bias.{name} is {value} (expected at least 1)")
    many = int(np.floor(config.train_per_group * (0.5 + config.gap / 2) + 0.5))
    few = config.train_per_group - many
    return {
        (group, label): many if (group == config.favoured) == (label == POSITIVE) else few
        for group in groups
        for label in LABELS
    }


def validation_draws(
    cohort: Cohort, development: Indices, bias: BiasConfig, repeats: int, seed: int
) -> dict[str, tuple[Draw, ...]]:
    """Return what a search scores on: `repeats` draws a disease, seeded by (seed, disease, repeat).

    Raises CohortError where a draw asks for more images than a cell holds.
    """
    return {
        disease: tuple(
            draw_validation(
                cohort,
                disease,
                development,
                bias,
                numpy_generator(seed, "draw", disease, repeat),
            )
            for repeat in range(repeats)
        )
        for disease in cohort.diseases
    }


def confirmation_draws(
    cohort: Cohort, split: Split, bias: BiasConfig, repeats: int, seed: int
) -> dict[str, tuple[Draw, ...]]:
    """Return what a confirmation scores on: `repeats` draws a disease, seeded likewise.

    Raises CohortError where a draw asks for more images than a cell holds.
    """
    return {
        disease: tuple(
            draw_confirmation(
                cohort, disease, split, bias, numpy_generator(seed, "confirm", disease, repeat)
            )
            for repeat in range(repeats)
        )
        for disease in cohort.diseases
    }


def draw_validation(
    cohort: Cohort,
    disease: str,
    development: Indices,
    bias: BiasConfig,
    rng: np.random.Generator,
) -> Draw:
    """Return one training and one evaluation set from the development patients.

    Patients are assigned at random to either side, and only so many to evaluation as its cells
    need; up to 50 assignments are tried, the last ones taking patients with few images first.
    Raises CohortError, with every short cell, where the counts do not allow the draw.
    """
    bias = bias.of(disease)
    train_need, each = _needs(cohort, bias, bias.validation_per_cell)
    numbers = cells(cohort, disease)[development]
    codes, person = np.unique(cohort.patients[development], return_inverse=True)
    held = _count(person, numbers, len(codes), len(train_need))
    totals = held.sum(axis=0)
    remedy = f"bias.train_per_group ({bias.train_per_group}), bias.validation_per_cell or bias.gap"
    _check_enough(cohort, disease, totals, train_need + each, "development", remedy)
    for attempt in range(_PARTITIONS):
        order = rng.permutation(len(codes))
        if attempt >= _PARTITIONS // 2:
            order = order[np.argsort(held[order].sum(axis=1), kind="stable")]
        chosen = _assign(held, order, train_need, each)
        if chosen is not None:
            evaluating = chosen[person]
            return Draw(
                train=_sample(development[~evaluating], numbers[~evaluating], train_need, rng),
                evaluation=_sample(development[evaluating], numbers[evaluating], each, rng),
            )
    raise CohortError(
        f"{disease}: no assignment of patients to training and validation fills every cell in "
        f"{_PARTITIONS} tries, though there are images enough (patients with several images stay "
        "together); lower bias.train_per_group or bias.validation_per_cell"
    )


def draw_confirmation(
    cohort: Cohort, disease: str, split: Split, bias: BiasConfig, rng: np.random.Generator
) -> Draw:
    """Return a training set from all development patients, and test images to evaluate on.

    Raises CohortError, with every short cell, where the counts do not allow the draw.
    """
    bias = bias.of(disease)
    train_need, each = _needs(cohort, bias, bias.test_per_cell)
    numbers = cells(cohort, disease)
    sampled = []
    for pool, need, part, remedy in (
        (
            split.development,
            train_need,
            "development",
            f"bias.train_per_group ({bias.train_per_group}) or bias.gap",
        ),
        (split.test, each, "test", f"bias.test_per_cell ({bias.test_per_cell})"),
    ):
        totals = count_cells(numbers[pool], len(need))
        _check_enough(cohort, disease, totals, need, part, remedy)
        sampled.append(_sample(pool, numbers[pool], need, rng))
    return Draw(train=sampled[0], evaluation=sampled[1])


def _needs(cohort: Cohort, bias: BiasConfig, each: int) -> tuple[_Need, _Need]:
    """Return the images to train and to evaluate on, by cell; strata share a cell evenly.

    What does not divide goes to the first strata, in every cell alike: two groups of one label then
    differ in no stratum by more than their sizes say, and evaluation cells do not differ at all.
    """
    wanted = train_cells(bias, cohort.groups)
    strata = max(len(cohort.strata), 1)
    train: list[int] = []
    evaluation: list[int] = []
    for position, cell in enumerate(cell_names(cohort)):
        for amounts, size in ((train, wanted[cell.group, cell.label]), (evaluation, each)):
            amounts.append(size // strata + (position % strata < size % strata))
    return np.array(train, dtype=np.int64), np.array(evaluation, dtype=np.int64)


def _count(
    person: Int[np.ndarray, " images"], numbers: Int[np.ndarray, " images"], people: int, width: int
) -> _Counts:
    used = numbers >= 0
    flat = np.bincount(person[used] * width + numbers[used], minlength=people * width)
    return flat.reshape(people, width)


def _check_enough(
    cohort: Cohort, disease: str, have: _Need, need: _Need, part: str, remedy: str
) -> None:
    short = [
        f"{cell}: {have[position]} of {need[position]}"
        for position, cell in enumerate(cell_names(cohort))
        if have[position] < need[position]
    ]
    if short:
        raise CohortError(
            f"{disease}: too few {part} images ({'; '.join(short)} needed); lower {remedy}"
        )


def _assign(
    held: _Counts, order: Int[np.ndarray, " people"], train_need: _Need, each: _Need
) -> Bool[np.ndarray, " people"] | None:
    """Return which patients evaluate, or None where this order fills no valid assignment.

    A patient is taken where he fills a cell still short and the others keep enough for training.
    """
    chosen = np.zeros(len(held), dtype=bool)
    missing = each.copy()
    spare = held.sum(axis=0) - train_need
    for patient in order:
        counts = held[patient]
        if np.any((counts > 0) & (missing > 0)) and np.all(counts <= spare):
            chosen[patient] = True
            missing -= counts
            spare -= counts
            if np.all(missing <= 0):
                return chosen
    return None


def _sample(
    pool: Int[np.ndarray, " images"],
    numbers: Int[np.ndarray, " images"],
    need: _Need,
    rng: np.random.Generator,
) -> Int[np.ndarray, " drawn"]:
    drawn = [
        rng.choice(pool[numbers == cell], size=int(count), replace=False)
        for cell, count in enumerate(need)
    ]
    return np.sort(np.concatenate(drawn)).astype(np.int64)
