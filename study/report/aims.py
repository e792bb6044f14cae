"""What an edit falls on, where that is known: a phantom's planted cue, and its diseases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from study.pareto_views import title
from study.report.tables import NOTHING, Cell, Raw, Table

if TYPE_CHECKING:
    from study.report.collect import Collected
    from study.report.pictures import Regions


def aims_table(found: Collected, regions: Sequence[Regions]) -> Table | None:
    """Return how much more of each planted layer lies under the top 20 % of |ε| than chance puts there.

    None where nobody knows where the cue is: for every cohort that is no phantom.
    """
    from study.cohort_sections import PhantomCohort
    from ude_core.cohorts.phantom import phantom_masks
    from ude_core.saliency import lift

    cohort = found.config.cohort
    if not isinstance(cohort, PhantomCohort) or not regions:
        return None
    densities = {
        name: mask.mean(axis=0) for name, mask in phantom_masks(cohort.to_engine()).items()
    }
    rows: list[tuple[Cell, ...]] = []
    data: list[tuple[Raw, ...]] = []
    for one in regions:
        cells = [Cell(one.title)]
        for name, density in densities.items():
            value = lift(one.top, density) if one.top.any() and density.any() else None
            cells.append(Cell(NOTHING if value is None else f"{value:.2f}"))
            data.append((one.method, name, value))
        rows.append(tuple(cells))
    return Table(
        slug="aims",
        file="aims",
        title="What the edit falls on",
        caption=(
            "How many times more of a layer lies under the top 20 % of the smoothed |ε| than a "
            "region of that size would cover by chance; 1 is chance. The cue is what gives the sex "
            "away (marker and breast shadow); the masks are those the phantoms were drawn with."
        ),
        columns=("noise", *("sex cue" if name == "cue" else title(name) for name in densities)),
        rows=tuple(rows),
        header=("method", "layer", "lift"),
        data=tuple(data),
    )
