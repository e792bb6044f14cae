"""MIMIC-CXR-JPG (Johnson et al., 2019) joined with the patients of MIMIC-IV, as PhysioNet publishes both.

One image a row of the metadata; its findings are its study's in the CheXpert table, its patient's
sex and age are in `patients.csv`. Every table may be gzipped. Frontal are the views PA and AP.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from ude_core.cohorts.csv_text import Problems, Sheet
from ude_core.cohorts.settings import column_of, slug_of
from ude_core.cohorts.sources import PROJECTION, Reading, Record, Role, Wanted

_SUBJECT, _STUDY, _IMAGE, _VIEW, _DATE = (
    "subject_id",
    "study_id",
    "dicom_id",
    "ViewPosition",
    "StudyDate",
)
_GENDER, _ANCHOR_AGE, _ANCHOR_YEAR = "gender", "anchor_age", "anchor_year"
_NO_FINDING = "No Finding"
_FRONTAL = ("PA", "AP")


class _Study(NamedTuple):
    line: int
    subject: str
    findings: Mapping[str, str]
    no_finding: str


class _Patient(NamedTuple):
    line: int
    gender: str
    age: str
    year: str
    columns: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class MimicSource:
    """The three tables of MIMIC-CXR-JPG, by their names below the data root.

    A few published images belong to no labelled study, and a few patients are not in MIMIC-IV:
    `missing_labels` and the study's `missing_attribute` say whether these are refused or left out.
    """

    labels: str = "mimic-cxr-2.0.0-chexpert.csv"
    metadata: str = "mimic-cxr-2.0.0-metadata.csv"
    patients: str = "patients.csv"
    missing_labels: Literal["refuse", "drop"] = "drop"

    @property
    def title(self) -> str:
        return "MIMIC-CXR-JPG"

    def check(self, wanted: Wanted) -> None:
        """Accept everything: which diseases there are, the table of labels says."""

    def read(self, root: Path, wanted: Wanted, problems: Problems) -> Reading:
        metadata = Sheet(root, self.metadata, problems)
        studies, labels = _studies(root, self.labels, wanted, problems)
        others = [name for name in wanted.categories if name not in (*metadata.header, PROJECTION)]
        patients = _patients(root, self.patients, others, problems)
        left_out: Counter[str] = Counter()
        names = {"path": _IMAGE, "view": _VIEW, "patient": _SUBJECT, "sex": _GENDER}
        return Reading(
            names={**names, "age": _ANCHOR_AGE, "no_finding": _NO_FINDING, **labels},
            records=self._records(metadata, wanted, studies, patients, left_out),
            left_out=left_out,
        )

    def _records(
        self,
        sheet: Sheet,
        wanted: Wanted,
        studies: Mapping[str, _Study],
        patients: Mapping[str, _Patient],
        left_out: Counter[str],
    ) -> Iterator[Record]:
        own = {name: _VIEW if name == PROJECTION else name for name in wanted.categories}
        own = {name: column for name, column in own.items() if column in sheet.header}
        dated = (_DATE,) if _DATE in sheet.header else ()
        places = sheet.columns(_IMAGE, _SUBJECT, _STUDY, _VIEW, *dated, *own.values())
        if not {_IMAGE, _SUBJECT, _STUDY, _VIEW} <= places.keys():
            return
        for line, row in sheet.rows():
            view, subject = row[places[_VIEW]], row[places[_SUBJECT]]
            if view not in _FRONTAL:
                left_out["lateral"] += 1
                continue
            study = studies.get(row[places[_STUDY]])
            if study is None:
                left_out["unlabelled"] += 1
                if self.missing_labels == "refuse":
                    sheet.report(
                        line,
                        f"study is not in {self.labels}; drop the row or set missing_labels: drop",
                    )
                continue
            if study.subject != subject:
                sheet.report(
                    line,
                    f"study is another subject's in {self.labels}:{study.line}; mend one of them",
                )
                continue
            patient = patients.get(subject)
            cells: dict[Role, str] = {
                "path": _path(subject, row[places[_STUDY]], row[places[_IMAGE]]),
                "view": "Frontal",
                "patient": subject,
                "sex": patient.gender if patient else "",
                "age": _age(patient, row[places[_DATE]] if dated else "") if patient else "",
                "no_finding": study.no_finding,
            }
            theirs = patient.columns if patient else {}
            yield Record(
                file=sheet.name,
                line=line,
                cells=cells,
                findings=study.findings,
                categories={
                    name: row[places[own[name]]] if name in own else theirs.get(name, "")
                    for name in wanted.categories
                },
            )


def _studies(
    root: Path, name: str, wanted: Wanted, problems: Problems
) -> tuple[dict[str, _Study], dict[str, str]]:
    """Return the studies by id, and the column of every disease."""
    sheet = Sheet(root, name, problems)
    by_slug = {slug_of(column): column for column in sheet.header}
    labels = {slug: by_slug.get(slug, column_of(slug)) for slug in wanted.diseases}
    places = sheet.columns(_SUBJECT, _STUDY, _NO_FINDING, *labels.values())
    studies: dict[str, _Study] = {}
    if not {_SUBJECT, _STUDY} <= places.keys():
        return studies, labels
    for line, row in sheet.rows():
        study = _Study(
            line,
            row[places[_SUBJECT]],
            {slug: row[places[column]] for slug, column in labels.items() if column in places},
            row[places[_NO_FINDING]] if _NO_FINDING in places else "",
        )
        first = studies.setdefault(row[places[_STUDY]], study)
        if first is not study:
            sheet.report(line, f"study repeats that of line {first.line}; drop one of the rows")
    return studies, labels


def _patients(root: Path, name: str, others: list[str], problems: Problems) -> dict[str, _Patient]:
    """Return the patients by subject id."""
    sheet = Sheet(root, name, problems)
    places = sheet.columns(_SUBJECT, _GENDER, _ANCHOR_AGE, *others)
    year = sheet.column(_ANCHOR_YEAR, required=False)
    patients: dict[str, _Patient] = {}
    if not {_SUBJECT, _GENDER, _ANCHOR_AGE} <= places.keys():
        return patients
    for line, row in sheet.rows():
        patient = _Patient(
            line,
            row[places[_GENDER]],
            row[places[_ANCHOR_AGE]],
            row[year] if year is not None else "",
            {other: row[places[other]] for other in others if other in places},
        )
        first = patients.setdefault(row[places[_SUBJECT]], patient)
        if first is not patient:
            sheet.report(line, f"subject repeats that of line {first.line}; drop one of the rows")
    return patients


def _path(subject: str, study: str, image: str) -> str:
    return f"files/p{subject[:2]}/p{subject}/s{study}/{image}.jpg"


def _age(patient: _Patient, date: str) -> str:
    """Return the age at the study where its year and the anchor's are known, else the anchor's.

    MIMIC shifts a patient's dates by one span, so years between them are true.
    """
    year = date[:4]
    if all(text.isdecimal() for text in (patient.age, patient.year, year)):
        return str(int(patient.age) + int(year) - int(patient.year))
    return patient.age
