"""Which parts of a JSON Schema describe what stands at a place of a value.

Nothing is validated here, which is jsonschema's work, and no other document is read. A schema is
foreign input: a part that has not the form which the standard gives it counts as not there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

_MOST = 1000
"""Subschemas looked at for one place: more than any real schema combines there."""


@dataclass(frozen=True)
class Place:
    """A place in a value, with the subschemas that may describe it: all branches of `anyOf`."""

    root: Any
    parts: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, schema: Any) -> "Place":
        """The place of the whole value."""
        return cls(schema, _combined([schema], schema))

    @property
    def keys(self) -> list[str]:
        """The names that an object has here, in the schema's order: properties, then others that
        are required."""
        listed = [name for part in self.parts for name in _mapping(part.get("properties"))]
        required = [name for part in self.parts for name in _sequence(part.get("required"))]
        return list(dict.fromkeys(name for name in listed + required if isinstance(name, str)))

    def key(self, name: str) -> "Place":
        """The place of a property's value."""
        return self._inside(_at_key(part, name) for part in self.parts)

    def item(self, index: int) -> "Place":
        """The place of a list's item."""
        return self._inside(_at_item(part, index) for part in self.parts)

    def _inside(self, schemas: Iterator[Any]) -> "Place":
        return Place(self.root, _combined(list(schemas), self.root))


def _at_key(part: Mapping[str, Any], name: str) -> Any:
    properties = _mapping(part.get("properties"))
    return properties[name] if name in properties else part.get("additionalProperties")


def _at_item(part: Mapping[str, Any], index: int) -> Any:
    items = part.get("items")
    # Before draft 2020-12, `items` was also what `prefixItems` is now.
    prefix = _sequence(part.get("prefixItems")) or _sequence(items)
    return prefix[index] if index < len(prefix) else items


def _combined(schemas: Sequence[Any], root: Any) -> tuple[Mapping[str, Any], ...]:
    """The schemas and those they combine by reference or choice, each once, in their order."""
    found: dict[int, Mapping[str, Any]] = {}
    waiting = list(reversed(schemas))
    while waiting and len(found) < _MOST:
        schema = waiting.pop()
        if not isinstance(schema, Mapping) or id(schema) in found:
            continue
        found[id(schema)] = schema
        choices = [
            choice
            for keyword in ("allOf", "anyOf", "oneOf")
            for choice in _sequence(schema.get(keyword))
        ]
        waiting.extend(reversed([_referred(schema.get("$ref"), root), *choices]))
    return tuple(found.values())


def _referred(reference: Any, root: Any) -> Any:
    """What a JSON pointer into the root refers to (RFC 6901), None where that is nothing."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    node = root
    for step in unquote(reference[1:]).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, Mapping) and name in node:
            node = node[name]
        elif isinstance(node, list) and name.isdecimal() and int(name) < len(node):
            node = node[int(name)]
        else:
            return None
    return node


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()
