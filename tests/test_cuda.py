"""The engine on a GPU: runs where one is at hand. Compiled, bfloat16 and spread, it stays the same."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from ude_core.batch_choice import choose_batch
from ude_core.batching import FORWARD
from ude_core.encoders.timm_encoder import TimmEncoder
from ude_core.evaluator import LocalEvaluator, embed_images, group_ranges
from ude_core.heads import LinearHeads
from ude_core.noise import make_basis

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.slow,
    # inductor recommends TF32, which the paper's float32 is not
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
    # torch 2.11 compiles with what it deprecates itself
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
]
SIZE, BATCH, SAMPLES = 160, 16, 3


@pytest.fixture(scope="module", params=["test_efficientnet", "test_vit"])
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file(timm.create_model(request.param, num_classes=0).state_dict(), path)
    return request.param, path


def evaluator(encoder: TimmEncoder) -> LocalEvaluator:
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(2)
    return LocalEvaluator(
        encoder=encoder,
        attribute_head=LinearHeads(
            torch.randn(1, encoder.embedding_dim, 2, generator=generator), torch.zeros(1, 2)
        ),
        images=rng.integers(0, 256, (64, SIZE, SIZE), dtype=np.uint8),
        attribute=rng.integers(0, 2, 64),
        objective="cross_entropy",
        regularization=0.01,
        pixels="deploy",
    )


def candidates() -> tuple[torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(5)
    noises = make_basis("pixel", SIZE, SIZE).perturbations(2 * SAMPLES, "normal", generator)
    rng = np.random.default_rng(1)
    return 0.02 * noises, np.stack([rng.permutation(64)[:BATCH] for _ in range(SAMPLES)])


def close(got: torch.Tensor, expected: torch.Tensor, share: float) -> bool:
    return torch.allclose(got, expected, atol=share * float(expected.abs().max()))


def test_float32_is_float32_and_agrees_with_the_cpu(checkpoint: tuple[str, Path]) -> None:
    model, path = checkpoint
    torch.backends.cudnn.allow_tf32 = True
    there = TimmEncoder(model, path, image_size=SIZE, device="cuda")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    here = TimmEncoder(model, path, image_size=SIZE)
    assert there.fingerprint == here.fingerprint
    got, expected = (evaluator(e).evaluate(*candidates()) for e in (there, here))
    assert got.losses.device.type == "cpu"
    assert close(got.losses, expected.losses, 1e-3)
    images = evaluator(here).images
    assert close(embed_images(there, images), embed_images(here, images), 1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compiled_agrees_with_eager(checkpoint: tuple[str, Path], precision: str) -> None:
    model, path = checkpoint
    settings = {"image_size": SIZE, "device": "cuda", "batch_size": 32, "precision": precision}
    eager = TimmEncoder(model, path, **settings)  # type: ignore[arg-type]
    quick = TimmEncoder(model, path, compile=True, **settings)  # type: ignore[arg-type]
    share = 1e-3 if precision == "float32" else 0.05
    images = evaluator(eager).images[:50]
    once, again = embed_images(quick, images), embed_images(quick, images)
    assert torch.equal(once, again), "a replayed graph gives what it gave"
    assert close(once, embed_images(eager, images), share)
    assert close(
        evaluator(quick).evaluate(*candidates()).losses,
        evaluator(eager).evaluate(*candidates()).losses,
        share,
    )


def test_bfloat16_comes_close_to_float32(checkpoint: tuple[str, Path]) -> None:
    model, path = checkpoint
    exact = TimmEncoder(model, path, image_size=SIZE, device="cuda")
    coarse = TimmEncoder(model, path, image_size=SIZE, device="cuda", precision="bfloat16")
    images = evaluator(exact).images
    got, expected = embed_images(coarse, images), embed_images(exact, images)
    assert not torch.equal(got, expected)
    assert close(got, expected, 0.05)


def test_one_wait_an_iteration(checkpoint: tuple[str, Path]) -> None:
    model, path = checkpoint
    one = evaluator(TimmEncoder(model, path, image_size=SIZE, device="cuda", batch_size=32))
    noises, minibatches = candidates()
    one.evaluate(noises, minibatches)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchronizing") as waits:
            one.evaluate(noises, minibatches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 1


def test_a_group_measures_the_same_alone_on_another_stream(checkpoint: tuple[str, Path]) -> None:
    model, path = checkpoint
    one = evaluator(TimmEncoder(model, path, image_size=SIZE, device="cuda", batch_size=32))
    noises, minibatches = candidates()
    whole = one.evaluate(noises, minibatches)
    parts = []
    for group in group_ranges(range(len(noises)), BATCH, 32):
        with torch.cuda.stream(torch.cuda.Stream()):
            parts.append(one.evaluate_groups(noises, minibatches, [group], 32).losses)
    assert torch.equal(torch.cat(parts), whole.losses)


def test_memory_that_runs_out_halves_the_batch(checkpoint: tuple[str, Path]) -> None:
    model, path = checkpoint
    encoder = TimmEncoder(model, path, image_size=SIZE, device="cuda", batch_size=2**14)
    images = np.broadcast_to(np.uint8(7), (2**14, SIZE, SIZE))
    total = torch.cuda.get_device_properties(0).total_memory
    used = torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (used + 2**31) / total))
    try:
        embeddings = embed_images(encoder, images)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(embeddings) == len(images)
    assert FORWARD.of(encoder, 2**14) < 2**14


def test_a_batch_is_chosen_and_kept(checkpoint: tuple[str, Path], tmp_path: Path) -> None:
    model, path = checkpoint
    first = TimmEncoder(model, path, image_size=SIZE, device="cuda")
    again = TimmEncoder(model, path, image_size=SIZE, device="cuda")
    assert choose_batch(first, tmp_path) == choose_batch(again, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
