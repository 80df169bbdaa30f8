"""From losses at the ends to a number whose gradient is that of the expected objective.

The objective of a path is its loss, and what its tools cost and how long they took, at stated
prices. Its expectation over a workflow's decisions has these gradients (Schulman et al. 2015,
"Gradient Estimation Using Stochastic Computation Graphs", arXiv:1506.05254):

    exact              sum over paths of probability times objective: no variance, every tool is
                       called on every path
    score              E[(objective - baseline) grad log p]: any black box, noisy. The baseline is
                       the mean of the other samples (leave-one-out; Kool et al. 2019, "Buy 4
                       REINFORCE Samples, Get a Baseline for Free!"), so nothing is biased
    mixture            the loss of the mean result in place of the mean loss: exact where what
                       follows is linear, no variance
    straight_through   one result in the forward pass, the gradient of a mixture: biased, for tools
                       that are differentiable

One workflow may use several: its decisions are split, sampled and mixed side by side.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distill.errors import WorkflowError
from distill.workflow.graph import Estimator, Workflow, decider_key
from distill.workflow.walk import Rollouts, logits

_FEW_PATHS = 64


@dataclass(frozen=True)
class Prices:
    """What a path costs besides its loss, in units of the loss."""

    cost: float = 1.0
    """For each unit of the tools' `cost`."""
    second: float = 0.0
    """For each second that tools take. It is measured, so results then differ from run to run."""


def chosen(workflow: Workflow, few: int = _FEW_PATHS) -> dict[str, Estimator]:
    """How gradients come past each decision where its node does not say.

    Exact where no more than `few` paths lead through the workflow; else straight-through where the
    options are differentiable tools that give one value and go one way, and by score elsewhere.
    """
    found: dict[str, Estimator] = {}
    enumerated = workflow.paths(few + 1) <= few
    for name, node in workflow.decisions.items():
        tools = workflow.diamond(name)
        mixable = bool(tools) and all(option.differentiable for option in tools)
        otherwise: Estimator = "straight_through" if mixable else "score"
        found[name] = node.estimator or ("exact" if enumerated else otherwise)
    return found


def objectives(rollouts: Rollouts, prices: Prices) -> Tensor:
    """Of each leaf, with gradient where there is any; NaN where it was not judged."""
    return rollouts.losses + prices.cost * rollouts.costs + prices.second * rollouts.seconds


def expected(rollouts: Rollouts, prices: Prices) -> Tensor:
    """The mean objective of each input, [inputs], detached; NaN where no path was judged.

    Paths that were not judged count neither way: the weights of the others are made to add up.
    """
    weights = rollouts.log_weights.detach().exp() * rollouts.judged
    values = objectives(rollouts, prices).detach().nan_to_num(0.0)
    examples = torch.tensor([leaf.example for leaf in rollouts.leaves])
    count = int(examples.max()) + 1
    total = torch.zeros(count).index_add(0, examples, weights * values)
    return total / torch.zeros(count).index_add(0, examples, weights)


def surrogate(rollouts: Rollouts, prices: Prices = Prices()) -> Tensor:
    """A number whose gradient is an estimate of the mean objective's.

    Paths that were not judged are left out.

    Raises:
        WorkflowError: no path was judged.
    """
    judged = rollouts.judged
    if not bool(judged.any()):
        reason = next((leaf.error for leaf in rollouts.leaves if leaf.error), "no paths")
        raise WorkflowError("workflow", f"no path was judged ({reason})", "mend what fails")
    # Not multiplied by zero: the gradient of what is not a number is none, either.
    kept = judged.nonzero()[:, 0]
    values = objectives(rollouts, prices)[kept]
    weights = rollouts.log_weights[kept].exp()
    logs = rollouts.log_probabilities[kept]
    leaves = [rollouts.leaves[i] for i in kept.tolist()]
    walks = {walk: i for i, walk in enumerate(dict.fromkeys((x.example, x.sample) for x in leaves))}
    of_walk = torch.tensor([walks[leaf.example, leaf.sample] for leaf in leaves])
    baseline = _baseline(values.detach() * weights.detach(), of_walk, list(walks))
    by_chance = weights.detach() * (values.detach() - baseline[of_walk]) * logs
    return (weights * values + by_chance).sum() / len(walks)


def _baseline(weighted: Tensor, of_walk: Tensor, walks: list[tuple[int, int]]) -> Tensor:
    """For each walk the mean objective of the input's other samples, [walks].

    Where there is no other sample, that of all other inputs: also independent of the walk.
    """
    totals = torch.zeros(len(walks)).index_add(0, of_walk, weighted)
    examples = torch.tensor([example for example, _ in walks])
    count = int(examples.max()) + 1
    sums = torch.zeros(count).index_add(0, examples, totals)[examples]
    number = torch.zeros(count).index_add(0, examples, torch.ones(len(walks)))[examples]
    elsewhere = (totals.sum() - sums) / (len(walks) - number).clamp_min(1)
    return torch.where(number > 1, (sums - totals) / (number - 1).clamp_min(1), elsewhere)


def divergence(rollouts: Rollouts, workflow: Workflow, reference: nn.ModuleDict) -> Tensor:
    """KL(decisions || the reference's), a mean over the decisions that were met.

    Each counts by how much of the walk came by. The gradient is that of the divergence where the
    walk went, not of where it goes.

    Args:
        reference: deciders by the names of `Workflow.deciders`.
    """
    total, weight = torch.zeros(()), torch.zeros(())
    for each in rollouts.decided:
        logs, node = each.log_probabilities, workflow.decisions[each.node]
        with torch.no_grad():
            then = logits(node, each.known, reference[decider_key(each.node)]).log_softmax(1)
        shares = each.shares.sum(1).to(logs.device)
        total = total + (shares * (logs.exp() * (logs - then)).sum(1)).sum()
        weight = weight + shares.sum()
    return total / weight.clamp_min(1e-12)
