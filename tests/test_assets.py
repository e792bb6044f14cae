"""What a study makes once: kept by content, read back bit for bit, made anew where a file is broken."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from toy import CountingEncoder, toy_cohort
from ude_core.assets import StudyAssets, prepare
from ude_core.cohorts.base import Cohort
from ude_core.encoders.base import Encoder
from ude_core.image_rows import ImageRows
from ude_core.scoring import score_noise, score_reference
from ude_core.types import BiasConfig, HeadConfig, MethodConfig, ScoringConfig, SplitConfig

BIAS = BiasConfig(gap=0.7, train_per_group=40, validation_per_cell=15, test_per_cell=10)
SCORING = ScoringConfig(repeats=2, attribute_head=HeadConfig(learning_rate=0.02, epochs=5))


def _prepare(cohort: Cohort, encoder: Encoder, cache: Path, seed: int = 5) -> StudyAssets:
    return prepare(
        cohort, encoder, split=SplitConfig(), bias=BIAS, scoring=SCORING, seed=seed, cache=cache
    )


def test_embeddings_and_attribute_head_are_made_once(tmp_path: Path) -> None:
    cohort, encoder = toy_cohort(), CountingEncoder()
    first = _prepare(cohort, encoder, tmp_path)
    spent = sum(encoder.seen)
    assert spent == first.queries == len(first.development)
    (head,) = (tmp_path / "attribute_heads").iterdir()
    written = head.stat().st_mtime_ns
    second = _prepare(cohort, encoder, tmp_path)
    assert sum(encoder.seen) == spent
    assert second.queries == 0
    assert head.stat().st_mtime_ns == written
    assert torch.equal(first.attribute_head.weight, second.attribute_head.weight)
    assert torch.equal(first.attribute_head.bias, second.attribute_head.bias)
    assert torch.equal(first.clean, second.clean)


def test_another_seed_makes_another_head(tmp_path: Path) -> None:
    cohort, encoder = toy_cohort(), CountingEncoder()
    first = _prepare(cohort, encoder, tmp_path, seed=5)
    second = _prepare(cohort, encoder, tmp_path, seed=6)
    assert not torch.equal(first.attribute_head.weight, second.attribute_head.weight)


def test_a_broken_head_is_trained_anew(tmp_path: Path) -> None:
    cohort, encoder = toy_cohort(), CountingEncoder()
    first = _prepare(cohort, encoder, tmp_path)
    (path,) = (tmp_path / "attribute_heads").iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    again = _prepare(cohort, encoder, tmp_path)
    assert torch.equal(first.attribute_head.weight, again.attribute_head.weight)
    assert path.read_bytes() != bytes(content)


def test_rows_of_a_mapped_cohort_read_as_the_array_they_stand_for(tmp_path: Path) -> None:
    images = toy_cohort().images
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    rows = np.array([7, 3, 200, 11, 12])
    seen = ImageRows(mapped, rows)
    assert len(seen) == 5
    assert seen.shape == images[rows].shape
    assert np.array_equal(seen[1:4], images[rows][1:4])
    assert np.array_equal(seen[::2], images[rows][::2])
    assert np.array_equal(seen[np.array([4, 0, 0])], images[rows][[4, 0, 0]])


def test_a_mapped_cohort_gives_the_same_assets(tmp_path: Path) -> None:
    cohort, encoder = toy_cohort(), CountingEncoder()
    np.save(tmp_path / "images.npy", cohort.images)
    mapped = replace(cohort, images=np.load(tmp_path / "images.npy", mmap_mode="r"))
    ours = _prepare(mapped, encoder, tmp_path / "a")
    theirs = _prepare(cohort, encoder, tmp_path / "b")
    assert torch.equal(ours.clean, theirs.clean)


def test_a_large_cohort_is_scored_on_its_draws_and_a_sample(tmp_path: Path) -> None:
    cohort, encoder = toy_cohort(), CountingEncoder()
    whole = _prepare(cohort, encoder, tmp_path)
    assert np.array_equal(whole.scored, whole.development), "a small one is scored whole"
    capped = prepare(
        cohort,
        encoder,
        split=SplitConfig(),
        bias=BIAS,
        scoring=replace(SCORING, repeats=1, probe_images=20),
        seed=5,
        cache=tmp_path,
    )
    assert len(capped.probe.train) == len(capped.probe.evaluation) == 20
    assert set(capped.probe.train) <= set(capped.split.train)
    assert set(capped.probe.evaluation) <= set(capped.split.validation)
    drawn = {i for some in capped.draws.values() for d in some for i in (*d.train, *d.evaluation)}
    assert set(capped.scored) == drawn | set(capped.probe.train) | set(capped.probe.evaluation)
    assert len(capped.scored) < len(capped.development)
    assert torch.equal(capped.attribute_head.weight, whole.attribute_head.weight)
    spent = sum(encoder.seen)
    noise = torch.full((1, 16, 16), 0.01)
    method = MethodConfig()
    scored = score_noise(noise, method, cohort, encoder, capped, seed=1)
    assert sum(encoder.seen) - spent == scored.queries == 3 * len(capped.scored)
    # Sampled or not, a draw is trained and evaluated on the same images from the same starts.
    one_draw = replace(whole, draws=capped.draws)
    erm, sampled = score_reference(cohort, one_draw), score_reference(cohort, capped)
    assert erm["eo_gap"] == sampled["eo_gap"]
