"""Pre-trains the phantom encoder as a masked autoencoder (He et al., 2022) on unlabelled phantoms.

Run: python -m ude_core.encoders.pretrain_phantom_vit --out phantom_vit.safetensors --seed 0

Half of the patches are hidden; the loss is the squared error on the hidden ones, in normalized
pixels. Unlike in He et al., the decoder sees only the mean visible token of each quadrant: those
means become the embedding, so they have to carry what the film shows. Labels and sex are never
read, and the pre-training patients come from a seed stream of their own. The same seed and thread
count give the same weights on one machine.
"""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from ude_core.cohorts.phantom import PhantomConfig, make_phantoms
from ude_core.encoders.phantom_vit import (
    DIM,
    GRID,
    IMAGE_SIZE,
    PATCH,
    QUADRANTS,
    Tokens,
    VisionTransformer,
    to_patches,
)
from ude_core.seeding import derive_seed, torch_generator
from ude_core.types import Pixels

MASKED_SHARE = 0.5
DECODER_DIM = 128
DECODER_DEPTH = 2
BATCH = 128
LEARNING_RATE = 1.5e-3
WEIGHT_DECAY = 0.05
WARM_UP = 0.05  # share of the steps
MARKER_CONTRAST = 0.5  # twice a cohort's: a foundation model has seen bolder markers than these

logger = logging.getLogger(__name__)


class MaskedAutoencoder(nn.Module):
    """The encoder, and a narrow decoder that is thrown away after pre-training."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = VisionTransformer()
        self.to_decoder = nn.Linear(QUADRANTS * DIM, DECODER_DIM)
        self.position = nn.Parameter(torch.zeros(1, GRID * GRID, DECODER_DIM))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(DECODER_DIM),
                nn.Linear(DECODER_DIM, 2 * DECODER_DIM),
                nn.GELU(),
                nn.Linear(2 * DECODER_DIM, DECODER_DIM),
            )
            for _ in range(DECODER_DEPTH)
        )
        self.norm = nn.LayerNorm(DECODER_DIM)
        self.to_pixels = nn.Linear(DECODER_DIM, PATCH * PATCH)

    def forward(self, pixels: Pixels, order: Int[Tensor, "images patches"]) -> Float[Tensor, ""]:
        """Return the mean squared error on the patches hidden by `order`, in normalized pixels.

        The first half of each row of `order` names the patches that stay visible; the decoder
        sees nothing of them but the mean token of each quadrant.
        """
        patches = to_patches(pixels)
        visible = round(order.shape[1] * (1 - MASKED_SHARE))
        seen = self.encoder(patches, order[:, :visible])
        member = nn.functional.one_hot(_quadrant(order[:, :visible]), QUADRANTS).float()
        share = member / member.sum(dim=1, keepdim=True).clamp(min=1)
        means = torch.einsum("nvq,nvd->nqd", share, seen)
        code = self.to_decoder(means.flatten(start_dim=1))
        tokens: Tokens = (code[:, None] + self.position).gather(
            1, order[:, visible:, None].expand(-1, -1, DECODER_DIM)
        )
        for block in self.blocks:
            tokens = tokens + block(tokens)
        wanted = order[:, visible:, None].expand(-1, -1, PATCH * PATCH)
        drawn = self.to_pixels(self.norm(tokens))
        error: Float[Tensor, ""] = (drawn - patches.gather(1, wanted)).square().mean()
        return error


def pretrain(*, seed: int, films: int, epochs: int) -> VisionTransformer:
    """Return an encoder pre-trained on at least `films` unlabelled phantoms for `epochs` epochs."""
    config = PhantomConfig(
        patients=films,
        images_per_patient=1,
        image_size=IMAGE_SIZE,
        seed=derive_seed(seed, "phantom pre-training"),
        marker_contrast=MARKER_CONTRAST,
    )
    images = torch.from_numpy(make_phantoms(config).images)
    generator = torch_generator(seed, "phantom pre-training")
    model = MaskedAutoencoder()
    _initialize(model, generator)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.95)
    )
    steps_an_epoch = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _rate(step / (steps_an_epoch * epochs))
    )
    for epoch in range(epochs):
        total = 0.0
        shuffled = torch.randperm(len(images), generator=generator)
        for batch in shuffled[: steps_an_epoch * BATCH].view(-1, BATCH):
            pixels = images[batch, None].float() / 255
            order = torch.rand(len(batch), GRID * GRID, generator=generator).argsort(dim=1)
            loss = model(pixels, order)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        logger.info("epoch %d/%d: error %.4f", epoch + 1, epochs, total / steps_an_epoch)
    return model.encoder


def save_weights(encoder: VisionTransformer, path: Path) -> None:
    """Write the weights as float16 safetensors."""
    halves = {name: tensor.half().contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(halves, path)


def _initialize(model: nn.Module, generator: torch.Generator) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            nn.init.zeros_(module.bias)
    for name, parameter in model.named_parameters():
        if name.endswith("position"):
            parameter.data.copy_(_waves(parameter.shape[-1]))


def _waves(dim: int) -> Float[Tensor, "1 patches dim"]:
    """Return sine and cosine positions of the patch grid: half the channels each axis."""
    frequencies = 10.0 ** -torch.linspace(0, 2, dim // 4)
    angles = torch.arange(GRID)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    down = axis[:, None, :].expand(-1, GRID, -1)
    across = axis[None, :, :].expand(GRID, -1, -1)
    return torch.cat([down, across], dim=2).reshape(1, GRID * GRID, dim)


def _quadrant(patch: Int[Tensor, "images chosen"]) -> Int[Tensor, "images chosen"]:
    """Return the quadrant of the film each patch lies in, in the order of the embedding."""
    half = GRID // 2
    return 2 * (patch // GRID // half) + patch % GRID // half


def _rate(progress: float) -> float:
    """Return the learning rate's factor: linear warm-up, then half a cosine."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def main() -> None:
    """Read the command line, pre-train, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--films", type=int, default=10240)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    save_weights(
        pretrain(seed=options.seed, films=options.films, epochs=options.epochs), options.out
    )


if __name__ == "__main__":
    main()
