"""How far each router goes, in sentences: where the small ones stop being enough.

It reads the report's `reach` and knows nothing of how it is shown.
"""

from collections.abc import Mapping
from typing import Any

from distill.evaluation import formats
from distill.evaluation.buckets import TITLES
from distill.evaluation.difficulty import COMPLEX
from distill.evaluation.intervals import MIN_GROUPS

Report = Mapping[str, Any]

MEASURE = (
    f"A decision has one point of complexity for each of: {'; '.join(COMPLEX)}. Branches are told "
    "by English words, and what depends on a result by where a value stands: rules of thumb."
)
"""What the one axis is."""


def sentences(report: Report) -> list[str]:
    """For each router, up to which complexity it holds; nothing where there is nothing to say."""
    found = report["reach"]
    standings = found["by"].get("complexity", [])
    return [_sentence(standing, found["target"]) for standing in standings] + _thin(standings)


def recommendation(report: Report) -> str:
    """The cheapest router that holds the stated accuracy; empty where none is stated."""
    target, found = report["reach"]["target"], report["reach"]["recommended"]
    if target is None:
        return ""
    stated = formats.percent(target)
    if found is None:
        return f"No router's tool accuracy reaches the stated {stated}."
    router = next(router for router in report["routers"] if router["name"] == found["name"])
    figure = formats.estimate(router["tool_accuracy"])
    time = formats.milliseconds(router["latency_ms"]["p50"])
    if found["sure"]:
        return (
            f"Recommended for a tool accuracy of {stated}: {found['name']}, the cheapest router "
            f"whose whole interval is at least that ({figure}; {time} a decision)."
        )
    return (
        f"No router is shown to hold a tool accuracy of {stated}. The cheapest whose figure is at "
        f"least that is {found['name']} ({figure}; {time} a decision), and the data does not rule "
        "out that it falls short."
    )


def rows(report: Report) -> list[list[str]]:
    """A table: each router's last bucket before it falls short, by breakdown. Empty without any."""
    by = report["reach"]["by"]
    if not by:
        return []
    heading = ["Router", *(TITLES[dimension] for dimension in by)]
    standings = list(zip(*by.values(), strict=True))
    return [heading] + [
        [of_router[0]["name"], *(_cell(standing) for standing in of_router)]
        for of_router in standings
    ]


def table_note(report: Report) -> str:
    """How to read the table."""
    target = report["reach"]["target"]
    to = (
        "the figure of the router that is best in that bucket"
        if target is None
        else f"the stated accuracy of {formats.percent(target)}"
    )
    return (
        f"The table has the last bucket up to which a router's interval reaches {to}. A wide "
        "interval reaches far: this shows where a router falls short, and not that it is as good "
        f"before. Buckets of fewer than {MIN_GROUPS} groups are passed over."
    )


def _sentence(standing: Mapping[str, Any], target: float | None) -> str:
    name, holds, falls = standing["name"], standing["holds"], standing["falls"]
    to = "the best" if target is None else formats.percent(target)
    if holds is None and falls is None:
        return f"{name}: too few groups at every complexity to say how far it goes."
    if falls is None:
        return f"{name} is not shown to fall short of {to} at any complexity, up to {holds}."
    figure = formats.estimate(falls["tool_accuracy"])
    against = f" against {formats.percent(falls['mark'])}" if target is None else ""
    if holds is None:
        return (
            f"{name} falls short of {to} from complexity {falls['bucket']} on ({figure}{against})."
        )
    return (
        f"{name} is not shown to fall short of {to} up to complexity {holds}, and does at "
        f"{falls['bucket']} ({figure}{against})."
    )


def _thin(standings: list[Mapping[str, Any]]) -> list[str]:
    thin = list(dict.fromkeys(name for standing in standings for name in standing["open"]))
    if not thin:
        return []
    return [
        f"Nothing is said of complexity {', '.join(thin)} where fewer than {MIN_GROUPS} groups "
        "show it."
    ]


def _cell(standing: Mapping[str, Any]) -> str:
    holds, falls = standing["holds"], standing["falls"]
    if holds is None and falls is None:
        return "too few groups"
    if falls is None:
        return f"{holds}, the last"
    return "none" if holds is None else str(holds)
