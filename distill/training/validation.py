"""Exact figures of a validation part, with their standard errors.

A figure is a ratio of sums over rows, so it depends neither on how rows are put into batches nor on
how many processes share them. Knows no model: only what each row adds to the sums.
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from distill.types import Example

Array = npt.NDArray[np.float64]


def distinct(examples: Iterable[Example]) -> tuple[list[Example], Array]:
    """Each example once, and how often it came, [examples].

    Copies weigh in a figure, but tell nothing new about how far chance may have moved it.
    """
    kept: dict[str, Example] = {}
    counts: Counter[str] = Counter()
    for example in examples:
        kept.setdefault(example.id, example)
        counts[example.id] += 1
    return list(kept.values()), np.array([counts[name] for name in kept], dtype=np.float64)


def ratio(sums: Array, counts: Array) -> tuple[float, float]:
    """`sums` over `counts`, and the standard error of this ratio over independent rows.

    Args:
        sums: [rows] what each row adds to the numerator, its weight included.
        counts: [rows] what it adds to the denominator; for a plain mean, its weight.

    Returns:
        The ratio and its linearised standard error (Cochran 1977, "Sampling Techniques", ch. 6);
        for a share p of n rows that is sqrt(p (1 - p) / n).
    """
    total = counts.sum()
    found = sums.sum() / total
    error = np.sqrt(np.square(sums - found * counts).sum()) / total
    return float(found), float(error)


def accuracy_scores(figures: Array, weights: Array) -> dict[str, float]:
    """Accuracy, and `score`: accuracy with ties broken by the loss, which decides early stopping.

    The loss alone would stop early: on small sets it rises with overconfidence while accuracy
    still grows (Guo et al. 2017, arXiv:1706.04599).

    Args:
        figures: [rows, 2] each row's loss, and 1 where its decision is right.
        weights: [rows] how often each row counts.
    """
    loss, _ = ratio(weights * figures[:, 0], weights)
    accuracy, error = ratio(weights * figures[:, 1], weights)
    return {
        "loss": loss,
        "accuracy": accuracy,
        "standard_error": error,
        "score": accuracy - 1e-4 * loss,
    }
