"""The report as one HTML file: inline styles and SVG, no script, nothing fetched.

Names come from users and traces: the template escapes everything but our own SVG.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from distill.evaluation import formats
from distill.evaluation.buckets import TITLES
from distill.evaluation.intervals import MIN_GROUPS
from distill.evaluation.predictions import Prediction
from distill.evaluation.report import outcome_words, outcomes, plots, reach, words
from distill.evaluation.report.confusion import mistakes
from distill.evaluation.summary import agreement_of

_MISTAKES = 10


def page(report: Mapping[str, Any], predictions: Mapping[str, Sequence[Prediction]]) -> str:
    """Render the page; `predictions` holds those of each router by name."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    routers = report["routers"]
    best = routers[0]
    agreement = agreement_of(report["teacher"])
    with_whom = words.teacher(report)
    # The best router may give no confidence; calibration is then the next one's that does.
    confident = next((r for r in routers if r["calibration"]["ece"] is not None), None)
    ordered = {router["name"]: predictions[router["name"]] for router in routers}
    wrong = mistakes(predictions[best["name"]], _MISTAKES)
    return environment.get_template(
        "page.html.jinja"
    ).render(
        report=report,
        routers=routers,
        best=best,
        confident=confident,
        fmt=formats,
        title=words.title(report),
        findings=words.findings(report),
        caveats=words.caveats(report),
        words=words,
        alike=len({words.measured(router) for router in routers}) == 1,
        min_groups=MIN_GROUPS,
        samples=min(router["latency_samples"] for router in routers),
        agreement=agreement,
        with_whom=with_whom,
        machines=[words.machine(m) for m in report["evaluation"]["hardware"]],
        mistakes=wrong,
        accuracy=Markup(plots.accuracy_plot(routers, agreement, with_whom)),
        latency=Markup(plots.latency_plot(routers, agreement, report["teacher"]["latency_ms"])),
        confusion=_markup(plots.confusion_plot(predictions[best["name"]])),
        reliability=_markup(plots.reliability_plot(predictions[confident["name"]]))
        if confident
        else None,
        selective=_markup(plots.selective_plot(ordered)),
        promised=any(router["risk"] for router in routers),
        failing=any(router["failed"]["n"] for router in routers),
        pareto=_markup(plots.pareto_plot(report)),
        buckets=[
            (title, Markup(svg))
            for dimension, title in TITLES.items()
            if dimension != "complexity"  # has a plot of its own
            and (svg := plots.bucket_plot(routers, dimension, title)) is not None
        ],
        legend=[
            (Markup(plots.marker(i)), router["name"])
            for i, router in enumerate(routers[: plots.SERIES])
        ],
        outcomes=outcomes,
        outcome_words=outcome_words,
        outcome_plots=[_markup(plots.outcomes_plot(loop)) for loop in report["closed_loop"]],
        marker=lambda i: Markup(plots.marker(i)),
        reach=reach,
        reach_plot=_markup(plots.complexity_plot(routers)),
        commands=_commands(report),
    )


def _markup(svg: str | None) -> Markup | None:
    return None if svg is None else Markup(svg)


def _breakable(name: str) -> Markup:
    """Let a narrow table break a long name after its underscores."""
    return escape(name).replace("_", Markup("_<wbr>"))


def _commands(report: Mapping[str, Any]) -> list[str]:
    evaluation = report["evaluation"]
    paths = [run["path"] for run in evaluation["runs"]]
    played = [text for loop in report["closed_loop"] for text in ("--closed-loop", loop["path"])]
    return [
        *(shlex.join(["distill", "evaluate", path]) for path in paths),
        shlex.join(["distill", "compare", *paths, *played, "-o", evaluation["out"]]),
    ]
