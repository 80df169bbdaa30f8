"""Does the conversation support an argument's value, or did the router make it up?

A value that stands nowhere in the messages may still be right: a computed date, a drafted text.
So this is evidence for a confidence and no verdict. How values are looked up, `distill.mentions`
says.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from distill.mentions import Mentions
from distill.schemas import Place
from distill.types import Context, ToolCall, ToolSpec

UNSUPPORTED = 0.5
"""What each unsupported value multiplies a decision's confidence by. It ranks decisions that differ
in nothing else; how often such a decision is right is for a calibration to say."""


def unsupported(call: ToolCall, spec: ToolSpec, context: Context) -> list[str]:
    """The places of the call's values that no message supports, such as `to[0].address`.

    Strings and numbers are looked at. What the schema lists (`enum`, `const`) or proposes
    (`default`) needs no support.
    """
    evidence = Mentions.of(context.messages)
    leaves = _leaves(call.arguments or {}, Place.of(spec.parameters), "")
    return [
        path
        for path, value, place in leaves
        if not _listed(value, place) and not evidence.supports(value)
    ]


def _leaves(value: Any, place: Place, path: str) -> Iterator[tuple[str, str | float, Place]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, place.key(name), f"{path}.{name}" if path else name)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _leaves(item, place.item(i), f"{path}[{i}]")
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield path, value, place


def _listed(value: str | float, place: Place) -> bool:
    proposed = [part[key] for part in place.parts for key in ("const", "default") if key in part]
    lists = (part.get("enum") for part in place.parts)
    listed = [item for items in lists if isinstance(items, list) for item in items]
    return any(value == item for item in proposed + listed if not isinstance(item, bool))
