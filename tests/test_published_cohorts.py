"""CheXpert, ChestX-ray14 and MIMIC-CXR-JPG as published, and any CSV through a mapping."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from published_cohorts import (
    CHEXPERT_HEADER,
    NIH_HEADER,
    chexpert_row,
    make_chexpert,
    make_mimic,
    make_nih,
    mimic_rows,
    nih_row,
    picture,
    write_mimic,
    write_rows,
)

from ude_core.cohorts.base import Cohort
from ude_core.cohorts.chexpert import ChexpertSource
from ude_core.cohorts.csv_source import CsvSource
from ude_core.cohorts.mimic import MimicSource
from ude_core.cohorts.nih import NihSource
from ude_core.cohorts.settings import TableSettings
from ude_core.cohorts.sources import Source
from ude_core.cohorts.splits import split_by_patient
from ude_core.cohorts.stored import read_cohort, write_columns, write_pixels
from ude_core.cohorts.table_cohort import TableReport, check_table, load_table
from ude_core.errors import CohortError, SettingError
from ude_core.types import SplitConfig

CHEXPERT = ("pleural_effusion", "pneumonia", "edema")
SHARES = SplitConfig(validation=0.2, test=0.3)


def choose(source: Source, diseases: Sequence[str], **choices: object) -> TableSettings:
    given: dict[str, object] = {"missing_attribute": "drop", **choices}
    return TableSettings(diseases=diseases, source=source, **given)  # type: ignore[arg-type]


def check(root: Path, source: Source, diseases: Sequence[str], **choices: object) -> TableReport:
    return check_table(root, choose(source, diseases, **choices), images=False)


def problems(root: Path, source: Source, diseases: Sequence[str], **choices: object) -> list[str]:
    return list(check(root, source, diseases, **choices).problems)


@pytest.mark.parametrize(
    ("release", "inside"), [("CheXpert-v1.0-small", True), ("CheXpert-v1.0", False)]
)
def test_chexpert_from_either_folder(tmp_path: Path, release: str, inside: bool) -> None:
    """The root is the release's folder or the one around it; both tables are read."""
    folder = make_chexpert(tmp_path / release, release=release)
    root = folder if inside else tmp_path
    report = check(root, ChexpertSource(), CHEXPERT)
    assert report.problems == report.undefined == ()
    assert (report.images, report.patients) == (48, 48)
    assert report.left_out == {"lateral": 1, "missing_attribute": 1}
    cohort = load_table(root, choose(ChexpertSource(), CHEXPERT), image_size=16)
    assert (cohort.name, cohort.groups) == ("chexpert", ("female", "male"))
    assert cohort.images.shape == (48, 16, 16)
    train = load_table(root, choose(ChexpertSource(files=("train.csv",)), CHEXPERT), image_size=16)
    np.testing.assert_array_equal(train.images, cohort.images[:40])


def test_chexpert_paths_without_the_release(tmp_path: Path) -> None:
    make_chexpert(tmp_path)
    before = load_table(tmp_path, choose(ChexpertSource(), CHEXPERT), image_size=16)
    for name in ("train.csv", "valid.csv"):
        table = tmp_path / name
        table.write_text(table.read_text().replace("CheXpert-v1.0-small/", ""))
    after = load_table(tmp_path, choose(ChexpertSource(), CHEXPERT), image_size=16)
    assert after.fingerprint == before.fingerprint


def test_chexpert_problems_name_their_table(tmp_path: Path) -> None:
    make_chexpert(tmp_path)
    release = "CheXpert-v1.0-small"
    train = [chexpert_row(i + 1, i, release=release) for i in range(40)]
    valid = [chexpert_row(64541 + i, i, split="valid", release=release) for i in range(8)]
    train[3][1] = "Mael"
    train[4][0] = f"{release}/../outside.jpg"
    train[5][0] = "/etc/passwd"
    valid[1][0] = train[0][0]
    valid[2][CHEXPERT_HEADER.index("Edema")] = "yes"
    write_rows(tmp_path / "train.csv", [CHEXPERT_HEADER, *train])
    write_rows(tmp_path / "valid.csv", [CHEXPERT_HEADER, *valid])
    found = problems(tmp_path, ChexpertSource(), CHEXPERT)
    assert [line.split("; ")[0] for line in found] == [
        "train.csv:5: Sex is 'Mael' (expected Male or Female)",
        "train.csv:6: Path has no patientNNNNN folder",
        "train.csv:6: Path climbs with '..'",
        "train.csv:7: Path has no patientNNNNN folder",
        "train.csv:7: Path is absolute",
        "valid.csv:3: Sex differs from train.csv:2, the same patient's",
        "valid.csv:3: Path repeats that of train.csv:2",
        "valid.csv:4: Edema is 'yes' (expected 1.0, 0.0, -1.0 or blank)",
    ]
    assert not any("patient0" in line or "outside" in line for line in found)


