"""Random noise: one direction of a basis at a given norm, with nothing learnt. Heads as ERM's."""

from __future__ import annotations

from dataclasses import dataclass

from ude_core.baselines.base import Edit
from ude_core.baselines.erm import Erm
from ude_core.noise import make_basis, random_noise
from ude_core.seeding import torch_generator
from ude_core.types import BasisName, Noise, Perturbation


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomNoise(Erm):
    """The control that an edit is held against, as a method of its own."""

    norm: float
    basis: BasisName
    basis_size: int
    perturbation: Perturbation
    edit: Edit = "noise"

    def noise(self, image_size: int, seed: int) -> Noise:
        """Return a noise of ‖ε‖₂ = `norm`. Raises SettingError where the basis does not fit."""
        basis = make_basis(self.basis, image_size, self.basis_size)
        return random_noise(
            basis, self.norm, self.perturbation, torch_generator(seed, "random noise")
        )
