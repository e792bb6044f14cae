"""Splits by patient and biased draws: nobody on two sides, exact cells, the gap asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ude_core.cohorts.base import NEGATIVE, NOT_USED, POSITIVE, Cohort
from ude_core.cohorts.bias import (
    confirmation_draws,
    draw_confirmation,
    draw_validation,
    train_cells,
    validation_draws,
)
from ude_core.cohorts.cells import cell_counts, cell_table, undefined_metrics
from ude_core.cohorts.csv_source import CsvSource
from ude_core.cohorts.settings import TableSettings
from ude_core.cohorts.splits import Split, check_no_leak, split_by_patient
from ude_core.cohorts.table_cohort import check_table
from ude_core.errors import CohortError, SettingError
from ude_core.types import BiasConfig, SplitConfig

GROUPS = ("female", "male")
SHARES = SplitConfig(validation=0.2, test=0.3)


def make_cohort(seed: int, people: int = 120, most_images: int = 4, groups: int = 2) -> Cohort:
    """Return a cohort without pixels whose patients have 1 to `most_images` images."""
    rng = np.random.default_rng(seed)
    patients = rng.permutation(
        np.repeat(np.arange(people), rng.integers(1, most_images + 1, people))
    )
    labels = rng.choice([POSITIVE, NEGATIVE, NOT_USED], size=len(patients), p=[0.4, 0.5, 0.1])
    return Cohort(
        name="made",
        images=np.empty((len(patients), 0, 0), dtype=np.uint8),
        patients=patients,
        attribute_name="sex",
        groups=GROUPS if groups == 2 else tuple(f"g{i}" for i in range(groups)),
        attribute=(np.arange(people) % groups)[patients],
        labels={"edema": labels},
        fingerprint="",
    )


def cohort_of(cells: dict[tuple[str, int], int]) -> Cohort:
    """Return a cohort of one image a patient with exactly these cells."""
    rows = [cell for cell, count in cells.items() for _ in range(count)]
    return Cohort(
        name="made",
        images=np.empty((len(rows), 0, 0), dtype=np.uint8),
        patients=np.arange(len(rows)),
        attribute_name="sex",
        groups=GROUPS,
        attribute=np.array([GROUPS.index(group) for group, _ in rows], dtype=np.int64),
        labels={"edema": np.array([label for _, label in rows], dtype=np.int64)},
        fingerprint="",
    )


def cells_of(cohort: Cohort, indices: np.ndarray) -> dict[tuple[str, int], int]:
    labels = cohort.labels["edema"][indices]
    attribute = cohort.attribute[indices]
    return {
        (group, label): int(np.count_nonzero((attribute == g) & (labels == label)))
        for g, group in enumerate(cohort.groups)
        for label in (POSITIVE, NEGATIVE)
    }


@given(seed=st.integers(0, 10_000), validation=st.floats(0.1, 0.4), test=st.floats(0.1, 0.4))
@settings(max_examples=30, deadline=None)
def test_every_patient_is_in_one_split_and_shares_hold(
    seed: int, validation: float, test: float
) -> None:
    cohort = make_cohort(seed)
    config = SplitConfig(validation=validation, test=test)
    split = split_by_patient(cohort, config, np.random.default_rng(seed))
    everything = np.sort(np.concatenate([split.train, split.validation, split.test]))
    np.testing.assert_array_equal(everything, np.arange(len(cohort)))
    check_no_leak(cohort, split)
    for group in range(2):
        for part, share in ((split.validation, validation), (split.test, test)):
            people = np.unique(cohort.patients[part[cohort.attribute[part] == group]])
            assert abs(len(people) - 60 * share) <= 0.5 + 1e-9
    np.testing.assert_array_equal(
        split.development, np.setdiff1d(np.arange(len(cohort)), split.test)
    )


def test_a_split_follows_its_generator_and_nothing_else() -> None:
    cohort = make_cohort(1)
    first, again, other = (
        split_by_patient(cohort, SHARES, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first.test, again.test)
    np.testing.assert_array_equal(first.train, again.train)
    assert not np.array_equal(first.test, other.test)


def test_every_patient_is_tested_about_as_often_as_its_share() -> None:
    """A share of 0.3 over 200 splits: 60, standard deviation 6.5. False alarm below 1e-6."""
    cohort = make_cohort(2, people=80)
    tested = np.zeros(80)
    for seed in range(200):
        split = split_by_patient(cohort, SHARES, np.random.default_rng(seed))
        tested[np.unique(cohort.patients[split.test])] += 1
    assert tested.mean() == pytest.approx(60)
    assert tested.min() >= 20
    assert tested.max() <= 100


@pytest.mark.parametrize(
    ("validation", "test"), [(0.0, 0.3), (0.2, 1.0), (0.5, 0.5), (float("nan"), 0.3)]
)
def test_bad_shares(validation: float, test: float) -> None:
    config = SplitConfig(validation=validation, test=test)
    with pytest.raises(SettingError, match=r"split\."):
        split_by_patient(make_cohort(0), config, np.random.default_rng(0))


def test_too_few_patients_to_split() -> None:
    with pytest.raises(CohortError, match="group female has 1 patients, too few"):
        split_by_patient(make_cohort(0, people=2), SHARES, np.random.default_rng(0))


def test_a_leak_is_refused_by_image_position() -> None:
    cohort = make_cohort(3)
    split = split_by_patient(cohort, SHARES, np.random.default_rng(0))
    leaked = Split(split.train, np.append(split.validation, split.test[0]), split.test)
    with pytest.raises(CohortError, match=rf"both in validation \(images .*{split.test[0]}"):
        check_no_leak(cohort, leaked)


@given(gap=st.floats(0, 1), per_group=st.integers(1, 500), groups=st.integers(2, 4))
def test_training_cells_reach_the_gap(gap: float, per_group: int, groups: int) -> None:
    names = tuple(f"g{i}" for i in range(groups))
    config = BiasConfig(gap=gap, favoured="g1", train_per_group=per_group)
    cells = train_cells(config, names)
    rates = {name: cells[name, 1] / per_group for name in names}
    assert all(cells[name, 0] + cells[name, 1] == per_group for name in names)
    for name in names:
        if name != "g1":
            assert abs(rates["g1"] - rates[name] - gap) <= 1 / per_group + 1e-9


@pytest.mark.parametrize(
    "bad",
    [
        {"gap": 1.1},
        {"gap": -0.1},
        {"gap": float("nan")},
        {"favoured": "women"},
        {"train_per_group": 0},
        {"validation_per_cell": 0},
        {"test_per_cell": -3},
    ],
)
def test_bad_bias(bad: dict[str, float]) -> None:
    with pytest.raises(SettingError, match=r"bias\."):
        train_cells(BiasConfig(**bad), GROUPS)  # type: ignore[arg-type]


@given(seed=st.integers(0, 10_000), most_images=st.integers(1, 6), groups=st.integers(2, 3))
@settings(max_examples=30, deadline=None)
def test_draws_are_exact_disjoint_and_inside(seed: int, most_images: int, groups: int) -> None:
    cohort = make_cohort(seed, people=360, most_images=most_images, groups=groups)
    bias = BiasConfig(
        favoured=cohort.groups[0], train_per_group=14, validation_per_cell=3, test_per_cell=4
    )
    split = split_by_patient(cohort, SHARES, np.random.default_rng(seed))

    def draws() -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        validation = draw_validation(cohort, "edema", split.development, bias, rng)
        confirmation = draw_confirmation(cohort, "edema", split, bias, rng)
        return [
            validation.train,
            validation.evaluation,
            confirmation.train,
            confirmation.evaluation,
        ]

    drawn = draws()
    pools = [split.development, split.development, split.development, split.test]
    for indices, pool in zip(drawn, pools, strict=True):
        assert len(np.unique(indices)) == len(indices)
        assert np.isin(indices, pool).all()
    for start, each in ((0, 3), (2, 4)):
        train, evaluation = drawn[start : start + 2]
        assert cells_of(cohort, train) == train_cells(bias, cohort.groups)
        assert set(cells_of(cohort, evaluation).values()) == {each}
        assert not np.intersect1d(cohort.patients[train], cohort.patients[evaluation]).size
    for one, other in zip(drawn, draws(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_draws_succeed_where_the_counts_just_allow_them() -> None:
    bias = BiasConfig(train_per_group=80, validation_per_cell=10)
    need = {cell: count + 10 for cell, count in train_cells(bias, GROUPS).items()}
    cohort = cohort_of(need)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        draw = draw_validation(cohort, "edema", np.arange(len(cohort)), bias, rng)
        assert len(draw.train) + len(draw.evaluation) == len(cohort)


def test_draws_succeed_where_most_assignments_are_unlucky() -> None:
    """One woman holds 12 of the 22 positives: only an assignment that trains on her works."""
    cohort = cohort_of({("female", 1): 22, ("female", 0): 20, ("male", 1): 20, ("male", 0): 22})
    patients = cohort.patients.copy()
    patients[:12] = 0
    one = Cohort(
        name="made",
        images=cohort.images,
        patients=patients,
        attribute_name="sex",
        groups=GROUPS,
        attribute=cohort.attribute,
        labels=cohort.labels,
        fingerprint="",
    )
    bias = BiasConfig(gap=0.5, train_per_group=16, validation_per_cell=10)
    for seed in range(20):
        draw = draw_validation(one, "edema", np.arange(84), bias, np.random.default_rng(seed))
        assert 0 not in one.patients[draw.evaluation]


def confounded(women_ap: int, men_ap: int, each: int = 60) -> Cohort:
    """Return one image a patient, `each` a cell, so many of them AP among women and among men."""
    cohort = cohort_of({(group, label): each for group in GROUPS for label in (1, 0)})
    order = np.tile(np.arange(each), 4)
    bedside = order < np.where(cohort.attribute == 0, women_ap, men_ap)
    return replace(cohort, confounder="ap_pa", strata=("ap", "pa"), stratum=np.where(bedside, 0, 1))


def shares_of_ap(cohort: Cohort, indices: np.ndarray) -> list[float]:
    """Return each group's share of the first stratum."""
    assert cohort.stratum is not None
    return [float((cohort.stratum[indices][cohort.attribute[indices] == g] == 0).mean())
            for g in range(2)]  # fmt: skip


