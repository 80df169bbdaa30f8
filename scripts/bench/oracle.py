"""How right any router could be: an oracle that knows the most frequent answer to each question.

Teachers waver: they answer one context now with one call, now with another, and no router can give
both. The oracle looks at the test part's own labels and gives each question the answer that is most
frequent there, tools and arguments together; its accuracy is the ceiling of call accuracy. Beside
it, the same for the choice of tools alone. Questions that come once are always right, so the
ceiling is too high where few come twice: `twice` is the share of decisions whose question the part
has more than once. Several datasets (seeds) are pooled, as in reports.

Example:
    python scripts/bench/oracle.py runs/home-assistant/dataset-s*
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from distill.dataset import load_dataset
from distill.dataset.points import context_key
from distill.dataset.vote import vote
from distill.errors import InputError
from distill.evaluation.formats import percent
from distill.evaluation.intervals import Estimate, mean, number_groups
from distill.evaluation.metrics import right
from distill.runs import write_json
from distill.types import Example


def ceilings(parts: Sequence[Sequence[Example]], resamples: int) -> dict[str, Estimate]:
    """`call_accuracy` and `tool_accuracy` of the oracle, and `twice`, over all test parts."""
    found: dict[str, list[float]] = {"call_accuracy": [], "tool_accuracy": [], "twice": []}
    for examples in parts:
        answers = Counter[bytes]()
        for example in examples:
            answers[context_key(example.context)] += int(example.weight)
        found["call_accuracy"] += _hits(examples)
        found["tool_accuracy"] += _hits([_unfilled(example) for example in examples])
        found["twice"] += [float(answers[context_key(e.context)] > 1) for e in examples]
    every = [example for examples in parts for example in examples]
    groups = number_groups([example.group for example in every])
    weights = np.array([example.weight for example in every])
    return {name: mean(np.array(hits), groups, resamples, weights) for name, hits in found.items()}


def _hits(examples: Sequence[Example]) -> list[float]:
    """1 where an example's label is the most frequent one of its context."""
    best = {context_key(winner.context): winner.label for winner in vote(examples)}
    return [float(right(best[context_key(e.context)], e.label)) for e in examples]


def _unfilled(example: Example) -> Example:
    calls = tuple(replace(call, arguments=None) for call in example.label.calls)
    return replace(example, label=replace(example.label, calls=calls))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="+", type=Path, help="dataset folders of one job")
    parser.add_argument("--bootstrap", type=int, default=2000, help="resamples of groups")
    parser.add_argument("--output", type=Path, help="also write the figures here, as JSON")
    args = parser.parse_args(arguments)
    parts = [list(load_dataset(folder).examples("test")) for folder in args.datasets]
    found = ceilings(parts, args.bootstrap)
    for name, figure in found.items():
        print(f"{name:14} {percent(figure.value)}  {percent(figure.low)}–{percent(figure.high)}")
    if args.output is not None:
        write_json(args.output, {name: figure._asdict() for name, figure in found.items()})


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"oracle.py: {error}")
