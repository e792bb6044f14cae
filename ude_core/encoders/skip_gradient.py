"""Gradients that go past residual branches: of a network's, the part that another network shares more of.

The skip gradient method (Wu et al. 2020, "Skip connections matter: on the transferability of
adversarial examples generated with ResNets"): what reaches a block's input through its branch is
multiplied by γ, what takes the shortcut is not. Embeddings stay as they are.
"""

from __future__ import annotations

import copy
from itertools import chain

from torch import Tensor, nn

from ude_core.encoders.base import Encoder, Residual
from ude_core.errors import SettingError

_BRANCH_ENDS = ("drop_path", "drop_path1", "drop_path2")
"""What timm's residual blocks pass a branch through before they add it to the shortcut."""


def past_branches(encoder: Encoder, share: float) -> Encoder:
    """Return `encoder` with gradients of which `share` (γ) passes a branch; itself where that is 1.

    Raises SettingError where its network has no residual branches that are known.
    """
    if share == 1.0:
        return encoder
    made = encoder.with_skip_gradient(share) if isinstance(encoder, Residual) else None
    if made is None:
        raise SettingError(
            f"skip_gradient is {share:g} and surrogate {encoder.name} has no residual branches that are "
            "known (expected a timm network of residual blocks); set it to 1 or choose another"
        )
    return made


def damped(network: nn.Module, share: float) -> nn.Module | None:
    """Return a network of the same weights and embeddings, not copied; None without residual branches."""
    weights = {id(t): t for t in chain(network.parameters(), network.buffers())}
    made = copy.deepcopy(network, weights)
    ends = [
        (block, name) for block in made.modules() for name in _BRANCH_ENDS if _adds(block, name)
    ]
    for block, name in ends:
        setattr(block, name, _Damping(share))
    return made if ends else None


def _adds(block: nn.Module, name: str) -> bool:
    """Return whether the block adds what passes through `name` to a shortcut."""
    return hasattr(block, name) and bool(getattr(block, "has_skip", True))


class _Damping(nn.Module):
    """The identity, with a gradient of `share`."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def forward(self, branch: Tensor) -> Tensor:
        fixed = branch.detach()
        return fixed + self._share * (branch - fixed)
