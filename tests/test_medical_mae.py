"""A checkpoint in MAE's published format: strict, resampled, the same function as the paper's code."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mae_checkpoint import (
    DEPTH,
    GRID,
    HEADS,
    PATCH,
    SMALL,
    WIDTH,
    Tensors,
    encoder_tensors,
    published,
)
from safetensors.torch import save_file
from torch.nn import functional

from study.config import load_space
from study.materials import load_materials
from toy import toy_cohort
from ude_core.assets import prepare
from ude_core.encoders.base import Encoder
from ude_core.encoders.medical_mae import MedicalMae, resample_positions
from ude_core.errors import SettingError
from ude_core.trial import run_trial
from ude_core.types import (
    BiasConfig,
    HeadConfig,
    Interval,
    MethodConfig,
    ScoringConfig,
    SplitConfig,
)


def by_hand(tensors: Tensors, images: torch.Tensor, global_pool: bool) -> torch.Tensor:
    """MAE's encoder written out: patches, class token, pre-norm blocks, the pooled token."""
    get = tensors.__getitem__

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, get(f"{name}.weight"), get(f"{name}.bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(x, (WIDTH,), get(f"{name}.weight"), get(f"{name}.bias"), 1e-6)

    patches = functional.conv2d(
        images, get("patch_embed.proj.weight"), get("patch_embed.proj.bias"), stride=PATCH
    )
    x = patches.flatten(2).transpose(1, 2)
    x = torch.cat([get("cls_token").expand(len(x), -1, -1), x], 1) + get("pos_embed")
    for block in range(DEPTH):
        name = f"blocks.{block}"
        packed = linear(norm(x, f"{name}.norm1"), f"{name}.attn.qkv")
        query, key, value = packed.reshape(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        weight = (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(-1)
        mixed = (weight @ value).transpose(1, 2).flatten(2)
        x = x + linear(mixed, f"{name}.attn.proj")
        hidden = functional.gelu(linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1"))
        x = x + linear(hidden, f"{name}.mlp.fc2")
    return norm(x[:, 1:].mean(1), "fc_norm") if global_pool else norm(x, "norm")[:, 0]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return published(tmp_path / "vit.pth", encoder_tensors())


@pytest.mark.parametrize("global_pool", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_embeddings_are_those_of_maes_encoder(
    tmp_path: Path, global_pool: bool, channels: int
) -> None:
    tensors = encoder_tensors(channels=channels, norm="fc_norm" if global_pool else "norm")
    path = published(tmp_path / "vit.pth", tensors)
    encoder = MedicalMae(path, global_pool=global_pool, **SMALL)
    pixels = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(1)) * 1.4 - 0.2
    images = ((pixels - 0.5056) / 0.252).expand(-1, channels, -1, -1)
    expected = by_hand(tensors, images, global_pool)
    got = encoder.encode(pixels)
    assert got.shape == (3, encoder.embedding_dim) == (3, WIDTH)
    assert torch.allclose(got, expected, atol=1e-5)
    assert isinstance(encoder, Encoder)


def test_official_code_does_not_normalise(checkpoint: Path) -> None:
    encoder = MedicalMae(checkpoint, preprocessing="official_code", **SMALL)
    pixels = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = by_hand(encoder_tensors(), pixels.expand(-1, 3, -1, -1), global_pool=False)
    assert torch.allclose(encoder.encode(pixels), expected, atol=1e-5)
    with pytest.raises(SettingError, match="expected medical_mae or official_code"):
        MedicalMae(checkpoint, preprocessing="imagenet", **SMALL)  # type: ignore[arg-type]


def test_safetensors_give_the_same_embeddings(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "vit.safetensors"
    save_file(encoder_tensors(), path)
    pixels = torch.rand(2, 1, 64, 64)
    ours, theirs = (MedicalMae(file, **SMALL).encode(pixels) for file in (path, checkpoint))
    assert torch.equal(ours, theirs)


def test_gradients_reach_the_pixels_and_no_weight(checkpoint: Path) -> None:
    encoder = MedicalMae(checkpoint, **SMALL)
    pixels = torch.rand(1, 1, 64, 64, requires_grad=True)
    encoder.encode(pixels).sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.any()
    assert encoder.differentiable
    assert not any(weight.requires_grad for weight in encoder._network.parameters())


def test_positions_are_unchanged_at_equal_size_and_maes_at_another() -> None:
    positions = encoder_tensors()["pos_embed"]
    assert torch.equal(resample_positions(positions, GRID), positions)
    for grid in (5, 12):
        got = resample_positions(positions, grid)
        assert torch.equal(got[:, :1], positions[:, :1])
        square = positions[:, 1:].reshape(1, GRID, GRID, WIDTH).permute(0, 3, 1, 2)
        expected = functional.interpolate(
            square, size=(grid, grid), mode="bicubic", align_corners=False
        )
        assert torch.allclose(got[:, 1:], expected.permute(0, 2, 3, 1).flatten(1, 2), atol=1e-6)


def test_another_image_size_is_the_network_with_resampled_positions(
    checkpoint: Path, tmp_path: Path
) -> None:
    tensors = encoder_tensors()
    tensors["pos_embed"] = resample_positions(tensors["pos_embed"], 12)
    whole = MedicalMae(published(tmp_path / "96.pth", tensors), image_size=96, heads=HEADS)
    pixels = torch.rand(2, 1, 96, 96)
    resampled = MedicalMae(checkpoint, image_size=96, heads=HEADS)
    assert torch.equal(resampled.encode(pixels), whole.encode(pixels))


def changed(name: str, value: torch.Tensor | None) -> Tensors:
    tensors = encoder_tensors()
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    return tensors


@pytest.mark.parametrize(
    ("tensors", "settings", "expected"),
    [
        (changed("blocks.1.mlp.fc2.bias", None), {}, "missing: blocks.1.mlp.fc2.bias; give"),
        (changed("blocks.0.gamma_1", torch.ones(WIDTH)), {}, "unknown: blocks.0.gamma_1; give"),
        (changed("blocks.4.norm1.bias", torch.ones(WIDTH)), {}, "missing: blocks.2.attn.proj.bias"),
        (changed("cls_token", torch.ones(1, 1, 9)), {}, r"cls_token \(1, 1, 9\), not \(1, 1, 32\)"),
        (changed("patch_embed.proj.weight", None), {}, "holds no patch_embed.proj.weight"),
        (changed("pos_embed", torch.ones(1, 64, WIDTH)), {}, "a square"),
        ({"weight": torch.ones(2)}, {}, "give another checkpoint"),
        (
            encoder_tensors(),
            {"global_pool": True},
            "fc_norm.weight.*set encoder.global_pool: false",
        ),
        (encoder_tensors(norm="fc_norm"), {}, "norm.weight.*set encoder.global_pool: true"),
        (encoder_tensors(), {"image_size": 60}, "multiple of the weights' patch, 8"),
        (encoder_tensors(), {"heads": None}, "encoder.heads is None"),
        (encoder_tensors(), {"heads": 5}, "encoder.heads is 5"),
    ],
)
def test_what_is_no_such_checkpoint_is_refused_in_one_line(
    tmp_path: Path, tensors: Tensors, settings: dict[str, int | bool | None], expected: str
) -> None:
    path = published(tmp_path / "vit.pth", tensors)
    with pytest.raises(SettingError, match=expected) as raised:
        MedicalMae(path, **(SMALL | settings))  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


class Canary:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("the pickle was run",))


@pytest.mark.parametrize(
    "content", [{"model": encoder_tensors(), "args": Canary()}, b"not a checkpoint", b""]
)
def test_a_hostile_or_broken_file_is_refused_and_nothing_runs(
    tmp_path: Path, content: object
) -> None:
    path = tmp_path / "vit.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(SettingError, match="cannot be read as tensors"):
        MedicalMae(path, **SMALL)


def test_the_fingerprint_follows_weights_pooling_and_preprocessing(
    checkpoint: Path, tmp_path: Path
) -> None:
    other = encoder_tensors()
    other["cls_token"] += 1e-3
    made = [
        MedicalMae(checkpoint, **SMALL),
        MedicalMae(published(tmp_path / "other.pth", other), **SMALL),
        MedicalMae(checkpoint, preprocessing="official_code", **SMALL),
        MedicalMae(checkpoint, image_size=64, heads=4),
        MedicalMae(checkpoint, image_size=96, heads=HEADS),
    ]
    assert len({encoder.fingerprint for encoder in made}) == len(made)
    assert MedicalMae(checkpoint, **SMALL).fingerprint == made[0].fingerprint


def test_a_space_names_it_and_the_study_is_prepared(checkpoint: Path, tmp_path: Path) -> None:
    space = tmp_path / "mae.yaml"
    space.write_text(
        "cohort: {kind: phantom, patients: 160}\n"
        f"encoder: {{kind: medical_mae, checkpoint: {checkpoint.name}, image_size: 64, heads: 2}}\n"
        "bias: {train_per_group: 16, validation_per_cell: 4, test_per_cell: 4, gap: 0.5}\n"
        "scoring: {repeats: 1, bootstrap_draws: 10, controls: 0}\n"
        "search: {step_size: {low: 0.01, high: 0.1}}\n",
        encoding="utf-8",
    )
    config = load_space(space)
    assert config.encoder.checkpoint == str(checkpoint)
    assert "checkpoint" not in json.dumps(config.science())
    materials = load_materials(config, tmp_path / "cache")
    assert materials.encoder.name == "medical_mae"
    assert materials.assets.clean.shape == (len(materials.assets.development), WIDTH)
    again = load_materials(config, tmp_path / "cache")
    assert again.assets.queries == 0
    with pytest.raises(SettingError, match=r"cohort.image_size is 64 and the encoder takes 224"):
        load_space(space, ["encoder.image_size=224"])


@pytest.mark.slow
def test_vit_b16_at_224_runs_a_whole_trial(tmp_path: Path) -> None:
    tensors = encoder_tensors(width=768, depth=12, patch=16, grid=14)
    encoder = MedicalMae(published(tmp_path / "vit-b.pth", tensors))
    assert (encoder.image_size, encoder.embedding_dim) == (224, 768)
    small = toy_cohort(20, seed=13)
    cohort = replace(small, images=np.kron(small.images, np.ones((1, 14, 14), np.uint8)))
    head = HeadConfig(learning_rate=0.02, standardize=True, epochs=3)
    assets = prepare(
        cohort,
        encoder,
        split=SplitConfig(validation=0.3, test=0.3),
        bias=BiasConfig(gap=0.0, train_per_group=2, validation_per_cell=1, test_per_cell=1),
        scoring=ScoringConfig(
            repeats=1, bootstrap_draws=5, controls=0, disease_head=head, attribute_head=head
        ),
        seed=5,
    )
    method = MethodConfig(
        samples=1, batch_size=2, local_iterations=1, epochs=1, basis="low_frequency", basis_size=4
    )
    result = run_trial(method, cohort, encoder, assets, seed=3)
    assert result.noise.shape == (1, 224, 224)
    assert result.queries.noise == 2 * 1 * 2
    assert isinstance(result.metrics["attribute_cross_entropy"], Interval)
