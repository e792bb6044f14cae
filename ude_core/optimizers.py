"""From a method to its ask/tell optimiser: the one place that knows them all by name.

gezo is the paper's (Alg. 1). spsa, zo_sgd and cma_es are the field's, offered for comparison;
antithetic_adam, guided and jacobian are ours. White-box UDE takes gradients and `distilled` (ours)
embeddings, so they are not among them.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar, assert_never

from ude_core.antithetic import AntitheticAdam, Guided, Prior
from ude_core.baselines.base import learns_noise
from ude_core.cma_es import CmaEs
from ude_core.directions import SurrogateDirections
from ude_core.errors import SettingError
from ude_core.gezo import Gezo
from ude_core.jacobian import JacobianEs
from ude_core.noise import make_basis
from ude_core.optimizer import AskTellOptimizer
from ude_core.spsa import Spsa, ZoSgd
from ude_core.types import MethodConfig

Proposing = Prior | SurrogateDirections
"""What an optimiser may be guided by: `guided` by a prior, `jacobian` by directions."""

Optimizer = TypeVar("Optimizer", Gezo, Spsa, ZoSgd, AntitheticAdam, Guided, JacobianEs, CmaEs)


def make_optimizer(
    method: MethodConfig, image_size: int, guide: Proposing | None = None
) -> AskTellOptimizer[Any]:
    """Return the optimiser `method.name`. Settings it has no use for are left unread.

    Raises SettingError where `basis_size` does not fit the image, a guide is missing (`guided`: a
    prior; `jacobian`: directions) or has no use (any other), or `prior_weight` is outside [0, 1];
    ValueError for whitebox and for methods that learn no noise.
    """
    if not learns_noise(method.name):
        raise ValueError(f"{method.name} learns no noise: it has no optimiser")
    if method.name == "whitebox":
        raise ValueError("whitebox is told gradients, not losses; use whitebox.Whitebox")
    if method.name == "distilled":
        raise SettingError(
            "method.name is distilled and no student was given (expected a surrogate's); name "
            "a surrogate, or pass Trial(..., prior=surrogate.student(assets))"
        )
    if not 0 <= method.prior_weight <= 1:
        raise SettingError(
            f"prior_weight is {method.prior_weight:g} (expected in [0, 1]); change it"
        )
    _refuse_useless(method, guide)
    match method.name:
        case "gezo":
            return _made(Gezo, method, image_size)
        case "spsa":
            return _made(Spsa, method, image_size)
        case "zo_sgd":
            return _made(ZoSgd, method, image_size)
        case "antithetic_adam":
            return _made(AntitheticAdam, method, image_size)
        case "cma_es":
            return _made(CmaEs, method, image_size)
        case "guided" | "jacobian":
            return _guided(method, image_size, guide)
        case _:
            assert_never(method.name)


def _made(
    kind: type[Optimizer], method: MethodConfig, image_size: int, **guide: Proposing
) -> Optimizer:
    """Return an optimiser in the method's basis; its other fields are the method's settings of that name."""
    basis = make_basis(method.basis, image_size, method.basis_size)
    settings: dict[str, Any] = {"basis": basis, **guide}
    for name in {field.name for field in fields(kind)} - settings.keys():
        settings[name] = getattr(method, name)
    return kind(**settings)


def _refuse_useless(method: MethodConfig, guide: Proposing | None) -> None:
    """Raise SettingError where a guide was given that this method has no use for."""
    if guide is None:
        return
    given, user = "a prior was", "guided"
    if isinstance(guide, SurrogateDirections):
        given, user = "directions were", "jacobian"
    if method.name != user:
        raise SettingError(
            f"{given} given and method.name is {method.name} (expected {user}); drop one"
        )


def _guided(
    method: MethodConfig, image_size: int, guide: Proposing | None
) -> AskTellOptimizer[Any]:
    """Return the optimiser that an open encoder guides. Raises SettingError where there is no guide."""
    if guide is None:
        what, how = "prior was", "surrogate.prior(method)"
        if method.name == "jacobian":
            what, how = "directions were", "surrogate.directions(method)"
        raise SettingError(
            f"method.name is {method.name} and no {what} given (expected a surrogate's); name a "
            f"surrogate, or pass Trial(..., prior={how})"
        )
    if isinstance(guide, SurrogateDirections):
        return _made(JacobianEs, method, image_size, directions=guide)
    return _made(Guided, method, image_size, prior=guide)
