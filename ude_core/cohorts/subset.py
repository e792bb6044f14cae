"""A sample of patients that is enough for a study: whole patients, always the same ones."""

from __future__ import annotations

import numpy as np

from ude_core.cohorts.base import Cohort
from ude_core.cohorts.cells import cell_names, cells
from ude_core.seeding import numpy_generator
from ude_core.types import Indices


def choose_rows(cohort: Cohort, per_cell: int) -> Indices:
    """Return the images, sorted, of patients taken at random until each cell holds `per_cell`.

    A cell is one of (disease, label, group, stratum), on either side of a published split. A
    patient is taken, with all images, while one of the patient's cells is short, so a cell may hold
    a little more, and all it has where it has fewer. The order depends on the number of patients
    alone.
    """
    width = len(cell_names(cohort))
    sides = 1 if cohort.official_test is None else 2
    side = 0 if cohort.official_test is None else cohort.official_test.astype(np.int64)
    people = int(cohort.patients.max(initial=-1)) + 1
    held = np.zeros((people, len(cohort.diseases) * width * sides), dtype=np.int64)
    for position, disease in enumerate(cohort.diseases):
        numbers = cells(cohort, disease)
        columns = (position * sides + side) * width + numbers
        used = numbers >= 0
        np.add.at(held, (cohort.patients[used], columns[used]), 1)
    missing = np.full(held.shape[1], per_cell)
    taken = np.zeros(people, dtype=bool)
    for patient in numpy_generator(0, "subset", people).permutation(people):
        counts = held[patient]
        if np.any((counts > 0) & (missing > 0)):
            taken[patient] = True
            missing -= counts
    return np.flatnonzero(taken[cohort.patients])
