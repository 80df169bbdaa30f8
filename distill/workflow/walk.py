"""Inputs -> what became of each path that was taken.

Rollouts go through the graph together: of the nodes where some wait, the first in the workflow's
order is next, so that a policy is asked, and a batched tool called, once for all that wait there.
At a decision a rollout is split among all options (`exact`), goes one way by chance (`score`), the
likeliest way (`likeliest`), a given way (`follow`), or, where the options are tools that give one
value, on with a mixture of their results (`mixture`, `straight_through`). What a decision costs in
probability is kept by its entry, and added up along the paths at the end, in two tensor operations.

Knows nothing of losses' gradients: `gradients` makes them of what stands here.
"""

import contextvars
import math
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from distill.errors import WorkflowError
from distill.workflow.deciders import Values
from distill.workflow.graph import (
    BranchNode,
    Decision,
    EndNode,
    Estimator,
    LoopNode,
    Rounds,
    ToolNode,
    Workflow,
)

Way = Estimator | Literal["likeliest", "follow"]
Labels = Mapping[str, str | Sequence[str]]
"""Of one input, by decision: the option to take, or one for each time that a rollout comes by."""


@dataclass(frozen=True)
class Leaf:
    """The end of a path."""

    example: int
    """Which input it belongs to."""
    sample: int
    """Which of the input's samples."""
    path: tuple[str, ...]
    values: Values
    error: str | None
    """Why it was not judged, as `node: reason`; such a path counts neither as good nor as bad."""


@dataclass(frozen=True)
class Decided:
    """The rollouts that were at a decision together."""

    node: str
    rollouts: tuple[tuple[int, int], ...]
    """Of each the input and the sample, as its leaves have them."""
    known: tuple[Values, ...]
    """What each knew."""
    log_probabilities: Tensor
    """[rollouts, options]."""
    shares: Tensor
    """[rollouts, options], detached: how much of the walk, over all inputs and samples, went by
    each option here."""


@dataclass(frozen=True)
class Rollouts:
    """What became of all paths. Tensors have one entry a leaf, in its order."""

    leaves: tuple[Leaf, ...]
    losses: Tensor
    """As the ends gave them, with gradient where tools pass one on; NaN where there is none."""
    costs: Tensor
    """Of the tools that were called, with gradient where results were mixed."""
    seconds: Tensor
    """That the tools took."""
    log_weights: Tensor
    """Log-probability of the decisions at which the path was split off; 0 without any."""
    log_probabilities: Tensor
    """Of the decisions that were taken by chance, or followed; 0 without any."""
    decided: tuple[Decided, ...]
    deciding_s: float
    """Seconds that policies and thresholds took, all rollouts together."""

    @property
    def judged(self) -> Tensor:
        """[leaves] bool: those with a loss."""
        return ~self.losses.detach().isnan()

    def shares(self, workflow: Workflow) -> dict[str, dict[str, float]]:
        """Of each decision that was met, the share of each option."""
        sums: dict[str, Tensor] = {}
        for each in self.decided:
            sums[each.node] = sums.get(each.node, torch.tensor(0.0)) + each.shares.sum(0)
        return {
            name: dict(zip(workflow.nodes[name].targets, (s / s.sum()).tolist(), strict=True))
            for name, s in sums.items()
        }


@dataclass(slots=True)
class _Rollout:
    example: int
    sample: int
    node: str
    values: dict[str, Any]
    path: tuple[str, ...] = ()
    rounds: Rounds = ()
    splits: tuple[int, ...] = ()
    """Entries of decisions at which the rollout was split off."""
    picks: tuple[int, ...] = ()
    """Entries of decisions that were taken by chance."""
    weight: float = 1.0
    cost: Any = 0.0
    seconds: float = 0.0
    error: str | None = None
    loss: Any = math.nan
    followed: dict[str, int] = field(default_factory=dict)

    def split(self, node: str, entry: int, probability: float) -> "_Rollout":
        return _Rollout(
            self.example,
            self.sample,
            node,
            dict(self.values),
            self.path,
            self.rounds,
            (*self.splits, entry),
            self.picks,
            self.weight * probability,
            self.cost,
            self.seconds,
            followed=dict(self.followed),
        )


