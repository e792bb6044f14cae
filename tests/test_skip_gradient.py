"""Gradients past residual branches: the same embeddings, and of each branch's gradient a share."""

from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from ude_core.encoders.skip_gradient import damped, past_branches
from ude_core.encoders.timm_encoder import TimmEncoder
from ude_core.errors import SettingError


class Block(nn.Module):
    """x + A · x, as timm writes it; without a shortcut, A · x."""

    def __init__(self, matrix: torch.Tensor, *, has_skip: bool = True) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)
        self.drop_path = nn.Identity()
        self.has_skip = has_skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = x @ self.matrix
        return x + self.drop_path(branch) if self.has_skip else branch


def matrices(count: int) -> list[torch.Tensor]:
    return list(torch.randn(count, 4, 4, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_gradient_is_that_of_blocks_whose_branches_are_scaled(share: float) -> None:
    first, without, last = matrices(3)
    network = nn.Sequential(Block(first), Block(without, has_skip=False), Block(last))
    made = damped(network, share)
    assert made is not None
    x = torch.randn(1, 4, requires_grad=True)
    assert torch.equal(made(x), network(x))
    jacobian = torch.autograd.functional.jacobian(made, x)[0, :, 0]
    one = torch.eye(4)
    expected = (one + share * first) @ without @ (one + share * last)
    torch.testing.assert_close(jacobian, expected.T)


def test_the_weights_are_shared_and_the_network_is_left_as_it_was() -> None:
    network = nn.Sequential(*map(Block, matrices(2)))
    made = damped(network, 0.5)
    assert made is not None
    pairs = zip(network.parameters(), made.parameters(), strict=True)
    assert all(ours is theirs for ours, theirs in pairs)
    assert isinstance(network[0].drop_path, nn.Identity)


def timm_encoder(model: str, folder: Path) -> TimmEncoder:
    torch.manual_seed(0)
    made: nn.Module = timm.create_model(model, num_classes=0)
    for parameter in made.parameters():  # some blocks start as the identity
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    path = folder / f"{model}.safetensors"
    save_file(made.state_dict(), path)
    size = made.default_cfg["input_size"][-1]
    return TimmEncoder(model, path, image_size=size)


@pytest.mark.parametrize(
    "model", ["mobilenetv3_small_050", "test_resnet", "test_vit", "test_convnext"]
)
def test_of_every_family_embeddings_stay_and_gradients_change(model: str, tmp_path: Path) -> None:
    plain = timm_encoder(model, tmp_path)
    pixels = torch.rand(2, 1, plain.image_size, plain.image_size).requires_grad_()
    gradients = []
    for share in (1.0, 0.5, 0.1):
        encoder = past_branches(plain, share)
        embeddings = encoder.encode(pixels)
        assert torch.equal(embeddings, plain.encode(pixels))
        gradients.append(torch.autograd.grad(embeddings.square().sum(), pixels)[0])
    assert past_branches(plain, 1.0) is plain
    for more, less in pairwise(gradients):
        assert less.any()
        assert not torch.allclose(more, less, rtol=1e-3)


def test_the_fingerprint_follows_the_share(tmp_path: Path) -> None:
    plain = timm_encoder("test_vit", tmp_path)
    prints = {past_branches(plain, share).fingerprint for share in (1.0, 0.5, 0.25)}
    assert len(prints) == 3


def test_a_network_without_branches_is_refused(tmp_path: Path) -> None:
    plain = timm_encoder("test_efficientnet", tmp_path)  # of 5 blocks, none with a shortcut
    with pytest.raises(SettingError, match="has no residual branches"):
        past_branches(plain, 0.5)
