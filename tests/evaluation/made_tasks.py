"""Routers, fallbacks, an environment and outcomes for the closed loop, each of a few lines."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

from distill.environment import Score, Task
from distill.evaluation.closed_loop import (
    Answer,
    Fallback,
    FromRecord,
    Outcome,
    paired,
    summarise,
)
from distill.types import Context, Decision, Message, ToolCall, ToolSpec, Usage

NUMBER = {"type": "integer"}
ADD = ToolSpec("add", "", {"type": "object", "properties": {"n": NUMBER}, "required": ["n"]})


def add(n: object) -> ToolCall:
    return ToolCall("add", {"n": n})


class Sums:
    """Each task wants a sum; adding a negative number is harm, zero is wrong."""

    tools = (ADD,)

    def __init__(self, count: int = 3, fails: str = "") -> None:
        self.count, self.fails = count, fails

    def tasks(self) -> list[Task]:
        return [Task(f"t{i}", f"g{i % 7}", (f"make it {i}",)) for i in range(self.count)]

    def reset(self, task: Task) -> None:
        self._fail("reset")
        self.wanted, self.sum, self.wrong, self.harm = int(task.id[1:]), 0, 0, 0

    def execute(self, call: ToolCall) -> str:
        self._fail("execute")
        assert call.arguments is not None
        n = call.arguments["n"]
        self.sum, self.wrong, self.harm = self.sum + n, self.wrong + (n <= 0), self.harm + (n < 0)
        return f"the sum is {self.sum}"

    def score(self, words: Sequence[str]) -> Score:
        self._fail("score")
        reasons = () if self.sum == self.wanted else (f"{self.sum}, not {self.wanted}",)
        return Score(not reasons, reasons, self.wrong, self.harm)

    def _fail(self, place: str) -> None:
        if place == self.fails:
            raise KeyError(f"{place} is broken")


class Says:
    """A router that gives the decisions it was made with, one after another, then replies."""

    kind = "fake"

    def __init__(self, *decisions: Sequence[ToolCall], confidence: float | None = 1.0) -> None:
        self.decisions, self.confidence = list(decisions), confidence
        self.seen: list[Context] = []

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        self.seen += contexts
        calls = tuple(self.decisions.pop(0)) if self.decisions else ()
        return [Decision("call" if calls else "reply", calls, self.confidence) for _ in contexts]

    def save(self, path: object) -> None:
        raise AssertionError("not saved here")


class Always(Says):
    """A router that decides the same each time."""

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        return [Decision("call", tuple(self.decisions[0]), self.confidence) for _ in contexts]


class Author(Says):
    """The author's own decisions as a router."""

    def __init__(self, record: Sequence[Message]) -> None:
        super().__init__()
        self.record = FromRecord(record)

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        answers = [self.record.answer(each.messages, each.tools) for each in contexts]
        calls = [answer.calls if answer else () for answer in answers]
        return [Decision("call" if each else "reply", each, 1.0) for each in calls]


class Answers(Fallback):
    """A fallback that gives the answers it was made with; an exception is raised."""

    def __init__(self, *answers: Answer | Exception | None) -> None:
        self.answers = list(answers)
        self.seen: list[Sequence[Message]] = []

    def answer(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> Answer | None:
        self.seen.append(messages)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


COST = Usage(100, 10, 1, 50.0)
TAKEN = {"reason": "taken", "by": "router", "calls": [{"name": "add", "arguments": "{}"}]}
SAID = {"reason": "reply", "by": "fallback", "calls": []}


def outcome(i: int = 0, success: bool | None = True, **changes) -> Outcome:
    """Of task `t{i}`; None: left unresolved."""
    end = "unresolved" if success is None else "done"
    made = Outcome(
        *(f"t{i}", f"g{i}", None, end, success, Score(bool(success)), None),
        *(("It is 3.",), (TAKEN, SAID), COST),
    )
    return replace(made, **changes)


def failed(i: int) -> Outcome:
    return outcome(i, None, end="error", score=None, error="environment: KeyError: 'x'", steps=())


def played(
    skill: float, asks: int, tasks: int = 40, *, follows: float | None = None
) -> list[Outcome]:
    """Of an arm that solves each task with probability `skill` and asks the LLM up to `asks` times.

    With `follows` every task carries an attack, followed with that probability.
    """
    luck = Random(f"{skill} {asks} {follows}")
    made = []
    for i in range(tasks):
        solved, calls = luck.random() < skill, luck.randint(0, asks)
        attack = None if follows is None else "followed" if luck.random() < follows else "resisted"
        score = Score(solved, (), 0 if solved else luck.randint(0, 2), attack=attack)
        spent = Usage(150 * calls, 20 * calls, calls, 900.0 * calls)
        made.append(outcome(i, solved, score=score, usage=spent, kind=attack and "direct"))
    return made


def loop(arms: dict[str, list[Outcome]], **job: Any) -> dict[str, Any]:
    """`closed_loop.json` of these outcomes."""
    job = {"environment": "orderdesk", "fallback": "recorded", "endpoint": None, **job}
    figures = [
        {"name": name, "kind": "rnn", "policy": {}, "arm": None, **summarise(made, 200)}
        for name, made in arms.items()
    ]
    return {"attacks": False, "most_steps": 30, **job, "arms": figures, "paired": paired(arms, 200)}
