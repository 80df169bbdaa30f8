"""Nodes made of plain functions, and the workflow that they form: checked when it is built.

A value has a name: it is an input of the workflow, or what a tool gave. A function takes the values
that its parameters name; one with a default may be missing. A workflow is walked from its start to
an end, and only a loop node, with its bound, leads back. Knows nothing of how it is walked.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal, cast

from torch import nn

from distill.errors import WorkflowError
from distill.workflow.deciders import Policy, Threshold

Function = Callable[..., Any]
Rounds = tuple[tuple[str, int], ...]
"""Loops that a path is in, each with the rounds begun."""
Estimator = Literal["exact", "score", "straight_through", "mixture"]
"""How gradients come past a decision: `distill.workflow.gradients`."""


@dataclass(frozen=True)
class ToolNode:
    """Calls a function and keeps what it gives."""

    name: str
    function: Function
    takes: tuple[str, ...]
    optional: frozenset[str]
    """Of `takes`, those with a default."""
    gives: str
    then: str
    on_error: str | None
    cost: float
    differentiable: bool
    batched: bool
    timeout_s: float | None

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.then,) if self.on_error is None else (self.then, self.on_error)


@dataclass(frozen=True)
class BranchNode:
    """Goes one way or the other by a number's side of a threshold."""

    name: str
    on: str
    threshold: Threshold
    above: str
    below: str
    estimator: Estimator | None

    @property
    def decider(self) -> nn.Module:
        return self.threshold

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.above, self.below)


@dataclass(frozen=True)
class RouterNode:
    """Goes where a policy says."""

    name: str
    policy: Policy
    targets: tuple[str, ...]
    estimator: Estimator | None

    @property
    def decider(self) -> nn.Module:
        return self.policy


@dataclass(frozen=True)
class LoopNode:
    """Goes into `body`, which leads back here, `most` times; then on, and counts anew."""

    name: str
    body: str
    then: str
    most: int

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.body, self.then)

    def step(self, rounds: Rounds) -> tuple[str, Rounds]:
        """The next node, and the rounds of every loop that is under way by then."""
        others = tuple(each for each in rounds if each[0] != self.name)
        past = dict(rounds).get(self.name, 0)
        if past == self.most:
            return self.then, others
        return self.body, (*others, (self.name, past + 1))


@dataclass(frozen=True)
class EndNode:
    """Where a path is judged: a loss, the smaller the better."""

    name: str
    loss: Function
    takes: tuple[str, ...]
    optional: frozenset[str]
    is_reward: bool
    """`loss` gives a reward, whose negative is the loss."""

    @property
    def targets(self) -> tuple[str, ...]:
        return ()


Node = ToolNode | BranchNode | RouterNode | LoopNode | EndNode
Decision = BranchNode | RouterNode


def tool(
    function: Function,
    then: str,
    *,
    name: str | None = None,
    gives: str | None = None,
    on_error: str | None = None,
    cost: float = 0.0,
    differentiable: bool = False,
    batched: bool = False,
    timeout_s: float | None = None,
) -> ToolNode:
    """A node that calls `function` with the values that its parameters name.

    Args:
        then: the next node.
        name: of the node; the function's.
        gives: the name of what it gives; the node's.
        on_error: the next node when the function raises or comes too late; none: the rollout fails.
        cost: of a call, in the units of the loss.
        differentiable: it takes and gives torch tensors, and passes gradients on; then it is called
            for options that are not taken, too.
        batched: it takes lists, one item a rollout (None where a value is missing), and gives as
            many results.
        timeout_s: seconds; none: as long as it takes. A function that hangs is left to its thread.
    """
    name = name or function.__name__
    takes, optional = _parameters(function, name)
    return ToolNode(
        name,
        function,
        takes,
        optional,
        gives or name,
        then,
        on_error,
        cost,
        differentiable,
        batched,
        timeout_s,
    )


