"""Let a router decide held-out examples, and time it.

It knows nothing of files or reports: predictions and timing go to the caller.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence

from distill.config import EvaluationConfig
from distill.errors import ConfigError, DatasetError, EndpointError
from distill.evaluation.latency import Timing, measure, recorded, supported
from distill.evaluation.predictions import Prediction
from distill.types import Decision, Example, Router

OnProgress = Callable[[int, int], None]

_HOPELESS = 20
"""Failures from the first decision on after which no more are asked for."""


def evaluate(
    router: Router,
    examples: Sequence[Example],
    config: EvaluationConfig,
    *,
    seed: int,
    on_progress: OnProgress | None = None,
) -> tuple[list[Prediction], Timing]:
    """Decide all examples in batches, then measure latency and throughput on some of them.

    Percentiles of latency that the samples are too few for are None. Where requests to an LLM
    decided, what these took is the latency, and nothing is asked twice.

    Args:
        router: any router.
        examples: the test part.
        config: batch size, latency samples, and `max_examples`.
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
    predictions = predict(router, examples, config.batch_size, on_progress)
    if (timing := recorded([p.decision for p in predictions])) is not None:
        return predictions, supported(timing)
    # Neighbours come from one conversation: a shuffle makes the timed few typical of all.
    timed = random.Random(seed).sample([example.context for example in examples], len(examples))
    timing = measure(router, timed, config.latency_samples, config.batch_size)
    return predictions, supported(timing)


def predict(
    router: Router,
    examples: Sequence[Example],
    batch_size: int,
    on_progress: OnProgress | None = None,
) -> list[Prediction]:
    """The router's decision on each example; `on_progress` as for `evaluate`.

    Raises:
        EndpointError: the first decisions, or all, could not be had.
    """
    decisions: list[Decision] = []
    for start in range(0, len(examples), batch_size):
        batch = [example.context for example in examples[start : start + batch_size]]
        decisions += router.decide(batch)
        assert len(decisions) == start + len(batch), (
            f"{router.kind}: decisions do not match contexts"
        )
        _require_some(decisions, len(examples))
        if on_progress is not None:
            on_progress(len(decisions), len(examples))
    return [Prediction.of(e, decision) for e, decision in zip(examples, decisions, strict=True)]


def _require_some(decisions: Sequence[Decision], total: int) -> None:
    """Raise EndpointError where the first decisions, or all, could not be had."""
    if len(decisions) >= min(_HOPELESS, total) and all(d.error is not None for d in decisions):
        raise EndpointError(
            "endpoint",
            f"not one of the first {len(decisions)} decisions could be had ({decisions[0].error})",
            "mend that and run the same command again",
        )


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
    return [example for example in examples if example.group in kept]
