"""From measured runs to the parts of report.json: a router's entry, the dataset, the teacher.

Runs of one router that differ only in the seed are one router: its figures are over the
predictions of all seeds pooled. A group can be in the test part of several seeds, so resamples
draw group keys, each with its rows of every seed. This module knows nothing of files or routers.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np

from distill.chat import digest
from distill.config import EvaluationConfig, PriceConfig, PricesConfig
from distill.evaluation import calibration, metrics
from distill.evaluation.buckets import by_bucket
from distill.evaluation.cost import PER, Demand, Llm, amounts, savings, spent
from distill.evaluation.intervals import Estimate, estimate
from distill.evaluation.latency import Timing
from distill.evaluation.predictions import Prediction, had
from distill.evaluation.selective import risk_entries, taken_at
from distill.routers.confidence import Threshold

_PARTS = ("train", "calibration", "test")


@dataclass(frozen=True)
class Measured:
    """One run: its manifest, predictions on the test part, timing, and its router's thresholds."""

    manifest: Mapping[str, Any]
    predictions: Sequence[Prediction]
    timing: Timing
    thresholds: Sequence[Threshold]

    @property
    def had(self) -> list[Prediction]:
        """The predictions that figures are of: without decisions that could not be had."""
        return had(self.predictions)

    @property
    def router(self) -> str:
        return str(self.manifest["router"])

    @property
    def seed(self) -> int:
        return int(self.manifest["seed"])


def router_entry(
    runs: Sequence[Measured],
    config: EvaluationConfig,
    agreement: float | None,
    llm: Llm,
    prices: PricesConfig | None,
) -> dict[str, Any]:
    """One entry of `routers[]`, of the runs of one router under different seeds.

    Times and sizes that vary with the seed are medians over seeds; `latency_samples` is the least
    of them. `share_of_agreement` is tool accuracy over `agreement` (`agreement_of`); null where
    that is not known. Of what was measured, `n_examples` counts examples once a seed, `n_distinct`
    each once, `n_decisions` each as often as the teacher decided it, and `n_groups` their groups.
    Decisions that could not be had are in `failed` and `spent` alone.

    Each of `risk[]` has `savings` (`distill.evaluation.cost.savings`) of `llm`, the teacher.
    `llm_calls_saved`, `tokens_saved` and `cost_saved_usd` are those of the strictest promise that
    every seed supports, of 1,000 decisions; null where there is none, or the traces do not tell.
    """
    predictions = pooled(runs)
    scores = metrics.score(predictions)
    found = estimate(
        {
            "tool_accuracy": metrics.accuracy(scores.tool_correct),
            "call_accuracy": metrics.accuracy(scores.call_correct),
            "macro_f1": metrics.macro_f1(scores),
            "precision": metrics.no_call_precision(scores),
            "recall": metrics.no_call_recall(scores),
            "ece": calibration.calibration_error(scores),
            "brier": calibration.brier(scores),
        },
        scores.groups,
        config.bootstrap,
        scores.weights,
    )
    tool_accuracy = found["tool_accuracy"]
    assert tool_accuracy is not None, "every example has a label"
    figures = {name: figure_json(figure) for name, figure in found.items()}
    manifest = runs[0].manifest
    seconds = _median([run.manifest["train_seconds"] for run in runs])
    p50 = median(run.timing["latency_ms"]["p50"] for run in runs)
    risk = risk_entries(
        [run.seed for run in runs],
        [(run.had, run.thresholds) for run in runs],
        config.bootstrap,
    )
    for entry in risk:
        taken = taken_at(
            [(run.had, run.thresholds) for run in runs], entry["alpha"], entry["delta"]
        )
        entry["savings"] = savings(
            predictions,
            np.concatenate(taken),
            llm,
            latency_ms=p50,
            training_cost=_training_cost(seconds, prices),
            resamples=config.bootstrap,
        )
    return {
        "name": manifest["router"],
        "kind": manifest["kind"],
        "base_model": manifest["base_model"],
        "parameters": _median_int([run.manifest["parameters"] for run in runs]),
        "trainable_parameters": _median_int([run.manifest["trainable_parameters"] for run in runs]),
        "n_examples": len(predictions),
        "n_distinct": len({p.id for p in predictions}),
        "n_decisions": round(float(scores.weights.sum())),
        "n_groups": int(scores.groups.max()) + 1,
        "failed": _failed(runs),
        # Manifests older than this key are of times when decoders alone did.
        "fills_arguments": manifest.get("fills_arguments", manifest["kind"] == "decoder"),
        "tool_accuracy": figures["tool_accuracy"],
        "share_of_agreement": tool_accuracy.value / agreement if agreement else None,
        "call_accuracy": figures["call_accuracy"],
        "macro_f1": figures["macro_f1"],
        "no_call": {"precision": figures["precision"], "recall": figures["recall"]},
        "by_bucket": by_bucket(predictions, config.bootstrap),
        "by_seed": [_seed_entry(run, config) for run in runs],
        "calibration": {
            "ece": figures["ece"],
            "ece_if_calibrated": calibration.error_if_calibrated(scores),
            "brier": figures["brier"],
        },
        "stages": stage_entries(runs, config.bootstrap),
        "risk": risk,
        "latency_ms": {
            "p50": p50,
            "p95": _median([run.timing["latency_ms"]["p95"] for run in runs]),
            "p99": _median([run.timing["latency_ms"]["p99"] for run in runs]),
        },
        "latency_samples": min(run.timing["latency_samples"] for run in runs),
        "decisions_per_s": _median([run.timing["decisions_per_s"] for run in runs]),
        "train_seconds": seconds,
        "spent": spent(
            [p for run in runs for p in run.predictions], _price(prices, _asked(manifest))
        ),
        **_saved(risk, prices),
    }


