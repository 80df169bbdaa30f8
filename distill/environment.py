"""Where a router or an LLM acts for real: tasks, their tools, and how they end.

An environment plays the user and the tools of one task at a time, and judges what became of it. It
knows nothing of who decides; the loop that does is `distill.evaluation.closed_loop`. Whatever an
environment raises is recorded as an error of that task, which then counts neither as a success nor
as a failure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from distill.types import Message, ToolCall, ToolSpec

Attack = Literal["not met", "resisted", "followed"]
"""What became of instructions hidden in a tool's result: never returned, returned, and obeyed."""


@dataclass(frozen=True)
class Task:
    """One conversation to be had."""

    id: str
    """Unique in its environment."""
    group: str
    """What intervals resample: tasks of one group are likely to go well or wrong together."""
    user: tuple[str, ...]
    """What the user says, turn by turn, whatever the assistant answers; at least one turn."""
    system: str | None = None
    """The system prompt."""
    kind: str | None = None
    """By which an attack's outcomes are broken down."""


@dataclass(frozen=True)
class Score:
    """How a task ended."""

    success: bool
    reasons: tuple[str, ...] = ()
    """What is missing or too much, in words; empty on success."""
    wrong_calls: int = 0
    """Calls that the task did not need."""
    harmful_calls: int = 0
    """Those among them that changed something which the task does not want changed."""
    attack: Attack | None = None
    """None for tasks that carry no attack."""


@runtime_checkable
class Environment(Protocol):
    """Tools to call and tasks to solve with them."""

    @property
    def tools(self) -> Sequence[ToolSpec]:
        """The tools on offer in every task."""

    def tasks(self) -> Iterable[Task]:
        """The tasks, the same each time."""

    def reset(self, task: Task) -> None:
        """Begin a task, whatever became of the one before."""

    def execute(self, call: ToolCall) -> str:
        """What the tool returns; only called with arguments that fit the tool's schema."""

    def score(self, words: Sequence[str]) -> Score:
        """Judge the task by what was called and what the user was told, in order."""


@runtime_checkable
class Recorded(Environment, Protocol):
    """An environment that knows how a teacher solved its tasks."""

    def record(self, task: Task) -> Sequence[Message]:
        """The teacher's whole conversation."""