def branch(
    name: str,
    *,
    on: str,
    threshold: Threshold,
    above: str,
    below: str,
    estimator: Estimator | None = None,
) -> BranchNode:
    """A node that goes to `above` where the value `on` reaches the threshold, else to `below`."""
    return BranchNode(name, on, threshold, above, below, estimator)


def router(
    name: str, policy: Policy, options: Sequence[str], *, estimator: Estimator | None = None
) -> RouterNode:
    """A node that goes to one of `options`, whose logits `policy` gives in that order."""
    return RouterNode(name, policy, tuple(options), estimator)


def loop(name: str, *, body: str, then: str, most: int) -> LoopNode:
    """A node that goes to `body` the first `most` times that a rollout comes by, then to `then`.

    Whoever comes back after that begins a loop of its own.
    """
    return LoopNode(name, body, then, most)


def end(
    loss: Function | None = None, *, reward: Function | None = None, name: str = "end"
) -> EndNode:
    """A node that ends a path with a loss or a reward, computed from the values that it names."""
    if (loss is None) == (reward is None):
        raise WorkflowError(name, "not one of loss and reward", "give one of them")
    judge = cast(Function, loss or reward)
    takes, optional = _parameters(judge, name)
    return EndNode(name, judge, takes, optional, reward is not None)


