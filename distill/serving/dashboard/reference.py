"""What a router decided on its run's calibration part: what live traffic is compared with."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from distill.errors import RouterError
from distill.evaluation.predictions import Prediction, had, load
from distill.routers.folder import read_router_file
from distill.routers.load import router_folder
from distill.runs import RunDir

_QUANTILES = (0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Histogram:
    """Weights of values below the first edge, from there to the second, …, from the last on."""

    edges: list[float]
    counts: list[float]

    @classmethod
    def of(cls, values: Sequence[float], weights: Sequence[float]) -> "Histogram":
        """With edges at the fifths of the values; fewer where values repeat."""
        order = np.argsort(values, kind="stable")
        ordered, rising = np.array(values)[order], np.cumsum(np.array(weights)[order])
        places = np.searchsorted(rising, [q * rising[-1] for q in _QUANTILES])
        edges = sorted({float(ordered[place]) for place in places} - {float(ordered[0])})
        bins = np.searchsorted(edges, values, side="right")
        counts = np.bincount(bins, weights, minlength=len(edges) + 1)
        return cls(edges, counts.tolist())

    def labels(self, form: Callable[[float], str]) -> list[str]:
        """Each bin in words."""
        if not self.edges:
            return ["all"]
        words = [form(edge) for edge in self.edges]
        between = [f"{a} to {b}" for a, b in pairwise(words)]
        return [f"below {words[0]}", *between, f"{words[-1]} and more"]


@dataclass(frozen=True)
class Reference:
    """The router's decisions on the calibration part."""

    groups: int
    tools: Mapping[str, float]
    """Decisions that call each tool, or reply."""
    taught: frozenset[str]
    """Tools that the teacher called there."""
    confidences: Histogram | None
    """None where the router gives none."""
    lengths: Histogram | None
    """Of conversations, in characters; None where the run did not record them."""


def reference_of(router: Path) -> Reference:
    """Of a run, or of the router folder in one.

    Raises:
        RouterError: there are no such decisions.
    """
    folder = router_folder(router)
    made = had(load(RunDir(folder.parent).calibration))
    if not made:
        raise RouterError(router, "its run holds no decisions to compare with", "evaluate it")
    calibration = read_router_file(folder).calibration
    confidences = (
        (calibration(p.decision.confidence), p.weight)
        for p in made
        if calibration is not None and p.decision.confidence is not None
    )
    lengths = ((float(p.buckets.length), p.weight) for p in made if p.buckets.length is not None)
    return Reference(
        groups=len({p.group for p in made}),
        tools=_tools(made),
        taught=frozenset(call.name for p in made for call in p.label.calls),
        confidences=_histogram(confidences),
        lengths=_histogram(lengths),
    )


def _tools(made: Iterable[Prediction]) -> Mapping[str, float]:
    tally: Counter[str] = Counter()
    for prediction in made:
        for name in set(prediction.decision.tools):
            tally[name] += prediction.weight  # type: ignore[assignment]
    return dict(tally)


def _histogram(pairs: Iterable[tuple[float, float]]) -> Histogram | None:
    known = list(pairs)
    return Histogram.of(*zip(*known, strict=True)) if known else None
