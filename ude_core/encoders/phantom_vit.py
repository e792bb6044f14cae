"""A small vision transformer for phantoms: ours, pre-trained as a masked autoencoder, 1 MB.

The weights beside this file come from `ude_core.encoders.pretrain_phantom_vit`, which sees
unlabelled phantoms only. Everything an embedding depends on goes into the fingerprint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources

import torch
from jaxtyping import Float
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional

from ude_core.errors import PermanentEncoderError
from ude_core.types import Embeddings, Pixels

IMAGE_SIZE = 64
PATCH = 8
GRID = IMAGE_SIZE // PATCH
QUADRANTS = 4
DIM = 96
DEPTH = 4
HEADS = 4
MLP_RATIO = 4
PIXEL_MEAN = 0.34
PIXEL_STD = 0.25
WEIGHTS = "phantom_vit.safetensors"

_ARCHITECTURE = (
    f"phantom-vit image={IMAGE_SIZE} patch={PATCH} dim={DIM} depth={DEPTH} heads={HEADS} "
    f"mlp={MLP_RATIO} pre-norm gelu mean-token-of-each-quadrant mean={PIXEL_MEAN} std={PIXEL_STD}"
)

Tokens = Float[Tensor, "images tokens dim"]


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.attention_out = nn.Linear(dim, dim)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp_in = nn.Linear(dim, MLP_RATIO * dim)
        self.mlp_out = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, tokens: Tokens) -> Tokens:
        images, count, dim = tokens.shape
        packed = self.query_key_value(self.attention_norm(tokens))
        query, key, value = packed.view(images, count, 3, self.heads, dim // self.heads).permute(
            2, 0, 3, 1, 4
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.attention_out(mixed.transpose(1, 2).reshape(images, count, dim))
        hidden: Tokens = self.mlp_out(functional.gelu(self.mlp_in(self.mlp_norm(tokens))))
        return tokens + hidden


class VisionTransformer(nn.Module):
    """Patches in, normalized tokens out; `kept` lets the masked autoencoder drop patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embedding = nn.Linear(PATCH * PATCH, DIM)
        self.position = nn.Parameter(torch.zeros(1, GRID * GRID, DIM))
        self.blocks = nn.ModuleList(Block(DIM, HEADS) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(DIM)

    def forward(
        self,
        patches: Float[Tensor, "images patches pixels"],
        kept: Float[Tensor, "images kept"] | None = None,
    ) -> Tokens:
        tokens = self.patch_embedding(patches) + self.position
        if kept is not None:
            tokens = tokens.gather(1, kept[:, :, None].expand(-1, -1, DIM))
        for block in self.blocks:
            tokens = block(tokens)
        normalized: Tokens = self.norm(tokens)
        return normalized


def to_patches(pixels: Pixels) -> Float[Tensor, "images patches pixels"]:
    """Return the normalized pixels cut into 8 × 8 patches, row by row."""
    normalized = (pixels - PIXEL_MEAN) / PIXEL_STD
    cut = normalized.reshape(-1, GRID, PATCH, GRID, PATCH).transpose(2, 3)
    return cut.reshape(-1, GRID * GRID, PATCH * PATCH)


class PhantomVit:
    """The phantom encoder φ; see `ude_core.encoders.base.Encoder` for its guarantees."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """Raises PermanentEncoderError where the weights are not those of this architecture."""
        self._network = VisionTransformer()
        single = {name: tensor.to(torch.float32) for name, tensor in weights.items()}
        try:
            self._network.load_state_dict(single)
        except RuntimeError as error:
            raise PermanentEncoderError(f"weights do not fit {_ARCHITECTURE}: {error}") from error
        self._network.eval().requires_grad_(False)
        self._fingerprint = _fingerprint(single)

    @property
    def name(self) -> str:
        return "phantom_vit"

    @property
    def embedding_dim(self) -> int:
        return QUADRANTS * DIM

    @property
    def image_size(self) -> int:
        return IMAGE_SIZE

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def differentiable(self) -> bool:
        return True

    @property
    def batch_size(self) -> int:
        return 64

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def encode(self, pixels: Pixels) -> Embeddings:
        """Return the mean token of each quadrant of the film, shape (images, 4 · 96).

        Pooling by quadrant, rather than over the film, keeps where something lies readable to a
        linear head; the order is upper left, upper right, lower left, lower right.


        Raises PermanentEncoderError where the images are not 1 × 64 × 64.
        """
        if pixels.shape[1:] != (1, IMAGE_SIZE, IMAGE_SIZE):
            raise PermanentEncoderError(
                f"pixels have shape {tuple(pixels.shape)} "
                f"(expected images × 1 × {IMAGE_SIZE} × {IMAGE_SIZE}); resize the cohort"
            )
        tokens: Tokens = self._network(to_patches(pixels.to(torch.float32)))
        halves = tokens.view(-1, 2, GRID // 2, 2, GRID // 2, DIM)
        return halves.mean(dim=(2, 4)).flatten(start_dim=1)


def load_phantom_vit() -> PhantomVit:
    """Return the encoder with the packaged weights."""
    packaged = resources.files("ude_core.encoders").joinpath(WEIGHTS)
    return PhantomVit(load(packaged.read_bytes()))


def _fingerprint(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(_ARCHITECTURE.encode())
    for name in sorted(weights):
        digest.update(f"{name}{tuple(weights[name].shape)}".encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