def _failed(runs: Sequence[Measured]) -> dict[str, Any]:
    """`n` examples whose decision could not be had, their `share`, and `reasons` with numbers."""
    errors = [p.decision.error for run in runs for p in run.predictions]
    reasons = Counter(error.partition(":")[0] for error in errors if error is not None)
    weights = [sum(p.weight for p in part) for run in runs for part in (run.predictions, run.had)]
    return {
        "n": reasons.total(),
        "share": 1 - sum(weights[1::2]) / sum(weights[::2]),
        "reasons": dict(sorted(reasons.items())),
    }


def _saved(risk: Sequence[Mapping[str, Any]], prices: PricesConfig | None) -> dict[str, Any]:
    """The figures of the strictest promise that every seed supports; risk is by rising alpha."""
    supported = (entry for entry in risk if entry["supported"] == len(entry["by_seed"]))
    found = next((entry["savings"] for entry in supported), None)
    if found is None:
        return dict.fromkeys(("llm_calls_saved", "tokens_saved", "cost_saved_usd"))
    told = found["prompt_tokens"] is not None
    in_dollars = prices is not None and prices.currency == "USD"
    return {
        "llm_calls_saved": found["llm_calls"]["value"],
        "tokens_saved": found["prompt_tokens"] + found["output_tokens"] if told else None,
        "cost_saved_usd": found["cost"] if in_dollars else None,
    }


def _training_cost(seconds: float | None, prices: PricesConfig | None) -> float | None:
    if seconds is None or prices is None or prices.training_per_hour is None:
        return None
    return seconds / 3600 * prices.training_per_hour


def _asked(manifest: Mapping[str, Any]) -> str | None:
    """The LLM that a router of kind `endpoint` asks; None of any other kind."""
    return manifest["base_model"]["name"] if manifest["kind"] == "endpoint" else None


def _price(prices: PricesConfig | None, model: str | None) -> PriceConfig | None:
    return None if prices is None or model is None else prices.models.get(model)


def llm_of(teacher: Mapping[str, Any], prices: PricesConfig | None) -> Llm:
    """What the report's `teacher` and a table of prices tell of the LLM that routers save.

    Several teachers have no price together, unless the table has one under all their names.
    """
    latency = teacher["latency_ms"]
    return Llm(
        teacher["input_tokens_per_decision"],
        teacher["output_tokens_per_decision"],
        None if latency is None else latency["p50"],
        _price(prices, teacher["name"]),
    )


def cost_entry(
    runs: Sequence[Measured],
    teacher: Mapping[str, Any],
    llm: Llm,
    prices: PricesConfig | None,
) -> dict[str, Any]:
    """`cost` of the report: what 1,000 decisions of the LLM take, and by which prices.

    `tokens` says where token counts come from (`distill.evaluation.cost`). `prices` holds those
    that were used, and `missing_prices` the models that the table lacks; both are null without a
    table. `seconds` are by the LLM's median.
    """
    measured = {(run.seed, p.id): p for run in runs for p in run.predictions}
    demand = Demand.of(list(measured.values()), llm)
    asked = {model for run in runs if (model := _asked(run.manifest)) is not None}
    names = [teacher["name"] or "the teacher", *sorted(asked - {teacher["name"]})]
    known = {} if prices is None else {n: prices.models[n] for n in names if n in prices.models}
    return {
        "decisions": PER,
        "llm": teacher["name"],
        "tokens": None if demand is None else llm.basis,
        **amounts(demand, llm),
        "seconds": None if llm.latency_ms is None else PER * llm.latency_ms / 1000,
        "currency": None if prices is None else prices.currency,
        "training_per_hour": None if prices is None else prices.training_per_hour,
        "prices": {name: price.model_dump(mode="json") for name, price in known.items()}
        if prices is not None
        else None,
        "missing_prices": None if prices is None else [n for n in names if n not in known],
    }


