"""CheXpert (Irvin et al., 2019), v1.0 and small, as Stanford publishes it.

`train.csv` and `valid.csv` stand in the data root or in its one `CheXpert-v1.0*` folder; their paths
(`CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg`) may carry that folder or not.
The patient is the folder `patientNNNNN`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ude_core.cohorts.csv_source import CsvSource
from ude_core.cohorts.csv_text import Problems
from ude_core.cohorts.sources import Reading, Record, Wanted
from ude_core.errors import CohortError, SettingError

_RELEASE = "CheXpert-"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChexpertSource:
    """The tables of a CheXpert release; the images of all of them are one cohort."""

    files: tuple[str, ...] = ("train.csv", "valid.csv")

    @property
    def title(self) -> str:
        return "CheXpert"

    def check(self, wanted: Wanted) -> None:
        """Raise SettingError where no table is named; any column may be a disease."""
        if not self.files:
            raise SettingError("files is empty (expected train.csv, valid.csv or both); name one")

    def read(self, root: Path, wanted: Wanted, problems: Problems) -> Reading:
        folder = self._folder(root)
        readings = [
            CsvSource(file=f"{folder}{file}").read(root, wanted, problems) for file in self.files
        ]

        def records() -> Iterator[Record]:
            for reading in readings:
                for record in reading.records:
                    path = record.cells.get("path", "")
                    yield replace(record, cells={**record.cells, "path": _below(folder, path)})

        return Reading(names=readings[0].names, records=records())

    def _folder(self, root: Path) -> str:
        """Return where the tables stand below `root`: nothing, or a folder with its slash."""
        first = self.files[0]
        if (root / first).is_file():
            return ""
        found = sorted(path.parent.name for path in root.glob(f"{_RELEASE}*/{first}"))
        if len(found) > 1:
            raise CohortError(
                f"{first}: several releases are below the data root ({', '.join(found)}); name one "
                "of them as root"
            )
        return f"{found[0]}/" if found else ""


def _below(folder: str, path: str) -> str:
    """Return an image's path below the data root; one that is no such path stays, to be refused."""
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts:
        return path
    rest = parts[1:] if parts[0].startswith(_RELEASE) else parts
    return folder + "/".join(rest)
