"""From measured runs to the parts of report.json: a router's entry, the dataset, the teacher.

Runs of one router that differ only in the seed are one router: its figures are over the
predictions of all seeds pooled. A group can be in the test part of several seeds, so resamples
draw group keys, each with its rows of every seed. This module knows nothing of files or routers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from distill.chat import digest
from distill.config import EvaluationConfig
from distill.evaluation import metrics
from distill.evaluation.buckets import by_bucket
from distill.evaluation.latency import Timing
from distill.evaluation.metrics import Estimate
from distill.evaluation.predictions import Prediction


@dataclass(frozen=True)
class Measured:
    """One run: its manifest, its predictions on the test part, and its timing."""

    manifest: Mapping[str, Any]
    predictions: Sequence[Prediction]
    timing: Timing

    @property
    def router(self) -> str:
        return str(self.manifest["router"])

    @property
    def seed(self) -> int:
        return int(self.manifest["seed"])


def router_entry(
    runs: Sequence[Measured], config: EvaluationConfig, ceiling: float | None
) -> dict[str, Any]:
    """One entry of `routers[]`, of the runs of one router under different seeds.

    Times and sizes that vary with the seed are medians over seeds. `share_of_ceiling` is tool
    accuracy over `ceiling`, the teacher's agreement with itself; null where that is not known.
    """
    predictions = pooled(runs)
    scores = metrics.score(predictions)
    found = metrics.estimate(
        {
            "tool_accuracy": metrics.accuracy(scores.tool_correct),
            "call_accuracy": metrics.accuracy(scores.call_correct),
            "macro_f1": metrics.macro_f1(scores),
            "precision": metrics.no_call_precision(scores),
            "recall": metrics.no_call_recall(scores),
            "ece": metrics.calibration_error(scores),
            "brier": metrics.brier(scores),
        },
        scores.groups,
        config.bootstrap,
        scores.weights,
    )
    tool_accuracy = found["tool_accuracy"]
    assert tool_accuracy is not None, "every example has a label"
    figures = {name: figure_json(figure) for name, figure in found.items()}
    manifest = runs[0].manifest
    return {
        "name": manifest["router"],
        "kind": manifest["kind"],
        "base_model": manifest["base_model"],
        "parameters": _median_int([run.manifest["parameters"] for run in runs]),
        "trainable_parameters": _median_int([run.manifest["trainable_parameters"] for run in runs]),
        "n_examples": len(predictions),
        "n_groups": int(scores.groups.max()) + 1,
        "fills_arguments": any(
            call.arguments is not None for p in predictions for call in p.decision.calls
        ),
        "tool_accuracy": figures["tool_accuracy"],
        "share_of_ceiling": tool_accuracy.value / ceiling if ceiling else None,
        "call_accuracy": figures["call_accuracy"],
        "macro_f1": figures["macro_f1"],
        "no_call": {"precision": figures["precision"], "recall": figures["recall"]},
        "by_bucket": by_bucket(predictions, config.bootstrap),
        "by_seed": [_seed_entry(run, config) for run in runs],
        "calibration": {"ece": figures["ece"], "brier": figures["brier"]},
        "risk": [],
        "latency_ms": {
            p: median(float(run.timing["latency_ms"][p]) for run in runs)
            for p in ("p50", "p95", "p99")
        },
        "decisions_per_s": median(run.timing["decisions_per_s"] for run in runs),
        "train_seconds": _median([run.manifest["train_seconds"] for run in runs]),
        "llm_calls_saved": None,
        "tokens_saved": None,
        "cost_saved_usd": None,
    }


def pooled(runs: Sequence[Measured]) -> list[Prediction]:
    """The predictions of all seeds, one after the other."""
    return [prediction for run in runs for prediction in run.predictions]


def figure_json(figure: Estimate | None) -> dict[str, float] | None:
    """`{value, low, high}`, or null without support."""
    return None if figure is None else figure._asdict()


def dataset_entry(runs: Sequence[Measured]) -> dict[str, Any]:
    """`dataset` of the report, from runs whose hashes agree wherever their seeds do.

    With several seeds the counts are sums over their splits (`seeds` lists each), `hash` is the
    digest of theirs, and `n_groups` counts the groups of the dataset, which all splits share.
    """
    by_seed = {run.seed: run.manifest["dataset"] for run in runs}
    seeds = [
        {
            "seed": seed,
            "hash": by_seed[seed]["hash"],
            **{
                f"n_{part}": by_seed[seed]["parts"].get(part, {}).get("examples", 0)
                for part in ("train", "calibration", "test")
            },
        }
        for seed in sorted(by_seed)
    ]
    hashes = [entry["hash"] for entry in seeds]
    return {
        "hash": hashes[0] if len(set(hashes)) == 1 else digest(hashes),
        **{
            f"n_{part}": sum(entry[f"n_{part}"] for entry in seeds)
            for part in ("train", "calibration", "test")
        },
        "n_groups": max(dataset["n_groups"] for dataset in by_seed.values()),
        "seeds": seeds,
    }


def teacher_entry(runs: Sequence[Measured]) -> dict[str, Any]:
    """`teacher` of the report; a fact is the mean over the seeds whose manifests know it."""
    teachers = {run.seed: run.manifest["teacher"] for run in runs}
    found = [teachers[seed] for seed in sorted(teachers)]
    latencies = [teacher["latency_ms"] for teacher in found if teacher["latency_ms"]]
    return {
        "name": ", ".join(dict.fromkeys(str(t["name"]) for t in found if t["name"])) or None,
        "self_agreement": _mean([teacher["self_agreement"] for teacher in found]),
        "self_agreement_contexts": _median_int([t.get("self_agreement_contexts") for t in found]),
        "success_rate": _mean([teacher["success_rate"] for teacher in found]),
        "latency_ms": {p: _mean([latency[p] for latency in latencies]) for p in ("p50", "p95")}
        if latencies
        else None,
        "tokens_per_decision": _mean([teacher["tokens_per_decision"] for teacher in found]),
    }


def _seed_entry(run: Measured, config: EvaluationConfig) -> dict[str, Any]:
    scores = metrics.score(run.predictions)
    statistic = {"tool_accuracy": metrics.accuracy(scores.tool_correct)}
    figure = metrics.estimate(statistic, scores.groups, config.bootstrap, scores.weights)[
        "tool_accuracy"
    ]
    return {
        "seed": run.seed,
        "n_examples": len(run.predictions),
        "tool_accuracy": figure_json(figure),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _median_int(values: Sequence[int | None]) -> int | None:
    value = _median(values)
    return None if value is None else int(value)
