"""A small checkpoint in MAE's published format."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

Tensors = dict[str, torch.Tensor]
WIDTH, DEPTH, PATCH, HEADS, GRID = 32, 2, 8, 2, 8
SMALL = {"image_size": PATCH * GRID, "heads": HEADS}


def encoder_tensors(
    width: int = WIDTH,
    depth: int = DEPTH,
    patch: int = PATCH,
    grid: int = GRID,
    channels: int = 3,
    norm: str = "norm",
) -> Tensors:
    """The encoder's tensors by the names that MAE's code gives them."""
    rng = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng) * 0.3 / shape[-1] ** 0.5

    tensors = {
        "cls_token": drawn(1, 1, width),
        "pos_embed": drawn(1, grid * grid + 1, width),
        "patch_embed.proj.weight": drawn(width, channels, patch, patch),
        "patch_embed.proj.bias": drawn(width),
        f"{norm}.weight": 1 + drawn(width),
        f"{norm}.bias": drawn(width),
    }
    layers = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for block in range(depth):
        for name, (out, into) in layers.items():
            tensors[f"blocks.{block}.{name}.weight"] = drawn(out * width, into * width) * 3
            tensors[f"blocks.{block}.{name}.bias"] = drawn(out * width)
        for name in ("norm1", "norm2"):
            tensors[f"blocks.{block}.{name}.weight"] = 1 + drawn(width)
            tensors[f"blocks.{block}.{name}.bias"] = drawn(width)
    return tensors


def published(path: Path, tensors: Tensors) -> Path:
    """Write `tensors` as MAE's pre-training saves them: decoder, optimizer and arguments beside."""
    decoder = {
        "mask_token": torch.zeros(1, 1, 16),
        "decoder_embed.weight": torch.zeros(16, WIDTH),
        "decoder_pos_embed": torch.zeros(1, 65, 16),
        "decoder_blocks.0.norm1.weight": torch.ones(16),
        "decoder_norm.weight": torch.ones(16),
        "decoder_pred.weight": torch.zeros(192, 16),
        "head.weight": torch.zeros(14, WIDTH),
        "head.bias": torch.zeros(14),
    }
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]}
    arguments = argparse.Namespace(model="mae_vit_base_patch16", mask_ratio=0.9, device="cuda")
    content = {
        "model": tensors | decoder,
        "optimizer": optimizer,
        "epoch": 799,
        "scaler": {"scale": 65536.0},
        "args": arguments,
    }
    torch.save(content, path)
    return path
