"""Small copies of the published data sets: their files, columns and paths, with noise for images."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CHEXPERT_FINDINGS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion",
    "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
    "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
CHEXPERT_HEADER = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_FINDINGS)
NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
MIMIC_FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum",
    "Fracture", "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other",
    "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip
SIDE = 32


def picture(file: Path, seed: int) -> None:
    """Write an image of noise that no other seed gives."""
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    Image.fromarray(noise).save(file)


def write_rows(file: Path, rows: Iterable[Sequence[str] | str]) -> None:
    """Write lines of cells, gzipped where the name says so."""
    lines = [row if isinstance(row, str) else ",".join(row) for row in rows]
    text = ("\n".join(lines) + "\n").encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(text) if file.suffix == ".gz" else text)


def chexpert_row(patient: int, index: int, *, split: str = "train", release: str) -> list[str]:
    """Return a frontal row: women are even, every second pair is healthy, AP and PA alternate."""
    cells = dict.fromkeys(CHEXPERT_FINDINGS, "")
    if index // 2 % 2:
        cells["No Finding"] = "1.0"
    else:
        cells |= dict.fromkeys(("Pleural Effusion", "Pneumonia", "Edema"), "1.0")
    folder = f"{release}/{split}/patient{patient:05d}/study1"
    view = "AP" if index // 4 % 2 else "PA"
    sex = "Male" if index % 2 else "Female"
    return [
        f"{folder}/view1_frontal.jpg",
        sex,
        str(20 + index % 60),
        "Frontal",
        view,
        *cells.values(),
    ]


def make_chexpert(root: Path, *, patients: int = 40, release: str = "CheXpert-v1.0-small") -> Path:
    """Write train.csv (with a lateral view and an unknown sex, as published) and valid.csv."""
    rows = [chexpert_row(i + 1, i, release=release) for i in range(patients)]
    held = [
        chexpert_row(64541 + i, i, split="valid", release=release) for i in range(patients // 5)
    ]
    for seed, row in enumerate([*rows, *held]):
        picture(root / row[0].removeprefix(f"{release}/"), seed)
    lateral = list(rows[0])
    lateral[0] = lateral[0].replace("view1_frontal", "view2_lateral")
    lateral[3:5] = ["Lateral", ""]
    unknown = chexpert_row(patients + 1, 0, release=release)
    unknown[1] = "Unknown"
    picture(root / unknown[0].removeprefix(f"{release}/"), 10_000)
    write_rows(root / "train.csv", [CHEXPERT_HEADER, *rows, lateral, unknown])
    write_rows(root / "valid.csv", [CHEXPERT_HEADER, *held])
    return root


def nih_row(patient: int, index: int, follow_up: int = 0) -> list[str]:
    """Return one row of Data_Entry_2017.csv, its commas and trailing comma included."""
    labels = "No Finding" if index // 2 % 2 else "Effusion|Cardiomegaly|Nodule"
    sex, view = "M" if index % 2 else "F", "AP" if index // 4 % 2 else "PA"
    name = f"{patient:08d}_{follow_up:03d}.png"
    age = str(20 + index % 60)
    return [name, labels, str(follow_up), str(patient), age, sex, view, "2682", "2749", "0.143",
            "0.143", ""]  # fmt: skip


def make_nih(root: Path, *, patients: int = 40, test: int = 16) -> Path:
    """Write the table, the official lists (the last `test` patients test) and two image folders."""
    rows = [nih_row(i + 1, i) for i in range(patients)]
    for seed, row in enumerate(rows):
        picture(root / f"images_{1 + seed % 12:03d}" / "images" / row[0], seed)
    write_rows(root / "Data_Entry_2017.csv", [NIH_HEADER, *rows])
    write_rows(root / "train_val_list.txt", [row[0] for row in rows[:-test]])
    write_rows(root / "test_list.txt", [row[0] for row in rows[-test:]])
    return root


MIMIC_METADATA = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition",
    "Rows", "Columns", "StudyDate", "StudyTime",
)  # fmt: skip


def mimic_rows(patients: int = 32) -> tuple[list[list[str]], list[list[str]], list[list[str]]]:
    """Return the rows of metadata, labels and patients, without headers."""
    metadata, labels, people = [], [], []
    for i in range(patients):
        subject, study, image = str(10_000_032 + i), str(50_414_267 + i), f"{i:08x}-dicom"
        view = "AP" if i // 4 % 2 else "PA"
        metadata.append([image, subject, study, "CHEST", view, "3056", "2544", "21800506", "2139"])
        found = dict.fromkeys(MIMIC_FINDINGS, "")
        found |= (
            {"No Finding": "1.0"} if i // 2 % 2 else {"Pleural Effusion": "1.0", "Edema": "-1.0"}
        )
        labels.append([subject, study, *found.values()])
        people.append([subject, "M" if i % 2 else "F", str(20 + i), "2178", "2014 - 2016", ""])
    return metadata, labels, people


def write_mimic(
    root: Path, metadata: list[list[str]], labels: list[list[str]], people: list[list[str]]
) -> None:
    """Write the three tables as PhysioNet does: two of them gzipped."""
    write_rows(root / "mimic-cxr-2.0.0-metadata.csv.gz", [MIMIC_METADATA, *metadata])
    write_rows(
        root / "mimic-cxr-2.0.0-chexpert.csv.gz",
        [("subject_id", "study_id", *MIMIC_FINDINGS), *labels],
    )
    write_rows(
        root / "patients.csv",
        [
            ("subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"),
            *people,
        ],
    )


def make_mimic(root: Path) -> Path:
    """Write the tables and one image a study."""
    metadata, labels, people = mimic_rows()
    for seed, (image, subject, study, *_) in enumerate(metadata):
        picture(root / f"files/p{subject[:2]}/p{subject}/s{study}/{image}.jpg", seed)
    write_mimic(root, metadata, labels, people)
    return root
