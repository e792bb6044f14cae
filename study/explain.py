"""From a validation error to one line: the place, the setting, its value, and what is expected."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from study.documents import Document
from study.documents import Path as DocumentPath
from study.ranges import PARAMETERS


class InconsistentError(ValueError):
    """What does not fit together in a configuration: for each problem its path and what is wrong."""

    def __init__(self, items: Sequence[tuple[DocumentPath, str]]) -> None:
        super().__init__("; ".join(message for _, message in items))
        self.items = tuple(items)


def explain(error: ValidationError, document: Document, model: type[BaseModel]) -> list[str]:
    """Return one line for each problem that validating `document` as `model` met."""
    return [line for detail in error.errors() for line in _lines(detail, document, model)]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known name closest to `name`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def expected(detail: ErrorDetails) -> str:
    """Return what a validation error says was expected, in our words."""
    message = detail["msg"].removeprefix("Value error, ")
    message = re.sub(r"^Input should be ", "expected ", message)
    return message[:1].lower() + message[1:]


def _lines(detail: ErrorDetails, document: Document, model: type[BaseModel]) -> Iterator[str]:
    """Yield one line for each problem of a validation error, with its place."""
    inner = detail.get("ctx", {}).get("error")
    if isinstance(inner, InconsistentError):
        for path, message in inner.items:
            yield f"{document.place(path)}: {message}"
        return
    path = _document_path(detail, document.value)
    dotted = ".".join(str(key) for key in path) or "the space"
    place = document.place(path)
    match detail["type"]:
        case "extra_forbidden":
            siblings = _siblings(detail["loc"], model)
            yield f"{place}: unknown key {dotted!r}{nearest(str(path[-1]), siblings)}"
        case "missing":
            yield f"{place}: {dotted} is missing; add it"
        case "union_tag_not_found":
            yield f"{place}: {dotted}.kind is missing; add it"
        case _:
            limits = PARAMETERS.get(str(path[-1])) if path and path[0] == "method" else None
            valid = f"; valid: {limits}" if limits and inner is None else ""
            value = detail["input"]
            shown = f" is {value!r}" if not isinstance(value, dict | BaseModel) else ""
            yield f"{place}: {dotted}{shown} ({expected(detail)}{valid})"


def _document_path(detail: ErrorDetails, value: Any) -> DocumentPath:
    """Return the error's location without the tags that unions put into it."""
    path: list[str | int] = []
    for position, key in enumerate(detail["loc"]):
        last_and_missing = detail["type"] == "missing" and position == len(detail["loc"]) - 1
        match value, key:
            case dict(), str() if key in value:
                value = value[key]
            case tuple(), int() if key < len(value):
                value = value[key]
            case _ if not last_and_missing:
                continue
        path.append(key)
    return tuple(path)


def _siblings(location: tuple[int | str, ...], model: type[BaseModel]) -> set[str]:
    """Return the field names that could have stood where an unknown key stands."""
    models: list[type[BaseModel]] = [model]
    for key in location[:-1]:
        fields = [m.model_fields[key] for m in models if key in m.model_fields]
        if fields:
            models = [model for field in fields for model in _models(field.annotation)]
    return {name for model in models for name in model.model_fields}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from _models(argument)