class Workflow:
    """Nodes that form a whole.

    Args:
        inputs: the names of the values that each rollout begins with.
        nodes: in any order; the first is where it starts.

    Raises:
        WorkflowError: names that are not there or twice there, nodes that cannot be reached or that
            lead to no end, a way back without a loop node, or a function that takes a value which
            some path to it does not give.
    """

    def __init__(self, inputs: Sequence[str], nodes: Sequence[Node]) -> None:
        if not nodes:
            raise WorkflowError("workflow", "no nodes", "give some")
        self.inputs = tuple(inputs)
        self.nodes: dict[str, Node] = {}
        for node in nodes:
            if node.name in self.nodes:
                raise WorkflowError(node.name, "the name of two nodes", "rename one (name=…)")
            self.nodes[node.name] = node
        self.start = nodes[0].name
        self._check_nodes()
        self._check_paths()
        self.order = self._order()
        """Every node's place in an order in which only loops' bodies may stand before them."""
        self._check_values()
        self.deciders = nn.ModuleDict(
            {decider_key(name): node.decider for name, node in self.decisions.items()}
        )
        """All that learns, by `decider_key`."""

    @property
    def decisions(self) -> dict[str, Decision]:
        """The nodes with a decider, by name."""
        return {
            name: node
            for name, node in self.nodes.items()
            if isinstance(node, BranchNode | RouterNode)
        }

    def diamond(self, name: str) -> tuple[ToolNode, ...]:
        """The options of a decision where all are tools that give one value and go one way; else
        nothing."""
        options = [self.nodes[target] for target in self.nodes[name].targets]
        tools = [node for node in options if isinstance(node, ToolNode)]
        alike = {(node.gives, node.then, node.on_error, node.batched) for node in tools}
        return tuple(tools) if len(tools) == len(options) and len(alike) == 1 else ()

    def paths(self, most: int) -> int:
        """How many ways lead from the start to an end, loops unrolled; `most` if more."""
        ended = 0
        ways: Counter[tuple[str, Rounds]] = Counter({(self.start, ()): 1})
        # A way splits and never dies before an end, so what is under way is a lower bound.
        while ways and ended + ways.total() < most:
            further: Counter[tuple[str, Rounds]] = Counter()
            for (name, rounds), count in ways.items():
                node = self.nodes[name]
                if isinstance(node, EndNode):
                    ended += count
                elif isinstance(node, LoopNode):
                    further[node.step(rounds)] += count
                elif isinstance(node, ToolNode):
                    further[node.then, rounds] += count
                else:
                    for target in node.targets:
                        further[target, rounds] += count
            ways = further
        return min(most, ended + ways.total())

    def _check_nodes(self) -> None:
        for node in self.nodes.values():
            if not node.name.isidentifier():
                raise WorkflowError(node.name, "not a name of a node", "write one like_this")
            for target in node.targets:
                if target not in self.nodes:
                    raise WorkflowError(
                        node.name, f"goes to {target!r}, which is no node", "add it, or rename"
                    )
            if isinstance(node, RouterNode) and len(set(node.targets)) < max(2, len(node.targets)):
                raise WorkflowError(node.name, "not two or more different options", "name them")
            if isinstance(node, BranchNode) and node.above == node.below:
                raise WorkflowError(node.name, "both ways are one", "name two nodes")
            if isinstance(node, LoopNode) and node.most < 1:
                raise WorkflowError(node.name, f"{node.most} rounds at most", "allow one or more")

    def _check_paths(self) -> None:
        reached = _closure([self.start], lambda name: self.nodes[name].targets)
        if unreached := [name for name in self.nodes if name not in reached]:
            raise WorkflowError(unreached[0], "cannot be reached", "lead to it, or leave it out")
        sources: dict[str, list[str]] = {name: [] for name in self.nodes}
        for node in self.nodes.values():
            for target in node.targets:
                sources[target].append(node.name)
        ends = [name for name, node in self.nodes.items() if isinstance(node, EndNode)]
        ending = _closure(ends, sources.__getitem__)
        if stuck := [name for name in self.nodes if name not in ending]:
            raise WorkflowError(stuck[0], "leads to no end", "lead it to one")

    def _order(self) -> dict[str, int]:
        """Topological without the ways into loops' bodies, which alone are bounded.

        So every walk ends: of the nodes that an endless one came by again and again, the last in
        this order could be left to an earlier one by a body alone, so it is a loop; and each time
        its rounds are over, it goes on to a later one.
        """
        sorter: TopologicalSorter[str] = TopologicalSorter()
        for node in self.nodes.values():
            sorter.add(node.name)
            forward = (node.then,) if isinstance(node, LoopNode) else node.targets
            for target in forward:
                sorter.add(target, node.name)
        try:
            return {name: place for place, name in enumerate(sorter.static_order())}
        except CycleError as error:
            circle = " → ".join(error.args[1])
            raise WorkflowError(
                error.args[1][0], f"goes round without a bound ({circle})", "add a loop node"
            ) from None

    def _check_values(self) -> None:
        """What every path has given by a node: the largest solution of the usual equations."""
        tools = [node for node in self.nodes.values() if isinstance(node, ToolNode)]
        everything = {*self.inputs, *(node.gives for node in tools)}
        given = {name: set(everything) for name in self.nodes}
        given[self.start] = set(self.inputs)
        changed = True
        while changed:
            changed = False
            for node in self.nodes.values():
                for target in node.targets:
                    by_then = given[node.name] | _given_by(node, target)
                    fewer = given[target] & by_then
                    changed |= fewer != given[target]
                    given[target] = fewer
        for node in self.nodes.values():
            needed = {node.on} if isinstance(node, BranchNode) else set()
            if isinstance(node, ToolNode | EndNode):
                needed = set(node.takes) - node.optional
            for name in sorted(needed - given[node.name]):
                fault = "not every path gives" if name in everything else "nothing gives"
                raise WorkflowError(node.name, f"takes {name!r}, which {fault}", "give it before")


def decider_key(name: str) -> str:
    """A decision's name among `Workflow.deciders`: torch keeps some names to itself."""
    return f"at_{name}"


def _given_by(node: Node, target: str) -> set[str]:
    """What a path gets between a node and the next."""
    return {node.gives} if isinstance(node, ToolNode) and target == node.then else set()


def _closure(start: Sequence[str], step: Callable[[str], Sequence[str]]) -> set[str]:
    found, waiting = set(start), list(start)
    while waiting:
        for name in step(waiting.pop()):
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found


def _parameters(function: Function, name: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """The names that a function takes, and which of them have a default."""
    found = inspect.signature(function).parameters.values()
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY) for p in found):
        raise WorkflowError(name, "takes parameters without a name", "take each value by its name")
    return tuple(p.name for p in found), frozenset(
        p.name for p in found if p.default is not p.empty
    )
