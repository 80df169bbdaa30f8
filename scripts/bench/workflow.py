"""How fast workflows are walked by chance, as learning walks them, and what share is the routers'.

Each step of a workflow is a router node that chooses among three tools, which only add a call and
its result to the conversation; the end counts the calls of one of them. The policies are trained
routers over the conversation so far (`RouterPolicy`), and `mlp`, a perceptron on 16 given numbers,
which tells what a walk costs besides its router. One policy serves all steps. Requests are the
first messages of the embedded domain.

Walked is by `score`, without gradient, and with the gradient step of learning (`surrogate` and
`backward`, dropout on, no optimiser). A small encoder's gradient holds some 13 MB a decision and
takes its time, so its batches end at `--encoder-batch`. A round takes each arm for `--seconds` or
one batch, in an order that rotates, so that noise falls on all alike; told are the median over
rounds and, in brackets, the least and the most. `times` is the ratio to a batch of 1 in the same
round. `deciding` is the share of the time that the policies took (`Rollouts.deciding_s`:
conversation to text, tokens, network), `backward` that of the gradient, which is the policies',
too; the rest is the walk and its tools.

Example:
    python scripts/bench/workflow.py runs/orderdesk/{rnn,attention,encoder}-s0
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch
from machine import describe

from distill import workflow as flow
from distill.errors import InputError
from distill.history import synthetic
from distill.routers import load_router
from distill.runs import hardware, write_json
from distill.sample.replay import load_conversations
from distill.types import Context, Message, ToolCall
from distill.workflow.deciders import Values
from distill.workflow.graph import Function, Node

OPTIONS, NUMBERS = 3, 16


@dataclass
class Arm:
    """One policy in one workflow, at one batch size; a figure for each round."""

    policy: str
    workflow: flow.Workflow
    steps: int
    batch: int
    gradient: bool
    rollouts_per_s: list[float] = field(default_factory=list)
    deciding: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)

    def measure(self, inputs: Sequence[Values], seconds: float) -> None:
        """A round: whole batches, one at least, after a single rollout that does not count."""
        self.workflow.deciders.train(self.gradient)
        self._walk(inputs[:1])
        walks, deciding, backward = 0, 0.0, 0.0
        start = time.perf_counter()
        while (taken := time.perf_counter() - start) < seconds or not walks:
            rows = range(walks * self.batch, (walks + 1) * self.batch)
            decided, behind = self._walk([inputs[i % len(inputs)] for i in rows])
            walks, deciding, backward = walks + 1, deciding + decided, backward + behind
        self.rollouts_per_s.append(walks * self.batch / taken)
        self.deciding.append(deciding / taken)
        self.backward.append(backward / taken)

    def _walk(self, batch: Sequence[Values]) -> tuple[float, float]:
        """Seconds that policies took, and the gradient."""
        with torch.set_grad_enabled(self.gradient):
            rollouts = flow.walk(self.workflow, batch, "score")
        if not self.gradient:
            return rollouts.deciding_s, 0.0
        start = time.perf_counter()
        flow.surrogate(rollouts).backward()  # type: ignore[no-untyped-call]
        self.workflow.deciders.zero_grad()
        return rollouts.deciding_s, time.perf_counter() - start

    def figures(self, alone: "Arm") -> dict[str, Any]:
        """All that was measured; `alone` is the same with a batch of 1."""
        own = {name: value for name, value in vars(self).items() if name != "workflow"}
        pairs = zip(self.rollouts_per_s, alone.rollouts_per_s, strict=True)
        decisions = [self.steps * rate for rate in self.rollouts_per_s]
        return own | {"decisions_per_s": decisions, "times": [a / b for a, b in pairs]}


def policy_of(run: Path) -> tuple[str, flow.Policy, list[str]]:
    """A trained router's kind, the router as a policy, and the tools among which it chooses."""
    trained: Any = load_router(run)
    tools, classes = trained.file.catalogue, trained.file.labels.classes
    names = [one.name for one in tools if (one.name,) in classes][:OPTIONS]
    policy = flow.RouterPolicy(
        trained, lambda known: Context(known["messages"], tools), [(name,) for name in names]
    )
    return trained.kind, policy, names


