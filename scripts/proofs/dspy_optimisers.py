"""A workflow that learns from outcomes beside DSPy's own optimisers: one task, one metric.

Customers of a shop write, and one of five tools is right. Of each tool's twelve phrasings five are
compiled with, two decide what is kept, and five test; the seed draws which. DSPy's program is a
`dspy.Predict` that answers with the tool's name, and its optimisers look for demonstrations. The
workflow has one router node, a perceptron over a frozen encoder's embedding of the request that
begins at random; `LearnOutcomes` goes all five ways at each step and learns from the metric. All
get the same examples and are tested by `dspy.Evaluate`; intervals are over phrasings.

Counted are calls of the LM and their prompt tokens (no cache answers any), calls of the metric, and
seconds, of compiling and of a decision. The optimisers leave the LM as it is and pay it for each
decision. The workflow asks no LM, but the metric for every tool, again and again: cheap here, and
dear where an outcome takes real calls.

By default the LM has 135 million parameters and runs here. It does not follow DSPy's format without
demonstrations and hardly chooses better with them: that shows what each costs, and that all take
the same parts, not what the optimisers are worth. `--lm openai/NAME --api-base URL` asks a real
one. MIPROv2, GEPA and SIMBA are left out: an LM writes their instructions, which this one cannot.

Example:
    python scripts/proofs/dspy_optimisers.py
    python scripts/proofs/dspy_optimisers.py --lm openai/gpt-4o-mini --orders 2 --seeds 3
"""

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import dspy
import numpy as np
import torch
from dspy.utils.callback import BaseCallback
from local_models import embedder, local_lm
from requests_of_customers import PHRASINGS, requests
from results import finish, options, panels, table

from distill.config import LearnConfig
from distill.evaluation.intervals import estimate, number_groups, ratio
from distill.integrations.dspy import LearnOutcomes, WorkflowProgram, metric_loss
from distill.workflow import Mlp, Workflow, end, router, tool

TOOLS = tuple(PHRASINGS)
COSTS = [("compile", key) for key in ("lm_calls", "prompt_tokens", "metric_calls", "seconds")]
COSTS += [("decide", key) for key in ("lm_calls", "prompt_tokens", "seconds")]

CHOOSE = dspy.Signature(
    {"request": (str, dspy.InputField()), "tool": (Literal[TOOLS], dspy.OutputField())},
    "Choose the tool that the shop's customer needs.",
)


class Right:
    """The metric, which counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, example: Any, prediction: Any, trace: Any = None) -> bool:
        self.calls += 1
        return bool(example.wanted == prediction.get("tool"))


class Requests(BaseCallback):
    """Counts what the LM is asked."""

    def __init__(self) -> None:
        self.count = 0

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.count += 1


def program(embed: Callable[[str], list[float]], metric: Right, seed: int) -> WorkflowProgram:
    """A router node between the embedding and the tools, untrained."""
    torch.manual_seed(seed)
    policy = Mlp(lambda known: known["embed"], len(embed("")), len(TOOLS))
    nodes = [tool(embed, then="choose"), router("choose", policy, TOOLS)]
    nodes += [tool(_giving(name), then="end", name=name, gives="tool") for name in TOOLS]
    nodes.append(end(metric_loss(metric, ["wanted"], ["tool"])))
    return WorkflowProgram(Workflow(["request", "wanted"], nodes))


def _giving(name: str) -> Callable[[], str]:
    return lambda: name


def optimisers(
    given: Any, metric: Right, parts: Mapping[str, list[dspy.Example]], seed: int
) -> dict[str, Callable[[], dspy.Module]]:
    """By name, what makes a compiled program."""
    few = {"max_bootstrapped_demos": max(1, given.demos // 2), "max_labeled_demos": given.demos}
    student, train = dspy.Predict(CHOOSE), {"trainset": parts["train"]}
    both = train | {"valset": parts["held out"]}
    search = dspy.BootstrapFewShotWithRandomSearch(
        metric, **few, num_candidate_programs=given.candidates, num_threads=1
    )
    folder = given.output / "learned" / str(seed)
    shutil.rmtree(folder, ignore_errors=True)
    config = LearnConfig(epochs=given.epochs, learning_rate=0.01, weight_decay=0.01, seed=seed)
    learn, embed = LearnOutcomes(config, folder), embedder(given.encoder)
    return {
        "none": lambda: student,
        "LabeledFewShot": lambda: dspy.LabeledFewShot(given.demos).compile(student, **train),
        "BootstrapFewShot": lambda: dspy.BootstrapFewShot(metric, **few).compile(student, **train),
        "BootstrapFewShotWithRandomSearch": lambda: search.compile(student, **both),
        "LearnOutcomes": lambda: learn.compile(program(embed, metric, seed), **both),
    }


def spent(metric: Right, work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What the work gives, and what it took."""
    asked, before, start = Requests(), metric.calls, time.perf_counter()
    with dspy.context(callbacks=[asked]), dspy.track_usage() as usage:
        found = work()
    tokens = sum(use.get("prompt_tokens") or 0 for use in usage.get_total_tokens().values())
    return found, {
        "lm_calls": asked.count,
        "prompt_tokens": tokens,
        "metric_calls": metric.calls - before,
        "seconds": time.perf_counter() - start,
    }


