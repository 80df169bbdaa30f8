"""One task from its first message to its score."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import orjson

from distill.chat import call_json
from distill.environment import Environment, Score, Task
from distill.evaluation.closed_loop.fallback import NO_USAGE, Answer, Fallback, total
from distill.evaluation.closed_loop.outcome import End, Outcome
from distill.history import synthetic
from distill.policy import Policy
from distill.types import Context, Message, Router, ToolCall, Usage
from distill.validation import check_arguments

T = TypeVar("T")

MOST_STEPS = 30
"""Decisions that a task may take unless the caller says otherwise."""

NO_ROUTER = "no router"
"""Why a fallback decides where nobody else does."""

_MOST_ERROR = 300


def play(
    router: Router | None,
    policy: Policy,
    environment: Environment,
    task: Task,
    fallback: Fallback,
    *,
    most_steps: int = MOST_STEPS,
) -> Outcome:
    """Have one conversation; what environment or fallback raise is part of the outcome.

    The router is asked for each decision. What the policy takes is executed at once and enters the
    conversation as synthetic history; anything else is the fallback's to answer. Calls of the
    fallback that are not offered or do not fit their schemas are answered with an error instead of
    being executed, and count as wrong.

    Args:
        router: None where every decision is the fallback's.
        policy: with the router's own thresholds.
        fallback: one made for this task.
        most_steps: decisions after which the task is given up.
    """
    game = _Game(router, policy, environment, task, fallback)
    try:
        end = game.play(most_steps)
        with _foreign("environment"):
            score = _typed(environment.score(game.words), Score, "score")
    except _ForeignError as error:
        return game.outcome("error", None, None, str(error))
    if end == "too many steps":
        reasons = (*score.reasons, f"not done after {most_steps} decisions")
        score = replace(score, success=False, reasons=reasons)
    score = replace(score, wrong_calls=score.wrong_calls + game.refused)
    return game.outcome(end, None if end == "unresolved" else score.success, score, None)


@dataclass
class _Game:
    """Who takes part in a task, and what has happened so far."""

    router: Router | None
    policy: Policy
    environment: Environment
    task: Task
    fallback: Fallback
    words: list[str] = field(default_factory=list)
    """What the user was told."""
    steps: list[Mapping[str, Any]] = field(default_factory=list)
    usage: Usage = NO_USAGE
    refused: int = 0
    """Calls that were not executed."""

    def outcome(
        self, end: End, success: bool | None, score: Score | None, error: str | None
    ) -> Outcome:
        task, told, steps = self.task, tuple(self.words), tuple(self.steps)
        return Outcome(
            task.id, task.group, task.kind, end, success, score, error, told, steps, self.usage
        )

    def play(self, most_steps: int) -> End:
        with _foreign("environment"):
            self.environment.reset(self.task)
            tools = tuple(self.environment.tools)
        messages: tuple[Message, ...] = ()
        if self.task.system is not None:
            messages = (Message("system", self.task.system),)
        for said in self.task.user:
            messages = (*messages, Message("user", said))
            while messages[-1].role != "assistant":
                if len(self.steps) >= most_steps:
                    return "too many steps"
                answer = self._decided(Context(messages, tools))
                if answer is None:
                    return "unresolved"
                if answer.words is not None:
                    self.words.append(answer.words)
                if answer.calls:
                    messages = self._executed(Context(messages, tools), answer)
                else:
                    messages = (*messages, Message("assistant", answer.words or ""))
        return "done"

    def _decided(self, context: Context) -> Answer | None:
        """The next answer, be it the router's or the fallback's."""
        calls, reason = self._routed(context)
        if calls:
            answer: Answer | None = Answer(calls, usage=NO_USAGE)
        else:
            with _foreign("fallback"):
                answer = self.fallback.answer(context.messages, context.tools)
        if answer is not None:
            made = [call_json(call)["function"] for call in answer.calls]
            by = "router" if calls else "fallback"
            self.steps.append({"reason": reason, "by": by, "calls": made})
            self.usage = total(self.usage, answer.usage)
        return answer

    def _routed(self, context: Context) -> tuple[tuple[ToolCall, ...], str]:
        """The router's calls that the policy takes, if any, and its reason."""
        if self.router is None:
            return (), NO_ROUTER
        (decision,) = self.router.decide([context])
        verdict = self.policy(decision, context)
        return (decision.calls if verdict.taken else ()), verdict.reason

    def _executed(self, context: Context, answer: Answer) -> tuple[Message, ...]:
        """The conversation with an answer's calls and what came of them."""
        results = []
        for call in answer.calls:
            refusal = _refusal(call, context)
            if refusal is not None:
                self.refused += 1
                results.append(orjson.dumps({"error": refusal}).decode())
                continue
            with _foreign("environment"):
                results.append(_typed(self.environment.execute(call), str, "execute"))
        messages = list(synthetic(context.messages, answer.calls, results))
        place = len(context.messages)
        messages[place] = replace(messages[place], content=answer.words)
        return tuple(messages)


def _refusal(call: ToolCall, context: Context) -> str | None:
    """Why a call is not executed; None if it is. A tool whose own schema is broken is executed."""
    spec = next((tool for tool in context.tools if tool.name == call.name), None)
    if spec is None:
        return f"no tool {call.name}"
    if call.arguments is None:
        return "the arguments are no JSON object"
    return check_arguments(call, spec)


def _typed(value: T, kind: type[T], method: str) -> T:
    """What foreign code returned; raises TypeError where it is not what it should be."""
    if not isinstance(value, kind):
        raise TypeError(f"{method} returned {type(value).__name__}, not {kind.__name__}")
    return value


class _ForeignError(Exception):
    """What environment or fallback raised, in words."""


@contextmanager
def _foreign(who: str) -> Iterator[None]:
    """Tell the faults of foreign code, whatever they are, from ours."""
    try:
        yield
    except Exception as error:
        text = f"{who}: {type(error).__name__}: {error}"
        raise _ForeignError(text[:_MOST_ERROR]) from error
