"""The choices by which a CheXpert-style CSV becomes a cohort, and how diseases are spelled."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

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
class CsvSettings:
    """How a CheXpert-style CSV becomes a cohort.

    `negatives` no_finding: a negative is an image with No Finding 1.0 (the released code's choice);
    disease_zero: a negative has 0.0 for the disease, and `blank` says whether a blank (not
    mentioned) is negative too or not used. `uncertain` gives the meaning of -1 per disease slug.
    `attributes` are columns; several make an intersection; Age is cut at the `age_bands` (years).
    """

    diseases: Sequence[str]
    csv: str = "nih.csv"
    negatives: Negatives = "no_finding"
    uncertain: Mapping[str, Uncertain] = field(default_factory=dict)
    blank: Blank = "drop"
    attributes: Sequence[str] = ("Sex",)
    age_bands: Sequence[int] = (60,)
    missing_attribute: MissingAttribute = "refuse"

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
        if "Age" in self.attributes and (not bands or list(bands) != sorted(set(bands))):
            raise SettingError(f"age_bands is {bands} (expected ages in rising order)")

    def uncertain_policy(self, disease: str) -> Uncertain:
        """Return what -1 means for a disease."""
        return self.uncertain.get(disease, DEFAULT_UNCERTAIN.get(disease, "zeros"))
