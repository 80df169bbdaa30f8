"""The routers as a table: for the terminal, as Markdown and as CSV, with the same figures.

It reads the report's JSON; HTML has a template of its own.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from distill.evaluation import formats
from distill.evaluation.buckets import TITLES
from distill.evaluation.report import grid, outcome_words, outcomes, reach, words
from distill.evaluation.summary import agreement_of
from distill.routers.confidence import Threshold

Report = Mapping[str, Any]

_HEADINGS = [
    "Router",
    "Tool accuracy",
    "Call accuracy",
    "Macro F1",
    "p50",
    "Decisions/s",
    "Parameters",
    "Training",
]
_SHORT = ["Router", "Tool acc.", "Call acc.", "Macro F1", "p50", "Per s", "Params", "Train"]
_ESTIMATES = {
    "tool_accuracy": ("tool_accuracy",),
    "call_accuracy": ("call_accuracy",),
    "macro_f1": ("macro_f1",),
    "no_call_precision": ("no_call", "precision"),
    "no_call_recall": ("no_call", "recall"),
    "ece": ("calibration", "ece"),
    "brier": ("calibration", "brier"),
}
_SINGLE = {
    "latency_ms_p50": ("latency_ms", "p50"),
    "latency_ms_p95": ("latency_ms", "p95"),
    "latency_ms_p99": ("latency_ms", "p99"),
    "decisions_per_s": ("decisions_per_s",),
    "parameters": ("parameters",),
    "trainable_parameters": ("trainable_parameters",),
    "train_seconds": ("train_seconds",),
    "latency_samples": ("latency_samples",),
    "share_of_agreement": ("share_of_agreement",),
    "ece_if_calibrated": ("calibration", "ece_if_calibrated"),
    "n_examples": ("n_examples",),
    "n_distinct": ("n_distinct",),
    "n_decisions": ("n_decisions",),
    "n_groups": ("n_groups",),
    "failed": ("failed", "n"),
    "llm_calls_saved": ("llm_calls_saved",),
    "tokens_saved": ("tokens_saved",),
    "cost_saved_usd": ("cost_saved_usd",),
}


def table(report: Report) -> Table:
    """The table that the terminal shows: a row per router, then the teacher.

    Intervals stand under their values, so that the table fits 80 columns.
    """
    *routers, (_, *teacher) = rows(report)
    body = [[name, *map(grid.stacked, cells)] for name, *cells in [*routers, ["teacher", *teacher]]]
    return grid.terminal([[*_SHORT, *_failed_heading(report)], *body], whole=True)


def promises(thresholds: Sequence[Threshold]) -> Table:
    """What a router's thresholds promise by its calibration part, all decisions first."""
    heads = ["Decisions", "Wrong at most", "Sure by", "Confidence", "Taken", "Wrong", "Bound", "Of"]
    body = [
        [
            t.tool or "all",
            formats.percent(t.alpha),
            formats.percent(1 - t.delta),
            formats.number(t.threshold),
            "not supported" if t.threshold is None else formats.percent(t.coverage),
            formats.percent(t.error),
            formats.percent(t.bound),
            f"{t.n} in {t.n_groups} groups",
        ]
        for t in thresholds
    ]
    return grid.terminal([heads, *body])


def rows(report: Report) -> list[list[str]]:
    """The cells under name, tool and call accuracy, macro F1, p50, decisions/s, size, training, and
    failed decisions where any router has some."""
    failing = bool(_failed_heading(report))
    return [
        [
            router["name"],
            formats.estimate(router["tool_accuracy"]),
            formats.estimate(router["call_accuracy"]),
            formats.estimate(router["macro_f1"]),
            formats.milliseconds(router["latency_ms"]["p50"]),
            formats.count(router["decisions_per_s"]),
            formats.count(router["parameters"]),
            formats.seconds(router["train_seconds"]),
            *([str(router["failed"]["n"])] if failing else []),
        ]
        for router in report["routers"]
    ] + [[*teacher_row(report["teacher"]), *([formats.MISSING] if failing else [])]]


def _failed_heading(report: Report) -> list[str]:
    """The column of decisions that could not be had, where there are some."""
    return ["Failed"] if any(router["failed"]["n"] for router in report["routers"]) else []


