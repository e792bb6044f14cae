"""The searched parameters of a study: ranges and lists of choices, checked against the method."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from study.documents import Path as DocumentPath
from study.explain import expected, nearest
from study.ranges import PARAMETERS, complaint
from study.sections import MethodSection, Section

Scalar = bool | int | float | str | None


class Between(Section):
    """A searched number: uniform from `low` to `high`, or in the logarithm."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    low: float
    high: float
    log: bool = False
    integer: Annotated[bool, Field(alias="int")] = False  # implied by integer parameters

    @model_validator(mode="after")
    def _ordered(self) -> Between:
        if not self.low < self.high:
            raise ValueError(f"low is {self.low:g} and high is {self.high:g}; low must be lower")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low:g}; a log scale needs low > 0")
        return self


class Choices(Section):
    """A searched value out of a list."""

    choices: Annotated[tuple[Scalar, ...], Field(min_length=1, strict=False)]

    @model_validator(mode="after")
    def _distinct(self) -> Choices:
        keys = [(type(choice), choice) for choice in self.choices]
        if len(set(keys)) < len(keys):
            raise ValueError(f"choices repeat a value: {list(self.choices)}")
        return self


def _search_kind(value: Any) -> str:
    listed = isinstance(value, Choices) or (isinstance(value, dict) and "choices" in value)
    return "choices" if listed else "between"


Searched = Annotated[
    Annotated[Between, Tag("between")] | Annotated[Choices, Tag("choices")],
    Discriminator(_search_kind),
]


_HINTS = typing.get_type_hints(MethodSection)


def search_problems(search: Mapping[str, Searched]) -> Iterator[tuple[DocumentPath, str]]:
    """Yield the path and complaint of every searched parameter the method would refuse."""
    if not search:
        yield ("search",), "search is empty (expected at least one parameter of the method)"
    for name, searched in search.items():
        if name not in MethodSection.model_fields:
            hint = nearest(name, MethodSection.model_fields)
            yield ("search", name), f"search.{name} is not a parameter of the method{hint}"
            continue
        values: dict[str | int, Any]
        match searched:
            case Between(low=low, high=high):
                values = {"low": low, "high": high}
                if not is_number(name):
                    yield (
                        ("search", name),
                        f"search.{name} is not a number; list its choices instead",
                    )
                    continue
                if is_integer(name) or searched.integer:
                    values = {key: int(v) if v == int(v) else v for key, v in values.items()}
            case Choices(choices=choices):
                values = dict(enumerate(choices))
        for key, value in values.items():
            wrong = _value_problem(name, value, _HINTS[name])
            if wrong:
                yield ("search", name, key), f"search.{name}.{key} is {value!r} ({wrong})"


def _value_problem(name: str, value: Any, hint: Any) -> str | None:
    try:
        TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        limits = f"; valid: {PARAMETERS[name]}" if name in PARAMETERS else ""
        return expected(error.errors()[-1]) + limits
    return complaint(name, value)


def is_number(name: str) -> bool:
    """Return whether parameter `name` of the method takes numbers."""
    hint = _HINTS[name]
    return any(option in (int, float) for option in typing.get_args(hint) or (hint,))


def is_integer(name: str) -> bool:
    """Return whether parameter `name` of the method takes whole numbers only."""
    return _HINTS[name] is int
