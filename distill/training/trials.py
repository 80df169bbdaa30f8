"""Trials: decisions whose outcome is known, counted by what they were made in.

A trace whose task succeeded or failed makes each of its decisions a success or a failure. That is
coarse: a failed conversation has right decisions, too. What sets it right is that the same decision
in the same context is tried again and again; so trials are counted, and learned from by the share
that succeeded.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from distill.dataset.points import decision_points
from distill.dataset.verify import Reason, verify
from distill.types import Context, Decision, Trace

UNFILLED = "call without arguments"


@dataclass(frozen=True)
class Trial:
    """A decision that was made, and how the task ended."""

    context: Context
    decision: Decision
    succeeded: bool


@dataclass(frozen=True)
class Tried:
    """A decision in a context, both as the decoder's texts, and what came of it."""

    prompt: str
    completion: str
    successes: int
    failures: int

    @property
    def share(self) -> float:
        """Of its trials that succeeded."""
        return self.successes / (self.successes + self.failures)


def trials(traces: Iterable[Trace], left_out: Counter[str]) -> Iterator[Trial]:
    """The trials of graded traces; `left_out` counts the decisions that are none, by reason.

    What could not have been executed is left out, as it is from a dataset
    (`distill.dataset.verify`), and so are calls whose arguments nobody recorded.
    """
    for trace in traces:
        for example in decision_points(trace):
            fault = verify(example, "drop")
            if trace.outcome.success is None:
                left_out[Reason.NOT_GRADED.value] += 1
            elif fault is not None:
                left_out[fault.value] += 1
            elif not example.label.filled:
                left_out[UNFILLED] += 1
            else:
                yield Trial(example.context, example.label, trace.outcome.success)


def tally(made: Iterable[Trial], texts: Callable[[Trial], tuple[str, str]]) -> list[Tried]:
    """Each distinct decision of each context once, whatever the order of the trials.

    Args:
        texts: the prompt and the completion of a trial.
    """
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for trial in made:
        counts[texts(trial)][not trial.succeeded] += 1
    return [Tried(*key, *counts[key]) for key in sorted(counts)]


def preferences(tried: Iterable[Tried]) -> list[tuple[Tried, Tried]]:
    """Pairs of one context: a decision, and one that succeeded less often.

    Args:
        tried: those of one context side by side, as `tally` gives them.
    """
    pairs = []
    for _, group in groupby(tried, key=lambda one: one.prompt):
        decisions = list(group)
        pairs += [(a, b) for a in decisions for b in decisions if a.share > b.share]
    return pairs