def test_chexpert_uncertain_findings_follow_each_disease(tmp_path: Path) -> None:
    """-1 is positive for Edema, and for the others what a zero is, unless a study says otherwise."""
    make_chexpert(tmp_path)
    table = tmp_path / "train.csv"
    rows = [line.split(",") for line in table.read_text().splitlines()]
    for finding in ("Edema", "Pneumonia"):
        rows[1][CHEXPERT_HEADER.index(finding)] = "-1.0"
    write_rows(table, rows)

    def first(**choices: object) -> dict[str, int]:
        labels = check(tmp_path, ChexpertSource(), CHEXPERT, **choices).bare.labels
        return {disease: int(labels[disease][0]) for disease in ("edema", "pneumonia")}

    assert first() == {"edema": 1, "pneumonia": -1}
    assert first(negatives="disease_zero") == {"edema": 1, "pneumonia": 0}
    assert first(uncertain={"edema": "drop", "pneumonia": "ones"}) == {"edema": -1, "pneumonia": 1}


def test_two_releases_below_one_root_are_ambiguous(tmp_path: Path) -> None:
    for release in ("CheXpert-v1.0-small", "CheXpert-v1.0"):
        make_chexpert(tmp_path / release, patients=4, release=release)
    with pytest.raises(CohortError, match="several releases"):
        check(tmp_path, ChexpertSource(), CHEXPERT)
    (tmp_path / "CheXpert-v1.0" / "valid.csv").unlink()
    with pytest.raises(CohortError, match=r"valid\.csv: cannot be read"):
        check(tmp_path / "CheXpert-v1.0", ChexpertSource(), CHEXPERT)


NIH = ("pleural_effusion", "cardiomegaly", "lung_lesion")


