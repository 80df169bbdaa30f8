"""How hard an example is, by properties that a reader can check.

Some are counted, two are heuristics: which branches a request has is told by English words, and
what an argument depends on by where its value stands (`distill.routers.grounding`). It knows
nothing of routers' answers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.dataset.points import n_arguments, step
from distill.routers.grounding import unsupported
from distill.schemas import Place
from distill.types import Context, Example, Message, ToolCall, ToolSpec

KINDS = ("none", "choice", "number", "text", "nested")
"""What a call's arguments are, the least demanding first: a choice is listed by the schema (`enum`,
`const`) or a boolean, nested is a list or an object."""

_CONDITION = re.compile(r"\b(?:if|unless)\b", re.IGNORECASE)
_BRANCH = re.compile(r"\b(?:if|unless|otherwise|or else)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Difficulty:
    """The properties of an example by which accuracy is broken down (`distill.evaluation.buckets`).

    `n_tools` offered, `step` (assistant turns before this one), `n_calls` and `n_arguments` of the
    label, the latter summed over its calls: as the dataset's rows have them. The others are None
    where they were not recorded, and those of arguments where the teacher replied or left them out.
    """

    n_tools: int
    step: int
    n_calls: int
    n_arguments: int
    branches: int | None = None
    """"if", "unless", "otherwise" and "or else" in the latest user message with a condition."""
    dependent_steps: int | None = None
    """Longest chain of earlier calls, each made from a result of the one before, whose last result
    gives a value that no user or system message has."""
    argument_kind: str | None = None
    """The most demanding of `KINDS` among the arguments."""
    length: int | None = None
    """Characters of the conversation, the system prompt left out."""

    @classmethod
    def of(cls, example: Example) -> "Difficulty":
        calls, context = example.label.calls, example.context
        filled = bool(calls) and example.label.filled
        return cls(
            n_tools=len(context.tools),
            step=step(context),
            n_calls=len(calls),
            n_arguments=n_arguments(calls),
            branches=branches(context.messages),
            dependent_steps=dependent_steps(calls, context) if filled else None,
            argument_kind=argument_kind(calls, context.tools) if filled else None,
            length=sum(len(m.content or "") for m in context.messages if m.role != "system"),
        )

    @property
    def complexity(self) -> int | None:
        """How many of `COMPLEX` it shows; None where that was not recorded."""
        if self.branches is None or self.length is None:
            return None
        return sum(
            (
                self.n_tools > 10,
                self.n_calls > 1,
                self.n_arguments > 2,
                bool(self.dependent_steps),
                self.branches > 0,
                self.length > 2000,
            )
        )


COMPLEX = (
    "more than 10 tools on offer",
    "more than one call",
    "more than two arguments",
    "a value taken from an earlier result",
    "a condition in the request",
    "more than 2,000 characters of conversation",
)
"""What adds a point of complexity each."""


def branches(messages: Sequence[Message]) -> int:
    """How many ways the latest user message names, by its words; 0 without a condition."""
    latest = next((m.content or "" for m in reversed(messages) if m.role == "user"), "")
    return len(_BRANCH.findall(latest)) if _CONDITION.search(latest) else 0


def argument_kind(calls: Sequence[ToolCall], tools: Sequence[ToolSpec]) -> str:
    """The most demanding of `KINDS` among the calls' arguments."""
    specs = _specs(tools)
    found = [
        _kind(value, Place.of(_spec(specs, call).parameters).key(name))
        for call in calls
        for name, value in (call.arguments or {}).items()
    ]
    return max(found, key=KINDS.index, default="none")


def _kind(value: Any, place: Place) -> str:
    if isinstance(value, bool) or any("enum" in part or "const" in part for part in place.parts):
        return "choice"
    if isinstance(value, int | float):
        return "number"
    return "nested" if isinstance(value, list | tuple | Mapping) else "text"


def dependent_steps(calls: Sequence[ToolCall], context: Context) -> int:
    """How many earlier calls must have been made, one after the other, for these arguments."""
    specs = _specs(context.tools)
    words = tuple(m for m in context.messages if m.role in ("user", "system"))
    turns = _turns(context.messages)
    known: dict[int, int] = {}

    def depth(calls: Sequence[ToolCall], before: int) -> int:
        """Of calls that are made when `before` turns with calls have been."""
        sources = set()
        for call in calls:
            spec = _spec(specs, call)
            unsaid = set(unsupported(call, spec, Context(words, ())))
            for i in range(before if unsaid else 0):
                if unsaid - set(unsupported(call, spec, Context(turns[i][1], ()))):
                    sources.add(i)
        return max((1 + of(i) for i in sources), default=0)

    def of(i: int) -> int:
        if i not in known:
            known[i] = depth(turns[i][0], i)
        return known[i]

    return depth(calls, len(turns))


def _turns(
    messages: Sequence[Message],
) -> list[tuple[tuple[ToolCall, ...], tuple[Message, ...]]]:
    """The calls of each assistant message that has some, with the results that follow it."""
    turns: list[tuple[tuple[ToolCall, ...], tuple[Message, ...]]] = []
    for message in messages:
        if message.calls:
            turns.append((message.calls, ()))
        elif message.role == "tool" and turns:
            calls, results = turns[-1]
            turns[-1] = calls, (*results, message)
    return turns


def _specs(tools: Sequence[ToolSpec]) -> dict[str, ToolSpec]:
    return {tool.name: tool for tool in tools}


def _spec(specs: Mapping[str, ToolSpec], call: ToolCall) -> ToolSpec:
    return specs.get(call.name, ToolSpec(call.name))