def teacher_row(teacher: Mapping[str, Any]) -> list[str]:
    """The teacher's line: for tool accuracy, how often two answers to one context agree."""
    name = f"teacher ({teacher['name']})" if teacher["name"] else "teacher"
    latency = (teacher["latency_ms"] or {}).get("p50")
    agreement = formats.percent(agreement_of(teacher))
    dashes = [formats.MISSING] * 2
    return [name, agreement, *dashes, formats.milliseconds(latency), *[formats.MISSING] * 3]


def to_csv(report: Report) -> str:
    """One row per router and one for the teacher, full precision, empty where not known."""
    columns = ["name", "kind"]
    for name in _ESTIMATES:
        columns += [name, f"{name}_low", f"{name}_high"]
    columns += list(_SINGLE)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for router in report["routers"]:
        row = {"name": router["name"], "kind": router["kind"]}
        for name, path in _ESTIMATES.items():
            figure = _at(router, path) or {"value": None, "low": None, "high": None}
            row |= {name: figure["value"]}
            row |= {f"{name}_low": figure["low"], f"{name}_high": figure["high"]}
        writer.writerow(row | {name: _at(router, path) for name, path in _SINGLE.items()})
    latency = report["teacher"]["latency_ms"] or {}
    writer.writerow(
        {
            "name": "teacher",
            "kind": "teacher",
            "tool_accuracy": agreement_of(report["teacher"]),
            "latency_ms_p50": latency.get("p50"),
            "latency_ms_p95": latency.get("p95"),
        }
    )
    return text.getvalue()


def to_markdown(report: Report) -> str:
    """Headline, findings, the table, paired differences, outcomes, breakdowns, caveats."""
    parts = [
        f"# {grid.markdown(words.title(report))}",
        "\n".join(f"- {grid.markdown(sentence)}" for sentence in words.findings(report)),
        "## Routers",
        "Value and 95% interval. Under tool accuracy, the teacher's line says how often two "
        f"answers to one context agree ({words.teacher(report)}).",
        grid.to_markdown([[*_HEADINGS, *_failed_heading(report)], *rows(report)]),
        grid.to_markdown(
            [
                [
                    *("Router", "Reply precision", "Reply recall"),
                    *("ECE", "ECE if calibrated", "Brier", "p95", "p99", "Timed"),
                ],
                *(
                    [
                        router["name"],
                        formats.estimate(router["no_call"]["precision"]),
                        formats.estimate(router["no_call"]["recall"]),
                        formats.error(router["calibration"]["ece"]),
                        formats.number(router["calibration"]["ece_if_calibrated"]),
                        formats.error(router["calibration"]["brier"]),
                        formats.milliseconds(router["latency_ms"]["p95"]),
                        formats.milliseconds(router["latency_ms"]["p99"]),
                        str(router["latency_samples"] or formats.MISSING),
                    ]
                    for router in report["routers"]
                ),
            ]
        ),
    ]
    if stages := _stage_rows(report["routers"]):
        parts += ["## Stages of a cascade", grid.to_markdown(stages)]
    if promised := _risk_rows(report["routers"]):
        parts += [
            "## What may be decided without the teacher",
            words.PROMISE,
            grid.to_markdown(promised),
        ]
    parts += ["## What is saved of the LLM", grid.markdown(words.SAVED)]
    if saved := _saving_rows(report):
        parts.append(grid.to_markdown(saved))
    parts.append("\n".join(f"- {grid.markdown(sentence)}" for sentence in words.costs(report)))
    if report["paired"]:
        parts += [
            "## Differences on the same decisions",
            grid.to_markdown(_paired_rows(report["paired"])),
        ]
    for loop in report["closed_loop"]:
        parts += [f"## Outcomes: {grid.markdown(outcome_words.title(loop))}", *outcomes.parts(loop)]
    if standings := reach.rows(report):
        parts += ["## How far each router goes", _reach(report), grid.to_markdown(standings)]
    parts.append("## Tool accuracy by difficulty")
    for dimension, title in TITLES.items():
        parts.append(grid.to_markdown(_bucket_rows(report["routers"], dimension, title)))
    parts += ["## Limits", "\n".join(f"- {grid.markdown(note)}" for note in words.caveats(report))]
    return "\n\n".join(parts) + "\n"


