"""A tool's parameters as questions, and values as they stand in text: the words side of filling.

A **slot** is one parameter to fill. The question of a tool names its slots a line each, with the
options that a slot's value may be chosen from; every other value is a stretch of the evidence,
read back by the parameter's type. What no single stretch or option can be (objects, nested lists,
alternatives, references) is a slot that cannot be filled.

This module knows nothing of tokenizers or models: places are characters.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from distill.chat import canonical
from distill.render import cut
from distill.routers.words import in_words
from distill.types import ToolSpec

Span = tuple[int, int]
"""Where characters begin and end."""

Constants = Mapping[str, Mapping[str, Sequence[Any]]]
"""Tool -> parameter -> values that the teacher gives though they stand nowhere in the text."""

MOST_SLOTS = 24
"""Parameters of the largest tool that is filled: all stand in one question."""
MOST_OPTIONS = 24
"""Options of a slot; an enum has its first ones."""
OPTION_CHARS = 60
"""Characters of the longest option."""

_OCCURRENCES = 32
_SCALARS = (str, int, float, bool)
_INTEGER = re.compile(r"[+-]?\d{1,15}")
_NUMBER = re.compile(r"[+-]?\d{1,15}(?:\.\d{1,15})?")


class NoValueError(Exception):
    """A stretch of text that is no value of the slot."""


@dataclass(frozen=True)
class Slot:
    """One parameter: what its value may be, and how the question words it.

    `kind` is what a stretch of text is read as, None where no stretch is a value. `listed` says
    that the value is a list, of which one item can be filled. `options` are whole values.
    """

    name: str
    description: str
    kind: Literal["string", "integer", "number"] | None
    listed: bool
    required: bool
    options: tuple[Any, ...]

    def read(self, text: str, start: int, end: int) -> Any:
        """The value that a stretch of text stands for; a quoted one is read as JSON.

        Raises:
            NoValueError: it is none, like a word for an integer, or more than a line.
        """
        value = self._item(text[start:end], text[max(0, start - 1) : end + 1])
        return [value] if self.listed else value

    def _item(self, stretch: str, around: str) -> Any:
        if not stretch or "\n" in stretch or self.kind is None:
            raise NoValueError
        if self.kind == "string":
            return _unquoted(around) if "\\" in stretch and around == f'"{stretch}"' else stretch
        number = (_INTEGER if self.kind == "integer" else _NUMBER).fullmatch(stretch)
        if number is None:
            raise NoValueError
        return float(stretch) if "." in stretch else int(stretch)

    def find(self, value: Any, text: str) -> Iterator[Span]:
        """Every stretch of `text` that reads as exactly `value`, up to a bound."""
        (item, *more) = value if self.listed and isinstance(value, list) and value else (value,)
        if more or isinstance(value, list) != self.listed:
            return
        if self.kind == "string" and isinstance(item, str):
            stretches = _occurrences(item, text)
        elif self.kind in ("integer", "number") and not isinstance(item, bool):
            stretches = (match.span() for match in _NUMBER.finditer(text))
        else:
            return
        wanted = canonical(value)
        for start, end in stretches:
            try:
                if canonical(self.read(text, start, end)) == wanted:
                    yield start, end
            except NoValueError:
                continue

    def option(self, value: Any) -> int | None:
        """The index of the option that is this value."""
        wanted = canonical(value)
        return next((i for i, o in enumerate(self.options) if canonical(o) == wanted), None)


def _occurrences(value: str, text: str) -> Iterator[Span]:
    """Where `value` stands as it is, or as JSON writes it."""
    if not value:
        return
    escaped = orjson.dumps(value).decode()[1:-1]
    for form in dict.fromkeys((value, escaped)):
        at = text.find(form)
        for _ in range(_OCCURRENCES):
            if at < 0:
                break
            yield at, at + len(form)
            at = text.find(form, at + 1)


def _unquoted(text: str) -> str:
    try:
        return str(orjson.loads(text))
    except orjson.JSONDecodeError:
        return text[1:-1]


def slots(tool: ToolSpec, constants: Constants) -> tuple[Slot, ...] | None:
    """The tool's parameters in the schema's order; None where their schema is not plain enough."""
    properties = tool.parameters.get("properties") or {}
    required = tool.parameters.get("required") or []
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        return None
    if len(properties) > MOST_SLOTS:
        return None
    known = constants.get(tool.name, {})
    return tuple(
        _slot(name, schema, name in required, known.get(name, ()))
        for name, schema in properties.items()
    )


def _slot(name: str, schema: Any, required: bool, constants: Sequence[Any]) -> Slot:
    schema = _not_null(schema) if isinstance(schema, dict) else {}
    listed = schema.get("type") == "array"
    item = (
        _not_null(schema["items"]) if listed and isinstance(schema.get("items"), dict) else schema
    )
    description = str(schema.get("description") or item.get("description") or "")
    kind = item.get("type") if not listed or item is not schema else None
    choices = _choices(item)
    if choices is None and kind not in ("string", "integer", "number"):
        return Slot(name, description, None, False, required, ())
    options = [[c] if listed else c for c in choices or ()] or list(constants)
    return Slot(
        name,
        description,
        None if choices is not None else kind,
        listed,
        required,
        tuple(o for o in options if len(option_text(o)) <= OPTION_CHARS)[:MOST_OPTIONS],
    )


def _choices(schema: Mapping[str, Any]) -> list[Any] | None:
    """The values that the schema names one by one; None where it does not."""
    if "const" in schema:
        values = [schema["const"]]
    elif isinstance(schema.get("enum"), list):
        values = schema["enum"]
    elif schema.get("type") == "boolean":
        values = [True, False]
    else:
        return None
    return [value for value in values if isinstance(value, _SCALARS) and value != ""]


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of the values that are not null, where null is the one alternative."""
    branches = schema.get("anyOf")
    if isinstance(branches, list):
        rest = [b for b in branches if not (isinstance(b, dict) and b.get("type") == "null")]
        if len(rest) == 1 < len(branches) and isinstance(rest[0], dict):
            return {key: v for key, v in schema.items() if key != "anyOf"} | rest[0]
    kinds = schema.get("type")
    if isinstance(kinds, list):
        rest = [kind for kind in kinds if kind != "null"]
        return schema | {"type": rest[0] if len(rest) == 1 else None}
    return schema


def option_text(value: Any) -> str:
    """How the question words an option."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) else orjson.dumps(value).decode()


@dataclass
class Question:
    """A tool in words: `text`, and where in it each slot's name and options stand."""

    text: str = ""
    names: list[Span] = field(default_factory=list)
    options: list[list[Span]] = field(default_factory=list)

    def _write(self, text: str) -> Span:
        start = len(self.text)
        self.text += text.replace("\n", " ")
        return start, len(self.text)


def question(tool: ToolSpec, asked: Sequence[Slot]) -> Question:
    """The tool's name and description, then a line for each slot:
    `name (type, required): description | option | option`."""
    made = Question()
    made._write(f"{cut(in_words(tool.name), 60)}: {cut(tool.description, 120)}")
    for slot in asked:
        made.text += "\n"
        kind = ", ".join(
            [slot.kind or "choice", *["list"] * slot.listed, *["required"] * slot.required]
        )
        # The kind belongs to the name: some tokenizers make nothing of a name in an odd script.
        made.names.append(made._write(f"{cut(in_words(slot.name), 60)} ({kind})"))
        made._write(f": {cut(slot.description, 100)}")
        places = []
        for option in slot.options:
            made._write(" | ")
            places.append(made._write(option_text(option)))
        made.options.append(places)
    made.text += "\n"
    return made