def attempt(given: Any, seed: int) -> list[dict[str, Any]]:
    """Every optimiser on the parts of one seed."""
    metric, parts = Right(), requests(seed, given.orders)
    test = parts["test"]
    evaluate = dspy.Evaluate(devset=test, metric=metric, num_threads=1, display_progress=False)
    rows = []
    for name, compiling in optimisers(given, metric, parts, seed).items():
        compiled, compilation = spent(metric, compiling)
        found, using = spent(metric, lambda made=compiled: evaluate(made).results)
        rows.append(
            {
                "optimiser": name,
                "seed": seed,
                "compile": compilation,
                "decide": {key: value / len(test) for key, value in using.items()},
                "phrasings": [example.phrasing for example, _, _ in found],
                "right": [float(score) for _, _, score in found],
                "unanswered": sum("tool" not in prediction for _, prediction, _ in found),
            }
        )
        print(name, seed, float(np.mean(rows[-1]["right"])), compilation, flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "dspy_optimisers")
    parser.set_defaults(seeds=1)
    parser.add_argument(
        "--first-seed", type=int, default=4, help="settings were chosen on tests of seeds 0 to 3"
    )
    parser.add_argument("--lm", help="as DSPy names it; default: a small one on this machine")
    parser.add_argument("--api-base", help="where it is asked")
    parser.add_argument("--llm", default="packaged:smollm2", help="without --lm: as growth.py's")
    parser.add_argument("--encoder", default="packaged:minilm", help="the workflow's")
    parser.add_argument("--orders", type=int, default=1, help="examples of each phrasing")
    parser.add_argument("--demos", type=int, default=8, help="demonstrations at most")
    parser.add_argument("--candidates", type=int, default=3, help="of the random search")
    parser.add_argument("--epochs", type=float, default=40, help="of LearnOutcomes")
    given = parser.parse_args(arguments)
    if given.lm is None:
        lm = local_lm(given.llm, max_tokens=24, stop=["[[ ## completed"], cache=False)
    else:
        lm = dspy.LM(given.lm, api_base=given.api_base, cache=False)
    with dspy.context(lm=lm, max_errors=10**9):
        runs = [row for i in range(given.seeds) for row in attempt(given, given.first_seed + i)]
    figure, (axis,) = panels(1)
    figure.set_size_inches(7, 3)  # the names are long
    lines = []
    for name in dict.fromkeys(row["optimiser"] for row in runs):
        mine = [row for row in runs if row["optimiser"] == name]
        right = np.concatenate([row["right"] for row in mine])
        groups = number_groups([phrasing for row in mine for phrasing in row["phrasings"]])
        value, low, high = estimate({"": ratio(right, np.ones_like(right))}, groups, 2000)[""]
        axis.plot([low, high], [name] * 2, "C0")
        axis.plot(value, name, "C0o")
        costs = [np.mean([row[when][key] for row in mine]) for when, key in COSTS]
        lines.append(
            [name, f"{100 * value:.0f} ({100 * low:.0f} to {100 * high:.0f})"]
            + [f"{sum(row['unanswered'] for row in mine) / len(right):.0%}"]
            + [f"{cost:,.0f}" if cost == int(cost) else f"{cost:,.3g}" for cost in costs]
        )
    axis.set(xlabel="test requests given the right tool", xlim=(0, 1))
    axis.invert_yaxis()
    head = ["optimiser", "right, %", "no answer", "compiling: LM calls", "prompt tokens"]
    head += ["metric calls", "s", "a decision: LM calls", "prompt tokens", "s"]
    finish(given.output, figure, table(head, lines), runs)


if __name__ == "__main__":
    # Answers in no format count as wrong, and are told as such, not one by one.
    logging.getLogger("dspy").setLevel(logging.CRITICAL)
    main()
