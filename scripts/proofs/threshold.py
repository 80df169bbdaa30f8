"""A hidden threshold and the better ways, from outcomes alone.

    measure -> is it above t? -> this tool or that -> outcome

Nobody tells where to branch or which tool is right on which side: only whether a request went well
in the end, 1 or 0, and not reliably so (one outcome in ten is wrong). The threshold begins at one
end of the range and both policies at even odds. By seed the hidden threshold is another. The
expectation over all four paths (`exact`), and sampled paths (`score`), with as many passes over the
same requests.

Example:
    python scripts/proofs/threshold.py --seeds 10
"""

import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from results import finish, interval, options, panels, table, words
from torch import Tensor, nn

from distill.config import LearnConfig
from distill.workflow import Policy, Threshold, Workflow, branch, end, learn, router, tool, walk
from distill.workflow.graph import Estimator

REQUESTS = 400
LOW, HIGH = 0.0, 10.0


class Odds(Policy):
    """The same odds for everybody."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2))

    def forward(self, values: Sequence[Mapping[str, Any]]) -> Tensor:
        return self.logits.expand(len(values), -1)


def workflow(hidden: float, estimator: Estimator) -> Workflow:
    """Above the hidden threshold the refund is right, below it the voucher."""

    def measure(request: float) -> float:
        return request

    def refund() -> str:
        return "refund"

    def voucher() -> str:
        return "voucher"

    def failed(request: float, given: str, honest: bool) -> float:
        right = (given == "refund") == (request > hidden)
        return float(right != honest)

    kinds = {"estimator": estimator}
    return Workflow(
        ["request", "honest"],
        [
            tool(measure, then="large"),
            branch(
                "large",
                on="measure",
                threshold=Threshold(LOW + 1, temperature=1.0),
                above="when_large",
                below="when_small",
                **kinds,
            ),
            router("when_large", Odds(), ["refund", "voucher"], **kinds),
            router("when_small", Odds(), ["refund", "voucher"], **kinds),
            tool(refund, then="end", gives="given"),
            tool(voucher, then="end", gives="given"),
            end(failed),
        ],
    )


def requests(seed: int, noise: float) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [
        {"request": chance.uniform(LOW, HIGH), "honest": chance.random() >= noise}
        for _ in range(REQUESTS)
    ]


def attempt(seed: int, estimator: Estimator, epochs: float, folder: Path) -> dict[str, Any]:
    """What one seed learned."""
    hidden = random.Random(seed).uniform(3, 7)
    flow = workflow(hidden, estimator)
    config = LearnConfig(
        epochs=epochs, learning_rate=0.05, samples=8, evaluations=40, max_grad_norm=10, seed=seed
    )
    shutil.rmtree(folder, ignore_errors=True)
    train, held_out = requests(2 * seed, 0.1), requests(2 * seed + 1, 0.1)
    learned = learn(flow, train, held_out, config, folder=folder)
    test = walk(flow, requests(10_000 + seed, 0.0), "likeliest")
    nodes = flow.decisions
    odds = {
        name: nodes[name].decider.logits.detach().softmax(0)
        for name in ("when_large", "when_small")
    }
    return {
        "seed": seed,
        "hidden": hidden,
        "learned": float(nodes["large"].decider.value.detach()),
        "refund_when_large": float(odds["when_large"][0]),
        "refund_when_small": float(odds["when_small"][0]),
        "right": 1 - float(test.losses.mean()),
        "steps": [e.step for e in learned.evaluations],
        "failed": [e.objective for e in learned.evaluations],
        "threshold": [e.thresholds["large"] for e in learned.evaluations],
    }


def main() -> None:
    parser = options(__doc__, "threshold")
    parser.add_argument("--epochs", type=float, default=40, help="passes over the 400 requests")
    given = parser.parse_args()
    found = {
        kind: [
            attempt(seed, kind, given.epochs, given.output / kind / str(seed))
            for seed in range(given.seeds)
        ]
        for kind in ("exact", "score")
    }
    figure, (left, right) = panels(2)
    rows = []
    for colour, (kind, runs) in zip(("C0", "C1"), found.items(), strict=True):
        steps = runs[0]["steps"]
        spread = [interval(values) for values in zip(*(r["failed"] for r in runs), strict=True)]
        left.plot(steps, [mean for mean, _, _ in spread], colour, label=kind)
        left.fill_between(
            steps, [low for _, low, _ in spread], [top for _, _, top in spread], alpha=0.2
        )
        for run in runs:
            off = [value - run["hidden"] for value in run["threshold"]]
            right.plot(steps, off, colour, alpha=0.5, linewidth=0.8)
        better = sum(r["refund_when_large"] > 0.5 > r["refund_when_small"] for r in runs)
        rows.append(
            [
                kind,
                words([abs(r["learned"] - r["hidden"]) for r in runs]),
                f"{better} of {len(runs)}",
                words([r["right"] for r in runs], 100, 1),
            ]
        )
    left.axhline(0.1, color="grey", linestyle=":")
    left.set(xlabel="step", ylabel="held-out requests that went wrong", ylim=(0, None))
    left.legend()
    right.axhline(0, color="grey", linestyle=":")
    right.set(xlabel="step", ylabel="learned − hidden threshold")
    head = ["gradient", "threshold off by", "better ways found", "right, % (outcomes told truly)"]
    finish(given.output, figure, table(head, rows), found)


if __name__ == "__main__":
    main()
