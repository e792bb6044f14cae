"""CheXpert-style CSV files: what is read, and every way in which one is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ude_core.cohorts.base import Cohort
from ude_core.cohorts.cells import cell_counts
from ude_core.cohorts.csv_source import CsvSource
from ude_core.cohorts.settings import TableSettings
from ude_core.cohorts.table_cohort import TableReport, check_table, load_table
from ude_core.errors import CohortError, SettingError

HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema,Pleural Effusion,PatientID"
SECRET = "zq7714"


def good_rows() -> list[list[str]]:
    """Return two patients a cell, every cell of both diseases filled."""
    rows = []
    for i in range(16):
        sex = "Male" if i % 2 else "Female"
        positive = (i // 2) % 2
        finding = "1.0" if positive else "0.0"
        nothing = "" if positive else "1.0"
        view = "PA" if i % 3 else "AP"
        path = f"img/{SECRET}{i:02d}/a.png"
        age = str(30 + 3 * i)
        patient = f"{SECRET}{i:02d}"
        rows.append([path, sex, age, "Frontal", view, nothing, finding, finding, patient])
    return rows


def write(root: Path, rows: list[list[str]], header: str = HEADER, **how: str) -> None:
    newline, encoding = how.get("newline", "\n"), how.get("encoding", "utf-8")
    lines = [header, *(",".join(row) for row in rows)]
    (root / "nih.csv").write_bytes((newline.join(lines) + newline).encode(encoding))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rows = good_rows()
    for i, row in enumerate(rows):
        file = tmp_path / row[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(noise).save(file)
    write(tmp_path, rows)
    return tmp_path


DISEASES = ("edema", "pleural_effusion")


def settings(**choices: object) -> TableSettings:
    return TableSettings(**{"diseases": DISEASES, "source": CsvSource(), **choices})  # type: ignore[arg-type]


def load(root: Path, *, cache: Path | None = None, size: int = 32, **choices: object) -> Cohort:
    return load_table(root, settings(**choices), image_size=size, cache=cache)


def check(root: Path, *, images: bool = True, **choices: object) -> TableReport:
    return check_table(root, settings(**choices), images=images)


def problems_of(root: Path, **choices: object) -> list[str]:
    """Return the lines that load_table refuses with, after checking that no id is among them."""
    with pytest.raises(CohortError) as refused:
        load(root, **choices)
    message = str(refused.value)
    assert SECRET not in message
    return message.splitlines()[1:] or [message]


def test_reads_a_good_file(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    cohort = load(root)
    assert (cohort.name, cohort.attribute_name, cohort.groups) == ("nih", "sex", ("female", "male"))
    assert cohort.images.shape == (16, 32, 32)
    np.testing.assert_array_equal(cohort.patients, np.arange(16))
    np.testing.assert_array_equal(cohort.attribute, np.arange(16) % 2)
    np.testing.assert_array_equal(cohort.labels["edema"], np.arange(16) // 2 % 2)
    assert set(cell_counts(cohort)["n"]) == {4}
    assert SECRET not in caplog.text
    assert SECRET not in repr(cohort)


@pytest.mark.parametrize("how", [{"encoding": "utf-8-sig"}, {"newline": "\r\n"}])
def test_bom_and_crlf_are_the_same_cohort(root: Path, how: dict[str, str]) -> None:
    before = load(root).fingerprint
    write(root, good_rows(), **how)
    assert load(root).fingerprint == before


def test_blank_lines_at_the_end_are_harmless(root: Path) -> None:
    with (root / "nih.csv").open("a") as stream:
        stream.write("\n\n")
    assert len(load(root)) == 16


def test_every_offender_is_in_one_report(root: Path) -> None:
    rows = good_rows()
    rows[0][1] = "Mael"
    rows[1][1] = ""
    rows[2][2] = "old"
    rows[3][3] = "Sideways"
    rows[4][6] = "yes"
    rows[5][7] = "2"
    rows[6][0] = rows[7][0]
    rows[8][0] = "../secret.png"
    rows[9][0] = "/etc/passwd"
    rows[10][0] = f"img/{SECRET}/absent.png"
    rows[11] = [""] * 9
    rows[12].append("extra")
    rows[13][8] = ""
    rows[14][8] = rows[15][8]
    write(root, rows)
    lines = problems_of(root)
    expected = {
        2: "Sex is 'Mael' (expected Male or Female)",
        3: "Sex is '' (expected Male or Female); drop the row or set missing_attribute: drop",
        4: "Age is 'old' (expected 0 to 120 years)",
        5: "Frontal/Lateral is 'Sideways' (expected Frontal or Lateral)",
        6: "Edema is 'yes' (expected 1.0, 0.0, -1.0 or blank)",
        7: "Pleural Effusion is '2' (expected",
        9: "Path repeats that of line 8",
        10: "Path climbs with '..'",
        11: "Path is absolute",
        12: "Path names no regular file",
        13: "is blank",
        14: "has 10 cells (expected 9)",
        15: "PatientID is '' (expected an id)",
        17: "Sex differs from line 16, the same patient's",
    }
    assert len(lines) == len(expected)
    for line, (number, text) in zip(lines, expected.items(), strict=True):
        assert line.startswith(f"nih.csv:{number}: {text}")


def test_missing_columns_are_told_together_with_bad_rows(root: Path) -> None:
    rows = [row[:1] + row[2:6] + row[7:] for row in good_rows()]
    rows[3][0] = "absent.png"
    write(root, rows, HEADER.replace("Sex,", "").replace("Edema,", ""))
    assert [line.split("; ")[0] for line in problems_of(root)] == [
        "nih.csv:1: column 'Sex' is missing",
        "nih.csv:1: column 'Edema' is missing",
        "nih.csv:5: Path names no regular file",
    ]


def test_repeated_column(root: Path) -> None:
    write(root, good_rows(), HEADER.replace("AP/PA", "Sex"))
    assert any("column 'Sex' appears 2 times" in line for line in problems_of(root))


def test_not_utf8_names_the_row(root: Path) -> None:
    text = (root / "nih.csv").read_bytes().splitlines(keepends=True)
    text[4] = text[4].replace(b"Frontal", b"Front\xe9l")
    (root / "nih.csv").write_bytes(b"".join(text))
    assert problems_of(root) == ["nih.csv:5: is not UTF-8; save the file again as UTF-8"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (HEADER.encode() + b"\n", "no frontal image"),
        (HEADER.encode("utf-16"), "UTF-16"),
        (b"Path,\0Sex\n", "NUL"),
        (HEADER.encode() + b'\n"open quote,Male\n', "not CSV"),
    ],
)
def test_files_that_are_no_table(root: Path, data: bytes, words: str) -> None:
    (root / "nih.csv").write_bytes(data)
    assert words in problems_of(root)[0]


def test_absent_file(tmp_path: Path) -> None:
    assert "cannot be read" in problems_of(tmp_path)[0]


def test_symlink_out_of_the_root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "x.png"
    victim = root / good_rows()[0][0]
    outside.write_bytes(victim.read_bytes())
    victim.unlink()
    victim.symlink_to(outside)
    assert "nih.csv:2: Path leads out of the data root" in problems_of(root)[0]


def test_bad_images_are_named_by_row(root: Path, tmp_path: Path) -> None:
    rows = good_rows()
    (root / rows[1][0]).write_bytes(b"no image")
    (root / rows[2][0]).write_bytes(b"\0" * 128 + b"DICM")
    Image.new("L", (40, 40), 9).save(root / rows[5][0])
    expected = [
        "nih.csv:3: image is not an",
        "nih.csv:4: image is DICOM",
        "nih.csv:7: image is con",
    ]
    for cache in (None, root / "cache"):
        lines = problems_of(root, cache=cache)
        assert [line[: len(e)] for line, e in zip(lines, expected, strict=True)] == expected
    report = check(root)
    assert [line[: len(e)] for line, e in zip(report.problems, expected, strict=True)] == expected
    assert check(root, images=False).problems == ()


def test_one_image_under_two_patients(root: Path) -> None:
    rows = good_rows()
    (root / rows[4][0]).write_bytes((root / rows[2][0]).read_bytes())
    assert problems_of(root) == [
        "nih.csv:6: image is the same as that of line 4, another patient's; drop one"
    ]


def test_one_sex_only_and_one_class_only(root: Path) -> None:
    write(root, [row for row in good_rows() if row[1] == "Male"])
    assert "one sex group (male): all gaps" in problems_of(root)[0]
    write(root, [row for row in good_rows() if row[6] == "1.0" or row[1] == "Male"])
    lines = problems_of(root)
    assert "edema has no negative image in group female: eo_negative_gap" in lines[0]
    assert "pleural_effusion has no negative image in group female" in lines[1]


def test_only_frontal_rows_are_taken(root: Path) -> None:
    rows = good_rows()
    rows[0][3] = "Lateral"
    rows[0][0] = "not/looked/for.png"
    write(root, rows)
    assert len(load(root)) == 15
    assert check(root).left_out == {"lateral": 1}


def test_missing_attribute_can_be_dropped(root: Path) -> None:
    rows = good_rows()
    rows[0][1], rows[1][1] = "", "Unknown"
    write(root, rows)
    assert len(problems_of(root)) == 2
    cohort = load(root, missing_attribute="drop")
    assert len(cohort) == 14
    rows[2][1] = "Mael"
    write(root, rows)
    assert len(problems_of(root, missing_attribute="drop")) == 1


@pytest.mark.parametrize(
    ("negatives", "blank", "edema", "effusion"),
    [
        ("no_finding", "drop", [1, -1, -1, 0, 0], [0, -1, -1, 0, 0]),
        ("disease_zero", "drop", [1, 0, -1, 0, -1], [0, 0, -1, 0, -1]),
        ("disease_zero", "negative", [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]),
    ],
)
def test_policies(
    root: Path, negatives: str, blank: str, edema: list[int], effusion: list[int]
) -> None:
    """Rows 0-4 are: uncertain, zero, blank, zero with No Finding, blank with No Finding."""
    rows = good_rows()
    cells = [("-1.0", ""), ("0.0", ""), ("", ""), ("0.0", "1.0"), ("", "1.0")]
    for row, (value, nothing) in zip(rows, cells, strict=False):
        row[6] = row[7] = value
        row[5] = nothing
    rows[0][5] = "1.0"
    write(root, rows)
    cohort = load(root, negatives=negatives, blank=blank)
    assert cohort.labels["edema"][:5].tolist() == edema
    assert cohort.labels["pleural_effusion"][:5].tolist() == effusion
    dropped = load(root, uncertain={"edema": "drop"})
    assert dropped.labels["edema"][0] == -1
    values = check(root).values
    assert values["uncertain"].tolist() == [1, 1]
    assert values["uncertain_policy"].tolist() == ["ones", "zeros"]


def test_patient_from_the_path(root: Path) -> None:
    rows = good_rows()
    for i, row in enumerate(rows):
        folder = f"train/patient{i // 2:05d}/study{i}"
        new = root / folder / "view1_frontal.png"
        new.parent.mkdir(parents=True)
        (root / row[0]).rename(new)
        row[0] = f"{folder}/view1_frontal.png"
        row[1] = "Male" if (i // 2) % 4 < 2 else "Female"
        row[6] = row[7] = "1.0" if (i // 2) % 2 else "0.0"
        row[5] = "" if (i // 2) % 2 else "1.0"
    header = HEADER.removesuffix(",PatientID")
    write(root, [row[:-1] for row in rows], header)
    cohort = load(root)
    np.testing.assert_array_equal(cohort.patients, np.arange(16) // 2)
    rows[0][0] = f"img/{SECRET}/a.png"
    write(root, [row[:-1] for row in rows], header)
    assert "no patientNNNNN folder; add a PatientID" in problems_of(root)[0]


def test_other_attributes_bands_and_intersections(root: Path) -> None:
    def read(*attributes: str) -> tuple[str, tuple[str, ...]]:
        cohort = load(root, diseases=("edema",), attributes=attributes, age_bands=(40, 60))
        return cohort.attribute_name, cohort.groups

    assert read("AP/PA") == ("ap_pa", ("ap", "pa"))
    assert read("Age") == ("age", ("age_40_59", "age_60_plus", "age_under_40"))
    assert read("Sex", "AP/PA") == (
        "sex_ap_pa",
        ("female_ap", "female_pa", "male_ap", "male_pa"),
    )
    rows = good_rows()
    rows[4][2] = ""
    write(root, rows)
    with pytest.raises(CohortError, match=r"nih\.csv:6: Age is ''"):
        read("Age")


def test_edits_change_the_fingerprint_and_the_cache_follows(root: Path) -> None:
    cache = root / "cache"
    first = load(root, cache=cache)
    assert load(root, cache=cache).fingerprint == (first.fingerprint)
    Image.fromarray(np.eye(40, dtype=np.uint8) * 255).save(root / good_rows()[3][0])
    edited = load(root, cache=cache)
    assert edited.fingerprint != first.fingerprint
    np.testing.assert_array_equal(edited.images[2], first.images[2])
    assert (edited.images[3] != first.images[3]).any()
    rows = good_rows()
    rows[0][6], rows[0][5] = "1.0", ""
    write(root, rows)
    relabeled = load(root, cache=cache)
    assert relabeled.fingerprint != edited.fingerprint
    assert len(list(cache.glob("*.npy"))) == 2


def test_long_reports_say_how_many_more(root: Path) -> None:
    write(root, [["absent.png", *row[1:]] for row in good_rows() for _ in range(20)])
    lines = problems_of(root)
    assert len(lines) == 201
    assert lines[-1] == "and 120 more; ude-study cohort check lists all"
    assert len(check(root).problems) == 320


def test_a_cell_that_may_hold_an_id_is_not_shown(root: Path) -> None:
    rows = good_rows()
    rows[0][1] = rows[0][8]
    rows[1][6] = f"/data/{SECRET}/x"
    write(root, rows)
    assert [line.split(" (")[0] for line in problems_of(root)] == [
        "nih.csv:2: Sex is a value of 8 characters",
        "nih.csv:3: Edema is a value of 14 characters",
    ]


@pytest.mark.parametrize(
    "bad",
    [
        {"diseases": ()},
        {"diseases": ("edema", "edema")},
        {"uncertain": {"edma": "ones"}},
        {"attributes": ()},
        {"attributes": ("Age",), "age_bands": (60, 40)},
        {"size": 0},
    ],
)
def test_bad_settings(root: Path, bad: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        load(root, **bad)


def test_real_cohort_has_the_counts_its_readme_gives(shared_data: Path) -> None:
    diseases = ("pleural_effusion", "cardiomegaly", "lung_lesion", "no_finding")
    report = check(shared_data, diseases=diseases, negatives="disease_zero")
    assert report.problems == ()
    assert (report.images, report.patients, report.left_out) == (555, 439, {})
    counts = report.cells.set_index(["disease", "label", "group"])["n"]
    assert [
        [int(counts[disease, label, group]) for group in ("male", "female") for label in labels]
        for disease in diseases
        for labels in [("positive", "negative")]
    ] == [[121, 192, 96, 146], [86, 227, 80, 162], [121, 192, 75, 167], [53, 260, 47, 195]]
