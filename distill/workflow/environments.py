"""Whole tasks of an environment as a workflow: a router decides, and the score at the end teaches.

    begin -> again -> look -> over? -> choose -> one of the router's decisions -> act -> again
                                   \\-> end

Each rollout has an environment of its own. What is played is what `distill simulate` plays with the
router alone and a threshold of 0: calls that can be filled are executed, and any other decision
tells the user what the tools have returned (`NoFallback`).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from distill.config import PolicyConfig
from distill.environment import Environment, Score, Task
from distill.evaluation.closed_loop import Answer, Conversation, NoFallback
from distill.evaluation.closed_loop.fallback import NO_USAGE
from distill.policy import Policy
from distill.routers.arguments import FillingRouter
from distill.types import REPLY, Context, Decision, Router, ToolCall
from distill.workflow.deciders import Threshold
from distill.workflow.graph import Node, Workflow, branch, end, loop, router, tool
from distill.workflow.networks import RouterPolicy

_EVERY_CALL = Policy(PolicyConfig(threshold=0))
"""Takes what is filled and fits its schema."""

_OVER = 0.5
"""Between 0, a conversation that goes on, and 1, one that is over."""


def failed_or_harmful(score: Score) -> float:
    """1 for a task that failed, and 1 more for one with a harmful call."""
    return float(not score.success) + float(score.harmful_calls > 0)


def closed_loop(
    tuned: Router,
    make: Callable[[], Environment],
    *,
    loss: Callable[[Score], float] = failed_or_harmful,
    decision_cost: float = 0.0,
    most_steps: int = 12,
) -> tuple[Workflow, RouterPolicy]:
    """The workflow, whose input is a `task`, and the policy that learns in it.

    Args:
        tuned: a router that `RouterPolicy` takes; what fills its arguments stays as it is.
        make: a fresh environment, for each rollout one.
        loss: of a task's score; one that is given up is scored as a failure.
        decision_cost: of each decision, in the units of the loss.
        most_steps: decisions after which a task is given up.

    Raises:
        WorkflowError: another kind of router, or none of its decisions calls a tool that the
            environment has.
    """
    offered = {spec.name for spec in make().tools}
    policy = RouterPolicy.over(tuned, lambda known: known["context"], offered)

    def begin(task: Task) -> Conversation:
        return Conversation(make(), task)

    def look(conversation: Conversation) -> Context | None:
        return conversation.context

    def is_over(context: Context | None) -> float:
        return float(context is None)

    def act(
        conversation: list[Conversation], context: list[Context], chosen: list[tuple[str, ...]]
    ) -> list[Conversation]:
        decisions = [_decision(tools) for tools in chosen]
        if isinstance(tuned, FillingRouter):
            decisions = tuned.filler.fill(decisions, context)
        for talk, asked, decision in zip(conversation, context, decisions, strict=True):
            talk.take(_answer(decision, asked))
        return conversation

    def judge(conversation: Conversation) -> float:
        score = conversation.score()
        if conversation.context is not None:
            score = replace(score, success=False)
        return loss(score)

    # A conversation changes as it goes on, so that no rollout may be split: ways are sampled.
    fixed = Threshold(_OVER, 1e-3, learned=False)
    options = [_name(i, tools) for i, tools in enumerate(policy.options)]
    nodes: list[Node] = [
        tool(begin, then="again", gives="conversation"),
        loop("again", body="look", then="end", most=most_steps + 1),
        tool(look, then="is_over", gives="context"),
        tool(is_over, then="over"),
        branch(
            "over", on="is_over", threshold=fixed, above="end", below="choose", estimator="score"
        ),
        router("choose", policy, options, estimator="score"),
        *(
            tool(_constant(tools), then="act", name=name, gives="chosen", cost=decision_cost)
            for name, tools in zip(options, policy.options, strict=True)
        ),
        tool(act, then="again", gives="conversation", batched=True),
        end(judge),
    ]
    return Workflow(["task"], nodes), policy


def _name(number: int, tools: Sequence[str]) -> str:
    """Of a decision's node: what warnings and pictures say."""
    return re.sub(r"\W", "_", f"decision_{number}_{'_'.join(tools)}")


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def _decision(tools: Sequence[str]) -> Decision:
    if tools == (REPLY,):
        return Decision("reply")
    return Decision("call", tuple(ToolCall(name, None) for name in tools), 1.0)


def _answer(decision: Decision, context: Context) -> Answer:
    """The calls, if they can be made as they are; else what the tools have returned."""
    if _EVERY_CALL(decision, context):
        return Answer(decision.calls, usage=NO_USAGE)
    return NoFallback().answer(context.messages, context.tools)