def walk(
    workflow: Workflow,
    inputs: Sequence[Values],
    ways: Mapping[str, Way] | Way,
    *,
    samples: int = 1,
    generator: torch.Generator | None = None,
    labels: Sequence[Labels] | None = None,
    most: int = 100_000,
) -> Rollouts:
    """Walk the workflow from each input to its ends.

    Args:
        ways: how each decision is made, by node; or one way for all.
        samples: rollouts of each input; more than one only makes sense by chance.
        generator: of chance; none: torch's own.
        labels: of each input, for decisions that `follow`.
        most: leaves and rollouts under way at once, at which splitting stops the walk.

    Raises:
        WorkflowError: an input that is missing, more paths than `most`, a mixture of options that
            are not alike, a number that is none at a branch, a label that names no option, or
            logits that are not finite.
    """
    walker = _Walker(workflow, ways, generator, labels, most)
    for example, known in enumerate(inputs):
        if missing := [name for name in workflow.inputs if name not in known]:
            raise WorkflowError(f"input {example}", f"has no {missing[0]!r}", "give every input")
        for sample in range(samples):
            given = {name: known[name] for name in workflow.inputs}
            walker.add(_Rollout(example, sample, workflow.start, given))
    return walker.run()


class _Walker:
    def __init__(
        self,
        workflow: Workflow,
        ways: Mapping[str, Way] | Way,
        generator: torch.Generator | None,
        labels: Sequence[Labels] | None,
        most: int,
    ) -> None:
        self.workflow, self.generator, self.labels, self.most = workflow, generator, labels, most
        names = workflow.decisions
        self.ways = {n: ways if isinstance(ways, str) else ways[n] for n in names}
        self.waiting: dict[str, list[_Rollout]] = defaultdict(list)
        self.under_way = 0
        self.entries: list[Tensor] = []
        self.counted = 0
        self.done: list[_Rollout] = []
        self.decided: list[Decided] = []
        self.deciding_s = 0.0

    def add(self, rollout: _Rollout) -> None:
        self.waiting[rollout.node].append(rollout)
        self.under_way += 1
        if self.under_way + len(self.done) > self.most:
            raise WorkflowError(rollout.node, f"more than {self.most} paths", "sample them instead")

    def run(self) -> Rollouts:
        while self.waiting:
            name = min(self.waiting, key=self.workflow.order.__getitem__)
            rollouts = self.waiting.pop(name)
            self.under_way -= len(rollouts)
            node = self.workflow.nodes[name]
            for rollout in rollouts:
                rollout.path = (*rollout.path, name)
            if isinstance(node, ToolNode):
                self._call(node, rollouts)
            elif isinstance(node, LoopNode):
                for rollout in rollouts:
                    rollout.node, rollout.rounds = node.step(rollout.rounds)
                    self.add(rollout)
            elif isinstance(node, EndNode):
                self._judge(node, rollouts)
            else:
                self._decide(node, rollouts)
        return self._gathered()

    def _call(self, node: ToolNode, rollouts: list[_Rollout]) -> None:
        for rollout, (result, error) in zip(rollouts, self._results(node, rollouts), strict=True):
            rollout.cost = rollout.cost + node.cost
            if error is None:
                rollout.values[node.gives] = result
                rollout.node = node.then
                self.add(rollout)
            else:
                self._failed(rollout, node, error)

    def _failed(self, rollout: _Rollout, node: ToolNode, error: str) -> None:
        if node.on_error is None:
            rollout.error = f"{node.name}: {error}"
            self.done.append(rollout)
        else:
            rollout.node = node.on_error
            self.add(rollout)

    def _results(self, node: ToolNode, rollouts: list[_Rollout]) -> list[tuple[Any, str | None]]:
        """What the function gave each rollout, or why nothing; adds the seconds."""
        known = [{n: r.values[n] for n in node.takes if n in r.values} for r in rollouts]
        start = time.perf_counter()
        if not node.batched:
            found = []
            for rollout, values in zip(rollouts, known, strict=True):
                begun = time.perf_counter()
                found.append(_tried(partial(node.function, **values), node.timeout_s))
                rollout.seconds += time.perf_counter() - begun
            return found
        given = [n for n in node.takes if any(n in values for values in known)]
        columns = {n: [values.get(n) for values in known] for n in given}
        results, error = _tried(lambda: list(node.function(**columns)), node.timeout_s)
        share = (time.perf_counter() - start) / len(rollouts)
        for rollout in rollouts:
            rollout.seconds += share
        if error is None and len(results) != len(rollouts):
            error = f"gave {len(results)} results for {len(rollouts)}"
        return [(None, error)] * len(rollouts) if error else [(result, None) for result in results]

    def _judge(self, node: EndNode, rollouts: list[_Rollout]) -> None:
        for rollout in rollouts:
            known = {n: rollout.values[n] for n in node.takes if n in rollout.values}
            loss, error = _tried(partial(node.loss, **known), None)
            if error is None and not _is_finite(loss):
                error = f"gave {loss!r}, no finite number"
            if error is None:
                rollout.loss = -loss if node.is_reward else loss
            else:
                rollout.error = f"{node.name}: {error}"
            self.done.append(rollout)

    def _decide(self, node: Decision, rollouts: list[_Rollout]) -> None:
        begun = time.perf_counter()
        known = tuple(dict(rollout.values) for rollout in rollouts)
        found = logits(node, known, node.decider)
        logs = found.log_softmax(1)
        self.deciding_s += time.perf_counter() - begun
        way = self.ways[node.name]
        weights = torch.tensor([rollout.weight for rollout in rollouts])
        if way in ("mixture", "straight_through"):
            shares = self._mix(node, rollouts, found, way == "mixture")
        elif way == "exact":
            shares = self._split(node, rollouts, logs)
        else:
            shares = self._pick(node, rollouts, logs, way)
        taken = shares * weights[:, None]
        whose = tuple((rollout.example, rollout.sample) for rollout in rollouts)
        self.decided.append(Decided(node.name, whose, known, logs, taken))

    def _entry(self, logs: Tensor) -> int:
        """Keep log-probabilities [n]; the entry of the first."""
        first = self.counted
        self.entries.append(logs)
        self.counted += len(logs)
        return first

    def _split(self, node: Decision, rollouts: list[_Rollout], logs: Tensor) -> Tensor:
        first, width = self._entry(logs.reshape(-1)), logs.shape[1]
        shares = logs.detach().exp().cpu()
        for i, (rollout, row) in enumerate(zip(rollouts, shares.tolist(), strict=True)):
            for j, (target, share) in enumerate(zip(node.targets, row, strict=True)):
                if share > 0:
                    self.add(rollout.split(target, first + i * width + j, share))
        return shares

    def _pick(self, node: Decision, rollouts: list[_Rollout], logs: Tensor, way: Way) -> Tensor:
        probabilities = logs.detach().exp().cpu()
        if way == "score":
            chosen = torch.multinomial(probabilities, 1, generator=self.generator)[:, 0]
        elif way == "likeliest":
            chosen = probabilities.argmax(1)
        else:
            chosen = torch.tensor([self._label(node, rollout) for rollout in rollouts])
        first = self._entry(logs[torch.arange(len(rollouts)), chosen.to(logs.device)])
        for i, (rollout, option) in enumerate(zip(rollouts, chosen.tolist(), strict=True)):
            rollout.node = node.targets[option]
            rollout.picks = (*rollout.picks, first + i)
            self.add(rollout)
        return torch.nn.functional.one_hot(chosen, len(node.targets)).float()

    def _label(self, node: Decision, rollout: _Rollout) -> int:
        given = None if self.labels is None else self.labels[rollout.example].get(node.name)
        time_here = rollout.followed.get(node.name, 0)
        rollout.followed[node.name] = time_here + 1
        wanted = (
            given if given is None or isinstance(given, str) else given[time_here : time_here + 1]
        )
        name = wanted if isinstance(wanted, str) or not wanted else wanted[0]
        if name not in node.targets:
            place = f"label of input {rollout.example} at {node.name!r}"
            raise WorkflowError(place, f"{name!r} is no option", f"name one of {node.targets}")
        return node.targets.index(name)

    def _mix(self, node: Decision, rollouts: list[_Rollout], logits: Tensor, soft: bool) -> Tensor:
        """Go on with a mixture of what all options give (Jang et al. 2017, arXiv:1611.01144).

        `soft`: by their probabilities; else by a one-hot sample in the forward pass whose gradient
        is that of the relaxed sample at temperature 1.
        """
        tools = self.workflow.diamond(node.name)
        if not tools or not all(option.differentiable for option in tools):
            raise WorkflowError(
                node.name,
                "its options are not all differentiable tools that give one value and go one way",
                "estimate it by exact or score",
            )
        weights = logits.softmax(1) if soft else self._gumbel(logits)
        results = [self._results(option, rollouts) for option in tools]
        costs = weights @ torch.tensor([option.cost for option in tools], device=weights.device)
        for i, rollout in enumerate(rollouts):
            rollout.path = (*rollout.path, tools[int(weights[i].argmax())].name)
            error = next((r[i][1] for r in results if r[i][1] is not None), None)
            rollout.cost = rollout.cost + costs[i]
            if error is not None:
                self._failed(rollout, tools[0], error)
                continue
            try:
                values = torch.stack([torch.as_tensor(r[i][0]) for r in results])
                rollout.values[tools[0].gives] = torch.tensordot(
                    weights[i].to(values.dtype), values, dims=1
                )
            except (TypeError, ValueError, RuntimeError) as problem:
                fault = f"results cannot be mixed ({problem})"
                raise WorkflowError(node.name, fault, "give tensors of one shape") from None
            rollout.node = tools[0].then
            self.add(rollout)
        return weights.detach().cpu()

    def _gumbel(self, logits: Tensor) -> Tensor:
        # torch's own gumbel_softmax takes no generator.
        uniform = torch.rand(logits.shape, generator=self.generator).clamp_min(1e-20)
        noise = -(-uniform.log()).clamp_min(1e-20).log()
        soft = (logits + noise.to(logits.device)).softmax(1)
        hard = torch.nn.functional.one_hot(soft.argmax(1), logits.shape[1]).to(soft.dtype)
        return hard - soft.detach() + soft

    def _gathered(self) -> Rollouts:
        self.done.sort(key=lambda rollout: (rollout.example, rollout.sample))
        logs = torch.cat(self.entries) if self.entries else torch.zeros(0)
        return Rollouts(
            tuple(Leaf(r.example, r.sample, r.path, r.values, r.error) for r in self.done),
            losses=_stacked([r.loss for r in self.done]),
            costs=_stacked([r.cost for r in self.done]),
            seconds=torch.tensor([r.seconds for r in self.done]),
            log_weights=_summed(logs, [r.splits for r in self.done]),
            log_probabilities=_summed(logs, [r.picks for r in self.done]),
            decided=tuple(self.decided),
            deciding_s=self.deciding_s,
        )


