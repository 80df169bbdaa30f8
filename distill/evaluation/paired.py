"""The entries of `paired[]`: what differs between two routers or arms on the same rows.

An entry has `a`, `b`, `metric`, `difference` (a less b), its interval `low` to `high`, `p_value`,
and `p_value_holm`, adjusted for testing all pairs of that metric; null with too few groups.
"""

from collections.abc import Iterable
from typing import Any

from distill.evaluation.intervals import Difference, holm


def entry(a: str, b: str, metric: str, found: Difference) -> dict[str, Any]:
    """One pair under one metric, not adjusted yet."""
    figures = found._asdict()
    difference = {"difference": figures.pop("value")}
    return {"a": a, "b": b, "metric": metric, **difference, **figures, "p_value_holm": None}


def adjusted(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of one metric with `p_value_holm` filled in (Holm 1979)."""
    found = list(entries)
    tested = [entry for entry in found if entry["p_value"] is not None]
    p_values = holm([entry["p_value"] for entry in tested])
    for one, p_value in zip(tested, p_values, strict=True):
        one["p_value_holm"] = p_value
    return found