def _reach(report: Report) -> str:
    """Sentences, and what the table under them says."""
    said = [*reach.sentences(report), reach.MEASURE, reach.table_note(report)]
    return "\n".join(f"- {grid.markdown(sentence)}" for sentence in said)


def _paired_rows(pairs: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    heading = [
        *("Metric", "A", "B", "A − B, points", "95% interval"),
        *("by seed", "p", "p (Holm)", "Verdict"),
    ]
    return [heading] + [
        [
            pair["metric"].replace("_", " "),
            pair["a"],
            pair["b"],
            formats.points(pair["difference"]),
            formats.points_interval(pair["low"], pair["high"]),
            words.by_seed(pair),
            formats.p_value(pair["p_value"]),
            formats.p_value(pair["p_value_holm"]),
            words.verdict(pair),
        ]
        for pair in pairs
    ]


def _stage_rows(routers: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """Nothing where no router has stages."""
    heading = ["Router", "Decided by its", "Share", "Tool accuracy", "Right as it stands", "p50"]
    body = [
        [
            router["name"],
            stage["stage"],
            *(formats.estimate(stage[name]) for name in ("share", "tool_accuracy", "right")),
            formats.milliseconds(stage["p50"]),
        ]
        for router in routers
        for stage in router["stages"]
    ]
    return [heading, *body] if body else []


def _risk_rows(routers: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """Nothing where no router has thresholds."""
    heading = [
        "Router",
        "Wrong at most",
        "Sure by",
        "Seeds",
        "Confidence",
        "Taken",
        "Of them wrong",
    ]
    body = [
        [
            router["name"],
            formats.percent(entry["alpha"]),
            formats.percent(1 - entry["delta"]),
            f"{entry['supported']} of {len(entry['by_seed'])}",
            *(
                [
                    formats.number(entry["threshold"]),
                    formats.estimate(entry["coverage"]),
                    formats.estimate(entry["error"]),
                ]
                if entry["supported"]
                else ["the data supports none", *[formats.MISSING] * 2]
            ),
        ]
        for router in routers
        for entry in router["risk"]
    ]
    return [heading, *body] if body else []


def _saving_rows(report: Report) -> list[list[str]]:
    """Nothing where no router has thresholds."""
    currency = report["cost"]["currency"] or ""
    heading = [
        *("Router", "Wrong at most", "LLM calls saved", "Prompt tokens saved"),
        *("of them tool definitions", "Answer tokens saved", f"Saved, {currency}".rstrip(", ")),
        *("Time saved", "Taken and wrong", "Training paid after"),
    ]
    body = []
    for router in report["routers"]:
        for entry in router["risk"]:
            saved = entry["savings"]
            name = [router["name"], formats.percent(entry["alpha"])]
            if not entry["supported"]:
                body.append([*name, "the data supports none", *[formats.MISSING] * 7])
                continue
            body.append(
                [
                    *name,
                    formats.amount(saved["llm_calls"]),
                    formats.count(saved["prompt_tokens"]),
                    formats.count(saved["tool_tokens"]),
                    formats.count(saved["output_tokens"]),
                    formats.money(saved["cost"]),
                    formats.duration(saved["seconds"]),
                    formats.estimate(saved["wrong"]),
                    formats.decisions(saved["break_even"]),
                ]
            )
    return [heading, *body] if body else []


def _bucket_rows(
    routers: Sequence[Mapping[str, Any]], dimension: str, title: str
) -> list[list[str]]:
    names = list(dict.fromkeys(b["bucket"] for r in routers for b in r["by_bucket"][dimension]))
    grid = [[title, *(router["name"] for router in routers)]]
    for name in names:
        row = [name]
        for router in routers:
            found = (b for b in router["by_bucket"][dimension] if b["bucket"] == name)
            bucket = next(found, None)
            row.append(
                f"{formats.estimate(bucket['tool_accuracy'])} "
                f"(n={bucket['n']}, {bucket['n_groups']} groups)"
                if bucket
                else formats.MISSING
            )
        grid.append(row)
    return grid


def _at(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        value = value[key]
    return value
