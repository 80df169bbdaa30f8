"""Distillation from a teacher who errs, and what outcomes mend of it.

A workflow of so many steps: each looks at the last result, branches on its sign, and a router of
that branch chooses among three tools, of which one is right, by a rule that differs from step to
step and is hidden. A request succeeds when all choices are right, and only that is told. The
teacher is wrong in a stated share of its decisions: by `chance`, or, by `habit`, always in the same
kinds of situations, which no amount of its labels mends.

Three ways to the same routers: distilled from a teacher that is never wrong, from the one that is,
and the latter's learning on from the outcomes of its own choices on the same requests, held near
where it began (`trust`). Tested on requests that none has seen; intervals over seeds, each with a
workflow, requests and a teacher of its own. `gap closed` is what outcomes win of what the errors
cost.

Example:
    python scripts/proofs/labels.py --steps 3 5 8 --seeds 10
"""

import copy
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from results import finish, interval, options, panels, table, words
from scipy import stats

from distill.config import LearnConfig
from distill.workflow import Mlp, Threshold, Workflow, branch, end, imitate, learn, router, tool
from distill.workflow.graph import Node
from distill.workflow.walk import Labels, walk

FEATURES, TOOLS = 4, 3
TRAIN, HELD_OUT, TEST = 400, 200, 1000

Numbers = npt.NDArray[np.float64]
Known = Mapping[str, Any]


@dataclass(frozen=True)
class Rules:
    """What is right, and in which situations the teacher errs by habit; of one seed."""

    right: Numbers
    """[steps, branches, tools, features and result]: the right tool has the largest product."""
    habits: Numbers
    """[steps, branches, features], of length 1: the teacher errs where the product is large."""

    @classmethod
    def drawn(cls, steps: int, chance: np.random.Generator) -> "Rules":
        habits = chance.normal(size=(steps, 2, FEATURES))
        habits /= np.linalg.norm(habits, axis=2, keepdims=True)
        return cls(chance.normal(size=(steps, 2, TOOLS, FEATURES + 1)), habits)

    def choice(self, step: int, side: int, known: Known) -> int:
        """The right tool."""
        return int((self.right[step, side] @ features(known)).argmax())

    def errs(self, step: int, side: int, known: Known, share: float) -> bool:
        """Whether a teacher whose habits are wrong in this share of situations errs here."""
        product = self.habits[step, side] @ known["request"]
        return bool(product > stats.norm.ppf(1 - share))


def features(known: Known) -> Numbers:
    """Of a request and the last result."""
    return np.array([*known["request"], known["state"]["result"]])


def use(request: Numbers, state: Known, *, step: int, side: int, k: int, rules: Rules) -> Known:
    """A tool: moves the result, and remembers whether all were the right ones so far."""
    right = rules.choice(step, side, {"request": request, "state": state}) == k
    result = float(np.sin(3 * (request[k] + state["result"]) + step))
    return {"result": result, "right": state["right"] and right}


def side_of(state: Known) -> int:
    return 0 if state["result"] >= 0 else 1


def workflow(steps: int, rules: Rules, seed: int) -> Workflow:
    """Untrained routers, one for each step and branch."""
    torch.manual_seed(seed)
    nodes: list[Node] = []
    for i in range(steps):
        following = f"look_{i + 1}" if i + 1 < steps else "end"
        sides = [f"choose_{i}_{side}" for side in range(2)]
        fixed = Threshold(0.0, 1e-3, learned=False)
        nodes.append(tool(lambda state: state["result"], then=f"sign_{i}", name=f"look_{i}"))
        nodes.append(
            branch(f"sign_{i}", on=f"look_{i}", threshold=fixed, above=sides[0], below=sides[1])
        )
        for side, name in enumerate(sides):
            tools = [f"use_{i}_{side}_{k}" for k in range(TOOLS)]
            policy = Mlp(features, FEATURES + 1, TOOLS, hidden=16)
            nodes.append(router(name, policy, tools))
            for k, each in enumerate(tools):
                function = _named(partial(use, step=i, side=side, k=k, rules=rules))
                nodes.append(tool(function, then=following, name=each, gives="state"))
    nodes.append(end(lambda state: 0.0 if state["right"] else 1.0))
    return Workflow(["request", "state"], nodes)


def _named(function: Callable[..., Known]) -> Callable[..., Known]:
    """With the parameters alone that are still open: those given are no values to take."""

    def tool_of_two(request: Numbers, state: Known) -> Known:
        return function(request, state)

    return tool_of_two


def requests(count: int, chance: np.random.Generator) -> list[Known]:
    return [
        {
            "request": chance.normal(size=FEATURES),
            "state": {"result": float(chance.uniform(-1, 1)), "right": True},
        }
        for _ in range(count)
    ]


