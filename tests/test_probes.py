"""The small network reads what a linear probe cannot, and nothing where there is nothing."""

import numpy as np
import torch

from ude_core.heads import fit_probe
from ude_core.leakage import attribute_auc
from ude_core.probes import fit_mlp_probe
from ude_core.types import Interval


def data(*, informative: bool, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    rng = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(900, 6, generator=rng)
    truth = (embeddings[:, 0] * embeddings[:, 1] > 0).long()  # XOR of two signs
    if not informative:
        truth = torch.randint(0, 2, (900,), generator=rng)
    return embeddings, truth.numpy()


def auc(logits: torch.Tensor, truth: np.ndarray) -> float:
    found = attribute_auc(logits, truth)
    assert isinstance(found, Interval)
    return found.mean


def test_a_small_network_finds_what_is_not_linear() -> None:
    embeddings, truth = data(informative=True)
    rng = torch.Generator().manual_seed(1)
    network = fit_mlp_probe(embeddings[:700], truth[:700], classes=2, rng=rng)
    linear = fit_probe(embeddings[:700], truth[:700], classes=2)
    assert auc(network.logits(embeddings[700:]), truth[700:]) > 85
    assert auc(linear.logits(embeddings[700:])[0], truth[700:]) < 60


def test_it_finds_nothing_in_noise() -> None:
    """Fixed seed. The AUC of 200 images has a standard deviation of 4.1: 13 points, one in 600."""
    embeddings, truth = data(informative=False)
    rng = torch.Generator().manual_seed(1)
    network = fit_mlp_probe(embeddings[:700], truth[:700], classes=2, rng=rng)
    assert abs(auc(network.logits(embeddings[700:]), truth[700:]) - 50) < 13


def test_it_is_a_function_of_its_generator_and_takes_any_number_of_groups() -> None:
    embeddings, truth = data(informative=True)
    three = truth + (embeddings[:, 2].numpy() > 0)
    first, second = (
        fit_mlp_probe(embeddings, three, classes=3, rng=torch.Generator().manual_seed(4))
        for _ in range(2)
    )
    logits = first.logits(embeddings)
    assert logits.shape == (900, 3)
    assert torch.equal(logits, second.logits(embeddings))