def test_a_balanced_confounder_no_longer_tells_the_groups_apart() -> None:
    """Three in four women are AP and one in four men: drawn as they come, AP gives the sex away."""
    cohort = confounded(45, 15)
    bias = BiasConfig(gap=0.5, train_per_group=12, validation_per_cell=4, test_per_cell=4)
    split = split_by_patient(cohort, SHARES, np.random.default_rng(0))
    plain = replace(cohort, confounder="", strata=(), stratum=None)
    as_they_come, balanced = (
        (
            validation_draws(some, split.development, bias, 5, seed=1)["edema"]
            + confirmation_draws(some, split, bias, 5, seed=1)["edema"]
        )
        for some in (plain, cohort)
    )
    apart = [np.subtract(*shares_of_ap(cohort, draw.train)) for draw in as_they_come]
    assert np.mean(apart) > 0.3
    for draw in balanced:
        for part in (draw.train, draw.evaluation):
            women, men = shares_of_ap(cohort, part)
            assert women == men
        counts = cell_table(cohort, None, {"edema": [draw]}).wide()
        per_stratum = counts.pivot_table(
            index=["label", "group"], columns="stratum", values=["draw_train", "draw_validation"]
        )
        for part in ("draw_train", "draw_validation"):
            difference = per_stratum[part]["ap"] - per_stratum[part]["pa"]
            assert difference.isin([0, 1]).all()


