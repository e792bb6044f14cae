"""A learnt edit acts on the cue that was planted, and not on the diseases."""

import pytest

from benchmarks.cue_overlap import MARKER_ALONE, TWO_CUES, WHITEBOX, lifts
from ude_core.cohorts.phantom import DISEASES

pytestmark = pytest.mark.slow


def test_the_top_of_the_noise_lies_on_the_marker() -> None:
    found = lifts(MARKER_ALONE, WHITEBOX)
    assert found["cue"] >= 3
    assert max(found[disease] for disease in DISEASES) < 1


def test_beside_a_faint_shadow_it_still_lies_on_the_marker() -> None:
    found = lifts(TWO_CUES, WHITEBOX)
    assert found["marker"] >= 3
    assert max(found[disease] for disease in DISEASES) < found["cue"]
