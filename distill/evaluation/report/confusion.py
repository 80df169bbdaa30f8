"""Which decisions a router takes for which: the confusion of decisions as wholes.

A decision is named by its multiset of tools (`get_order`, `a + b`, `2 × a`, `reply`). An example
counts as often as the teacher decided it, as in every figure. It knows nothing of plots.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from distill.evaluation.predictions import Prediction
from distill.types import Decision

OTHER = "any other"


@dataclass(frozen=True)
class Confusion:
    """`counts[i][j]`: decisions the teacher labels `rows[i]` and the router decides `columns[j]`.

    The last column is `OTHER`: all decisions that have no column.
    """

    rows: list[str]
    columns: list[str]
    counts: list[list[int]]


def mistakes(predictions: Sequence[Prediction], most: int) -> list[tuple[str, str, int]]:
    """The `most` frequent (teacher's decision, router's decision, times) that differ in tools."""
    wrong = [(a, b, n) for (a, b), n in _counts(predictions).items() if a != b]
    return sorted(wrong, key=lambda item: (-item[2], item[0], item[1]))[:most]


def confusion(predictions: Sequence[Prediction], most: int) -> Confusion | None:
    """The matrix of the `most` decisions with most mistakes, as label or as answer; None without.

    Rows are among the labels, so that each has a total.
    """
    counts = _counts(predictions)
    involved: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for (label, decision), n in counts.items():
        totals[label] += n
        if label != decision:
            involved[label] += n
            involved[decision] += n
    if not involved:
        return None
    kept = sorted(involved, key=lambda name: (-involved[name], name))[:most]
    rows = [name for name in kept if totals[name]]
    matrix = []
    for row in rows:
        cells = [counts[row, column] for column in kept]
        matrix.append([*cells, totals[row] - sum(cells)])
    return Confusion(rows, [*kept, OTHER], matrix)


def _counts(predictions: Sequence[Prediction]) -> Counter[tuple[str, str]]:
    """How often the teacher decided the first and the router the second."""
    counts: Counter[tuple[str, str]] = Counter()
    for p in predictions:
        counts[_name(p.label), _name(p.decision)] += round(p.weight)
    return counts


def _name(decision: Decision) -> str:
    counts = sorted(decision.tool_counts.items())
    return " + ".join(name if n == 1 else f"{n} × {name}" for name, n in counts)
