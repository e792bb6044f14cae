"""What a launch would do and cost, without doing it."""

from __future__ import annotations

from typing import Any

from study.cohort_check import study_cells
from study.config import StudyConfig
from study.materials import load_cohort, load_encoder, load_surrogate
from study.spaces import check_batches, describe
from ude_core.assets import draw_sample
from ude_core.baselines.registry import check_encoder
from ude_core.cohorts.splits import split_by_patient
from ude_core.errors import SettingError
from ude_core.seeding import numpy_generator


def plan_study(config: StudyConfig) -> dict[str, Any]:
    """Return the plan as JSON values; reads data and weights, embeds nothing, writes nothing.

    Raises UserError for everything a launch would refuse before its first query.
    """
    cohort = load_cohort(config, None)
    encoder = load_encoder(config)
    if encoder.image_size != cohort.image_size:
        raise SettingError(
            f"cohort.image_size is {cohort.image_size}; encoder {encoder.name} takes "
            f"{encoder.image_size}"
        )
    for name in config.methods:
        check_encoder(name, encoder)
    surrogate = load_surrogate(config, encoder)
    split = split_by_patient(
        cohort, config.split.to_engine(), numpy_generator(config.seed, "split")
    )
    check_batches(config, len(split.train))
    sample = draw_sample(
        cohort, split, config.bias.to_engine(), config.scoring.to_engine(), config.seed
    )
    planned = describe(
        config,
        development_size=len(split.development),
        scored_size=len(sample.images),
        train_size=len(split.train),
    )
    cells = study_cells(config, cohort).wide().astype(object).to_dict("records")
    networks = {"encoder": encoder.name} | ({"surrogate": surrogate.name} if surrogate else {})
    return planned | {"diseases": list(cohort.diseases), "cells": cells} | networks


def plan_text(planned: dict[str, Any]) -> str:
    """Return the plan for people."""
    images, queries = planned["images"], planned["queries"]
    lines = [
        f"{planned['study']}: {planned['trials']} trials, {planned['workers']} at a time",
        f"encoder {planned['encoder']}; {images['development']:,} development images, "
        f"{images['train']:,} of them train the noise, {images['scored']:,} score it; "
        f"{', '.join(planned['diseases'])}",
        "objectives: "
        + ", ".join(f"{goal['direction']} {goal['metric']}" for goal in planned["objectives"]),
        f"searched: {', '.join(planned['search'])}",
        f"queries: {queries['low']:,} to {queries['high']:,} images through the encoder",
        "images per cell (disease, label, group), in all and in each draw:",
        *(_cell_line(cell) for cell in planned["cells"]),
        "nothing was run",
    ]
    return "\n".join(lines)


def _cell_line(cell: dict[str, Any]) -> str:
    names = ("disease", "label", "group", "stratum")
    name = " ".join(str(cell[key]) for key in names if key in cell)
    return f"  {name}: " + ", ".join(f"{key} {n:,}" for key, n in cell.items() if key not in names)
