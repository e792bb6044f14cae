"""What travels between a spread evaluator and its workers: seeds, losses and little else, as bytes.

An order and its reply are a safetensors buffer with JSON beside the tensors: nothing that is read
can run code, and floats arrive bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import safetensors.torch
from jaxtyping import Float
from torch import Tensor

from ude_core.types import Losses, MethodConfig

_SCALARS = "scalars"


@dataclass(frozen=True, slots=True)
class Start:
    """Where a replica is to begin: a learner's own state, before it proposes. Sent once a trial."""

    method: MethodConfig
    materials: str  # digest of what both must hold
    tensors: Mapping[str, Tensor]
    scalars: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Order:
    """One iteration's share: groups of candidates to evaluate in passes of `limit` images.

    `told` are the losses of the iteration before, which every replica tells its own optimiser.
    """

    iteration: int
    groups: Sequence[range]
    limit: int
    told: Losses | None = None
    start: Start | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """Losses and cross-entropies of the ordered groups' candidates, and what was proposed."""

    proposal: str  # sha256
    values: Float[Tensor, "measure candidates"]


@dataclass(frozen=True, slots=True)
class Behind:
    """The replica does not stand where the order begins: it needs a start."""


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """The order's passes do not fit; a smaller limit may."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unfit:
    """The worker holds other images, weights or heads: it can be of no use."""

    reason: str


Reply = Measured | Behind | OutOfMemory | Unfit


def pack_order(order: Order) -> bytes:
    """Return the bytes of an order."""
    scalars: dict[str, Any] = {
        "iteration": order.iteration,
        "groups": [[group.start, group.stop] for group in order.groups],
        "limit": order.limit,
    }
    tensors: dict[str, Tensor] = {}
    if order.told is not None:
        tensors["told"] = order.told
    if order.start is not None:
        scalars["method"] = asdict(order.start.method)
        scalars["materials"] = order.start.materials
        scalars["start"] = dict(order.start.scalars)
        tensors |= {f"start.{name}": tensor for name, tensor in order.start.tensors.items()}
    return _pack(scalars, tensors)


def unpack_order(message: bytes) -> Order:
    """Return the order that `pack_order` wrote."""
    scalars, tensors = _unpack(message)
    start = None
    if "method" in scalars:
        held = {
            name.removeprefix("start."): tensor
            for name, tensor in tensors.items()
            if name.startswith("start.")
        }
        method = MethodConfig(**scalars["method"])
        start = Start(method, scalars["materials"], held, scalars["start"])
    return Order(
        iteration=scalars["iteration"],
        groups=[range(first, last) for first, last in scalars["groups"]],
        limit=scalars["limit"],
        told=tensors.get("told"),
        start=start,
    )


def pack_reply(reply: Reply) -> bytes:
    """Return the bytes of a reply."""
    match reply:
        case Measured(proposal=proposal, values=values):
            return _pack({"kind": "measured", "proposal": proposal}, {"values": values})
        case Behind():
            return _pack({"kind": "behind"}, {})
        case OutOfMemory(reason=reason):
            return _pack({"kind": "out_of_memory", "reason": reason}, {})
        case Unfit(reason=reason):
            return _pack({"kind": "unfit", "reason": reason}, {})


def unpack_reply(message: bytes) -> Reply:
    """Return the reply that `pack_reply` wrote. Raises ValueError where it is none."""
    scalars, tensors = _unpack(message)
    match scalars["kind"]:
        case "measured":
            return Measured(scalars["proposal"], tensors["values"])
        case "behind":
            return Behind()
        case "out_of_memory":
            return OutOfMemory(scalars["reason"])
        case "unfit":
            return Unfit(scalars["reason"])
        case kind:
            raise ValueError(f"a reply of kind {kind!r} is unknown")


def _pack(scalars: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    content: bytes = safetensors.torch.save(plain, {_SCALARS: json.dumps(scalars)})
    return content


def _unpack(message: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    length = int.from_bytes(message[:8], "little")
    header = json.loads(message[8 : 8 + length])
    scalars: dict[str, Any] = json.loads(header["__metadata__"][_SCALARS])
    return scalars, safetensors.torch.load(message)
