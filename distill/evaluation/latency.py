"""How fast a router decides, in process: one context at a time, and in batches.

It says nothing about quality, and nothing about a server's queue or network.
"""

import itertools
import time
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from distill.types import Context, Router

_WARM_UP = 3


class Latency(TypedDict):
    """Percentiles of the time of one decision, in milliseconds."""

    p50: float
    p95: float
    p99: float


class Timing(TypedDict):
    """What `measure` found."""

    latency_ms: Latency
    decisions_per_s: float


def measure(router: Router, contexts: Sequence[Context], samples: int, batch_size: int) -> Timing:
    """Time `samples` single decisions, then about as many in full batches of `batch_size`.

    Contexts are taken in turn, again from the first when they run out. A few untimed decisions of
    each sort come first, for lazy imports, caches and allocators. `decide` returns plain objects,
    so a GPU's work is done when the clock is read.
    """
    assert contexts, "nothing to decide"
    turn = itertools.cycle(contexts)
    for _ in range(_WARM_UP):
        router.decide([next(turn)])
    seconds = []
    for _ in range(samples):
        one = [next(turn)]
        start = time.perf_counter()
        router.decide(one)
        seconds.append(time.perf_counter() - start)

    batches = [list(itertools.islice(turn, batch_size)) for _ in range(-(-samples // batch_size))]
    router.decide(batches[0])
    start = time.perf_counter()
    for batch in batches:
        router.decide(batch)
    elapsed = time.perf_counter() - start

    p50, p95, p99 = (float(ms) for ms in np.percentile(np.array(seconds) * 1000, [50, 95, 99]))
    return {
        "latency_ms": {"p50": p50, "p95": p95, "p99": p99},
        "decisions_per_s": len(batches) * batch_size / elapsed,
    }
