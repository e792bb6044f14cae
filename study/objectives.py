"""What trials are compared by: in the search, and at the rungs of a trial."""

from __future__ import annotations

from study.metric_names import Direction
from study.sections import Section


class Objective(Section):
    """One measured value trials are compared by, a bare study-level name or `<disease>/<metric>`."""

    metric: str
    direction: Direction


DEFAULT_OBJECTIVES = (
    Objective(metric="eo_gap", direction="minimize"),
    Objective(metric="selection_rate_symmetric_gap", direction="minimize"),
    Objective(metric="accuracy", direction="maximize"),
)
