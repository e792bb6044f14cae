"""YAML as we accept it: plain data, every value with its line and column, nothing that acts.

Scalars follow YAML 1.2 (`1e-4` is a number, `no` is text). Anchors, aliases, tags and duplicate
keys are refused, so a document can neither call Python nor grow while it is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from ude_core.errors import UserError

Path = tuple[str | int, ...]

_BYTES = 256 * 1024
_DEPTH = 24
_DIGITS = 40
_CORE = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Document:
    """What a document says (mappings, tuples and scalars), and where each value stands in it."""

    source: str
    value: Any
    places: Mapping[Path, str]  # "file:line:column", or the override that set it

    def place(self, path: Path) -> str:
        """Return where `path` stands, or the nearest value around it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.source


class _Loader(yaml.SafeLoader):
    """Composes nodes; refuses aliases and deep nesting before they cost anything."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise self._refusal("aliases are not accepted")
        self.depth += 1
        if self.depth > _DEPTH:
            raise self._refusal("nested too deeply")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _refusal(self, problem: str) -> yaml.MarkedYAMLError:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def _resolve(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(_CORE + tag, re.compile(pattern), list(first))


_resolve("null", r"(?:~|null|Null|NULL|)\Z", "~nN\0")
_Loader.yaml_implicit_resolvers.setdefault("", []).append(
    (_CORE + "null", re.compile(r"\Z"))  # an empty value
)
_resolve("bool", r"(?:true|True|TRUE|false|False|FALSE)\Z", "tTfF")
_resolve("int", r"(?:[-+]?[0-9]+|0x[0-9a-fA-F]+)\Z", "-+0123456789")
_resolve(
    "float",
    r"(?:[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)"
    r"|\.(?:nan|NaN|NAN))\Z",
    "-+.0123456789",
)


def parse(text: str, source: str) -> Document:
    """Return the one document of `text`. Raises UserError naming `source:line:column`."""
    if len(text.encode()) > _BYTES:
        raise UserError(f"{source}: larger than {_BYTES // 1024} KiB; a search space is small")
    try:
        node = _compose(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = _at(source, mark) if mark else source
        raise UserError(f"{place}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{source}: {' '.join(str(error).split())}") from None
    places: dict[Path, str] = {}
    value = None if node is None else _plain(node, (), source, places)
    return Document(source=source, value=value, places=places)


def _compose(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def override(document: Document, assignments: tuple[str, ...]) -> Document:
    """Return `document` with each `a.b=value` applied in turn; a value is read as YAML.

    `null` removes a key. Raises UserError where an assignment does not fit the document.
    """
    value, places = document.value, dict(document.places)
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        source = f"--set {dotted}"
        keys = tuple(dotted.strip().split("."))
        if not equals or not all(keys):
            raise UserError(f"--set {assignment!r}: expected KEY.KEY=VALUE")
        new = parse(text, source).value
        places = {path: at for path, at in places.items() if path[: len(keys)] != keys}
        places[keys] = source
        value = _assign(value, keys, new, source)
    return Document(source=document.source, value=value, places=places)


def _assign(container: Any, keys: tuple[str, ...], new: Any, source: str) -> Any:
    key, rest = keys[0], keys[1:]
    if isinstance(container, tuple):
        if not key.isdigit() or int(key) >= len(container):
            raise UserError(f"{source}: {key!r} is no position in a list of {len(container)}")
        items = list(container)
        items[int(key)] = _assign(items[int(key)], rest, new, source) if rest else new
        return tuple(items)
    if container is not None and not isinstance(container, dict):
        raise UserError(f"{source}: {key!r} lies inside {container!r}, which holds no keys")
    changed = dict(container or {})
    if rest:
        changed[key] = _assign(changed.get(key), rest, new, source)
    elif new is None:
        changed.pop(key, None)
    else:
        changed[key] = new
    return changed


def _at(source: str, mark: yaml.Mark) -> str:
    return f"{source}:{mark.line + 1}:{mark.column + 1}"


def _plain(node: yaml.Node, path: Path, source: str, places: dict[Path, str]) -> Any:
    places[path] = _at(source, node.start_mark)
    match node:
        case yaml.MappingNode(tag="tag:yaml.org,2002:map"):
            return _mapping(node, path, source, places)
        case yaml.SequenceNode(tag="tag:yaml.org,2002:seq"):
            return tuple(
                _plain(item, (*path, index), source, places)
                for index, item in enumerate(node.value)
            )
        case yaml.ScalarNode():
            return _scalar(node, source)
        case _:
            raise UserError(
                f"{_at(source, node.start_mark)}: the tag {node.tag!r} is not accepted; "
                "write plain values"
            )


def _mapping(
    node: yaml.MappingNode, path: Path, source: str, places: dict[Path, str]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = _at(source, key_node.start_mark)
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{place}: a key must be text")
        key = str(key_node.value)
        if key in found:
            raise UserError(f"{place}: the key {key!r} appears twice; keep one")
        found[key] = _plain(value_node, (*path, key), source, places)
        places[(*path, key)] = place
    return found


def _scalar(node: yaml.ScalarNode, source: str) -> Any:
    text = str(node.value)
    match node.tag.removeprefix(_CORE):
        case "str":
            return text
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int" if len(text) <= _DIGITS and re.fullmatch(r"[-+]?\d+|0x[0-9a-fA-F]+", text):
            return int(text, 16) if text.startswith("0x") else int(text)
        case "float" if len(text) <= _DIGITS and re.fullmatch(r"[-+.\deEinfaN]+", text):
            return _number(text, _at(source, node.start_mark))
        case _:
            raise UserError(
                f"{_at(source, node.start_mark)}: {text[:40]!r} with tag {node.tag!r} is not "
                "accepted; write plain values"
            )


def _number(text: str, place: str) -> float:
    try:
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        raise UserError(f"{place}: {text!r} is not a number") from None
