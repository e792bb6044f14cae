"""Every baseline by name: its settings, and how it is made of them.

A new one is a file beside this, one line here, and its name in `types.BaselineName`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from ude_core.baselines.base import Baseline, learns_noise
from ude_core.baselines.batch_sampling import BatchSampling
from ude_core.baselines.bias_adv import BiasAdv
from ude_core.baselines.erm import Erm
from ude_core.baselines.group_dro import GroupDro
from ude_core.baselines.random_noise import RandomNoise
from ude_core.baselines.sketch import Sketch
from ude_core.encoders.base import Encoder
from ude_core.errors import SettingError
from ude_core.types import BaselineName, MethodConfig, MethodName


@dataclass(frozen=True, slots=True)
class Entry:
    """How a baseline is made: from each field of its own, the setting of `MethodConfig` that it is.

    `needs_gradients`: it takes gradients through the encoder (white-box).
    """

    make: Callable[..., Baseline]
    settings: Mapping[str, str] = field(default_factory=dict)
    needs_gradients: bool = False


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_REGISTRY: Mapping[BaselineName, Entry] = MappingProxyType(
    {
        "erm": Entry(Erm),
        "random_noise": Entry(
            RandomNoise, {"norm": "max_norm", **_same("basis", "basis_size", "perturbation")}
        ),
        "batch_sampling": Entry(BatchSampling, _same("balance")),
        "group_dro": Entry(GroupDro, {"step": "group_step", "held_out": "held_out"}),
        "bias_adv": Entry(
            BiasAdv,
            {
                "power": "bias_power",
                "radius": "attack_radius",
                "step": "attack_step",
                "steps": "attack_steps",
                "every": "attack_every",
                "weight": "attack_weight",
                "adversarial_weight": "adversarial_weight",
            },
            needs_gradients=True,
        ),
        "sketch": Entry(Sketch, {"blur": "sketch_blur"}),
    }
)

_ERM = Erm()
_ALWAYS = frozenset({"name", "pixels"})
_SHARED = frozenset({"max_norm", "basis", "basis_size", "perturbation"})
_BASELINES_ALONE = (
    frozenset(setting for entry in _REGISTRY.values() for setting in entry.settings.values())
    - _SHARED
)


def make_baseline(method: MethodConfig) -> Baseline:
    """Return what trains the heads of `method`: itself, or ERM where it learns a noise.

    Raises SettingError where random_noise is given no norm.
    """
    name = method.name
    if learns_noise(name):
        return _ERM
    if name == "random_noise" and method.max_norm is None:
        raise SettingError(
            "method.name is random_noise and max_norm is not given (expected the norm of the "
            "noise, > 0); set max_norm, or search it"
        )
    entry = _REGISTRY[name]
    return entry.make(**{own: getattr(method, setting) for own, setting in entry.settings.items()})


def check_encoder(name: MethodName, encoder: Encoder) -> None:
    """Raise SettingError where the method needs gradients that the encoder does not give."""
    needed = name == "whitebox" if learns_noise(name) else _REGISTRY[name].needs_gradients
    if needed and not encoder.differentiable:
        raise SettingError(
            f"method {name} needs gradients through the encoder, and {encoder.name} gives none "
            "(a black box); choose gezo or another method that asks for embeddings alone"
        )


def settings_read(name: MethodName) -> frozenset[str]:
    """Return the settings of `MethodConfig` that the method may read.

    >>> sorted(settings_read("group_dro"))
    ['group_step', 'held_out', 'name', 'pixels']
    """
    if not learns_noise(name):
        return _ALWAYS | frozenset(_REGISTRY[name].settings.values())
    return frozenset(setting.name for setting in fields(MethodConfig)) - _BASELINES_ALONE
