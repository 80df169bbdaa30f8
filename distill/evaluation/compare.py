"""Compare evaluated runs: pool seeds, pair routers on the same examples, write the reports.

It reads run directories and writes report.json, report.md, report.csv and report.html; it knows
nothing of routers or models.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from distill.chat import same_calls
from distill.config import EvaluationConfig, PricesConfig
from distill.errors import InputError, RouterError
from distill.evaluation.comparable import require_comparable
from distill.evaluation.intervals import Difference, number_groups, paired_difference
from distill.evaluation.latency import Timing, supported
from distill.evaluation.paired import adjusted, entry
from distill.evaluation.predictions import Prediction, load
from distill.evaluation.reach import reach
from distill.evaluation.report import write_report
from distill.evaluation.summary import (
    Measured,
    agreement_of,
    cost_entry,
    dataset_entry,
    llm_of,
    pooled,
    router_entry,
    teacher_entry,
)
from distill.routers.confidence import Threshold
from distill.routers.folder import read_router_file
from distill.runs import RunDir, hardware, read_json

_PAIRED: dict[str, Callable[[Prediction], bool]] = {
    "tool_accuracy": lambda p: p.decision.tools == p.label.tools,
    "call_accuracy": lambda p: same_calls(p.decision, p.label),
}


def run_report(
    run: RunDir, predictions: Sequence[Prediction], timing: Timing, config: EvaluationConfig
) -> dict[str, Any]:
    """The report.json of one run: one router, one seed, and `evaluation` with timing and hardware.

    Raises:
        RouterError: the run is not whole.
    """
    run.require_whole()
    measured = Measured(read_json(run.manifest), predictions, timing, _thresholds(run))
    evaluation = {
        "seed": measured.seed,
        "bootstrap": config.bootstrap,
        "hardware": hardware(),
        **timing,
    }
    return _report({measured.router: [measured]}, config) | {"evaluation": evaluation}


def reported_again(run: RunDir, config: EvaluationConfig) -> dict[str, Any]:
    """The report.json of an evaluated run under the thresholds that its router has now.

    Errors as `comparison`.
    """
    measured, evaluation = _read(run), _evaluation(run)
    return _report({measured.router: [measured]}, config) | {"evaluation": evaluation}


def compare(
    runs: Sequence[RunDir],
    out: Path,
    config: EvaluationConfig,
    prices: PricesConfig | None = None,
    closed_loop: Sequence[Path] = (),
) -> dict[str, Any]:
    """Compare runs and write report.{json,md,csv,html} into `out`; returns report.json's content.

    Errors as `comparison`; nothing is written then.
    """
    report, predictions = comparison(runs, config, prices, closed_loop)
    report["evaluation"]["out"] = str(out)
    write_report(report, predictions, out)
    return report


def comparison(
    runs: Sequence[RunDir],
    config: EvaluationConfig,
    prices: PricesConfig | None = None,
    closed_loop: Sequence[Path] = (),
) -> tuple[dict[str, Any], dict[str, list[Prediction]]]:
    """The report of several runs, and the predictions of each router by name.

    Runs of the same router under different seeds become one entry. Entries come by falling tool
    accuracy; `paired[]` has, for each pair and metric, the difference of the better (`a`) and the
    worse (`b`) on the examples both decided under the same seed, with the plain p-value and, as
    `p_value_holm`, the one adjusted for testing all pairs of that metric (Holm 1979). Intervals
    are not adjusted. `by_seed` has the difference under each common seed: p-values hold for the
    trained routers, and only the spread over seeds shows the luck of split and training. Pairs
    without a common example are left out, and examples that one of the two has no decision on.

    `closed_loop[]` is what simulations wrote into these folders, each with its `path`. That they
    were played by these runs is not checked: an environment of one's own takes other routers, too.

    Raises:
        RouterError: a run is not whole, or not evaluated; a folder without a whole simulation.
        ConfigError: a run's config.yaml is missing or damaged.
        InputError: no runs, runs that do not belong together, or the same run twice.
    """
    if not runs:
        raise InputError("compare", "no runs", "name at least one run directory")
    outcomes = [_outcomes(folder) for folder in closed_loop]
    read = [(run, _read(run)) for run in runs]
    require_comparable(read)
    by_router: dict[str, list[Measured]] = defaultdict(list)
    for _, measured in sorted(read, key=lambda pair: (pair[1].router, pair[1].seed)):
        by_router[measured.router].append(measured)
    machines = [_evaluation(run)["hardware"] for run in runs]
    report = _report(by_router, config, prices)
    report["closed_loop"] = outcomes
    report["evaluation"] = {
        "bootstrap": config.bootstrap,
        "seeds": sorted({measured.seed for _, measured in read}),
        "hardware": [m for i, m in enumerate(machines) if m not in machines[:i]],
        "runs": [
            {"path": str(run.path), "router": measured.router, "seed": measured.seed}
            for run, measured in read
        ],
    }
    return report, {name: pooled(group) for name, group in by_router.items()}


def _report(
    by_router: Mapping[str, Sequence[Measured]],
    config: EvaluationConfig,
    prices: PricesConfig | None = None,
) -> dict[str, Any]:
    every = [measured for group in by_router.values() for measured in group]
    teacher = teacher_entry(every)
    llm = llm_of(teacher, prices)
    entries = [
        router_entry(group, config, agreement_of(teacher), llm, prices)
        for group in by_router.values()
    ]
    entries.sort(key=lambda entry: (-entry["tool_accuracy"]["value"], entry["name"]))
    order = [entry["name"] for entry in entries]
    return {
        "dataset": dataset_entry(every),
        "teacher": teacher,
        "routers": entries,
        "paired": _paired({name: by_router[name] for name in order}, config.bootstrap),
        "cost": cost_entry(every, teacher, llm, prices),
        "reach": reach(entries, config.target_accuracy),
    }


def _paired(by_router: Mapping[str, Sequence[Measured]], resamples: int) -> list[dict[str, Any]]:
    rows = {
        name: {(run.seed, p.id): p for run in group for p in run.had}
        for name, group in by_router.items()
    }
    report = []
    for metric, correct in _PAIRED.items():
        entries = []
        for a, b in combinations(by_router, 2):
            common = [key for key in rows[a] if key in rows[b]]
            if common:
                pairs = [(key[0], rows[a][key], rows[b][key]) for key in common]
                found, by_seed = _difference(pairs, correct, resamples)
                entries.append({**entry(a, b, metric, found), "by_seed": by_seed})
        report += adjusted(entries)
    return report


def _difference(
    pairs: Sequence[tuple[int, Prediction, Prediction]],
    correct: Callable[[Prediction], bool],
    resamples: int,
) -> tuple[Difference, list[dict[str, Any]]]:
    """The difference over (seed, one router's decision, the other's), and that under each seed."""
    seeds = np.array([seed for seed, _, _ in pairs])
    left = np.array([correct(a) for _, a, _ in pairs], dtype=np.float64)
    right = np.array([correct(b) for _, _, b in pairs], dtype=np.float64)
    weights = np.array([a.weight for _, a, _ in pairs], dtype=np.float64)
    groups = number_groups([a.group for _, a, _ in pairs])
    found = paired_difference(left, right, groups, resamples, weights)
    by_seed = [
        {
            "seed": int(seed),
            "n_examples": int((seeds == seed).sum()),
            "difference": float(np.average((left - right)[here], weights=weights[here])),
        }
        for seed in np.unique(seeds)
        for here in [seeds == seed]
    ]
    return found, by_seed


def _read(run: RunDir) -> Measured:
    run.require_whole()
    evaluation = _evaluation(run)
    timing: Timing = {
        "latency_ms": evaluation["latency_ms"],
        # Percentiles of nobody knows how many samples are not to be relied on.
        "latency_samples": evaluation.get("latency_samples", 0),
        "decisions_per_s": evaluation["decisions_per_s"],
        "stages": evaluation.get("stages", {}),
    }
    return Measured(
        read_json(run.manifest), load(run.predictions), supported(timing), _thresholds(run)
    )


def _thresholds(run: RunDir) -> tuple[Threshold, ...]:
    return read_router_file(run.router).thresholds


def _outcomes(folder: Path) -> dict[str, Any]:
    """The `closed_loop.json` of a folder, with its `path`."""
    found = read_json(folder / "closed_loop.json")
    wanted = {"environment", "fallback", "endpoint", "attacks", "arms", "paired"}
    if not isinstance(found, dict) or not wanted <= found.keys():
        raise RouterError(
            folder / "closed_loop.json",
            "not the figures of a simulation",
            "name a folder that distill simulate wrote",
        )
    return {"path": str(folder), **found}


def _evaluation(run: RunDir) -> dict[str, Any]:
    cure = f"run: distill evaluate {run.path}"
    if not run.report.is_file():
        raise RouterError(run.path, "no report.json: not evaluated", cure)
    evaluation = read_json(run.report).get("evaluation")
    if evaluation is None:
        raise RouterError(run.report, "not the report of an evaluated run", cure)
    return dict(evaluation)