def logits(node: Decision, known: Sequence[Values], decider: nn.Module) -> Tensor:
    """What `decider` says at the node to rollouts that know these values, [rollouts, options].

    Raises:
        WorkflowError: a branch's value is no number, or what comes out is not finite or of another
            shape.
    """
    argument: Any = known
    if isinstance(node, BranchNode):
        try:
            argument = _stacked([values[node.on] for values in known])
        except (TypeError, ValueError, RuntimeError) as error:
            fault = f"{node.on!r} is no number ({error})"
            raise WorkflowError(node.name, fault, "give one") from None
    found: Tensor = decider(argument)
    if found.shape != (len(known), len(node.targets)):
        fault = f"logits of shape {list(found.shape)} for {len(known)} and {len(node.targets)}"
        raise WorkflowError(node.name, fault, "give one for each rollout and option")
    if not bool(found.isfinite().all()):
        raise WorkflowError(node.name, "logits that are not finite", "mend the decider")
    return found


def _stacked(numbers: Sequence[Any]) -> Tensor:
    """[n] float32; with gradient where one of them has some."""
    if any(isinstance(number, Tensor) for number in numbers):
        return torch.stack([torch.as_tensor(n, dtype=torch.float32).reshape(()) for n in numbers])
    return torch.tensor(numbers, dtype=torch.float32)