@given(seed=st.integers(0, 10_000), strata=st.integers(1, 4), each=st.integers(2, 9))
@settings(max_examples=15, deadline=None)
def test_strata_share_every_cell_evenly(seed: int, strata: int, each: int) -> None:
    cohort = make_cohort(seed, people=400, most_images=1)
    names = tuple(f"s{i}" for i in range(strata))
    stratum = np.random.default_rng([seed, 1]).permutation(np.arange(len(cohort)) % strata)
    cohort = replace(cohort, confounder="site", strata=names, stratum=stratum)
    bias = BiasConfig(gap=0.4, train_per_group=20, validation_per_cell=each, test_per_cell=each)
    rng = np.random.default_rng(seed)
    draw = draw_validation(cohort, "edema", np.arange(len(cohort)), bias, rng)
    assert cells_of(cohort, draw.train) == train_cells(bias, cohort.groups)
    assert set(cells_of(cohort, draw.evaluation).values()) == {each}
    for part in (draw.train, draw.evaluation):
        for group in range(2):
            for label in (POSITIVE, NEGATIVE):
                cell = (cohort.attribute[part] == group) & (cohort.labels["edema"][part] == label)
                counts = np.bincount(stratum[part][cell], minlength=strata)
                assert counts.max() - counts.min() <= 1


