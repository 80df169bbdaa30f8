"""One table of routers on the same decisions: accuracy, the first router's lead, times."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distill.dataset import Dataset
from distill.evaluation.intervals import estimate, paired_difference
from distill.evaluation.latency import measure
from distill.evaluation.metrics import accuracy, score
from distill.evaluation.predictions import Prediction
from distill.runs import write_json
from distill.types import Router

RESAMPLES = 2000


@dataclass
class Row:
    """A router's figures, seed by seed."""

    predictions: list[Prediction] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    train_seconds: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Table:
    """Routers' rows; `first` is the one that the others are compared with."""

    first: str
    samples: int
    """Decisions timed one at a time."""
    rows: dict[str, Row] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Why a router has no row."""

    def add(
        self,
        name: str,
        router: Router,
        dataset: Dataset,
        train_seconds: float,
        decided: list[Prediction] | None = None,
    ) -> None:
        """Measure a router on the test part; what it `decided` there need not be asked again."""
        test = dataset.examples("test")
        if decided is None:
            examples = list(test)
            decisions = router.decide([example.context for example in examples])
            decided = [
                Prediction.of(e, decision) for e, decision in zip(examples, decisions, strict=True)
            ]
        step = max(1, len(test) // self.samples)
        asked = [test[i].context for i in range(0, len(test), step)]
        row = self.rows.setdefault(name, Row())
        row.predictions += decided
        row.p50_ms.append(measure(router, asked, self.samples, 1)["latency_ms"]["p50"])
        row.train_seconds.append(train_seconds)
        row.notes.append(getattr(router, "note", ""))

    def figures(self) -> dict[str, dict[str, Any]]:
        """By router; `difference` is the first one's accuracy less the router's."""
        return {name: self._figures(name) for name in self.rows}

    def _figures(self, name: str) -> dict[str, Any]:
        row, first = self.rows[name], score(self.rows[self.first].predictions)
        scores = score(row.predictions)
        ids = [[p.id for p in self.rows[key].predictions] for key in (self.first, name)]
        assert ids[0] == ids[1], f"{name} decided other examples than the {self.first}"
        found = estimate(
            {"accuracy": accuracy(scores.tool_correct)}, scores.groups, RESAMPLES, scores.weights
        )["accuracy"]
        difference = paired_difference(
            first.tool_correct, scores.tool_correct, scores.groups, RESAMPLES, scores.weights
        )
        return {
            "tool_accuracy": None if found is None else found._asdict(),
            "difference": difference._asdict(),
            "p50_ms": float(np.median(row.p50_ms)),
            "train_seconds": float(np.median(row.train_seconds)),
            "notes": row.notes,
        }

    def print(self, say: Callable[[str], None] = print) -> None:
        """The table, the most accurate router first."""
        ahead = f"{self.first} −, points"
        say(f"{'router':<16} {'tool accuracy, %':>24} {ahead:>24}   p50 ms  train s")
        figures = self.figures()
        for name, row in sorted(figures.items(), key=lambda it: -it[1]["tool_accuracy"]["value"]):
            behind = "" if name == self.first else _percent(row["difference"])
            notes = ", ".join(dict.fromkeys(note for note in row["notes"] if note))
            say(
                f"{name:<16} {_percent(row['tool_accuracy']):>24} {behind:>24}"
                f" {row['p50_ms']:>8.2f} {row['train_seconds']:>8.0f}  {notes}"
            )
        for name, why in self.skipped.items():
            say(f"{name:<16} skipped: {why}")

    def write(self, path: Path, machine: dict[str, Any]) -> None:
        """The figures as JSON."""
        report = {"hardware": machine, "rows": self.figures(), "skipped": self.skipped}
        write_json(path, report)


def ordered(first: str, names: Iterable[str]) -> Sequence[str]:
    """The names, `first` leading: the others are measured against it."""
    return [first, *(name for name in names if name != first)]


def _percent(figure: dict[str, Any]) -> str:
    if figure["low"] is None:
        return f"{100 * figure['value']:.1f}"
    value, low, high = (100 * figure[key] for key in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"
