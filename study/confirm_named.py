"""The test split for trials that a report names, beside those of the front.

Each is measured once and kept in `confirmation_named.json`: what is said of one noise does not
depend on the others, so a longer list only adds to it. Which trials are named is decided on
validation figures (`study.report.choices`), never on these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from study.confirm import (
    SCHEMA_VERSION,
    Confirmation,
    confirmation_bytes,
    measure,
    read_confirmation,
)
from study.names import Layout
from study.pareto import front_of
from ude_core.errors import UserError
from ude_core.storage import atomic_write, digest

if TYPE_CHECKING:
    from study.api import Study

FILE = "confirmation_named.json"


def confirm_named(
    study: Study, wanted: Mapping[int, int], *, repeats: int, front: Confirmation | None = None
) -> tuple[Confirmation, int]:
    """Return these trials on the test split, and the queries that this call paid for it.

    The confirmation's own `queries` are those of all calls so far, the front's aside.
    `wanted` says how many random noises stand beside each trial. A trial of `front`, the study's
    confirmation over as many repeats, is taken from there. Raises FingerprintError where data or
    weights are no longer the study's, UserError where a trial's noise is gone.
    """
    known = _known(study, repeats)
    points = {} if known is None else {point.trial: point for point in known.points}
    if front is not None and front.repeats == repeats:
        points |= {point.trial: point for point in front.points}
    fronts = {disease: front_of(study, disease) for disease in study.config.cohort.diseases}
    # As of no front: whether a front's point stands is judged beside all the others of its front.
    missing: dict[int, tuple[str, ...]] = {
        trial: ()
        for trial, controls in wanted.items()
        if trial not in points or (controls > 0 and not points[trial].random)
    }
    erm = known or front
    if missing or erm is None:
        found = measure(
            study,
            missing,
            fronts,
            repeats=repeats,
            controls={trial: wanted[trial] for trial in missing},
            key=_key(study, repeats),
        )
        paid, queries = found.queries, found.queries + (known.queries if known else 0)
        points |= {point.trial: point for point in found.points}
        own = found.points if known is None else (*known.points, *found.points)
        kept = {point.trial: point for point in own}
        erm = replace(found, points=tuple(kept[n] for n in sorted(kept)), queries=queries)
        atomic_write(named_file(study), confirmation_bytes(erm))
    else:
        erm, paid = replace(erm, queries=known.queries if known else 0), 0
    named = tuple(points[trial] for trial in sorted(wanted))
    return replace(erm, points=named, controls=max(wanted.values(), default=0)), paid


def named_file(study: Study) -> Path:
    """Return where the named trials' confirmation is kept."""
    return Layout.at(study.root).study(study.name).folder / FILE


def _known(study: Study, repeats: int) -> Confirmation | None:
    """Return what was measured before on the same data, settings and repeats; None else."""
    try:
        found = read_confirmation(named_file(study))
    except (UserError, OSError):
        return None
    return found if found.key == _key(study, repeats) else None


def _key(study: Study, repeats: int) -> str:
    """Return the digest of all that a trial's figures depend on, beside its number.

    A trial's noise never changes: its folder is sealed by the digests in its result.
    """
    return digest(SCHEMA_VERSION, repeats, study.config.science(), dict(study.ledger.fingerprints))
