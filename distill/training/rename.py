"""Meaningless names for an example's functions and parameters, everywhere at once.

A model that reads names first learns them by heart, and falls for new tools that are named alike
or misleadingly. Where names say nothing, only descriptions are left to read: function masking as
in Hammer (Lin et al. 2024, arXiv:2410.04587). Names change in tool specifications, earlier calls,
tool messages and the label, each to the same new one; what people or descriptions say of them in
words stays. This module knows nothing of training.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

from distill.types import Context, Decision, Example, Message, ToolCall, ToolSpec

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


def renamed(example: Example, luck: Random) -> Example:
    """The same example under new names: of all tools offered or called, and their parameters.

    Only a schema's own properties are parameters; what is nested in them keeps its names.
    """
    context, label = example.context, example.label
    calls = [*(call for m in context.messages for call in m.calls), *label.calls]
    names = [tool.name for tool in context.tools] + [call.name for call in calls]
    names += [m.name for m in context.messages if m.role == "tool" and m.name is not None]
    functions = _new(names, luck)
    keys = [key for tool in context.tools for key in tool.parameters.get("properties") or {}]
    keys += [key for call in calls for key in call.arguments or {}]
    parameters = _new(keys, luck)

    def call(old: ToolCall) -> ToolCall:
        arguments = None if old.arguments is None else _renamed_keys(old.arguments, parameters)
        return replace(old, name=functions[old.name], arguments=arguments)

    def message(old: Message) -> Message:
        name = functions.get(old.name, old.name) if old.name is not None else None
        return replace(old, calls=tuple(map(call, old.calls)), name=name)

    def tool(old: ToolSpec) -> ToolSpec:
        return replace(
            old, name=functions[old.name], parameters=_schema(old.parameters, parameters)
        )

    return replace(
        example,
        context=Context(tuple(map(message, context.messages)), tuple(map(tool, context.tools))),
        label=Decision(label.action, tuple(map(call, label.calls))),
    )


def _new(names: Iterable[str], luck: Random) -> dict[str, str]:
    """A made-up name for each distinct one; no two alike, and none that was there before."""
    old = dict.fromkeys(names)
    made: dict[str, str] = {}
    taken = set(old)
    for name in old:
        while (new := f"{_word(luck)}_{_word(luck)}") in taken:
            pass
        taken.add(new)
        made[name] = new
    return made


def _word(luck: Random) -> str:
    return "".join(
        luck.choice(_CONSONANTS) + luck.choice(_VOWELS) for _ in range(luck.randint(2, 3))
    )


def _renamed_keys(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names[key]: value for key, value in values.items()}


def _schema(schema: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The schema with its properties renamed, where they are defined and where required."""
    made = dict(schema)
    if properties := schema.get("properties"):
        made["properties"] = _renamed_keys(properties, names)
    if required := schema.get("required"):
        made["required"] = [names.get(name, name) for name in required]
    return made
