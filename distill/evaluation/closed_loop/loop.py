"""One task from its first message to its score."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from distill.chat import call_json, message_json
from distill.environment import Environment, Score, Task
from distill.evaluation.closed_loop.conversation import Conversation, ForeignError, foreign
from distill.evaluation.closed_loop.fallback import NO_USAGE, Answer, Fallback, total
from distill.evaluation.closed_loop.outcome import End, Outcome
from distill.policy import Policy
from distill.types import Context, Router, ToolCall, Usage

MOST_STEPS = 30
"""Decisions that a task may take unless the caller says otherwise."""

NO_ROUTER = "no router"
"""Why a fallback decides where nobody else does."""


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

    The router is asked for each decision. What the policy takes is executed at once; anything else
    is the fallback's to answer (`Conversation.take` says what becomes of an answer).

    Args:
        router: None where every decision is the fallback's.
        policy: with the router's own thresholds.
        fallback: one made for this task.
        most_steps: decisions after which the task is given up.
    """
    game = _Game(router, policy, fallback)
    try:
        conversation = Conversation(environment, task)
    except ForeignError as error:
        return game.outcome(task, "error", error=str(error))
    try:
        end = game.play(conversation, most_steps)
        score = conversation.score()
    except ForeignError as error:
        return game.outcome(task, "error", conversation, error=str(error))
    if end == "too many steps":
        reasons = (*score.reasons, f"not done after {most_steps} decisions")
        score = replace(score, success=False, reasons=reasons)
    return game.outcome(task, end, conversation, score)


@dataclass
class _Game:
    """Who answers a task, and what was decided so far."""

    router: Router | None
    policy: Policy
    fallback: Fallback
    steps: list[Mapping[str, Any]] = field(default_factory=list)
    usage: Usage = NO_USAGE

    def outcome(
        self,
        task: Task,
        end: End,
        conversation: Conversation | None = None,
        score: Score | None = None,
        *,
        error: str | None = None,
    ) -> Outcome:
        success = None if score is None or end == "unresolved" else score.success
        words, said = (conversation.words, conversation.messages) if conversation else ((), ())
        return Outcome(
            task.id,
            task.group,
            task.kind,
            end,
            success,
            score,
            error,
            words=tuple(words),
            steps=tuple(self.steps),
            usage=self.usage,
            messages=tuple(message_json(message) for message in said),
        )

    def play(self, conversation: Conversation, most_steps: int) -> End:
        while (context := conversation.context) is not None:
            if len(self.steps) >= most_steps:
                return "too many steps"
            answer = self._decided(context)
            if answer is None:
                return "unresolved"
            conversation.take(answer)
        return "done"

    def _decided(self, context: Context) -> Answer | None:
        """The next answer, be it the router's or the fallback's."""
        calls, reason = self._routed(context)
        if calls:
            answer: Answer | None = Answer(calls, usage=NO_USAGE)
        else:
            with foreign("fallback"):
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
