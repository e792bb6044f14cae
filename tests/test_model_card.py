"""The card says who is served worse, what the noise was learnt on, and what it leaves behind."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from finished import GOALS, about, finished_study, measured
from test_bundle import make_facts

from study.model_card import model_card
from study.training_cells import FILE, masked_cells, training_cells
from ude_core.bundle_manifest import BundleFacts, open_seal, seal
from ude_core.cohorts.phantom import PhantomConfig, make_phantoms
from ude_core.errors import BundleError
from ude_core.types import Interval, Undefined

ERM = measured(50, 55, 60, tpr=70.0)


def facts(changes: Mapping[str, float], **others: object) -> BundleFacts:
    """ERM's rates are all 70; `changes` are the edited ones that differ."""
    edited = {**measured(20, 20, 62, tpr=70.0), **{name: about(v) for name, v in changes.items()}}
    return replace(make_facts(), metrics=edited, reference=ERM, **others)


def card(changes: Mapping[str, float], **others: object) -> str:
    return model_card(facts(changes, **others), GOALS)


def test_a_group_that_fell_is_named_at_the_top() -> None:
    text = card({"edema/tpr.female": 60.0, "edema/tnr.male": 68.0})
    top = text.split("## ")[0]
    assert "**edema: levelled-down. Against no edit, in percentage points: " in top
    assert "TNR of male -2.0, TPR of female -10.0.**" in top
    assert "pneumonia" not in top


def test_what_was_gained_by_another_groups_loss_is_traded() -> None:
    top = card({"edema/tpr.female": 60.0, "edema/tpr.male": 90.0}).split("## ")[0]
    assert "**edema: traded. Against no edit, in percentage points: TPR of female -10.0.**" in top


def test_nobody_served_worse_is_no_warning() -> None:
    top = card({"edema/tpr.female": 90.0, "edema/tnr.male": 69.5}).split("## ")[0]
    assert "Against no edit" not in top


def test_every_group_stands_with_its_intervals_before_and_after() -> None:
    text = card({"edema/tpr.female": 60.0, "edema/tnr.male": 75.0})
    assert "| edema | TPR | female | 70.0 [66.0, 74.0] | 60.0 [56.0, 64.0] | -10.0 |" in text
    assert "| edema | TNR | male | 70.0 [66.0, 74.0] | 75.0 [71.0, 79.0] | +5.0 |" in text
    undefined = facts({})
    undefined = replace(
        undefined, metrics={**undefined.metrics, "edema/tpr.male": Undefined("no cell")}
    )
    assert "| edema | TPR | male | 70.0 [66.0, 74.0] | – | – |" in model_card(undefined, GOALS)


def test_it_says_what_the_attribute_still_shows_and_what_it_is_not_for() -> None:
    leak = {"attribute_auc_frozen": Interval(51, 51, 51), "attribute_auc_retrained": about(83)}
    both = replace(facts({}), metrics={**facts({}).metrics, **leak, "psnr_db": about(33)})
    text = model_card(both, GOALS)
    assert "| a fresh probe, trained on edited images | – | 83.0 [79.0, 87.0] |" in text
    assert "Fooling one classifier is not removal" in text
    assert "33.0 dB" in text
    assert "Do not diagnose from edited images" in text
    assert "![" in text
    assert "(preview.png)" in text
    assert "phantom_vit" in text
    assert "Chosen for every disease at once" in card({}, policy="minimax", disease="worst")


def test_cells_are_told_and_small_ones_are_not() -> None:
    text = card({}, cells={"edema": {"female, positive": 67, "male, positive": None}})
    assert "| edema | female, positive | 67 |" in text
    assert "| edema | male, positive | under 5 |" in text
    assert "were not counted" in card({})


@pytest.mark.parametrize("count", [0, 4, -1, 5.0, True, "67"])
def test_a_manifest_that_tells_a_small_cell_is_refused(count: object) -> None:
    told = make_facts(cells={"edema": {"male, positive": count}})
    with pytest.raises(BundleError, match="cells has a value of the wrong kind"):
        open_seal(seal(told, {}), Path("manifest.json"))


def test_cells_survive_the_seal() -> None:
    kept = make_facts(cells={"edema": {"male, positive": 5, "female, positive": None}})
    assert open_seal(seal(kept, {}), Path("manifest.json"))[0] == kept


def test_counts_under_five_are_masked() -> None:
    cohort = make_phantoms(PhantomConfig(patients=40, image_size=64))
    chosen = np.arange(30)
    for disease, counts in masked_cells(cohort, chosen).items():
        labels, groups = cohort.labels[disease][chosen], cohort.attribute[chosen]
        for cell, count in counts.items():
            group, label = cell.rsplit(", ", 1)
            same = (groups == cohort.groups.index(group)) & (labels == (label == "positive"))
            assert count == (int(same.sum()) if same.sum() >= 5 else None)


def test_cells_are_counted_once_and_never_of_other_data(tmp_path: Path) -> None:
    with finished_study(tmp_path) as study:
        path = study.ledger.places.folder / FILE
        assert training_cells(study) == {}, "the data here are not those of its fingerprint"
        assert not path.exists()
        cells = {"edema": {"female, positive": 9, "male, positive": None}}
        path.write_text(json.dumps({"cohort": "c" * 64, "cells": cells}))
        assert training_cells(study) == cells
        path.write_text(json.dumps({"cohort": "d" * 64, "cells": cells}))
        assert training_cells(study) == {}
        path.write_text("[]")
        assert training_cells(study) == {}
