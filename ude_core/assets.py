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
    development patients. `clean` are φ(x) of the development images, in the order of
    `split.development`.
    """

    seed: int
    bias: BiasConfig
    scoring: ScoringConfig
    split: Split
    draws: Mapping[str, tuple[Draw, ...]]
    clean: Embeddings
    attribute_head: LinearHeads
    queries: int

    @property
    def development(self) -> Int[np.ndarray, " images"]:
        return self.split.development


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
    draws = validation_draws(cohort, parts.development, bias, scoring.repeats, seed)
    # A test split too small for its cells is refused now, not by a confirmation after the search.
    confirmation_draws(cohort, parts, bias, 1, seed)
    clean, queries = cached_embeddings(cohort, encoder, parts.development, cache)
    attribute_head = _attribute_head(cohort, encoder, parts, clean, scoring, seed, cache)
    return StudyAssets(seed, bias, scoring, parts, draws, clean, attribute_head, queries)


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