def labelled(
    known: Known, steps: int, rules: Rules, wrong: tuple[str, float], chance: np.random.Generator
) -> tuple[Known, Labels]:
    """A request and what the teacher decides on its own way through the workflow."""
    kind, share = wrong
    state, labels = known["state"], {}
    for i in range(steps):
        side, here = side_of(state), {"request": known["request"], "state": state}
        k = rules.choice(i, side, here)
        by_chance = chance.random() < share
        if by_chance if kind == "chance" else rules.errs(i, side, here, share):
            k = (k + 1) % TOOLS
        labels[f"sign_{i}"] = f"choose_{i}_{side}"
        labels[f"choose_{i}_{side}"] = f"use_{i}_{side}_{k}"
        state = use(known["request"], state, step=i, side=side, k=k, rules=rules)
    return known, labels


def success(flow: Workflow, test: Sequence[Known]) -> float:
    return 1 - float(walk(flow, test, "likeliest").losses.mean())


def attempt(
    steps: int, wrong: tuple[str, float], seed: int, given: Any, folder: Path
) -> dict[str, float]:
    """Success after distillation, and after outcomes, for one seed."""
    chance = np.random.default_rng([seed, steps])
    rules = Rules.drawn(steps, chance)
    train, held_out, test = (requests(n, chance) for n in (TRAIN, HELD_OUT, TEST))
    shutil.rmtree(folder, ignore_errors=True)

    flow = workflow(steps, rules, seed)
    taught = [labelled(k, steps, rules, wrong, chance) for k in train]
    checked = [labelled(k, steps, rules, wrong, chance) for k in held_out]
    distilling = LearnConfig(epochs=given.epochs, learning_rate=0.02, weight_decay=0.01, seed=seed)
    imitate(flow, taught, checked, distilling, folder=folder / "distilled")
    found = {"distilled": success(flow, test)}
    if wrong[1]:
        outcomes = LearnConfig(
            epochs=given.outcome_epochs,
            learning_rate=0.01,
            samples=given.samples,
            trust=given.trust,
            seed=seed,
        )
        kept = copy.deepcopy(flow.deciders.state_dict())
        learn(flow, train, held_out, outcomes, folder=folder / "outcomes")
        found["outcomes"] = success(flow, test)
        flow.deciders.load_state_dict(kept)
    return found


def main() -> None:
    parser = options(__doc__, "labels")
    parser.add_argument("--steps", type=int, nargs="+", default=[3, 5, 8])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.4])
    parser.add_argument("--kinds", nargs="+", default=["chance", "habit"])
    parser.add_argument("--epochs", type=float, default=30, help="of distillation")
    parser.add_argument("--outcome-epochs", type=float, default=40)
    parser.add_argument("--samples", type=int, default=8, help="rollouts of a request and step")
    parser.add_argument("--trust", type=float, default=0.01)
    given = parser.parse_args()
    result: dict[str, Any] = {}
    rows = []
    figure, axes = panels(len(given.kinds))
    for axis, kind in zip(axes, given.kinds, strict=True):
        for steps in given.steps:
            by_share: dict[float, list[dict[str, float]]] = {}
            for share in (0.0, *given.shares):
                name = f"{steps}-{kind}-{share}"
                by_share[share] = [
                    attempt(steps, (kind, share), seed, given, given.output / name / str(seed))
                    for seed in range(given.seeds)
                ]
                print(name, by_share[share], flush=True)
                result[name] = by_share[share]
            clean = [run["distilled"] for run in by_share[0.0]]
            for share in given.shares:
                noisy = [run["distilled"] for run in by_share[share]]
                mended = [run["outcomes"] for run in by_share[share]]
                won = [m - n for m, n in zip(mended, noisy, strict=True)]
                gap = np.mean(clean) - np.mean(noisy)
                rows.append(
                    [steps, kind, f"{share:.0%}"]
                    + [words(values, 100, 1) for values in (clean, noisy, mended, won)]
                    + [f"{np.mean(won) / gap:.0%}" if gap > 0 else "no gap"]
                    + [f"{100 * min(won):.1f}"]
                )
            shares = [0.0, *given.shares]
            _line(
                axis,
                shares,
                [clean] + [[r["distilled"] for r in by_share[s]] for s in given.shares],
                steps,
                "--",
            )
            _line(
                axis,
                given.shares,
                [[r["outcomes"] for r in by_share[s]] for s in given.shares],
                steps,
                "-",
            )
        axis.set(title=f"teacher errs by {kind}", xlabel="share of wrong labels", ylim=(0, 1))
        axis.set(ylabel="test requests that succeed")
        axis.legend(fontsize=7)
    head = ["steps", "errors", "share", "clean, %", "noisy, %", "with outcomes, %"]
    head += ["won, points", "gap closed", "worst seed, points"]
    finish(given.output, figure, table(head, rows), result)


def _line(
    axis: Any, shares: Sequence[float], runs: Sequence[Sequence[float]], steps: int, style: str
) -> None:
    spread = [interval(values) for values in runs]
    label = f"{steps} steps, {'distilled' if style == '--' else 'with outcomes'}"
    middle = [mean for mean, _, _ in spread]
    error = [[mean - low for mean, low, _ in spread], [top - mean for mean, _, top in spread]]
    axis.errorbar(shares, middle, error, linestyle=style, color=f"C{steps}", capsize=2, label=label)


if __name__ == "__main__":
    main()
