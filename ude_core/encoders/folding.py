"""The same function, cheaper: what is fixed in a frozen network is worked into its weights once.

Each folding is proved on a probe. Where embeddings differ by more than rounding, the network stays
as it was.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from jaxtyping import Float
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-4
"""Of the largest embedding: far above float32's rounding, far below any other function's."""


def fold_batch_norms(network: nn.Module, probe: Tensor) -> nn.Module:
    """Return the network with every batch norm folded into the convolution before it.

    In eval mode a batch norm is a fixed scale and shift, so the folded network computes the same up
    to rounding and saves a pass over memory a layer. Which convolution a norm follows is read off
    the order of the modules.
    """
    if not any(isinstance(module, BatchNormAct2d) for module in network.modules()):
        return network
    folded = copy.deepcopy(network)
    for module in folded.modules():
        children = list(module.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNormAct2d):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Sequential(norm.drop, norm.act))
    with torch.inference_mode():
        return folded if _same(network(probe), folded(probe)) else network


def fold_gray(
    network: nn.Module, channels: int, probe: Float[Tensor, "images 1 height width"]
) -> int:
    """Have the network take one gray channel for `channels` equal ones; return how many it takes now.

    Its first convolution is linear: over equal channels it is the convolution of one by the sum of
    their weights. The network is changed in place.
    """
    stem = _first_convolution(network, channels)
    if stem is None:
        return channels
    weight = stem.weight
    with torch.inference_mode():
        before = network(probe.expand(-1, channels, -1, -1))
    stem.weight = nn.Parameter(weight.detach().sum(1, keepdim=True), requires_grad=False)
    stem.in_channels = 1
    try:
        with torch.inference_mode():
            if _same(before, network(probe)):
                return 1
    except (RuntimeError, IndexError, AssertionError, ValueError):
        pass  # something else in the network looks at all channels
    stem.weight, stem.in_channels = weight, channels
    return channels


def _first_convolution(network: nn.Module, channels: int) -> nn.Conv2d | None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            takes_all = module.in_channels == channels > 1 and module.groups == 1
            return module if takes_all else None
    return None


def _same(before: Tensor, after: Tensor) -> bool:
    scale = float(before.abs().max())
    return before.shape == after.shape and torch.allclose(
        before, after, rtol=TOLERANCE, atol=TOLERANCE * scale
    )
