"""A small program of two tools, routers that say what a test wants, and LMs on a script."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dspy
from dspy.utils import DummyLM

from distill.types import Context, Decision, ToolCall

QUESTION = "where is order 7, and what did I buy"
SIGNATURE = "question -> answer"


def get_order(order: int) -> str:
    """Reads."""
    if order < 0:
        raise LookupError(f"no order {order}")
    return f"order {order}: shipped"


def list_orders() -> list[str]:
    """Lists."""
    return ["A", "B"]


TOOLS = [get_order, list_orders]


class Says:
    """A router that gives these decisions in turn, then replies without confidence."""

    kind = "says"

    def __init__(self, *decisions: Decision) -> None:
        self.decisions = iter(decisions)
        self.seen: list[Context] = []

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        self.seen.extend(contexts)
        return [next(self.decisions, Decision("reply")) for _ in contexts]

    def save(self, path: Path) -> None:
        raise NotImplementedError


def calls(*made: tuple[str, dict[str, Any] | None], confidence: float | None = 0.95) -> Decision:
    return Decision("call", tuple(ToolCall(*call) for call in made), confidence)


REPLY = Decision("reply", confidence=0.95)


def step(name: str, **arguments: Any) -> dict[str, Any]:
    """What the LM answers when ReAct asks for a step."""
    return {"next_thought": "Hm.", "next_tool_name": name, "next_tool_args": arguments}


FINISH = step("finish")
ANSWER = {"reasoning": "So it is.", "answer": "Shipped."}


def lm(*answers: dict[str, Any]) -> DummyLM:
    """A dummy LM of these answers in turn."""
    return DummyLM(list(answers))


def requests(used: DummyLM) -> Iterator[list[dict[str, Any]]]:
    """The messages of each request."""
    return (entry["messages"] for entry in used.history)


def made(prediction: dspy.Prediction) -> list[tuple[str, dict[str, Any], Any]]:
    """Name, arguments and result of each call, in order, the finish included."""
    trajectory = prediction.trajectory
    return [
        (trajectory[f"tool_name_{i}"], trajectory[f"tool_args_{i}"], trajectory[f"observation_{i}"])
        for i in range(len(trajectory) // 4)
    ]