def _is_finite(number: Any) -> bool:
    try:
        return math.isfinite(number.detach() if isinstance(number, Tensor) else number)
    except (TypeError, ValueError, RuntimeError):
        return False


def _summed(logs: Tensor, entries: Sequence[tuple[int, ...]]) -> Tensor:
    """For each leaf the sum of its entries, [leaves]."""
    places = torch.tensor([i for i, of in enumerate(entries) for _ in of], dtype=torch.long)
    chosen = torch.tensor([entry for of in entries for entry in of], dtype=torch.long)
    zeros = torch.zeros(len(entries), device=logs.device)
    return zeros.index_add(0, places.to(logs.device), logs[chosen.to(logs.device)])


def _tried(call: Callable[[], Any], timeout_s: float | None) -> tuple[Any, str | None]:
    """What a call gives, or why it gave nothing."""
    if timeout_s is None:
        try:
            return call(), None
        except Exception as error:  # whatever a user's function raises
            return None, f"{type(error).__name__}: {error}"
    answers: queue.SimpleQueue[tuple[Any, str | None]] = queue.SimpleQueue()
    # In the caller's context, where libraries such as DSPy keep their settings; a daemon, for
    # nothing can end a thread that hangs.
    run = partial(contextvars.copy_context().run, lambda: answers.put(_tried(call, None)))
    threading.Thread(target=run, daemon=True).start()
    try:
        return answers.get(timeout=timeout_s)
    except queue.Empty:
        return None, f"no result in {timeout_s:g} s"
