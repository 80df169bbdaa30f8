"""The order desk's closed loop before and after its routers learned from outcomes.

Each held-out conversation of the embedded shop is a task: a router calls the tools, its calls are
executed, and the shop's state and what the customer was told decide (`distill simulate`, the router
alone). From the distilled router on, its weights learn from the scores of its own calls in the
training part's conversations: a failed task loses 1, one with a harmful call 1 more, a decision
0.01. Nobody says which call was right. The validation part decides what is kept; what fills the
arguments stays as it was, and for the rnn it is the encoder's.

Tested before and after on the same test conversations, which no step saw; intervals over their
groups, all seeds together. Cost is told in decisions: with a router alone there is no LLM to pay.

Example:
    python scripts/proofs/desk.py runs/orderdesk --seeds 3 --routers encoder rnn
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from results import finish, options, panels, table

from distill import config as configs
from distill import load_router
from distill.config import LearnConfig, PolicyConfig
from distill.dataset.parts import Part
from distill.evaluation.closed_loop import NoFallback, Outcome, play, summarise
from distill.evaluation.intervals import number_groups, paired_difference
from distill.pipeline.build import dataset_of
from distill.policy import Policy
from distill.routers.arguments import FillingRouter
from distill.runs import RunDir
from distill.sample.tasks.desk import OrderDesk
from distill.types import Router
from distill.workflow import Learned, closed_loop, learn

RATES = {"encoder": 3e-5, "rnn": 5e-4, "attention": 3e-4}
MEASURES = ("success", "harmful", "wrong_calls", "steps")
RESAMPLES = 2000


@dataclass(frozen=True)
class Seed:
    """The runs of one seed, and its conversations by part."""

    folder: Path
    number: int

    def router(self, name: str) -> Router:
        """A trained router with the encoder's filler."""
        encoder = load_router(self.folder / f"encoder-s{self.number}")
        assert isinstance(encoder, FillingRouter), "train it with arguments: extract"
        if name == "encoder":
            return encoder
        tools: Any = load_router(self.folder / f"{name}-s{self.number}")
        return FillingRouter(tools, encoder.filler, tools.file)

    def desk(self, part: Part) -> OrderDesk:
        run = RunDir(self.folder / f"encoder-s{self.number}")
        dataset = dataset_of(run, configs.load(run.config))
        return OrderDesk({each.trace_id: each.group for each in dataset.examples(part)})


def played(router: Router, desk: OrderDesk) -> list[Outcome]:
    policy = Policy(PolicyConfig(threshold=0))
    return [play(router, policy, desk, task, NoFallback()) for task in desk.tasks()]


def attempt(seed: Seed, name: str, given: Any) -> tuple[list[Outcome], list[Outcome], Learned]:
    """What one router made of the test tasks before and after, and how it learned."""
    router, test, everything = seed.router(name), seed.desk("test"), OrderDesk()
    before = played(router, test)
    flow, policy = closed_loop(router, lambda: copy.copy(everything), decision_cost=0.01)
    config = LearnConfig(
        epochs=given.epochs,
        batch_size=16,
        samples=given.samples,
        learning_rate=RATES[name],
        trust=given.trust,
        evaluations=given.evaluations,
        seed=seed.number,
    )
    train, held_out = (
        [{"task": task} for task in seed.desk(part).tasks()] for part in ("train", "validation")
    )
    folder = given.output / f"{name}-s{seed.number}"
    learned = learn(flow, train, held_out, config, folder=folder, progress=_said(folder.name))
    return before, played(policy.tuned(), test), learned


def _said(name: str) -> Any:
    return lambda stage, done, total=None: print(f"{name}: {stage} {done}/{total}", flush=True)


def change(before: Sequence[Outcome], after: Sequence[Outcome], measure: str) -> str:
    """The mean difference of a measure, task by task, with its interval."""
    a, b = (np.array([_value(one, measure) for one in made], float) for made in (after, before))
    groups = number_groups([one.group for one in before])
    shares = measure in ("success", "harmful")
    found, scale = paired_difference(a, b, groups, RESAMPLES, shares=shares), 100 if shares else 1
    return _spelled(found._asdict(), scale, "+")


def _value(outcome: Outcome, measure: str) -> float:
    assert outcome.score is not None, outcome.error
    if measure == "steps":
        return len(outcome.steps)
    if measure == "wrong_calls":
        return outcome.score.wrong_calls
    failed = outcome.score.harmful_calls > 0
    return float(failed if measure == "harmful" else bool(outcome.success))


def _spelled(figure: Any, scale: float, sign: str = "") -> str:
    value, low, high = (scale * figure[key] for key in ("value", "low", "high"))
    return f"{value:{sign}.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = options(__doc__, "desk")
    parser.set_defaults(seeds=3)
    parser.add_argument("runs", type=Path, help="a job on the embedded domain")
    parser.add_argument("--routers", nargs="+", default=["encoder", "rnn"], choices=RATES)
    parser.add_argument("--epochs", type=float, default=6, help="passes over the train tasks")
    parser.add_argument("--samples", type=int, default=4, help="rollouts of a task and step")
    parser.add_argument("--trust", type=float, default=0.05)
    parser.add_argument("--evaluations", type=int, default=6)
    given = parser.parse_args()
    result: dict[str, Any] = {}
    rows = []
    figure, axes = panels(len(given.routers))
    for axis, name in zip(axes, given.routers, strict=True):
        tried = [attempt(Seed(given.runs, i), name, given) for i in range(given.seeds)]
        before, after = ([one for run in tried for one in run[side]] for side in (0, 1))
        figures = [summarise(made, RESAMPLES) for made in (before, after)]
        for measure in MEASURES:
            scale = 100 if measure in ("success", "harmful") else 1
            spelled = [_spelled(found[measure], scale) for found in figures]
            rows.append([name, measure, *spelled, change(before, after, measure)])
        result[name] = {
            "before": [one.row() for one in before],
            "after": [one.row() for one in after],
            "kept": [run[2].kept for run in tried],
        }
        for number, (_, _, learned) in enumerate(tried):
            steps = [each.step for each in learned.evaluations]
            losses = [each.objective for each in learned.evaluations]
            axis.plot(steps, losses, marker="o", markersize=3, label=f"seed {number}")
            axis.plot(learned.kept, losses[steps.index(learned.kept)], "k*")
        axis.set(title=name, xlabel="step (kept: *)", ylabel="validation tasks' mean loss")
        axis.legend(fontsize=7)
    head = ["router", "of a task", "distilled", "with outcomes", "difference"]
    finish(given.output, figure, table(head, rows), result)


if __name__ == "__main__":
    main()
