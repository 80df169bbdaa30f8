"""Values that are never written: those of keys that a config names.

A value is looked for at any depth, and within every text that is JSON: calls' arguments, tools'
results, JSON in such JSON. Text that begins like JSON and is none (cut off, or in another language)
is left out whole where it names such a key, and so are arguments that cannot be read. The names of
tools, their definitions and a request's `response_format` say nothing of anybody, and stay.

The limits: a name or a number in the middle of a sentence is not found, and neither is JSON that
follows other words.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from distill.types import Decision

REDACTED = "[redacted]"

_DEFINITIONS = {"tools", "functions", "tool_choice", "function_call", "response_format"}


class Redaction:
    """Args: names: keys, in whatever case, whose values are not to be written."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name.casefold() for name in names)
        spellings = {form for name in names for form in (name, json.dumps(name)[1:-1])}
        alternatives = "|".join(map(re.escape, sorted(spellings)))
        self._mention = re.compile(rf"""(?<!\w)(?:{alternatives})\\*["']?\s*[:=]""", re.IGNORECASE)

    def request(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """A request's JSON without the values."""
        definitions = _DEFINITIONS - self._names
        rest = {key: item for key, item in value.items() if key not in definitions}
        redacted = self.value(rest)
        # In the order of the original.
        return {key: redacted.get(key, item) for key, item in value.items()}

    def value(self, value: Any) -> Any:
        """Any JSON value, an answer for instance, without the values."""
        return _Walk(self._names, self._mention).value(value) if self._names else value

    def decision(self, decision: Decision) -> Decision:
        """A router's decision without the values in its arguments."""
        if "arguments" in self._names:
            calls = tuple(replace(call, arguments=None) for call in decision.calls)
        else:
            calls = tuple(
                replace(call, arguments=self.value(call.arguments)) for call in decision.calls
            )
        return replace(decision, calls=calls)


class _Pairs(list[tuple[str, Any]]):
    """An object as its text has it: a key that comes twice is here twice."""


class _Walk:
    """Goes through one value, and knows how often it took something out."""

    def __init__(self, names: frozenset[str], mention: re.Pattern[str]) -> None:
        self._names, self._mention = names, mention
        self._found = 0

    def value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, _Pairs):
            return self._object(value, dict(value))
        if isinstance(value, Mapping):
            return self._object(value.items(), value)
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value

    def _object(self, items: Iterable[tuple[str, Any]], whole: Mapping[str, Any]) -> dict[str, Any]:
        redacted = {}
        for key, item in items:
            if str(key).casefold() in self._names and not _is_tools_name(key, whole):
                redacted[key] = REDACTED
                self._found += 1
            elif key == "arguments" and isinstance(item, str):
                redacted[key] = self._text(item, json_only=True)
            else:
                redacted[key] = self.value(item)
        return redacted

    def _text(self, text: str, *, json_only: bool = False) -> str:
        begins = text.lstrip()[:1]
        if not begins or (begins not in '{["' and not json_only):
            return text
        before = self._found
        try:
            value = self.value(json.loads(text, object_pairs_hook=_Pairs))
        except (ValueError, RecursionError):
            if json_only or self._mention.search(text):
                self._found += 1
                return REDACTED
            return text
        # As it was spelt, where nothing is taken out.
        return text if self._found == before else json.dumps(value, ensure_ascii=False)


def _is_tools_name(key: str, whole: Mapping[str, Any]) -> bool:
    """Whether a `name` is a tool's: in a call, or of a result."""
    return key == "name" and ("arguments" in whole or whole.get("role") in ("tool", "function"))
