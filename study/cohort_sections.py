"""The cohorts a study can name: one section a format, and the union of them all."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from study.sections import Count, NotNegative, Section, Slug
from ude_core.cohorts.chexpert import ChexpertSource
from ude_core.cohorts.csv_source import CsvSource
from ude_core.cohorts.mimic import MimicSource
from ude_core.cohorts.nih import NihSource
from ude_core.cohorts.phantom import DISEASES, PhantomConfig
from ude_core.cohorts.settings import (
    Blank,
    MissingAttribute,
    Negatives,
    TableSettings,
    Uncertain,
)
from ude_core.cohorts.sources import Source

_PHANTOM = PhantomConfig()

Text = Annotated[str, Field(min_length=1)]


class PhantomCohort(Section):
    """Phantom X-rays, made on the spot (`ude_core.cohorts.phantom`)."""

    kind: Literal["phantom"] = "phantom"
    patients: Count = _PHANTOM.patients
    images_per_patient: Count = _PHANTOM.images_per_patient
    image_size: Count = _PHANTOM.image_size
    seed: Annotated[int, Field(ge=0)] = _PHANTOM.seed
    female_share: Annotated[float, Field(ge=0, le=1)] = _PHANTOM.female_share
    prevalence: Annotated[float, Field(ge=0, le=1)] = _PHANTOM.prevalence
    severity: NotNegative = _PHANTOM.severity
    marker_adherence: Annotated[float, Field(ge=0, le=1)] = _PHANTOM.marker_adherence
    marker_contrast: NotNegative = _PHANTOM.marker_contrast
    breast_shadow: NotNegative = _PHANTOM.breast_shadow
    film_noise: NotNegative = _PHANTOM.film_noise

    @property
    def diseases(self) -> tuple[str, ...]:
        """The diseases of every phantom cohort."""
        return DISEASES

    def to_engine(self) -> PhantomConfig:
        """Return the engine's setting."""
        return PhantomConfig(**self.model_dump(exclude={"kind"}))


class TableCohort(Section):
    """Tables of X-rays on disk, whatever their format.

    `root` may be absolute, or relative to the folder of the space file; `${NAME:-otherwise}` takes
    an environment variable. Image paths and the checkpoint are relative to it. The choices are
    those of `ude_core.cohorts.settings.TableSettings`.
    """

    root: Text
    diseases: Annotated[tuple[Slug, ...], Field(min_length=1, strict=False)]
    attributes: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = ("Sex",)
    age_bands: Annotated[tuple[int, ...], Field(strict=False)] = (60,)
    missing_attribute: MissingAttribute = "refuse"
    negatives: Negatives = "no_finding"
    uncertain: dict[Slug, Uncertain] = Field(default_factory=dict)
    blank: Blank = "drop"
    confounder: Text | None = None
    only: dict[str, Annotated[tuple[str, ...], Field(min_length=1, strict=False)]] = Field(
        default_factory=dict
    )
    max_per_cell: Count | None = None
    image_size: Annotated[int, Field(ge=8)] = 224

    @model_validator(mode="after")
    def _settings_hold(self) -> TableCohort:
        self.to_engine()
        return self

    @property
    @abstractmethod
    def source(self) -> Source:
        """The format, as the engine reads it."""

    def to_engine(self) -> TableSettings:
        """Return the engine's setting. Raises SettingError where choices do not fit together."""
        return TableSettings(
            source=self.source,
            **{
                name: getattr(self, name)
                for name in TableCohort.model_fields
                if name not in ("root", "image_size")
            },
        )


class CsvCohort(TableCohort):
    """Any CSV with one row an image (`ude_core.cohorts.csv_source`).

    Columns are CheXpert's unless `columns` names others: by role (path, view, patient, sex, age,
    no_finding, split) or disease. `values` recodes cells: `values: {sex: {W: Female}}`.
    """

    kind: Literal["csv"]
    csv: Text = "nih.csv"
    columns: dict[str, Text | None] = Field(default_factory=dict)
    values: dict[str, dict[str, str]] = Field(default_factory=dict)

    @field_validator("values", mode="before")
    @classmethod
    def _as_text(cls, values: Any) -> Any:
        """Take numbers and truth values as a CSV would spell them: `{yes: 1.0}` means the cell 1.0."""
        if not isinstance(values, dict):
            return values
        return {
            name: {
                key: str(cell) if isinstance(cell, int | float) else cell
                for key, cell in recoded.items()
            }
            if isinstance(recoded, dict)
            else recoded
            for name, recoded in values.items()
        }

    @property
    def source(self) -> CsvSource:
        """The format, as the engine reads it."""
        return CsvSource(file=self.csv, columns=self.columns, values=self.values)


class ChexpertCohort(TableCohort):
    """CheXpert v1.0 or small as published (`ude_core.cohorts.chexpert`)."""

    kind: Literal["chexpert"]
    files: Annotated[tuple[Text, ...], Field(min_length=1, strict=False)] = ChexpertSource().files
    missing_attribute: MissingAttribute = "drop"

    @property
    def source(self) -> ChexpertSource:
        """The format, as the engine reads it."""
        return ChexpertSource(files=self.files)


class NihCohort(TableCohort):
    """NIH ChestX-ray14 as published (`ude_core.cohorts.nih`)."""

    kind: Literal["nih"]
    split: Literal["official", "random"] = "official"
    missing_attribute: MissingAttribute = "drop"

    @property
    def source(self) -> NihSource:
        """The format, as the engine reads it."""
        return NihSource(split=self.split)


class MimicCohort(TableCohort):
    """MIMIC-CXR-JPG with MIMIC-IV's patients, as published (`ude_core.cohorts.mimic`)."""

    kind: Literal["mimic"]
    labels: Text = MimicSource().labels
    metadata: Text = MimicSource().metadata
    patients: Text = MimicSource().patients
    missing_labels: Literal["refuse", "drop"] = "drop"
    missing_attribute: MissingAttribute = "drop"

    @property
    def source(self) -> MimicSource:
        """The format, as the engine reads it."""
        return MimicSource(
            labels=self.labels,
            metadata=self.metadata,
            patients=self.patients,
            missing_labels=self.missing_labels,
        )


CohortSection = Annotated[
    PhantomCohort | CsvCohort | ChexpertCohort | NihCohort | MimicCohort,
    Field(discriminator="kind"),
]
TABLES: Mapping[str, type[TableCohort]] = {
    "csv": CsvCohort,
    "chexpert": ChexpertCohort,
    "nih": NihCohort,
    "mimic": MimicCohort,
}
