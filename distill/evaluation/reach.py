"""Up to which bucket of difficulty a router is good enough, and which is the cheapest that is.

A router holds in a bucket while its interval reaches the mark there: a stated accuracy, or else the
figure of the router that is best in that bucket. That it holds is no proof that it is as good: a
wide interval reaches far. Buckets of too few groups for an interval say nothing either way. It
reads the report's entries.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from distill.evaluation.buckets import TITLES, names

Router = Mapping[str, Any]


def reach(routers: Sequence[Router], target: float | None) -> dict[str, Any]:
    """The report's `reach`.

    Returns:
        `target`. `recommended`: the cheapest router by the median time of a decision, as `name`,
        whose interval lies wholly at or above the target (`sure`) or, failing that, whose figure
        does; null without a target or such a router. `by`: for each breakdown with at least two
        buckets an entry per router: `holds`, the last bucket before it falls short (null: it does
        in the first); `falls`, the first bucket where its interval lies below the mark, as
        `{bucket, tool_accuracy, mark}` (null: nowhere); `open`, the buckets of too few groups.
        `by` is empty where a router stands alone without a target.
    """
    return {
        "target": target,
        "recommended": None if target is None else _cheapest(routers, target),
        "by": {
            dimension: [_standing(router, routers, dimension, target) for router in routers]
            for dimension in TITLES
            if len({row["bucket"] for r in routers for row in r["by_bucket"][dimension]}) > 1
            and (len(routers) > 1 or target is not None)
        },
    }


def _standing(
    router: Router, routers: Sequence[Router], dimension: str, target: float | None
) -> dict[str, Any]:
    rows = {row["bucket"]: row["tool_accuracy"] for row in router["by_bucket"][dimension]}
    holds, falls = None, None
    for name in names(dimension):
        if name not in rows or rows[name]["low"] is None:
            continue
        mark = _best(routers, dimension, name) if target is None else target
        if rows[name]["high"] < mark:
            falls = {"bucket": name, "tool_accuracy": rows[name], "mark": mark}
            break
        holds = name
    thin = [name for name, figure in rows.items() if figure["low"] is None]
    return {"name": router["name"], "holds": holds, "falls": falls, "open": thin}


def _best(routers: Sequence[Router], dimension: str, bucket: str) -> float:
    """The best figure of a router in the bucket, which at least one has."""
    return max(
        float(row["tool_accuracy"]["value"])
        for router in routers
        for row in router["by_bucket"][dimension]
        if row["bucket"] == bucket
    )


def _cheapest(routers: Sequence[Router], target: float) -> dict[str, Any] | None:
    for end in ("low", "value"):
        able = [
            router
            for router in routers
            if router["tool_accuracy"][end] is not None and router["tool_accuracy"][end] >= target
        ]
        if able:
            name = min(able, key=lambda router: float(router["latency_ms"]["p50"]))["name"]
            return {"name": name, "sure": end == "low"}
    return None
