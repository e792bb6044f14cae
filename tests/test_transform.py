"""The transform edits what the bundle edits, in whatever form a pipeline holds its images."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_bundle import SIZE, images, in_memory, write
from torch.utils.data import DataLoader, Dataset

from ude_core.bundle import Bundle
from ude_core.editing import edit_images, edit_pixels
from ude_core.errors import BundleError
from ude_core.transform import UniversalEditTransform


@pytest.fixture
def edit() -> UniversalEditTransform:
    return UniversalEditTransform(in_memory())


def test_images_and_byte_tensors_are_the_bundles_edit(edit: UniversalEditTransform) -> None:
    expected = edit_images(edit.bundle, images())
    edited = edit(Image.fromarray(images()[0]))
    assert np.array_equal(np.asarray(edited), expected[0])
    batch = torch.from_numpy(images())
    for tensor in (batch[0], batch, batch[:, None].expand(-1, 3, -1, -1)):
        found = edit(tensor)
        assert (found.shape, found.dtype) == (tensor.shape, torch.uint8)
        flat = found.reshape(-1, SIZE, SIZE)
        every = torch.from_numpy(expected).repeat_interleave(len(flat) // 3 or 1, 0)[: len(flat)]
        assert torch.equal(flat, every)


@pytest.mark.parametrize("pixels", ["paper", "deploy"])
def test_floats_are_what_the_encoder_saw(pixels: str) -> None:
    bundle = Bundle(replace(in_memory().facts, pixels=pixels), in_memory().noise)
    floats = torch.from_numpy(images()).unsqueeze(1).float() / 255
    assert torch.equal(UniversalEditTransform(bundle)(floats), edit_pixels(bundle, images()))


def test_it_leaves_its_input_alone(edit: UniversalEditTransform) -> None:
    for tensor in (torch.from_numpy(images()), torch.rand(1, SIZE, SIZE)):
        before = tensor.clone()
        edit(tensor)
        assert torch.equal(tensor, before)


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (torch.zeros(1, SIZE, SIZE) - 1.5, "put the edit before normalisation"),
        (torch.full((1, SIZE, SIZE), torch.nan), "put the edit before normalisation"),
        (torch.zeros(1, SIZE, SIZE, dtype=torch.float64), "expected uint8, or float32"),
        (torch.zeros(1, SIZE, SIZE + 1), "this noise was made for 8x8"),
    ],
)
def test_what_it_cannot_edit_is_refused(
    edit: UniversalEditTransform, tensor: torch.Tensor, says: str
) -> None:
    with pytest.raises(BundleError, match=says):
        edit(tensor)


def test_loading_checks_the_encoder(tmp_path: Path) -> None:
    folder = write(tmp_path / "b")
    edit = UniversalEditTransform.load(folder, encoder_fingerprint="e" * 64)
    assert torch.equal(edit.bundle.noise, in_memory().noise)
    with pytest.raises(BundleError, match="learnt through encoder"):
        UniversalEditTransform.load(folder, encoder_fingerprint="f" * 64)


class Films(Dataset[torch.Tensor]):
    def __init__(self, edit: UniversalEditTransform) -> None:
        self.edit = edit

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(np.array(self.edit(Image.fromarray(images()[index]))))


def test_a_loaders_workers_edit_alike(edit: UniversalEditTransform) -> None:
    assert torch.equal(pickle.loads(pickle.dumps(edit)).bundle.noise, edit.bundle.noise)
    loader = DataLoader(Films(edit), batch_size=3, num_workers=1, multiprocessing_context="fork")
    (batch,) = loader
    assert np.array_equal(batch.numpy(), edit_images(edit.bundle, images()))
