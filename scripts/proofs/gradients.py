"""What each gradient estimator is off by, and how much it scatters.

A chain of steps, at each of which a policy chooses between two tools that change a number; at the
end stands the number itself (`linear`), or its squared distance from 1 (`curved`). All paths can be
gone, so the gradient of the expected loss is known: `exact` is checked against central differences,
and every other estimator against `exact`, over many draws. Told are lengths of vectors over all
policies' weights, in shares of the exact gradient's length: `bias`, of the mean draw's distance
from it, with what chance alone would make of that (one standard error) in brackets; and `scatter`,
the root mean square distance of a draw from the mean draw.

A draw is one input with so many samples. A single sample has no other to be its baseline.

Example:
    python scripts/proofs/gradients.py --draws 500
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.ticker import LogLocator
from results import finish, panels, table
from torch import Tensor, nn

from distill.workflow import Policy, Rollouts, Workflow, end, router, surrogate, tool, walk
from distill.workflow.gradients import Prices, expected

INPUT = {"x": torch.tensor(2.0)}
SHIFT = 1e-2
"""Of a weight, to either side, for the differences."""


class Odds(Policy):
    """The same odds for everybody, and not even ones."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.4, -0.3]) * (-1) ** step)

    def forward(self, values: Sequence[Mapping[str, Any]]) -> Tensor:
        return self.logits.expand(len(values), -1)


def chain(steps: int, loss: Callable[[Tensor], Tensor]) -> Workflow:
    def grow(x: Tensor) -> Tensor:
        return 1.2 * x + 0.5

    def fall(x: Tensor) -> Tensor:
        return x - 0.7

    nodes: list[Any] = []
    for i in range(steps):
        then = f"choose_{i + 1}" if i + 1 < steps else "end"
        names = [f"grow_{i}", f"fall_{i}"]
        nodes.append(router(f"choose_{i}", Odds(i), names))
        nodes += [
            tool(function, then=then, name=name, gives="x", differentiable=True)
            for name, function in zip(names, (grow, fall), strict=True)
        ]

    def judged(x: Tensor) -> Tensor:
        return loss(x)

    return Workflow(["x"], [*nodes, end(judged)])


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "curved": lambda x: (x - 1) ** 2,
}


def gradient(flow: Workflow, objective: Tensor) -> Tensor:
    """Of all policies' weights, [weights]."""
    flow.deciders.zero_grad()
    objective.backward()  # type: ignore[no-untyped-call]
    grads = [weight.grad for weight in flow.deciders.parameters()]
    return torch.cat([grad.reshape(-1) for grad in grads if grad is not None])


def differences(flow: Workflow) -> Tensor:
    """Central differences of the expected loss, [weights]."""
    found = []
    for weight in flow.deciders.parameters():
        row = weight.data.view(-1)
        for i in range(len(row)):
            sides = []
            for shift in (SHIFT, -SHIFT):
                row[i] += shift
                sides.append(expected(walk(flow, [INPUT], "exact"), Prices()).mean())
                row[i] -= shift
            found.append((sides[0] - sides[1]) / (2 * SHIFT))
    return torch.stack(found)


def without_baseline(rollouts: Rollouts) -> Tensor:
    """The plain score function, to see what the baseline is worth."""
    return (rollouts.losses.detach() * rollouts.log_probabilities).mean()


def compared(flow: Workflow, exact: Tensor, draw: Callable[[], Tensor], draws: int) -> list[float]:
    """Bias, its standard error, and scatter, in shares of the exact gradient."""
    found = torch.stack([gradient(flow, draw()) for _ in range(draws)])
    scatter = found.var(0).sum().sqrt() if draws > 1 else torch.zeros(())
    bias = (found.mean(0) - exact).norm()
    return [float(x / exact.norm()) for x in (bias, scatter / draws**0.5, scatter)]


def estimators(
    flow: Workflow, samples: Sequence[int], chance: torch.Generator
) -> dict[str, tuple[Callable[[], Tensor], bool]]:
    """By name, what makes a draw's objective, and whether chance has a part in it."""

    def drawn(way: Any, count: int = 1) -> Rollouts:
        return walk(flow, [INPUT], way, samples=count, generator=chance)

    def scored(count: int) -> Callable[[], Tensor]:
        return lambda: surrogate(drawn("score", count))

    most = max(samples)
    return {
        "mixture": (lambda: surrogate(drawn("mixture")), False),
        "straight-through": (lambda: surrogate(drawn("straight_through")), True),
        f"score, {most}, no baseline": (lambda: without_baseline(drawn("score", most)), True),
    } | {f"score, {count}": (scored(count), True) for count in samples}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--samples", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/proofs/gradients"))
    given = parser.parse_args()
    rows, result = [], []
    figure, axes = panels(len(LOSSES))
    for axis, (title, loss) in zip(axes, LOSSES.items(), strict=True):
        for steps in given.steps:
            flow, chance = chain(steps, loss), torch.Generator().manual_seed(0)
            exact = gradient(flow, surrogate(walk(flow, [INPUT], "exact")))
            off = float((differences(flow) - exact).norm() / exact.norm())
            rows.append([title, steps, "exact, from differences", f"{off:.2%}", ""])
            made = estimators(flow, given.samples, chance)
            found = {
                name: compared(flow, exact, draw, given.draws if by_chance else 1)
                for name, (draw, by_chance) in made.items()
            }
            for name, (bias, error, scatter) in found.items():
                rows.append([title, steps, name, f"{bias:.1%} ({error:.1%})", f"{scatter:.0%}"])
                result.append(
                    {"end": title, "steps": steps, "estimator": name, "bias": bias}
                    | {"standard_error": error, "scatter": scatter}
                )
            scored = [found[f"score, {count}"][2] for count in given.samples]
            axis.plot(given.samples, scored, marker=".", label=f"{steps} steps")
        axis.set(title=f"{title} end, score", xscale="log", yscale="log")
        axis.set_xticks(given.samples, given.samples)
        axis.minorticks_off()
        axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        for formatted in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            formatted("{x:g}")
        axis.set(xlabel="samples", ylabel="scatter / length of the exact gradient")
        axis.legend(fontsize=7)
    head = ["end", "steps", "estimator, samples", "bias (standard error)", "scatter"]
    finish(given.output, figure, table(head, rows), result)


if __name__ == "__main__":
    main()
