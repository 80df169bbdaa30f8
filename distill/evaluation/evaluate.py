"""Let a router decide held-out examples, and time it.

Examples are read and decided a batch at a time and predictions go to a draft, so that memory does
not grow with their number until all are decided. It knows nothing of reports.
"""

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from typing import overload

from distill.config import EvaluationConfig
from distill.errors import ConfigError, DatasetError, EndpointError
from distill.evaluation.latency import Timing, measure, recorded, supported
from distill.evaluation.predictions import Draft, Prediction
from distill.types import Example, Router

OnProgress = Callable[[int, int], None]

_HOPELESS = 20
"""Failures from the first decision on after which no more are asked for."""


def evaluate(
    router: Router,
    examples: Sequence[Example],
    config: EvaluationConfig,
    draft: Draft,
    *,
    seed: int,
    on_progress: OnProgress | None = None,
) -> tuple[list[Prediction], Timing]:
    """Decide all examples in batches, then measure latency and throughput on some of them.

    Returns the predictions, unscored, and the timing.

    Percentiles of latency that the samples are too few for are None. Where requests to an LLM
    decided, what these took is the latency, and nothing is asked twice.

    Args:
        router: any router.
        examples: the test part.
        config: batch size, latency samples, and `max_examples`.
        draft: gets the predictions; what it has is not decided again. It stays unfinished.
        seed: draws the groups that `max_examples` keeps, and the contexts that are timed.
        on_progress: called with (decided, total) after each batch.

    Raises:
        DatasetError: there are no examples.
        ConfigError: `max_examples` is smaller than the first drawn group.
        EndpointError: an LLM's endpoint gave no decision at all.
    """
    if not examples:
        raise DatasetError("test part", "has no examples", "add traces, or change data.split")
    examples = limited(examples, config.max_examples, seed, "evaluation.max_examples")
    for prediction in predict(router, examples, config.batch_size, draft.done, on_progress):
        draft.add(prediction)
    predictions = list(draft)
    if (timing := recorded([p.decision for p in predictions])) is not None:
        return predictions, supported(timing)
    # Neighbours come from one conversation: a shuffle makes the timed few typical of all.
    shuffled = random.Random(seed).sample(range(len(examples)), len(examples))
    timed = (examples[i].context for i in shuffled)
    timing = measure(router, timed, config.latency_samples, config.batch_size)
    return predictions, supported(timing)


def predict(
    router: Router,
    examples: Sequence[Example],
    batch_size: int,
    done: Collection[str] = (),
    on_progress: OnProgress | None = None,
) -> Iterator[Prediction]:
    """The router's decisions on the examples whose ids are not among those `done` before.

    `on_progress` as for `evaluate`; it is called when all of the batch has been taken.

    Raises:
        EndpointError: the first decisions, or all, could not be had.
    """
    # Counted now, for the caller may add to them what it is given.
    known, decided, some_had = frozenset(done), 0, bool(done)
    left = (example for example in examples if example.id not in known)
    while batch := list(islice(left, batch_size)):
        decisions = router.decide([example.context for example in batch])
        assert len(decisions) == len(batch), f"{router.kind}: decisions do not match contexts"
        decided += len(batch)
        some_had = some_had or any(decision.error is None for decision in decisions)
        if not some_had and decided >= min(_HOPELESS, len(examples)):
            raise EndpointError(
                "endpoint",
                f"not one of the first {decided} decisions could be had ({decisions[0].error})",
                "mend that and run the same command again",
            )
        for example, decision in zip(batch, decisions, strict=True):
            yield Prediction.of(example, decision)
        if on_progress is not None:
            on_progress(len(known) + decided, len(examples))


def limited(
    examples: Sequence[Example], limit: int | None, seed: int, setting: str
) -> Sequence[Example]:
    """Whole groups in an order drawn by the seed, until the next would exceed the limit.

    Raises:
        ConfigError: `limit`, the config's `setting`, is smaller than the first drawn group.
    """
    if limit is None or len(examples) <= limit:
        return examples
    sizes = Counter(example.group for example in examples)
    drawn = random.Random(seed).sample(sorted(sizes), len(sizes))
    kept: set[str] = set()
    total = 0
    for group in drawn:
        total += sizes[group]
        if total > limit:
            break
        kept.add(group)
    if not kept:
        raise ConfigError(
            setting,
            f"{limit} holds no whole group ({drawn[0]!r} has {sizes[drawn[0]]} examples)",
            "raise it",
        )
    return _Some(examples, [i for i, example in enumerate(examples) if example.group in kept])


class _Some(Sequence[Example]):
    """Those at some places of a sequence that decodes examples when they are asked for."""

    def __init__(self, examples: Sequence[Example], places: Sequence[int]) -> None:
        self._examples, self._places = examples, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return _Some(self._examples, self._places[index])
        return self._examples[self._places[index]]
