"""Which traces may teach a trained router: none that its run is examined on.

A trace is held out where its id or its group is in another part of the run's dataset than training,
or where it is new, and comes to a question that an example of such a part asks; it is left out, and
counted.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from distill.config import DataConfig
from distill.dataset import Dataset
from distill.dataset.parts import PARTS
from distill.dataset.points import context_key, decision_points
from distill.pipeline.build import traces as read_traces
from distill.traces.rows import LineTally
from distill.types import Trace

log = logging.getLogger(__name__)

HELD_OUT = "held out from training"


def taught(
    sources: Sequence[str], data: DataConfig, dataset: Dataset, left_out: Counter[str]
) -> Iterator[Trace]:
    """The traces that may teach; `left_out` counts the decisions of the others.

    Args:
        data: how the dataset's traces were read; of its filters none applies.
    """
    held_out = held_out_from(dataset)
    for source in sources:
        tally = LineTally()
        reading = data.model_copy(update={"traces": source, "where": {}, "format": "auto"})
        for trace in read_traces(reading, tally):
            if held_out(trace):
                left_out[HELD_OUT] += len(list(decision_points(trace)))
            else:
                yield trace
        for reason, count in tally.reasons.most_common():
            log.warning("%s: %d lines rejected: %s", source, count, reason)


def held_out_from(dataset: Dataset) -> Callable[[Trace], bool]:
    """What says whether a trace belongs to a part that training must not see."""
    others = [example for part in PARTS if part != "train" for example in dataset.examples(part)]
    names, trained = names_by_use(dataset)
    asked = {context_key(example.context) for example in others}

    def held_out(trace: Trace) -> bool:
        own = {trace.id, trace.group}
        if own & names or own & trained:
            return bool(own & names)
        return any(context_key(example.context) in asked for example in decision_points(trace))

    return held_out


def names_by_use(dataset: Dataset) -> tuple[set[str], set[str]]:
    """The ids and groups of the traces that are held out, and of those in the training part."""
    held_out, trained = set[str](), set[str]()
    for part in PARTS:
        for example in dataset.examples(part):
            names = trained if part == "train" else held_out
            names |= {example.trace_id, example.group}
    return held_out, trained
