"""Medical_MAE: a vision transformer out of a masked autoencoder's published checkpoint.

Format: `torch.save({'model': state_dict, ...})` of MAE (He et al., 2022) as Medical_MAE (Xiao et al.,
2023) published it for chest X-rays, or the same tensors as safetensors. Width, depth, patch and
channels follow from the tensors; what only pre-training or a classifier needs is left aside.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Unpack, get_args

import torch
from jaxtyping import Float
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ude_core.encoders.execution import Running
from ude_core.encoders.timm_encoder import FrozenNetwork, read_checkpoint
from ude_core.errors import SettingError
from ude_core.storage import sha256_file

Preprocessing = Literal["medical_mae", "official_code"]
PIXELS: Mapping[Preprocessing, tuple[float, float]] = {
    "medical_mae": (0.5056, 0.252),
    "official_code": (0.0, 1.0),
}
"""Mean and standard deviation, pixel units: what the weights were trained with (the default), and
the official code of the UDE paper, which does not normalise."""

HEADS: Mapping[int, int] = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""Attention heads by width in the MAE family, tiny to huge: no tensor of a checkpoint tells them."""

_UNUSED = re.compile(r"decoder_|mask_token$|head\.")
_PATCHES, _POSITIONS, _MLP = "patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight"


class MedicalMae(FrozenNetwork):
    """φ from a checkpoint in MAE's format, loaded strictly.

    The embedding is the class token after `norm`, or with `global_pool` the mean of the patches'
    tokens, then `fc_norm` (MAE's fine-tuned weights have it, its pre-trained ones do not).
    """

    def __init__(
        self,
        checkpoint: Path,
        *,
        image_size: int = 224,
        preprocessing: Preprocessing = "medical_mae",
        global_pool: bool = False,
        heads: int | None = None,
        **running: Unpack[Running],
    ) -> None:
        """Raises SettingError where the file is not such a checkpoint or a setting does not fit it.

        `heads` is needed for a width outside the MAE family alone.
        """
        if preprocessing not in PIXELS:
            raise SettingError(
                f"encoder.preprocessing is '{preprocessing}' (expected "
                f"{' or '.join(get_args(Preprocessing))})"
            )
        published = read_checkpoint(checkpoint, safe=(argparse.Namespace,))
        tensors = {
            name: tensor.float() for name, tensor in published.items() if not _UNUSED.match(name)
        }
        place = f"encoder.checkpoint is '{checkpoint}'"
        network = _network_for(tensors, place, image_size, global_pool, heads)
        grid = network.patch_embed.grid_size[0]
        tensors[_POSITIONS] = resample_positions(tensors[_POSITIONS], grid)
        _check_names_and_shapes(network, tensors, place)
        network.load_state_dict(tensors, strict=True, assign=True)
        mean, std = PIXELS[preprocessing]
        attention_heads = heads or HEADS[network.embed_dim]
        super().__init__(
            network,
            name="medical_mae",
            image_size=image_size,
            mean=mean,
            std=std,
            channels=tensors[_PATCHES].shape[1],
            identity=("medical_mae", sha256_file(checkpoint), global_pool, attention_heads),
            **running,
        )


def resample_positions(
    positions: Float[Tensor, "1 tokens dim"], grid: int
) -> Float[Tensor, "1 resampled dim"]:
    """Return the position embedding of a `grid` x `grid` image; the class token's stays as it is.

    Bicubic without antialiasing, as in MAE's `interpolate_pos_embed`; unchanged at equal size.
    """
    resampled: Tensor = resample_abs_pos_embed(positions, [grid, grid], antialias=False)
    return resampled


def _network_for(
    tensors: Mapping[str, Tensor],
    place: str,
    image_size: int,
    global_pool: bool,
    heads: int | None,
) -> VisionTransformer:
    """Return the transformer these tensors belong to, its own weights still unset."""
    missing = [name for name in (_PATCHES, _POSITIONS, _MLP) if name not in tensors]
    if missing:
        raise SettingError(
            f"{place}: it holds no {', '.join(missing)} (expected the tensors of an MAE vision "
            "transformer); give another checkpoint"
        )
    patches, positions = tensors[_PATCHES], tensors[_POSITIONS]
    side = round(max(0, positions.shape[1] - 1) ** 0.5) if positions.dim() == 3 else 0
    if patches.dim() != 4 or side == 0 or positions.shape[:2] != (1, side**2 + 1):
        raise SettingError(
            f"{place}: {_PATCHES} has shape {tuple(patches.shape)} and {_POSITIONS} "
            f"{tuple(positions.shape)} (expected dim x channels x patch x patch and 1 x (a square "
            "of patches + 1) x dim); give another checkpoint"
        )
    width, channels, patch, _ = patches.shape
    if image_size % patch:
        raise SettingError(
            f"encoder.image_size is {image_size} (expected a multiple of the weights' patch, "
            f"{patch}); change it"
        )
    heads = HEADS.get(width) if heads is None else heads
    if heads is None or width % heads:
        raise SettingError(
            f"encoder.heads is {heads} (expected the attention heads of a network of width {width}, "
            "a divisor of it); set it"
        )
    blocks = {int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))}
    # On no device: random weights are neither drawn nor stored only to be replaced.
    with torch.device("meta"):
        return VisionTransformer(
            img_size=image_size,
            patch_size=patch,
            in_chans=channels,
            num_classes=0,
            global_pool="avg" if global_pool else "token",
            embed_dim=width,
            depth=max(blocks) + 1,
            num_heads=heads,
            mlp_ratio=tensors[_MLP].shape[0] / width,
        )


def _check_names_and_shapes(
    network: VisionTransformer, tensors: Mapping[str, Tensor], place: str
) -> None:
    expected = network.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - expected.keys())
    wrong = [
        f"{name} {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    found = [
        f"{what}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", wrong))
        if names
    ]
    if not found:
        return
    advice = "give the encoder's own checkpoint"
    for norm, pooled in (("norm.weight", False), ("fc_norm.weight", True)):
        if norm in unknown:
            advice = f"set encoder.global_pool: {str(pooled).lower()}"
    raise SettingError(f"{place}: {'; '.join(found)}; {advice}")