def test_a_stratum_that_is_too_small_is_named() -> None:
    with pytest.raises(
        CohortError, match=r"female positive ap: 2 of \d+; female negative ap: 2 of"
    ):
        draw_validation(
            confounded(2, 30),
            "edema",
            np.arange(240),
            BiasConfig(gap=0.5, train_per_group=20, validation_per_cell=6),
            np.random.default_rng(0),
        )


def test_the_real_cohort_can_balance_the_view(shared_data: Path) -> None:
    """AP against PA is the stronger shortcut there (AUC 0.999): its draws hold as many of each."""
    choices = TableSettings(
        diseases=("pleural_effusion",),
        source=CsvSource(),
        negatives="disease_zero",
        confounder="AP/PA",
    )
    cohort = check_table(shared_data, choices, images=False).bare
    split = split_by_patient(cohort, SHARES, np.random.default_rng(0))
    bias = BiasConfig(train_per_group=40, validation_per_cell=8, test_per_cell=10)
    draws = validation_draws(cohort, split.development, bias, 3, seed=0)
    confirmation = confirmation_draws(cohort, split, bias, 3, seed=0)
    wide = cell_table(cohort, split, draws, confirmation).wide()
    assert wide["confirm_test"].tolist() == [5] * 8
    assert wide["draw_validation"].tolist() == [4] * 8
    assert wide["draw_train"].sum() == 80


def test_a_disease_may_have_cells_of_its_own() -> None:
    bias = BiasConfig(
        gap=0.5,
        train_per_group=20,
        validation_per_cell=8,
        test_per_cell=8,
        per_disease={"edema": {"test_per_cell": 4, "train_per_group": 12}},
    )
    cohort = make_cohort(3, people=300)
    cohort = replace(cohort, labels={**cohort.labels, "pneumonia": cohort.labels["edema"]})
    split = split_by_patient(cohort, SHARES, np.random.default_rng(0))
    confirmation = confirmation_draws(cohort, split, bias, 2, seed=0)
    wide = cell_table(cohort, split, None, confirmation).wide().set_index("disease")
    assert wide.loc["edema", "confirm_test"].tolist() == [4] * 4
    assert wide.loc["pneumonia", "confirm_test"].tolist() == [8] * 4
    assert wide.loc["edema", "confirm_train"].tolist() == [9, 3, 3, 9]


def test_short_cells_are_all_named_with_what_to_lower() -> None:
    cohort = cohort_of({("female", 1): 30, ("female", 0): 90, ("male", 1): 90, ("male", 0): 70})
    rng = np.random.default_rng(0)
    with pytest.raises(CohortError) as short:
        draw_validation(cohort, "edema", np.arange(len(cohort)), BiasConfig(), rng)
    assert str(short.value) == (
        "edema: too few development images (female positive: 30 of 87; male negative: 70 of 87 "
        "needed); lower bias.train_per_group (80), bias.validation_per_cell or bias.gap"
    )
    split = split_by_patient(cohort, SHARES, rng)
    with pytest.raises(
        CohortError, match=r"test images \(female positive: \d+ of 25; .*test_per_cell"
    ):
        draw_confirmation(cohort, "edema", split, BiasConfig(train_per_group=20), rng)
    with pytest.raises(CohortError, match="expected one of edema"):
        draw_confirmation(cohort, "oedema", split, BiasConfig(), rng)


