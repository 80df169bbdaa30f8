"""The core types: what a router is asked and what it answers.

Everything here is frozen and knows nothing of files, models or the network.
A **decision point** is one assistant turn: given the messages before it and the
offered tools (a `Context`), the assistant calls tools or replies (a `Decision`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

Role = Literal["system", "user", "assistant", "tool"]
Action = Literal["call", "reply"]

REPLY = "reply"
"""The name under which "no tool" stands among tool names in scores, labels and tables."""


@dataclass(frozen=True)
class ToolSpec:
    """A tool as an application offers it; `parameters` is a JSON Schema of type object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ToolCall:
    """A chosen tool. `arguments is None` means chosen but not filled.

    `id` pairs the call with its `tool` message; two calls that differ only in it are equal.
    """

    name: str
    arguments: Mapping[str, Any] | None = None
    id: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Message:
    """One chat message. `calls` is only used by assistants, `call_id` and `name` by tools."""

    role: Role
    content: str | None = None
    calls: tuple[ToolCall, ...] = ()
    call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Context:
    """A router's only input: the messages so far and the tools on offer."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]


@dataclass(frozen=True)
class Decision:
    """A router's answer, or the teacher's as a label.

    `confidence` is the router's belief that the decision is right as it stands: its tools, and its
    arguments where all calls have them. It is None where the router cannot say; such a decision is
    never acted on alone. `scores` maps tool names (and `REPLY`) to the belief that each is part of
    the decision, whatever its arguments.
    """

    action: Action
    calls: tuple[ToolCall, ...] = ()
    confidence: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    stage: str | None = field(default=None, compare=False)
    """Which of a cascade's routers had the last word; None of any other router."""
    error: str | None = field(default=None, compare=False)
    """Why no decision could be had, as `reason` or `reason: details`. Such a decision is a reply,
    so that the LLM is asked, and counts neither as right nor as wrong."""
    usage: "Usage | None" = field(default=None, compare=False)
    """What the request to an LLM that decided took; None where none was asked."""

    def __post_init__(self) -> None:
        if bool(self.calls) != (self.action == "call"):
            raise ValueError(f"a {self.action!r} decision with {len(self.calls)} calls")
        if self.error is not None and self.calls:
            raise ValueError("a decision that could not be had, with calls")

    @property
    def tools(self) -> tuple[str, ...]:
        """The multiset of chosen tool names, sorted; `("reply",)` when nothing is called."""
        return tuple(sorted(call.name for call in self.calls)) or (REPLY,)

    @property
    def filled(self) -> bool:
        """Whether nothing is missing: a reply, or calls that all have arguments."""
        return all(call.arguments is not None for call in self.calls)

    @property
    def tool_counts(self) -> Counter[str]:
        return Counter(self.tools)


@dataclass(frozen=True)
class Outcome:
    """How the trace's task ended; None where nobody graded it."""

    success: bool | None = None
    reward: float | None = None
    """A grade of any finite value, by custom from 0 to 1, more being better. It is only carried
    along: no filter and no figure reads it, so a reward of 0 without `success` is not a failure."""


@dataclass(frozen=True)
class Usage:
    """What an LLM spent, on a whole trace or on one request; None where the log does not say."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    llm_calls: int | None = None
    """Requests to the LLM; `input_tokens` and `output_tokens` are the sums over them."""
    duration_ms: float | None = None
    """Milliseconds that the requests took together, tools and users not counted."""
    cached_tokens: int | None = None
    """Of the input tokens, those that the endpoint had kept from earlier requests."""


@dataclass(frozen=True)
class Trace:
    """One recorded conversation of a teacher with its tools."""

    id: str
    """Unique among the traces of one file."""
    group: str
    """What a split must not tear apart: traces of one group fall into the same part. A task, a
    template or a user; the trace's id where nothing ties it to others."""
    teacher: str
    """The model that decided; several are joined by `+`."""
    source: str
    """Where the trace comes from, for people to find it again; nothing is decided by it."""
    tools: tuple[ToolSpec, ...]
    """The tools on offer throughout, without two of one name."""
    messages: tuple[Message, ...]
    """The conversation from its first message; at least one."""
    outcome: Outcome = Outcome()
    usage: Usage = Usage()
    decisions: tuple[int, ...] | None = None
    """Positions in `messages`, ascending, of the assistant messages that were recorded as the
    teacher's own answers; None: all. The others are context only: demonstrations in a prompt, or
    the history of a request whose earlier answers are recorded in another trace."""


@dataclass(frozen=True)
class Example:
    """One decision point with the teacher's decision as the label."""

    id: str
    """Unique in a dataset: the trace's id, `#` and the number of the decision in the trace."""
    trace_id: str
    group: str
    """The trace's group."""
    context: Context
    label: Decision
    weight: float = 1.0
    """How many of the teacher's decisions the example stands for: 1 until duplicates are merged
    into it."""


@runtime_checkable
class Router(Protocol):
    """Anything that answers contexts with decisions."""

    @property
    def kind(self) -> str:
        """The discriminator under which the router's folder and config name it."""

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        """One decision per context, in order; the batch size must not change any of them."""

    def save(self, path: Path) -> None:
        """Write a self-contained router folder (safetensors, no pickle)."""
