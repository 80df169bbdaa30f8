"""What other decisions would have led to, estimated from outcomes on record, no tool called.

Paths that were taken by chance are kept as episodes: what was known at each decision, what was
chosen, with what probability, and the loss at the end. Deciders that learned meanwhile are judged
by the same episodes, each weighted by how much likelier they would have taken it, the weights
divided by their sum (self-normalised importance sampling: Swaminathan & Joachims 2015, "The
self-normalized estimator for counterfactual learning"). Few episodes with large weights are little
evidence: `effective` says how many equally weighted ones they are worth (Kish 1965).

What the recorded deciders would never do tells nothing of deciders that would.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from distill.errors import WorkflowError
from distill.evaluation.intervals import Array, Estimate, Statistic, estimate, number_groups, ratio
from distill.workflow.deciders import Values
from distill.workflow.graph import Workflow
from distill.workflow.walk import logits, walk

LEAST_EFFECTIVE = 20
"""Episodes' worth of evidence below which nothing is called better."""
_RESAMPLES = 2000


@dataclass(frozen=True)
class Choice:
    """One decision of an episode."""

    node: str
    known: Values
    taken: str
    """The node that was chosen."""
    log_probability: float
    """With which it was chosen."""


@dataclass(frozen=True)
class Episode:
    """A path that was taken by chance, and how it ended."""

    input: str
    """Which it began with, by number: episodes of one input are one group of the intervals.

    Inputs of several recordings need names of their own (`dataclasses.replace`).
    """
    choices: tuple[Choice, ...]
    loss: float


@dataclass(frozen=True)
class OffPolicy:
    """Today's deciders, judged by episodes of others."""

    loss: Estimate
    """The mean loss that they would have had, with its interval over inputs."""
    recorded: Estimate
    """The mean loss of the episodes as they were."""
    difference: Estimate
    """The first less the second, paired; negative is better."""
    effective: float
    """How many equally weighted episodes the weighted ones are worth."""
    n: int

    @property
    def better(self) -> bool:
        """Whether the evidence is enough, and all of the difference's interval is below 0."""
        high = self.difference.high
        return self.effective >= LEAST_EFFECTIVE and high is not None and high < 0


def episodes(
    workflow: Workflow,
    inputs: Sequence[Values],
    *,
    generator: torch.Generator | None = None,
    cost: float = 0.0,
) -> list[Episode]:
    """Walk the workflow from each input by chance; paths without a loss are left out.

    Args:
        generator: of chance; none: torch's own.
        cost: what a unit of a tool's cost is worth in loss.

    Raises:
        WorkflowError: as `distill.workflow.walk`.
    """
    with torch.no_grad():
        rollouts = walk(workflow, inputs, "score", generator=generator)
    rows: dict[tuple[int, str], list[tuple[Values, torch.Tensor]]] = {}
    for each in rollouts.decided:
        met_here = zip(each.rollouts, each.known, each.log_probabilities, strict=True)
        for (example, _), known, logs in met_here:
            rows.setdefault((example, each.node), []).append((known, logs))
    found = []
    ends = zip(rollouts.leaves, rollouts.losses.tolist(), rollouts.costs.tolist(), strict=True)
    for leaf, loss, spent in ends:
        if math.isnan(loss):
            continue
        choices = []
        for node, taken in itertools.pairwise(leaf.path):
            if node in workflow.decisions:
                # A loop comes by again: the first that is left is this time's.
                known, logs = rows[leaf.example, node].pop(0)
                option = workflow.nodes[node].targets.index(taken)
                choices.append(Choice(node, known, taken, float(logs[option])))
        found.append(Episode(str(leaf.example), tuple(choices), loss + cost * spent))
    return found


def log_probabilities(workflow: Workflow, recorded: Sequence[Episode]) -> Array:
    """(episodes,) how likely today's deciders would have made all choices of each.

    Raises:
        WorkflowError: an episode has a decision that the workflow has not.
    """
    total = np.zeros(len(recorded))
    by_node: dict[str, list[tuple[int, Choice]]] = {}
    for i, episode in enumerate(recorded):
        for choice in episode.choices:
            by_node.setdefault(choice.node, []).append((i, choice))
    for name, met in by_node.items():
        node = workflow.decisions.get(name)
        if node is None:
            raise WorkflowError(f"episode {met[0][0]}", f"decides at {name!r}", "of no such node")
        with torch.no_grad():
            logs = logits(node, [choice.known for _, choice in met], node.decider).log_softmax(1)
        for (i, choice), row in zip(met, logs.double().tolist(), strict=True):
            if choice.taken not in node.targets:
                fault = f"went to {choice.taken!r} at {name!r}"
                raise WorkflowError(f"episode {i}", fault, f"name one of {node.targets}")
            total[i] += row[node.targets.index(choice.taken)]
    return total


def off_policy(workflow: Workflow, recorded: Sequence[Episode]) -> OffPolicy:
    """Judge the workflow's deciders, as they are now and deciding by chance, by episodes.

    Raises:
        WorkflowError: there are none, or as `log_probabilities`.
    """
    if not recorded:
        raise WorkflowError("episodes", "there are none", "record some with episodes()")
    losses = np.array([episode.loss for episode in recorded])
    before = np.array([math.fsum(c.log_probability for c in e.choices) for e in recorded])
    apart = log_probabilities(workflow, recorded) - before
    # Divided by the largest, which the division by their sum undoes: no weight overflows.
    weights = np.exp(apart - apart.max())
    ones = np.ones_like(weights)
    low, high = float(losses.min()), float(losses.max())
    difference = Statistic(
        np.stack([weights * losses, weights, losses, ones], axis=1),
        lambda s: s[..., 0] / s[..., 1] - s[..., 2] / s[..., 3],
        (low - high, high - low),
    )
    found = estimate(
        {
            "loss": _within(ratio(weights * losses, weights), low, high),
            "recorded": _within(ratio(losses, ones), low, high),
            "difference": difference,
        },
        number_groups([episode.input for episode in recorded]),
        _RESAMPLES,
    )
    loss, was, less = found["loss"], found["recorded"], found["difference"]
    assert loss is not None
    assert was is not None
    assert less is not None
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    return OffPolicy(loss, was, less, effective, len(recorded))


def _within(statistic: Statistic, low: float, high: float) -> Statistic:
    return Statistic(statistic.columns, statistic.value, (low, high))
