"""Routers, fallbacks and an environment for the closed loop, each of a few lines."""

from collections.abc import Sequence

from distill.environment import Score, Task
from distill.evaluation.closed_loop import Answer, Fallback, FromRecord
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
