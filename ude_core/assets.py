"""What does not depend on the hyper-parameters, done once a study: split, draws, g, ERM.

Everything here is a function of (cohort, encoder, settings, study seed) and is kept on disk under
the digest of exactly those, so workers and later studies on the same data read it instead.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from ude_core.cohorts.base import Cohort
from ude_core.cohorts.bias import Draw, confirmation_draws, validation_draws
from ude_core.cohorts.splits import Split, split_by_patient
from ude_core.encoders.base import Encoder
from ude_core.evaluator import embed_images
from ude_core.heads import HeadTask, LinearHeads, train_heads
from ude_core.image_rows import ImageRows
from ude_core.seeding import numpy_generator, torch_generator
from ude_core.storage import CorruptFileError, atomic_write, digest, load_checked, save_checked
from ude_core.types import BiasConfig, Embeddings, ScoringConfig, SplitConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class StudyAssets:
    """What every trial of a study shares.

    `draws[disease]` holds one patient-disjoint (train, evaluation) pair a repeat, all inside the
    development patients. `probe` are the images that the attribute is measured on, of the training
    and of the validation patients. `scored` are the images of all those, sorted: what every noise is
    scored on. `clean` are φ(x) of the development images, in the order of `split.development`.
    """

    seed: int
    bias: BiasConfig
    scoring: ScoringConfig
    split: Split
    draws: Mapping[str, tuple[Draw, ...]]
    probe: Draw
    scored: Int[np.ndarray, " images"]
    clean: Embeddings
    attribute_head: LinearHeads
    queries: int

    @property
    def development(self) -> Int[np.ndarray, " images"]:
        return self.split.development

    @property
    def clean_scored(self) -> Embeddings:
        """φ(x) of the images that noises are scored on, in the order of `scored`."""
        if len(self.scored) == len(self.development):
            return self.clean
        return self.clean[np.searchsorted(self.development, self.scored)]


def prepare(
    cohort: Cohort,
    encoder: Encoder,
    *,
    split: SplitConfig,
    bias: BiasConfig,
    scoring: ScoringConfig,
    seed: int,
    cache: Path | None = None,
) -> StudyAssets:
    """Split the cohort by patient, make every draw, embed the clean images and train g.

    `queries` of the result counts what was really paid: 0 where the embeddings came from `cache`.
    Raises CohortError, before anything is paid, where a draw asks for more images than a cell holds.
    """
    parts = split_by_patient(cohort, split, numpy_generator(seed, "split"))
    sample = draw_sample(cohort, parts, bias, scoring, seed)
    # A test split too small for its cells is refused now, not by a confirmation after the search.
    confirmation_draws(cohort, parts, bias, 1, seed)
    clean, queries = cached_embeddings(cohort, encoder, parts.development, cache)
    return StudyAssets(
        seed=seed,
        bias=bias,
        scoring=scoring,
        split=parts,
        draws=sample.draws,
        probe=sample.probe,
        scored=sample.images,
        clean=clean,
        attribute_head=_attribute_head(cohort, encoder, parts, clean, scoring, seed, cache),
        queries=queries,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What noises are scored on; see `StudyAssets`."""

    draws: Mapping[str, tuple[Draw, ...]]
    probe: Draw

    @property
    def images(self) -> Int[np.ndarray, " images"]:
        """Every image of a draw or of the probe, sorted."""
        every = [self.probe, *(draw for some in self.draws.values() for draw in some)]
        return np.unique(np.concatenate([part for d in every for part in (d.train, d.evaluation)]))


def draw_sample(
    cohort: Cohort, parts: Split, bias: BiasConfig, scoring: ScoringConfig, seed: int
) -> Sample:
    """Return the images that every noise of a study is scored on, whatever the cohort's size.

    Raises CohortError where a draw asks for more images than a cell holds.
    """
    draws = validation_draws(cohort, parts.development, bias, scoring.repeats, seed)
    return Sample(
        draws,
        Draw(
            *(
                _thinned(part, scoring.probe_images, numpy_generator(seed, "probe", name))
                for name, part in (("train", parts.train), ("validation", parts.validation))
            )
        ),
    )


def _thinned(
    images: Int[np.ndarray, " images"], most: int, rng: np.random.Generator
) -> Int[np.ndarray, " kept"]:
    if len(images) <= most:
        return images
    return np.sort(rng.choice(images, most, replace=False))


def _attribute_head(
    cohort: Cohort,
    encoder: Encoder,
    parts: Split,
    clean: Embeddings,
    scoring: ScoringConfig,
    seed: int,
    cache: Path | None,
) -> LinearHeads:
    """Return g, trained on the un-edited training images, or read back as it was trained."""
    key = digest(
        "attribute head",
        cohort.fingerprint,
        encoder.fingerprint,
        parts.development.tolist(),
        parts.train.tolist(),
        asdict(scoring.attribute_head),
        seed,
    )
    path = None if cache is None else cache / "attribute_heads" / f"{key}.safetensors"
    if path is not None and path.exists():
        try:
            tensors, _ = load_checked(path)
            return LinearHeads(tensors["weight"], tensors["bias"])
        except CorruptFileError as error:
            log.warning("%s: %s; the attribute head is trained anew", path.name, error)
    train = np.searchsorted(parts.development, parts.train)
    head = train_heads(
        clean,
        [HeadTask(train, cohort.attribute[parts.train])],
        classes=len(cohort.groups),
        config=scoring.attribute_head,
        rng=torch_generator(seed, "attribute head"),
    )
    if path is not None:
        save_checked(path, {"weight": head.weight, "bias": head.bias}, {})
    return head


def cached_embeddings(
    cohort: Cohort, encoder: Encoder, rows: Int[np.ndarray, " images"], cache: Path | None
) -> tuple[Embeddings, int]:
    """Return φ(x) of these images and the queries paid for it: 0 where the cache held them."""
    if cache is None:
        return embed_images(encoder, ImageRows(cohort.images, rows)), len(rows)
    path = embeddings_file(cohort, encoder, rows, cache=cache)
    if path.exists():
        return torch.from_numpy(np.load(path, mmap_mode="c")), 0
    embeddings = embed_images(encoder, ImageRows(cohort.images, rows))
    buffer = io.BytesIO()
    np.save(buffer, embeddings.numpy())
    atomic_write(path, buffer.getvalue())
    return torch.from_numpy(np.load(path, mmap_mode="c")), len(rows)


def embeddings_file(
    cohort: Cohort, encoder: Encoder, rows: Int[np.ndarray, " images"], *, cache: Path
) -> Path:
    """Return where `cache` keeps φ(x) of these images."""
    key = digest("embeddings", cohort.fingerprint, encoder.fingerprint, rows.tolist())
    return cache / "embeddings" / f"{key}.npy"