def workflow(steps: int, policy: flow.Policy, names: Sequence[str]) -> flow.Workflow:
    """So many router nodes in a row, each before so many tools."""
    nodes, first = list[Node](), names[0]
    for i in range(steps):
        options = [f"use_{i}_{name}" for name in names]
        following = f"choose_{i + 1}" if i + 1 < steps else "end"
        nodes.append(flow.router(f"choose_{i}", policy, options))
        nodes += [
            flow.tool(_used(name, i), then=following, name=option, gives="messages")
            for name, option in zip(names, options, strict=True)
        ]
    nodes.append(flow.end(lambda messages: sum(c.name == first for m in messages for c in m.calls)))
    return flow.Workflow(["messages", "numbers"], nodes)


def _used(name: str, step: int) -> Function:
    call = ToolCall(name, {}, f"call_{step}")

    def use(messages: tuple[Message, ...]) -> tuple[Message, ...]:
        return synthetic(messages, (call,), ("done",))

    return use


def arms_of(given: argparse.Namespace) -> list[Arm]:
    """Of each policy, length and gradient, by batch size from 1 on."""
    mlp: flow.Policy = flow.Mlp(lambda known: known["numbers"], NUMBERS, OPTIONS)
    policies = [("mlp", "mlp", mlp, [f"tool_{k}" for k in range(OPTIONS)])]
    policies += [(run.name, *policy_of(run)) for run in given.runs]
    arms = []
    for name, kind, policy, tools in policies:
        most = given.encoder_batch if kind == "encoder" else max(given.batches)
        batches = sorted({1, *(min(batch, most) for batch in given.batches)})
        for steps in given.steps:
            made = workflow(steps, policy, tools)
            arms += [
                Arm(name, made, steps, batch, gradient)
                for gradient in (False, True)
                for batch in batches
            ]
    return arms


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="besides the perceptron")
    parser.add_argument("--steps", type=int, nargs="+", default=[3, 5, 8])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--encoder-batch", type=int, default=32, help="an encoder's largest")
    parser.add_argument("--seconds", type=float, default=1, help="of an arm in a round, at least")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, help="also write the figures here, as JSON")
    given = parser.parse_args(arguments)
    about = hardware() | {"threads": torch.get_num_threads()}
    print(f"{describe(about)}, {about['threads']} threads of torch", flush=True)
    arms, chance = arms_of(given), Random(0)
    asked = [(Message("user", conversation.user),) for conversation in load_conversations()]
    chance.shuffle(asked)
    inputs = [{"messages": a, "numbers": chance.choices([-1, 1], k=NUMBERS)} for a in asked]
    for n in range(given.rounds):
        first = n * len(arms) // given.rounds
        for arm in arms[first:] + arms[:first]:
            arm.measure(inputs, given.seconds)
        print(f"round {n + 1} of {given.rounds}", file=sys.stderr, flush=True)
    alone = {(arm.policy, arm.steps, arm.gradient): arm for arm in arms if arm.batch == 1}
    rows = [arm.figures(alone[arm.policy, arm.steps, arm.gradient]) for arm in arms]
    print(
        f"{'policy':<16} steps batch gradient {'rollouts/s':>27} {'times':>21} decisions/s"
        " deciding backward"
    )
    print("\n".join(map(_line, rows)))
    if given.output is not None:
        write_json(given.output, {"hardware": about, "rows": rows})


def _line(row: dict[str, Any]) -> str:
    def spread(key: str) -> str:
        middle, least, most = (f"{of(row[key]):,.1f}" for of in (median, min, max))
        return f"{middle} ({least} to {most})"

    return (
        f"{row['policy']:<16} {row['steps']:>5} {row['batch']:>5}"
        f" {'yes' if row['gradient'] else 'no':>8} {spread('rollouts_per_s'):>27}"
        f" {spread('times'):>21} {median(row['decisions_per_s']):>11,.1f}"
        f" {median(row['deciding']):>8.0%} {median(row['backward']):>8.0%}"
    )


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"workflow.py: {error}")