def test_patients_that_cannot_be_parted_are_refused_after_a_bounded_search() -> None:
    cohort = cohort_of({("female", 1): 9, ("female", 0): 9, ("male", 1): 9, ("male", 0): 9})
    together = Cohort(
        name="made",
        images=cohort.images,
        patients=np.where(cohort.attribute == 0, 0, cohort.patients),
        attribute_name="sex",
        groups=GROUPS,
        attribute=cohort.attribute,
        labels=cohort.labels,
        fingerprint="",
    )
    bias = BiasConfig(gap=0.0, train_per_group=4, validation_per_cell=2)
    with pytest.raises(CohortError, match="no assignment of patients"):
        draw_validation(together, "edema", np.arange(36), bias, np.random.default_rng(0))


def test_tables_of_cells() -> None:
    cells = {("female", 1): 30, ("female", 0): 40, ("male", 1): 50, ("male", 0): 0}
    cohort = cohort_of(cells)
    counts = cell_counts(cohort)
    assert list(counts.columns) == ["disease", "label", "group", "n"]
    assert counts["n"].tolist() == [30, 40, 50, 0]
    assert cell_counts(cohort, np.arange(35))["n"].tolist() == [30, 5, 0, 0]
    (reason,) = undefined_metrics(cohort)
    assert reason.startswith(
        "edema has no negative image in group male: eo_negative_gap and tnr.male"
    )
    split = split_by_patient(cohort, SHARES, np.random.default_rng(0))
    table = cell_table(cohort, split).wide()
    parts = table[["train", "validation", "test"]].sum(axis=1)
    assert parts.tolist() == table["all"].tolist() == counts["n"].tolist()


def test_table_1_has_the_cells_that_were_asked_for() -> None:
    """The paper's Table 1: a gap between the groups to train on, equal cells to test on."""
    sizes = {("female", 1): 300, ("female", 0): 280, ("male", 1): 260, ("male", 0): 310}
    cohort = cohort_of(sizes)
    split = split_by_patient(cohort, SHARES, np.random.default_rng(0))
    bias = BiasConfig(gap=0.5, train_per_group=40, validation_per_cell=12, test_per_cell=25)
    draws = validation_draws(cohort, split.development, bias, 3, seed=5)
    confirmation = confirmation_draws(cohort, split, bias, 3, seed=5)
    table = cell_table(cohort, split, draws, confirmation)
    assert table.parts == (
        "all", "train", "validation", "test",
        "draw_train", "draw_validation", "confirm_train", "confirm_test",
    )  # fmt: skip
    wide = table.wide()
    cells = list(zip(wide["group"], wide["label"], strict=True))
    assert cells == [(group, label) for group in GROUPS for label in ("positive", "negative")]
    for part in ("draw_train", "confirm_train"):
        assert wide[part].tolist() == [30, 10, 10, 30]
    assert wide["draw_validation"].tolist() == [12] * 4
    assert wide["confirm_test"].tolist() == [25] * 4
    assert len(table.frame()) == 8 * 4
    again = validation_draws(cohort, split.development, bias, 3, seed=5)
    np.testing.assert_array_equal(draws["edema"][2].train, again["edema"][2].train)
    other = validation_draws(cohort, split.development, bias, 3, seed=6)
    assert not np.array_equal(draws["edema"][2].train, other["edema"][2].train)


def test_small_counts_are_masked_before_they_leave_the_machine() -> None:
    cohort = cohort_of({("female", 1): 4, ("female", 0): 5, ("male", 1): 0, ("male", 0): 9})
    masked = cell_table(cohort).masked()
    assert [row.n for row in masked.rows] == [None, 5, None, 9]
    assert masked.frame()["n"].isna().tolist() == [True, False, True, False]


def test_real_cohort_allows_ten_draws_of_each_disease(shared_data: Path) -> None:
    diseases = ("pleural_effusion", "cardiomegaly", "lung_lesion")
    settings = TableSettings(diseases=diseases, source=CsvSource(), negatives="disease_zero")
    cohort = check_table(shared_data, settings, images=False).bare
    bias = BiasConfig(train_per_group=45, validation_per_cell=12, test_per_cell=20)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        split = split_by_patient(cohort, SHARES, rng)
        for disease in diseases:
            for _ in range(10):
                draw_validation(cohort, disease, split.development, bias, rng)
                draw_confirmation(cohort, disease, split, bias, rng)
