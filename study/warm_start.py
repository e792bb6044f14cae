"""Known points that go out before the sampler is asked: the paper's, given ones, an earlier front."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from study.config import StudyConfig
from study.ledger import Ledger
from study.names import slug
from study.pareto import MEAN, front_of_ledger
from study.records import Parameters, ParameterValue
from study.search_sections import fits, paper_point
from ude_core.errors import SettingError, UserError

log = logging.getLogger(__name__)


def warm_start(ledger: Ledger, root: Path | str, storage: str | None = None) -> None:
    """Enqueue the points of `ledger.config.warm_start`, once in a study's life.

    Raises SettingError where the earlier study is not there, or has no front.
    """
    if ledger.warm_started:
        return
    for point in known_points(ledger.config, root, storage):
        ledger.enqueue(point)
    ledger.set_warm_started()


def known_points(
    config: StudyConfig, root: Path | str, storage: str | None = None
) -> Iterator[Parameters]:
    """Yield the points to begin with, in the order they go out."""
    settings = config.warm_start
    if settings.paper_defaults:
        yield paper_point(config.search)
    yield from settings.points
    if settings.from_study is not None:
        yield from _front_points(config, settings.from_study, root, storage)


def _front_points(
    config: StudyConfig, name: str, root: Path | str, storage: str | None
) -> Iterator[Parameters]:
    if slug(name) == config.name:
        raise SettingError(f"warm_start.from_study is {name!r}, this very study; name another")
    try:
        earlier = Ledger.open(name, root, storage)
    except UserError as error:
        raise SettingError(f"warm_start.from_study: {error}") from None
    try:
        best = front_of_ledger(earlier, MEAN).best
        if not best:
            raise SettingError(f"warm_start.from_study: study {name!r} has no front yet")
        for point in best:
            fitting = _fitting(config, earlier.config, point.params)
            if fitting:
                yield fitting
            else:
                log.info("trial %d of %s has nothing that is searched here", point.trial, name)
    finally:
        earlier.close()


def _fitting(
    config: StudyConfig, earlier: StudyConfig, params: Mapping[str, ParameterValue]
) -> Parameters:
    """Return what the earlier trial had of the parameters searched now, where it fits.

    What was not searched then had the value of the earlier study's `method`.
    """
    values = {**earlier.method.model_dump(), **params}
    return {
        name: values[name]
        for name, searched in config.search.items()
        if fits(name, values[name], searched)
    }
