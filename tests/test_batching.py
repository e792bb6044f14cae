"""Passes of an encoder: halved where memory runs out, and never a loss changed by its neighbours."""

import logging
from typing import Any

import numpy as np
import pytest
import torch

from toy import ToyEncoder, toy_cohort
from ude_core.batching import is_out_of_memory, pass_limit
from ude_core.errors import EncoderMemoryError
from ude_core.evaluator import LocalEvaluator, embed_images, group_ranges
from ude_core.heads import LinearHeads
from ude_core.noise import make_basis

BATCH, SAMPLES = 20, 3


class SmallMemory(ToyEncoder):
    """Runs out of memory on more than `room` images; remembers every pass it was asked for."""

    def __init__(self, room: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        object.__setattr__(self, "room", room)
        object.__setattr__(self, "error", error)
        object.__setattr__(self, "asked", [])

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(pixels))
        if len(pixels) > self.room:
            raise self.error(
                "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"
            )
        return super().encode(pixels)


def evaluator(encoder: Any, pixels: str = "paper") -> LocalEvaluator:
    cohort = toy_cohort(120)
    generator = torch.Generator().manual_seed(2)
    head = LinearHeads(torch.randn(1, 24, 2, generator=generator), torch.zeros(1, 2))
    return LocalEvaluator(
        encoder=encoder,
        attribute_head=head,
        images=cohort.images,
        attribute=cohort.attribute,
        objective="cross_entropy",
        regularization=0.01,
        pixels=pixels,  # type: ignore[arg-type]
    )


def candidates(rows: int = SAMPLES) -> tuple[torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(5)
    noises = make_basis("pixel", 16, 16).perturbations(2 * SAMPLES, "normal", generator) * 0.1
    rng = np.random.default_rng(1)
    return noises, np.stack([rng.permutation(120)[:BATCH] for _ in range(rows)])


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_the_batch_is_halved_until_it_fits_and_stays_so(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    encoder = SmallMemory(room=17, error=error)
    with caplog.at_level(logging.WARNING, "ude_core.batching"):
        got = evaluator(encoder).evaluate(*candidates())
    assert encoder.asked[:2] == [60, 20]  # 64 fits three candidates, 32 one
    assert all(size <= 17 for size in encoder.asked[2:])
    assert pass_limit(encoder) == 16
    assert [record.getMessage().split(": ")[-1] for record in caplog.records] == [
        "32 from now on",
        "16 from now on",
    ]
    expected = evaluator(ToyEncoder()).evaluate(*candidates())
    assert torch.allclose(got.losses, expected.losses, atol=1e-6)

    caplog.clear()
    encoder.asked.clear()
    embed_images(encoder, toy_cohort(120).images)
    assert encoder.asked == [16] * 7 + [8]
    assert not caplog.records
    assert pass_limit(SmallMemory(room=17)) == 64, "another encoder is another matter"


def test_embedding_goes_on_where_memory_ran_out() -> None:
    encoder = SmallMemory(room=40)
    images = toy_cohort(120).images
    got = embed_images(encoder, images)
    assert encoder.asked == [64, 32, 32, 32, 24]
    assert torch.allclose(got, embed_images(ToyEncoder(), images), atol=1e-6)


def test_one_image_that_does_not_fit_is_an_error_that_says_so() -> None:
    with pytest.raises(EncoderMemoryError, match="one image through toy on cpu") as raised:
        evaluator(SmallMemory(room=0)).evaluate(*candidates())
    assert isinstance(raised.value, MemoryError)
    with pytest.raises(EncoderMemoryError, match="one image"):
        embed_images(SmallMemory(room=0), toy_cohort(4).images)


def test_other_errors_pass_at_once() -> None:
    class Broken(ToyEncoder):
        def encode(self, pixels: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        evaluator(Broken()).evaluate(*candidates())


def test_a_gradient_in_parts_is_the_gradient() -> None:
    small = SmallMemory(room=7)
    noise, rows = candidates()[0][0], np.arange(BATCH)
    got = evaluator(small).gradient(noise, rows)
    expected = evaluator(ToyEncoder()).gradient(noise, rows)
    assert small.asked == [20, 10, 5, 5, 5, 5]
    assert got.loss == pytest.approx(expected.loss, abs=1e-6)
    assert got.cross_entropy == pytest.approx(expected.cross_entropy, abs=1e-6)
    assert torch.allclose(got.gradient, expected.gradient, atol=1e-7)
    assert pass_limit(small) == 64, "passes without gradients take less memory"


def test_the_cpu_allocator_is_understood() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(10**15)
    assert is_out_of_memory(raised.value)
    assert not is_out_of_memory(EncoderMemoryError("even one"))
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))


@pytest.mark.parametrize("limit", [7, 20, 45, 64, 1000])
@pytest.mark.parametrize("rows", [1, SAMPLES])
def test_a_group_measures_the_same_alone(limit: int, rows: int) -> None:
    one = evaluator(ToyEncoder(batch_size=limit))
    noises, minibatches = candidates(rows)
    whole = one.evaluate(noises, minibatches)
    groups = group_ranges(range(len(noises)), BATCH, limit)
    alone = [one.evaluate_groups(noises, minibatches, [group], limit) for group in reversed(groups)]
    assert torch.equal(torch.cat([part.losses for part in reversed(alone)]), whole.losses)
    assert torch.equal(
        torch.cat([part.cross_entropy for part in reversed(alone)]), whole.cross_entropy
    )