def stage_entries(runs: Sequence[Measured], resamples: int) -> list[dict[str, Any]]:
    """What each stage of a cascade had the last word in; empty of any other router.

    `share` of all decisions, `tool_accuracy` and `right` (as they stand) of those of the stage, and
    the median over seeds of `p50`, milliseconds of the decisions that were timed (null: none was).
    """
    predictions = pooled(runs)
    scores = metrics.score(predictions)
    stages = sorted({p.decision.stage for p in predictions if p.decision.stage is not None})
    entries = []
    for stage in stages:
        among = np.array([p.decision.stage == stage for p in predictions], dtype=np.float64)
        statistics = {
            "share": metrics.accuracy(among),
            "tool_accuracy": metrics.accuracy(scores.tool_correct, among),
            "right": metrics.accuracy(scores.right, among),
        }
        found = estimate(statistics, scores.groups, resamples, scores.weights)
        timed = [run.timing["stages"].get(stage) for run in runs]
        entries.append(
            {
                "stage": stage,
                **{name: figure_json(figure) for name, figure in found.items()},
                "p50": _median([None if time is None else time["p50"] for time in timed]),
            }
        )
    return entries


def pooled(runs: Sequence[Measured]) -> list[Prediction]:
    """The predictions of all seeds that figures are of, one after the other."""
    return [prediction for run in runs for prediction in run.had]


def figure_json(figure: Estimate | None) -> dict[str, float | None] | None:
    """`{value, low, high}`, or null without support."""
    return None if figure is None else figure._asdict()


def dataset_entry(runs: Sequence[Measured]) -> dict[str, Any]:
    """`dataset` of the report, from runs whose hashes agree wherever their seeds do.

    Each seed has its own split: `seeds` has the counts of each, and how many of its test part were
    measured (`n_measured` examples in `n_measured_groups` groups: fewer than `n_test` where
    `evaluation.max_examples` says so). With several seeds the counts at the top are means, rounded,
    and `hash` is the digest of theirs. `n_groups` counts the groups of the dataset, which all
    splits share.
    """
    by_seed = {run.seed: run for run in runs}
    seeds = [_split_entry(by_seed[seed]) for seed in sorted(by_seed)]
    hashes = [entry["hash"] for entry in seeds]
    return {
        "hash": hashes[0] if len(set(hashes)) == 1 else digest(hashes),
        **{f"n_{part}": round(fmean(entry[f"n_{part}"] for entry in seeds)) for part in _PARTS},
        "n_groups": max(run.manifest["dataset"]["n_groups"] for run in runs),
        "seeds": seeds,
    }


def _split_entry(run: Measured) -> dict[str, Any]:
    dataset = run.manifest["dataset"]
    return {
        "seed": run.seed,
        "hash": dataset["hash"],
        **{f"n_{part}": dataset["parts"].get(part, {}).get("examples", 0) for part in _PARTS},
        "n_measured": len(run.predictions),
        "n_measured_groups": len({p.group for p in run.predictions}),
    }


def teacher_entry(runs: Sequence[Measured]) -> dict[str, Any]:
    """`teacher` of the report; a fact is the mean over the seeds whose manifests know it.

    `self_agreement` is of answers of one teacher, `label_agreement` of any: with several teachers
    in the traces the latter is lower. `latency_ms` are percentiles over traces of a trace's mean
    time per LLM call (`distill.dataset.teacher`), so single calls vary more.
    """
    teachers = {run.seed: run.manifest["teacher"] for run in runs}
    found = [teachers[seed] for seed in sorted(teachers)]
    latencies = [teacher["latency_ms"] for teacher in found if teacher["latency_ms"]]
    agreements = {
        key: value
        for name in ("self_agreement", "label_agreement")
        for key, value in (
            (name, _mean([t.get(name) for t in found])),
            (f"{name}_contexts", _median_int([t.get(f"{name}_contexts") for t in found])),
        )
    }
    return {
        "name": ", ".join(dict.fromkeys(str(t["name"]) for t in found if t["name"])) or None,
        **agreements,
        "success_rate": _mean([teacher["success_rate"] for teacher in found]),
        "latency_ms": {p: _mean([latency[p] for latency in latencies]) for p in ("p50", "p95")}
        if latencies
        else None,
        "tokens_per_decision": _mean([teacher["tokens_per_decision"] for teacher in found]),
        # Manifests older than these two keys state the sum alone.
        **{
            name: _mean([teacher.get(name) for teacher in found])
            for name in ("input_tokens_per_decision", "output_tokens_per_decision")
        },
    }


def agreement_of(teacher: Mapping[str, Any]) -> float | None:
    """How often two answers in the traces to one context agree, whoever of the teachers gave them.

    That is what a router can be measured against: it is not told which teacher answers next. With
    one teacher it is that teacher's agreement with itself.
    """
    labels: float | None = teacher["label_agreement"]
    itself: float | None = teacher["self_agreement"]
    return itself if labels is None else labels


def _seed_entry(run: Measured, config: EvaluationConfig) -> dict[str, Any]:
    scores = metrics.score(run.had)
    statistic = {"tool_accuracy": metrics.accuracy(scores.tool_correct)}
    figure = estimate(statistic, scores.groups, config.bootstrap, scores.weights)["tool_accuracy"]
    return {
        "seed": run.seed,
        "n_examples": len(run.had),
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
