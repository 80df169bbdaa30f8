"""Small workflows whose expected objective is known."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill.workflow import Policy, Threshold, Workflow, branch, end, loop, router, tool


class Table(Policy):
    """One logit for each option, whatever is known."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, values: Sequence[Any]) -> Tensor:
        return self.logits.expand(len(values), -1)


def look(x: float) -> float:
    return 2 * x


def left(look: float) -> float:
    return look + 1.0


def right(look: float) -> float:
    return -look


def loss(answer: float, x: float) -> float:
    return (answer - x) ** 2


def gain(total: float) -> float:
    return float(total)


def fork(threshold: Threshold | None = None, **kinds: Any) -> Workflow:
    """look; then left or right by a threshold on what was seen."""
    return Workflow(
        ["x"],
        [
            tool(look, then="big"),
            branch(
                "big",
                on="look",
                threshold=threshold or Threshold(1.0),
                above="left",
                below="right",
                **kinds,
            ),
            tool(left, then="end", gives="answer", cost=0.5),
            tool(right, then="end", gives="answer"),
            end(loss),
        ],
    )


def rounds(most: int = 3, policy: Policy | None = None) -> Workflow:
    """Add one again and again, until a policy has enough or the rounds are over."""
    return Workflow(
        ["n"],
        [
            tool(lambda n: n, then="again", name="begin", gives="total"),
            loop("again", body="enough", then="end", most=most),
            router("enough", policy or Table(0.3, -0.2), ["more", "end"]),
            tool(lambda total: total + 1, then="again", name="more", gives="total"),
            end(reward=gain),
        ],
    )


def mixed(**kinds: Any) -> Workflow:
    """One of two differentiable tools on a tensor, by a policy."""
    return Workflow(
        ["x"],
        [
            router("which", Table(0.4, -0.3), ["double", "negate"], **kinds),
            tool(
                lambda x: 2 * x,
                then="end",
                name="double",
                gives="y",
                differentiable=True,
                cost=0.25,
            ),
            tool(lambda x: -x, then="end", name="negate", gives="y", differentiable=True),
            end(lambda y: 3 * y),
        ],
    )
