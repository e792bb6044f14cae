"""An open network that learns to answer as the black box does; what `distilled` climbs. Ours.

The student is the surrogate's network with a new linear head. Its answers are those of the black box:
the attribute logits, and the whole embedding, which tells it what the logits alone would not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from ude_core.encoders.base import Teachable
from ude_core.heads import LinearHeads
from ude_core.types import Embeddings, Pixels

FROZEN_SHARE = 0.005
"""Of the network's weights, its first, that are never taught: a quarter of a lesson's time is theirs."""

SPREAD_FLOOR = 0.3  # of the mean spread, added to every one
RIDGE = 0.1  # of the head's first fit, as a share of the features
HEAD_RATE = 3.0  # the head's learning rate over the network's

Answers = Float[Tensor, "images answers"]
Weights = Float[Tensor, " weights"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinates:
    """From embeddings of the black box to what a student answers, and back to attribute logits.

    The first `groups` answers are the attribute logits less their mean, in units of `scale`; the
    others are the embedding's coordinates, each over its spread on clean images.
    """

    centre: Float[Tensor, " dim"]
    projection: Float[Tensor, "dim answers"]
    offset: Float[Tensor, " groups"]
    scale: float

    @property
    def groups(self) -> int:
        return len(self.offset)

    def answers(self, embeddings: Embeddings) -> Answers:
        """Return the coordinates of these embeddings."""
        return (embeddings - self.centre) @ self.projection

    def logits(self, answers: Answers) -> Float[Tensor, "images groups"]:
        """Return the attribute logits that these answers stand for, less their mean."""
        return answers[:, : self.groups] * self.scale + self.offset

    @property
    def importance(self) -> Float[Tensor, " answers"]:
        """How much an error of each answer weighs: the logits together as much as 2 embeddings."""
        dimensions = self.projection.shape[1] - self.groups
        shares = torch.full((self.projection.shape[1],), 0.5 / dimensions)
        shares[: self.groups] = 1 / self.groups
        return shares


def embedding_spread(clean: Embeddings, floor: float = 0.1) -> Float[Tensor, " dim"]:
    """Return each coordinate's standard deviation on clean images, plus `floor` of their mean; never 0.

    What hardly varies on clean images may vary much under a noise: it is not to be blown up.
    """
    deviation = clean.std(0)
    added = floor * deviation.mean()
    return deviation + (added if added > 0 else 1.0)


def coordinates(clean: Embeddings, attribute_head: LinearHeads) -> Coordinates:
    """Return the coordinates that `clean` embeddings and the attribute head g of the study span."""
    centre = clean.mean(0)
    weight, bias = attribute_head.weight[0], attribute_head.bias[0]
    weight = weight - weight.mean(1, keepdim=True)
    scale = float(((clean - centre) @ weight).std())
    spread = embedding_spread(clean, SPREAD_FLOOR)
    projection = torch.cat((weight / scale, torch.diag(1 / spread)), dim=1)
    offset = centre @ weight + bias - bias.mean()
    return Coordinates(centre=centre, projection=projection, offset=offset, scale=scale)


class _Answering(nn.Module):
    """Pixels to answers: the network's embedding through a linear head."""

    def __init__(self, network: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.network = network
        self.head = head

    def forward(self, pixels: Pixels) -> Answers:
        answers: Answers = self.head(self.network(pixels))
        return answers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Student:
    """A student before its first lesson; its weights travel in the learner's state, as one vector."""

    module: nn.Module
    taught: tuple[str, ...]  # names of the parameters that `weights` holds, in this order
    weights: Weights
    rates: Weights  # learning rate of each weight over the network's
    coordinates: Coordinates
    clean_answers: Answers  # of the training images, un-edited
    passes: int  # through the open network for the head's first fit
    fingerprint: str

    def answer(self, weights: Weights, pixels: Pixels) -> Answers:
        """Return what a student of these weights answers; differentiable in both."""
        parameters = [self.module.get_parameter(name) for name in self.taught]
        # Split, not sliced: the gradient of a slice is a vector of all weights, one for each of them.
        parts = torch.split(weights, [parameter.numel() for parameter in parameters])
        named = {
            name: _unflatten(part, parameter)
            for name, part, parameter in zip(self.taught, parts, parameters, strict=True)
        }
        answers: Answers = functional_call(self.module, named, (pixels,))
        return answers


def _flatten(parameter: Tensor) -> Tensor:
    """Return the weights of one parameter in the order that they lie in memory."""
    return (parameter.permute(0, 2, 3, 1) if _channels_last(parameter) else parameter).flatten()


def _unflatten(weights: Tensor, like: Tensor) -> Tensor:
    """Return what `_flatten` flattened, laid out as `like`: any other makes convolutions 1.7 times slower."""
    if _channels_last(like):
        outputs, inputs, height, width = like.shape
        return weights.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
    return weights.view_as(like)


def _channels_last(parameter: Tensor) -> bool:
    return parameter.dim() == 4 and parameter.stride(1) == 1


def make_student(
    encoder: Teachable, features: Embeddings, clean: Embeddings, attribute_head: LinearHeads
) -> Student:
    """Return a student from an open encoder.

    `features` are the open encoder's embeddings of the training images and `clean` the black box's:
    both known before any noise is learnt. The head starts as the ridge fit of one to the other.
    """
    space = coordinates(clean, attribute_head)
    answers = space.answers(clean)
    mean = features.mean(0)
    deviation = embedding_spread(features)
    standard = (features - mean) / deviation
    gram = standard @ standard.T + RIDGE * features.shape[1] * torch.eye(len(features))
    weight = (standard.T @ torch.linalg.solve(gram, answers)) / deviation[:, None]
    head = nn.Linear(*weight.shape)
    with torch.no_grad():
        head.weight.copy_(weight.T)
        head.bias.copy_(-(mean @ weight))
    module = _Answering(encoder.network_copy(), head)
    named = _taught_parameters(module)
    flat = torch.cat([_flatten(parameter.detach()) for parameter in named.values()])
    rates = torch.cat(
        [
            torch.full((parameter.numel(),), HEAD_RATE if name.startswith("head.") else 1.0)
            for name, parameter in named.items()
        ]
    )
    return Student(
        module=module.requires_grad_(False),
        taught=tuple(named),
        weights=flat,
        rates=rates,
        coordinates=space,
        clean_answers=answers,
        passes=len(features),
        fingerprint=encoder.fingerprint,
    )


def _taught_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return all parameters but the first ones, up to `FROZEN_SHARE` of the weights."""
    most = FROZEN_SHARE * sum(parameter.numel() for parameter in module.parameters())
    seen, taught = 0, {}
    for name, parameter in module.named_parameters():
        seen += parameter.numel()
        if seen > most:
            taught[name] = parameter
    return taught