def test_nih_findings_images_and_official_test(tmp_path: Path) -> None:
    make_nih(tmp_path)
    cohort = load_table(tmp_path, choose(NihSource(), NIH, confounder="AP/PA"), image_size=16)
    assert (cohort.groups, cohort.strata) == (("female", "male"), ("ap", "pa"))
    for disease in NIH:
        np.testing.assert_array_equal(cohort.labels[disease], np.arange(40) // 2 % 2 == 0)
    assert cohort.official_test is not None
    np.testing.assert_array_equal(cohort.official_test, np.arange(40) >= 24)
    split = split_by_patient(cohort, SHARES, np.random.default_rng(0))
    np.testing.assert_array_equal(split.test, np.arange(24, 40))
    # 0.2 of all against 0.5 that train: 2 of 7 of the development patients validate.
    assert (len(split.train), len(split.validation)) == (18, 6)
    drawn = load_table(tmp_path, choose(NihSource(split="random"), NIH), image_size=16)
    assert drawn.official_test is None
    assert drawn.fingerprint != cohort.fingerprint


def test_what_a_cohort_carries_survives_being_stored(tmp_path: Path) -> None:
    cohort = load_table(
        make_nih(tmp_path), choose(NihSource(), NIH, confounder="AP/PA"), image_size=16
    )
    write_columns(cohort, tmp_path / "c.npz")
    write_pixels(cohort, tmp_path / "c.npy")
    again = read_cohort(tmp_path / "c.npz", tmp_path / "c.npy")
    assert (again.confounder, again.strata) == ("ap_pa", ("ap", "pa"))
    np.testing.assert_array_equal(again.stratum, cohort.stratum)
    np.testing.assert_array_equal(again.official_test, cohort.official_test)
    assert again.fingerprint == cohort.fingerprint


def test_nih_later_tables_and_ages_with_units(tmp_path: Path) -> None:
    """The 2020 table has no trailing comma, other copies write 058Y or 011M, and one age is 411."""
    make_nih(tmp_path)
    rows = [nih_row(i + 1, i)[:-1] for i in range(40)]
    for row in rows:
        row[4] = f"{int(row[4]):03d}Y"
    rows[0][4], rows[1][4], rows[2][4] = "011M", "020D", "411"
    write_rows(tmp_path / "Data_Entry_2017_v2020.csv", [NIH_HEADER.removesuffix(","), *rows])
    report = check(tmp_path, NihSource(), NIH, attributes=("Age",), age_bands=(1, 50))
    assert report.problems == ()
    assert report.left_out == {"missing_attribute": 1}
    bare = report.bare
    assert [bare.groups[code] for code in bare.attribute[:2]] == ["age_under_1", "age_under_1"]
    assert check(tmp_path, NihSource(), NIH).left_out == {}
    refused = problems(tmp_path, NihSource(), NIH, attributes=("Age",), missing_attribute="refuse")
    assert refused == [
        "Data_Entry_2017_v2020.csv:4: Patient Age is '411' (expected 0 to 120 years); "
        "mend or drop the row"
    ]


def test_nih_problems_are_told_with_their_place(tmp_path: Path) -> None:
    make_nih(tmp_path)
    rows = [nih_row(i + 1, i) for i in range(40)]
    rows[0][1] = "Efusion"
    rows[1][1] = "No Finding|Mass"
    rows[2][5] = "X"
    rows[39][3] = rows[1][3]
    rows[39][5] = rows[1][5]
    rows[5][0] = "00000099_000.png"
    write_rows(tmp_path / "Data_Entry_2017.csv", [NIH_HEADER, *rows])
    with (tmp_path / "test_list.txt").open("a") as stream:
        stream.write("00000001_000.png\n")
    found = problems(tmp_path, NihSource(), NIH)
    assert [line.split("; ")[0] for line in found] == [
        "test_list.txt:17: image is in train_val_list.txt too",
        "Data_Entry_2017.csv:2: Finding Labels holds 1 unknown labels (expected No Finding or the "
        "14 findings joined by |)",
        "Data_Entry_2017.csv:3: Finding Labels names No Finding beside a finding",
        "Data_Entry_2017.csv:4: Patient Gender is 'X' (expected Male or Female)",
        "Data_Entry_2017.csv:7: image is in neither train_val_list.txt nor test_list.txt",
        "Data_Entry_2017.csv:7: Image Index names no regular file",
        "Data_Entry_2017.csv:41: patient is in test here and in train at line 3",
    ]
    assert "00000" not in "".join(found)


def test_nih_without_its_lists_or_with_another_disease(tmp_path: Path) -> None:
    make_nih(tmp_path)
    with pytest.raises(SettingError, match="diseases names lung_opacity"):
        choose(NihSource(), ("lung_opacity",))
    (tmp_path / "test_list.txt").unlink()
    with pytest.raises(CohortError, match=r"test_list\.txt: cannot be read.*split: random"):
        check(tmp_path, NihSource(), NIH)
    (tmp_path / "test_list.txt").write_text("")
    write_rows(tmp_path / "train_val_list.txt", [nih_row(i + 1, i)[0] for i in range(40)])
    bare = check(tmp_path, NihSource(), NIH).bare
    with pytest.raises(CohortError, match="marks no test image"):
        split_by_patient(bare, SHARES, np.random.default_rng(0))


MIMIC = ("pleural_effusion", "edema")


def test_mimic_joins_its_three_tables(tmp_path: Path) -> None:
    make_mimic(tmp_path)
    settings = choose(MimicSource(), MIMIC, attributes=("Sex", "Age"), age_bands=(40,),
                      confounder="AP/PA")  # fmt: skip
    report = check_table(tmp_path, settings)
    assert report.problems == report.undefined == ()
    assert (report.images, report.patients) == (32, 32)
    bare = report.bare
    # The studies are of 2180 and the anchors of 2178: everybody is two years older.
    groups = [bare.groups[code] for code in bare.attribute[16:20]]
    assert groups == ["female_age_under_40", "male_age_under_40", "female_age_40_plus",
                      "male_age_40_plus"]  # fmt: skip
    assert report.values["uncertain"].tolist() == [0, 16]
    np.testing.assert_array_equal(bare.labels["edema"], np.arange(32) // 2 % 2 == 0)
    assert load_table(tmp_path, settings, image_size=16).images.shape == (32, 16, 16)
    by_era = check(tmp_path, MimicSource(), MIMIC, attributes=("Sex", "anchor_year_group"))
    assert by_era.bare.groups == ("female_2014_2016", "male_2014_2016")


def test_mimic_leaves_out_what_it_publishes_incomplete(tmp_path: Path) -> None:
    """Lateral views, a study without labels and a patient outside MIMIC-IV are part of the release."""
    make_mimic(tmp_path)
    metadata, labels, people = mimic_rows()
    metadata[0][4] = "LATERAL"
    metadata[1][4] = ""
    del labels[2], people[4]
    write_mimic(tmp_path, metadata, labels, people)
    report = check(tmp_path, MimicSource(), MIMIC)
    assert report.problems == ()
    assert report.left_out == {"lateral": 2, "unlabelled": 1, "missing_attribute": 1}
    refused = problems(
        tmp_path, MimicSource(missing_labels="refuse"), MIMIC, missing_attribute="refuse"
    )
    assert [line.split("; ")[0] for line in refused] == [
        "mimic-cxr-2.0.0-metadata.csv.gz:4: study is not in mimic-cxr-2.0.0-chexpert.csv",
        "mimic-cxr-2.0.0-metadata.csv.gz:6: gender is '' (expected Male or Female)",
    ]


def test_mimic_problems_of_the_join_name_both_rows(tmp_path: Path) -> None:
    make_mimic(tmp_path)
    metadata, labels, people = mimic_rows()
    labels.append(labels[3])
    people.append(people[5])
    labels[7][0] = labels[8][0]
    metadata.append(metadata[9])
    metadata[10][0] = "../../../etc/passwd"
    labels[11][2] = "maybe"
    write_mimic(tmp_path, metadata, labels, people)
    found = problems(tmp_path, MimicSource(), ("atelectasis",), negatives="no_finding")
    name = "mimic-cxr-2.0.0-{}.csv.gz"
    chexpert, table = name.format("chexpert"), name.format("metadata")
    assert [line.split("; ")[0] for line in found] == [
        f"{chexpert}:34: study repeats that of line 5",
        "patients.csv:34: subject repeats that of line 7",
        f"{table}:9: study is another subject's in mimic-cxr-2.0.0-chexpert.csv:9",
        f"{table}:12: dicom_id climbs with '..'",
        f"{table}:13: Atelectasis is 'maybe' (expected 1.0, 0.0, -1.0 or blank)",
        f"{table}:34: dicom_id repeats that of line 11",
    ]
    assert not any(str(10_000_032 + i) in line for line in found for i in range(32))


def test_a_broken_gzip_is_told(tmp_path: Path) -> None:
    make_mimic(tmp_path)
    file = tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(CohortError, match="no whole gzip file"):
        check(tmp_path, MimicSource(), MIMIC)


COLUMNS = {
    "path": "file", "patient": "pid", "sex": "gender", "age": "years", "view": "proj",
    "pleural_effusion": "fluid",
}  # fmt: skip
VALUES = {
    "sex": {"W": "Female"},
    "view": {"front": "Frontal", "side": "Lateral"},
    "pleural_effusion": {"yes": "1", "no": "0", "?": "-1"},
}


def own_rows(root: Path) -> list[list[str]]:
    """Return 16 rows of a file nobody knows, whose images exist."""
    rows = []
    for i in range(16):
        picture(root / "img" / f"{i}.png", i)
        fluid = "yes" if i // 2 % 2 else "no"
        sex = "M" if i % 2 else "W"
        rows.append(
            [f"img/{i}.png", f"p{i}", sex, str(30 + i), "front", fluid, "ward" if i > 7 else "er"]
        )
    return rows


def own(root: Path, rows: list[list[str]], **choices: object) -> TableReport:
    write_rows(root / "own.csv", ["file,pid,gender,years,proj,fluid,unit", *rows])
    given: dict[str, object] = {"columns": COLUMNS, "values": VALUES}
    given |= {name: choices.pop(name) for name in ("columns", "values") if name in choices}
    source = CsvSource(file="own.csv", **given)  # type: ignore[arg-type]
    return check(root, source, ("pleural_effusion",), negatives="disease_zero",
                 missing_attribute="refuse", **choices)  # fmt: skip


def test_any_csv_through_a_mapping(tmp_path: Path) -> None:
    rows = own_rows(tmp_path)
    rows[0][4] = "side"
    report = own(tmp_path, rows, attributes=("Sex", "unit"))
    assert report.problems == ()
    assert report.left_out == {"lateral": 1}
    assert report.bare.groups == ("female_er", "female_ward", "male_er", "male_ward")
    np.testing.assert_array_equal(report.bare.labels["pleural_effusion"], np.arange(1, 16) // 2 % 2)
    rows[1][2], rows[2][3], rows[3][5] = "X", "300", "perhaps"
    assert [line.split("; ")[0] for line in own(tmp_path, rows).problems] == [
        "own.csv:3: gender is 'X' (expected Male or Female)",
        "own.csv:4: years is '300' (expected 0 to 120 years)",
        "own.csv:5: fluid is 'perhaps' (expected 1.0, 0.0, -1.0 or blank)",
    ]


def test_a_mapped_split_column_is_kept_and_checked(tmp_path: Path) -> None:
    rows = own_rows(tmp_path)
    columns = {**COLUMNS, "split": "unit", "view": None}
    values = {"pleural_effusion": VALUES["pleural_effusion"], "sex": VALUES["sex"],
              "split": {"ward": "test", "er": "train"}}  # fmt: skip
    report = own(tmp_path, rows, columns=columns, values=values)
    assert report.problems == ()
    assert report.bare.official_test is not None
    np.testing.assert_array_equal(report.bare.official_test, np.arange(16) > 7)
    rows[10][1] = rows[2][1]
    rows[12][6] = "icu"
    assert [
        line.split("; ")[0] for line in own(tmp_path, rows, columns=columns, values=values).problems
    ] == [
        "own.csv:12: patient is in test here and in train at line 4",
        "own.csv:14: unit is 'icu' (expected train, validation or test)",
    ]


def test_mappings_that_name_nothing(tmp_path: Path) -> None:
    rows = own_rows(tmp_path)
    with pytest.raises(SettingError, match=r"columns names 'pat'.*did you mean 'path'"):
        own(tmp_path, rows, columns={"pat": "file"})
    with pytest.raises(SettingError, match="values names 'gender'"):
        own(tmp_path, rows, values={"gender": {"W": "Female"}})
    with pytest.raises(SettingError, match=r"columns\.path is null"):
        own(tmp_path, rows, columns={**COLUMNS, "path": None})
    found = own(tmp_path, rows, columns={**COLUMNS, "patient": "id"}).problems
    assert found[0] == "own.csv:1: column 'id' (columns.patient) is missing; add it or name another"


def test_the_real_cohort_through_a_mapping_is_the_same(shared_data: Path, tmp_path: Path) -> None:
    """Columns renamed and cells recoded, 120 real rows are the cohort that they were."""
    diseases = ("pleural_effusion", "cardiomegaly")
    lines = (shared_data / "nih.csv").read_text(encoding="utf-8").splitlines()[:121]
    for line in lines[1:]:
        file = tmp_path / line.split(",")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "nih.csv").write_text("\n".join(lines), encoding="utf-8")
    plain = check(tmp_path, CsvSource(), diseases)
    for old, new in (("Path", "file"), ("Sex", "gender"), ("Frontal/Lateral", "proj"),
                     ("Pleural Effusion", "fluid")):  # fmt: skip
        lines[0] = lines[0].replace(old, new, 1)
    text = "\n".join(lines).replace(",Female,", ",W,").replace(",Male,", ",M,")
    (tmp_path / "own.csv").write_text(text, encoding="utf-8")
    source = CsvSource(
        file="own.csv",
        columns={"path": "file", "sex": "gender", "view": "proj", "pleural_effusion": "fluid"},
        values={"sex": {"W": "Female", "M": "Male"}},
    )
    mapped = check(tmp_path, source, diseases)
    assert mapped.problems == plain.problems == ()
    assert mapped.images == 120
    for disease in diseases:
        np.testing.assert_array_equal(mapped.bare.labels[disease], plain.bare.labels[disease])
    assert_same(mapped.bare, plain.bare)


def test_only_and_max_per_cell_keep_whole_patients(tmp_path: Path) -> None:
    make_nih(tmp_path, patients=96, test=32)
    frontal = check(tmp_path, NihSource(), NIH, only={"AP/PA": ("PA",)}).bare
    assert len(frontal) == 48
    report = check(tmp_path, NihSource(), NIH, only={"AP/PA": ("PA",)}, max_per_cell=3)
    counts = report.cells["n"]
    assert set(counts) == {6}  # three on either side of the official split
    assert report.left_out == {"only": 48, "max_per_cell": 24}
    again = check(tmp_path, NihSource(), NIH, only={"AP/PA": ("PA",)}, max_per_cell=3)
    assert_same(again.bare, report.bare)
    everything = check(tmp_path, NihSource(), NIH, max_per_cell=10_000)
    assert_same(everything.bare, check(tmp_path, NihSource(), NIH).bare)


def assert_same(one: Cohort, other: Cohort) -> None:
    np.testing.assert_array_equal(one.patients, other.patients)
    np.testing.assert_array_equal(one.attribute, other.attribute)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"confounder": "Sex"}, "confounder is 'Sex', an attribute too"),
        ({"only": {"AP/PA": ()}}, "only.AP/PA is empty"),
        ({"max_per_cell": 0}, "max_per_cell is 0"),
    ],
)
def test_choices_that_do_not_fit(bad: dict[str, object], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        choose(NihSource(), NIH, **bad)
