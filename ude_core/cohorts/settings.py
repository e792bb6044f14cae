"""The choices by which a table of X-rays becomes a cohort, and how diseases are spelled."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ude_core.cohorts.sources import AGE, SEX, Source, Wanted
from ude_core.errors import SettingError

Negatives = Literal["no_finding", "disease_zero"]
Uncertain = Literal["ones", "zeros", "drop"]
Blank = Literal["negative", "drop"]
MissingAttribute = Literal["refuse", "drop"]

DEFAULT_UNCERTAIN: Mapping[str, Uncertain] = {"edema": "ones"}
"""What -1 means where a study does not say; `zeros` for every disease not listed."""


def slug_of(column: str) -> str:
    """Return the slug of a column name.

    >>> slug_of("Pleural Effusion"), slug_of("COVID-19")
    ('pleural_effusion', 'covid_19')
    """
    return re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")


def column_of(slug: str) -> str:
    """Return the CheXpert spelling of a disease slug, for messages.

    >>> column_of("pleural_effusion")
    'Pleural Effusion'
    """
    return slug.replace("_", " ").title()


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSettings:
    """How a table of X-rays becomes a cohort; `source` is its format.

    `negatives` no_finding: a negative is an image with No Finding 1.0 (the released code's choice);
    disease_zero: a negative has 0.0 for the disease, and `blank` says whether a blank (not
    mentioned) is negative too or not used. `uncertain` gives the meaning of -1 per disease slug.

    `attributes` are columns; several make an intersection; Age is cut at the `age_bands` (years).
    `confounder` is a column that every draw balances within each cell. `only` keeps the images
    with one of these values, per column. `max_per_cell` keeps a sample of patients, always the
    same one, that is enough for so many images a cell (disease, label, group, stratum) on either
    side of a published split: what an encoder is paid for is every image kept.
    """

    diseases: Sequence[str]
    source: Source
    negatives: Negatives = "no_finding"
    uncertain: Mapping[str, Uncertain] = field(default_factory=dict)
    blank: Blank = "drop"
    attributes: Sequence[str] = (SEX,)
    age_bands: Sequence[int] = (60,)
    missing_attribute: MissingAttribute = "refuse"
    confounder: str | None = None
    only: Mapping[str, Sequence[str]] = field(default_factory=dict)
    max_per_cell: int | None = None

    def __post_init__(self) -> None:
        if not self.diseases or len(set(self.diseases)) != len(self.diseases):
            raise SettingError("diseases is empty or repeats one; name each disease once")
        if not self.attributes or len(set(self.attributes)) != len(self.attributes):
            raise SettingError("attributes is empty or repeats one; name each column once")
        strangers = sorted(set(self.uncertain) - set(self.diseases))
        if strangers:
            raise SettingError(
                f"uncertain names {', '.join(strangers)} (expected one of "
                f"{', '.join(self.diseases)}); remove it or add the disease"
            )
        bands = tuple(self.age_bands)
        if AGE in self.wanted.columns and (not bands or list(bands) != sorted(set(bands))):
            raise SettingError(f"age_bands is {bands} (expected ages in rising order)")
        if self.confounder in self.attributes:
            raise SettingError(
                f"confounder is {self.confounder!r}, an attribute too; balance it or study it"
            )
        empty = [column for column, values in self.only.items() if not values]
        if empty:
            raise SettingError(f"only.{empty[0]} is empty (expected values to keep); name some")
        if self.max_per_cell is not None and self.max_per_cell < 1:
            raise SettingError(f"max_per_cell is {self.max_per_cell} (expected at least 1 or null)")
        self.source.check(self.wanted)

    @property
    def wanted(self) -> Wanted:
        """What the source has to give."""
        columns = (*self.attributes, *((self.confounder,) if self.confounder else ()), *self.only)
        return Wanted(
            tuple(self.diseases), tuple(dict.fromkeys(columns)), self.negatives == "no_finding"
        )

    def uncertain_policy(self, disease: str) -> Uncertain:
        """Return what -1 means for a disease."""
        return self.uncertain.get(disease, DEFAULT_UNCERTAIN.get(disease, "zeros"))
