"""Hypothesis strategies for tools whose schemas come with values that are valid under them."""

from dataclasses import dataclass
from typing import Any

from chat_values import NASTY, names, texts, values
from hypothesis import strategies as st

from distill.types import Decision, ToolCall, ToolSpec


@dataclass(frozen=True)
class Typed:
    """A schema, and a strategy for values of it."""

    schema: dict[str, Any]
    values: st.SearchStrategy[Any]


# What the schema itself spells has no tag in it: only a label's own strings are escaped.
_PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="\x7f<"), max_size=6)
_KEYS = _PLAIN | st.sampled_from(['"', "\\", "größe", "a b", "format", "enum", "$ref", "type"])

_leaves = st.one_of(
    st.just(Typed({"type": "string"}, texts | st.sampled_from(NASTY))),
    st.just(Typed({"type": "string", "format": "date"}, texts)),
    st.just(
        Typed(
            {"type": "string", "minLength": 1, "maxLength": 3},
            st.text("a<é", min_size=1, max_size=3),
        )
    ),
    st.just(Typed({"type": "string", "pattern": "^[a-z]+-[0-9]{1,3}$"}, st.just("abc-12"))),
    st.just(Typed({"type": "integer"}, st.integers(-(2**63), 2**63 - 1))),
    st.just(Typed({"type": "integer", "minimum": -5, "maximum": 300}, st.integers(-5, 300))),
    st.just(Typed({"type": "number"}, st.floats(allow_nan=False, allow_infinity=False))),
    st.just(Typed({"type": "number", "minimum": 0.5}, st.sampled_from([0.5, 2, 7.25]))),
    st.just(Typed({"type": ["boolean", "null"]}, st.sampled_from([True, False, None]))),
    st.just(Typed({}, values)),
    st.just(Typed({"$ref": "#/$defs/node"}, st.just({"next": {"next": {}}}))),
    _PLAIN.map(lambda text: Typed({"const": text}, st.just(text))),
    st.lists(_PLAIN | st.integers(0, 9), min_size=1, max_size=3).map(
        lambda items: Typed({"enum": items}, st.sampled_from(items))
    ),
)
_NODE = {
    "type": "object",
    "properties": {"next": {"$ref": "#/$defs/node"}},
    "additionalProperties": False,
}


def _array(item: Typed) -> Typed:
    schema = {"type": "array", "items": item.schema, "maxItems": 2}
    return Typed(schema, st.lists(item.values, max_size=2))


def _either(pair: tuple[Typed, Typed]) -> Typed:
    one, other = pair
    return Typed({"anyOf": [one.schema, other.schema]}, one.values | other.values)


def _object(drawn: tuple[dict[str, Typed], bool, bool]) -> Typed:
    parts, demanding, closed = drawn
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: part.schema for name, part in parts.items()},
        "required": list(parts)[:1] if demanding else [],
    }
    if closed:
        schema["additionalProperties"] = False
    needed = {name: parts[name].values for name in schema["required"]}
    optional = {name: part.values for name, part in parts.items() if name not in needed}
    found = st.fixed_dictionaries(needed, optional=optional)
    # Keys in any order: it is `completion` that gives them the schema's.
    return Typed(schema, found.flatmap(lambda v: st.permutations(list(v.items())).map(dict)))


def _objects(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    parts = st.dictionaries(_KEYS, inner, max_size=3)
    return st.tuples(parts, st.booleans(), st.booleans()).map(_object)


_any = st.recursive(
    _leaves,
    lambda inner: inner.map(_array) | st.tuples(inner, inner).map(_either) | _objects(inner),
    max_leaves=4,
)


@dataclass(frozen=True)
class Labelled:
    """Tools on offer, and a valid decision among them."""

    tools: tuple[ToolSpec, ...]
    label: Decision


@st.composite
def labelled(draw: st.DrawFn, min_calls: int = 0) -> Labelled:
    typed = draw(st.dictionaries(names, _objects(_any), min_size=min(1, min_calls), max_size=3))
    tools = tuple(
        ToolSpec(name, "", part.schema | {"$defs": {"node": _NODE}}) for name, part in typed.items()
    )
    chosen = st.lists(st.sampled_from(sorted(typed)), min_size=min_calls, max_size=3)
    calls = tuple(
        ToolCall(name, draw(typed[name].values)) for name in (draw(chosen) if typed else [])
    )
    return Labelled(tools, Decision("call" if calls else "reply", calls))
