"""The phantom cohort and its encoder: what is drawn is known, and φ is a frozen pure function."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from importlib import resources

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from ude_core.cohorts.base import Cohort
from ude_core.cohorts.phantom import DISEASES, GROUPS, PhantomConfig, make_phantoms, phantom_masks
from ude_core.encoders.base import Encoder
from ude_core.encoders.phantom_vit import WEIGHTS, PhantomVit, VisionTransformer, load_phantom_vit
from ude_core.encoders.pretrain_phantom_vit import pretrain, save_weights
from ude_core.errors import PermanentEncoderError, SettingError

CONFIG = PhantomConfig(patients=400, seed=3)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return make_phantoms(CONFIG)


@pytest.fixture(scope="module")
def encoder() -> PhantomVit:
    return load_phantom_vit()


def as_pixels(cohort: Cohort, count: int) -> torch.Tensor:
    return torch.from_numpy(cohort.images[:count, None]).float() / 255


def test_same_config_same_cohort(cohort: Cohort) -> None:
    again = make_phantoms(CONFIG)
    assert again.fingerprint == cohort.fingerprint
    np.testing.assert_array_equal(again.images, cohort.images)


@pytest.mark.parametrize("change", [{"seed": 4}, {"patients": 401}, {"severity": 0.5}])
def test_another_config_another_cohort(cohort: Cohort, change: dict[str, int]) -> None:
    assert make_phantoms(dataclasses.replace(CONFIG, **change)).fingerprint != cohort.fingerprint


def test_cohort_is_well_formed(cohort: Cohort) -> None:
    assert cohort.images.dtype == np.uint8
    assert cohort.images.shape == (len(cohort), 64, 64)
    assert cohort.diseases == DISEASES
    assert cohort.groups == GROUPS
    np.testing.assert_array_equal(np.unique(cohort.patients), np.arange(400))
    assert set(np.bincount(cohort.patients)) == {1, 2}
    for labels in cohort.labels.values():
        assert set(np.unique(labels)) == {0, 1}


def test_a_patient_keeps_sex_and_diseases(cohort: Cohort) -> None:
    for values in (cohort.attribute, *cohort.labels.values()):
        pairs = np.unique(np.stack([cohort.patients, values]), axis=1)
        assert pairs.shape[1] == 400


@pytest.mark.parametrize("size", [32, 96])
def test_other_sizes_show_the_same_chest(cohort: Cohort, size: int) -> None:
    small = make_phantoms(dataclasses.replace(CONFIG, patients=20, image_size=size))
    same_seed = make_phantoms(dataclasses.replace(CONFIG, patients=20))
    assert small.images.shape[1:] == (size, size)
    np.testing.assert_array_equal(small.attribute, same_seed.attribute)
    assert abs(small.images.mean() - same_seed.images.mean()) < 2


def test_sex_and_diseases_are_independent() -> None:
    """One fixed cohort; with 4,000 patients a correlation beyond 0.06 has probability 1.5e-4."""
    many = make_phantoms(PhantomConfig(patients=4000, images_per_patient=1, image_size=8))
    columns = [many.attribute, *many.labels.values()]
    for first, second in itertools.combinations(columns, 2):
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.06
    for labels in many.labels.values():
        assert abs(labels.mean() - 0.4) < 0.03


def test_masks_lie_where_their_layer_is(cohort: Cohort) -> None:
    masks = phantom_masks(CONFIG)
    assert set(masks) == {"cue", *DISEASES}
    for disease in DISEASES:
        assert masks[disease].shape == cohort.images.shape
        seen = masks[disease].any(axis=(1, 2))
        sick = cohort.labels[disease] == 1
        assert not seen[~sick].any()
        assert seen[sick].mean() > 0.98
        shared = (masks["cue"] & masks[disease]).sum() / masks[disease].sum()
        assert shared < 0.3
        assert not masks[disease][:, :14].any()


def test_marker_side_follows_sex(cohort: Cohort) -> None:
    cue = phantom_masks(CONFIG)["cue"]
    marked_left = cue[:, :16, :20].any(axis=(1, 2))
    marked_right = cue[:, :16, -20:].any(axis=(1, 2))
    women = cohort.attribute == GROUPS.index("female")
    assert marked_left[women].mean() > 0.9
    assert marked_right[~women].mean() > 0.9
    assert not marked_left[~women].any()
    assert not marked_right[women].any()


def test_without_cues_the_sexes_look_alike() -> None:
    blind = PhantomConfig(patients=300, marker_contrast=0, breast_shadow=0)
    assert not phantom_masks(blind)["cue"].any()
    alike = make_phantoms(blind)
    means = [alike.images[alike.attribute == group].mean(axis=0) for group in (0, 1)]
    assert np.abs(means[0] - means[1]).max() < 14


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("patients", 0, "patients is 0 (expected at least 1)"),
        ("prevalence", 1.2, "prevalence is 1.2 (expected a share, 0 to 1)"),
        ("film_noise", -0.1, "film_noise is -0.1 (expected 0 or more)"),
    ],
)
def test_bad_settings_say_what_to_expect(setting: str, value: float, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        PhantomConfig(**{setting: value})  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_packaged_weights_are_small_halves() -> None:
    packaged = resources.files("ude_core.encoders").joinpath(WEIGHTS).read_bytes()
    assert len(packaged) < 3_000_000
    weights = load(packaged)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    assert load(save(weights)).keys() == weights.keys()


def test_encoder_keeps_its_promises(encoder: PhantomVit, cohort: Cohort) -> None:
    assert isinstance(encoder, Encoder)
    pixels = as_pixels(cohort, 8)
    before = pixels.clone()
    embeddings = encoder.encode(pixels)
    assert embeddings.shape == (8, encoder.embedding_dim)
    assert embeddings.dtype == torch.float32
    assert not embeddings.requires_grad
    assert torch.equal(pixels, before)
    assert torch.equal(encoder.encode(pixels), embeddings)
    torch.testing.assert_close(encoder.encode(pixels[5:6]), embeddings[5:6], atol=1e-5, rtol=1e-4)


def test_encoder_takes_pixels_outside_the_film(encoder: PhantomVit, cohort: Cohort) -> None:
    pixels = as_pixels(cohort, 4)
    beyond = encoder.encode(pixels + 3)
    assert bool(beyond.isfinite().all())
    assert not torch.equal(beyond, encoder.encode((pixels + 3).clamp(0, 1)))


def test_gradients_reach_the_pixels_and_not_the_weights(
    encoder: PhantomVit, cohort: Cohort
) -> None:
    noise = torch.zeros(1, 64, 64, requires_grad=True)
    encoder.encode(as_pixels(cohort, 4) + noise)[:, 0].sum().backward()
    assert noise.grad is not None
    assert float(noise.grad.abs().max()) > 0


def test_fingerprint_follows_the_weights(encoder: PhantomVit) -> None:
    weights = load(resources.files("ude_core.encoders").joinpath(WEIGHTS).read_bytes())
    assert PhantomVit(weights).fingerprint == encoder.fingerprint
    weights["norm.bias"] = weights["norm.bias"].clone()
    weights["norm.bias"][0] += 0.01
    assert PhantomVit(weights).fingerprint != encoder.fingerprint


def test_wrong_images_and_weights_are_refused(encoder: PhantomVit) -> None:
    with pytest.raises(PermanentEncoderError, match=r"shape \(2, 1, 32, 32\)"):
        encoder.encode(torch.zeros(2, 1, 32, 32))
    with pytest.raises(PermanentEncoderError, match="weights do not fit"):
        PhantomVit({"norm.bias": torch.zeros(3)})


def test_pretraining_repeats_itself(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("weights")
    for name in ("first", "second"):
        save_weights(pretrain(seed=1, films=128, epochs=1), folder / name)
    assert (folder / "first").read_bytes() == (folder / "second").read_bytes()
    weights = load((folder / "first").read_bytes())
    assert weights.keys() == VisionTransformer().state_dict().keys()
    assert PhantomVit(weights).embedding_dim == 4 * 96
