"""The model card: what a run says about itself, in words and in the hub's metadata.

Every figure comes from the run's manifest and report; this module measures nothing, and reads no
weights. The text lies in `TEMPLATE.md`.
"""

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined, Template

from distill.errors import RouterError
from distill.hub.record import Base, Record, read_record, require_repo_id
from distill.runs import RunDir, read_json

_WHAT = {
    "majority": "the most frequent decision of the training part, a baseline to beat",
    "tfidf": "a logistic regression on word and character TF-IDF",
    "rnn": "a small GRU trained from scratch",
    "attention": "a small transformer trained from scratch",
    "encoder": "a pretrained encoder with a tool head, its LoRA update merged into the weights",
    "open encoder": "a pretrained encoder that matches conversations with the texts of the tools "
    "on offer, its LoRA update merged into the weights",
    "decoder": "a LoRA adapter for a pretrained causal language model",
    "soft decoder": "an adapter for a pretrained causal language model, of learned vectors at the "
    "start of its prompts, with LoRA or without",
    "ensemble": "several routers that decide together, by the mean of the logarithms of what each "
    "believes",
    "cascade": "an encoder that chooses the tools, and a decoder that fills in their arguments "
    "where the encoder has not all of them",
}
_CLASSIFICATION = "text-classification"
_LIBRARIES = {"encoder": "sentence-transformers", "decoder": "peft"}
# What the library loads, by the hub's names; a sentence-transformers model gives vectors.
_PIPELINES = {"encoder": "feature-extraction", "decoder": "text-generation"}
_TAGS = {"decoder": ["lora"], "soft decoder": ["prompt-tuning"]}

# What vLLM takes as --max-lora-rank.
_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

# Key in the report, label, the hub's metric id.
_QUALITY = [
    ("tool_accuracy", "Tool accuracy", "accuracy"),
    ("call_accuracy", "Call accuracy", "accuracy"),
    ("macro_f1", "Macro F1", "f1"),
    ("no_call.precision", "No-call precision", "precision"),
    ("no_call.recall", "No-call recall", "recall"),
    ("calibration.ece", "Expected calibration error", "ece"),
    ("calibration.brier", "Brier score", "brier_score"),
]
_TEACHER = [
    ("self_agreement", "Teacher's self-agreement"),
    ("label_agreement", "Agreement of the recorded decisions"),
    ("success_rate", "Teacher's success rate"),
    ("latency_ms.p50", "Teacher's latency, median (ms)"),
    ("latency_ms.p95", "Teacher's latency, 95th percentile (ms)"),
    ("tokens_per_decision", "Teacher's tokens per decision"),
]
_COST = [
    ("latency_ms.p50", "Latency, median (ms)"),
    ("latency_ms.p95", "Latency, 95th percentile (ms)"),
    ("latency_ms.p99", "Latency, 99th percentile (ms)"),
    ("decisions_per_s", "Decisions per second"),
    ("llm_calls_saved", "LLM calls saved, of 1,000 decisions"),
    ("tokens_saved", "LLM tokens saved, in 1,000 decisions"),
    ("cost_saved_usd", "Cost saved, in 1,000 decisions (USD)"),
]


class Estimate(NamedTuple):
    """A measured value and its 95% interval, where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


def card(run: RunDir, repo_id: str) -> str:
    """The model card of a finished and evaluated run, as Markdown with a YAML head.

    Raises:
        HubError: `repo_id` is no `owner/name`.
        RouterError: the run is not whole, not evaluated, or its files are damaged.
    """
    require_repo_id(repo_id)
    return render_card(read_record(run), repo_id, run.router)


def render_card(record: Record, repo_id: str, router_folder: Path) -> str:
    """The card of an already read record; `router_folder` is asked for an adapter's rank only."""
    manifest, measured, kind = record.manifest, record.measured, record.kind
    if kind not in _WHAT:
        known = ", ".join(name for name in _WHAT if " " not in name)
        raise RouterError("manifest.json", f"kind {kind!r} has no card", f"known kinds: {known}")
    quality = [(name, _estimate(measured, key)) for key, name, _ in _QUALITY]
    teacher = [(name, _estimate(record.report["teacher"], key)) for key, name in _TEACHER]
    cost = [(name, _estimate(measured, key)) for key, name in _COST]
    variant = _variant(record)
    return _compiled().render(
        metadata=metadata(record, repo_id).to_yaml(),
        repo_id=repo_id,
        kind=kind,
        open=any(file["config"].get("catalogue") == "open" for file in record.files.values()),
        arguments=record.filler,
        kinds={file["kind"] for file in record.files.values()},
        variant=variant,
        what=_WHAT[variant],
        manifest=manifest,
        dataset=manifest["dataset"],
        teacher=manifest["teacher"],
        environment=manifest["environment"],
        trained_on=manifest["environment"]["hardware"],
        timed_on=record.report["evaluation"]["hardware"],
        bases={folder: _base(base) for folder, base in record.bases.items()},
        base=record.bases.get("."),
        license=_license(record),
        tools=record.tools,
        measured=measured,
        calibrated=record.router.get("calibration") is not None,
        quality=_present(quality),
        teacher_quality=_present(teacher),
        cost=_present(cost),
        unmeasured=[n for n, e in quality + teacher + cost if e is None],
        risk=[_promise(row) for row in measured.get("risk") or []],
        stages=[_stage(row) for row in measured.get("stages") or []],
        settings={
            folder: yaml.safe_dump(file["config"], sort_keys=False).strip()
            for folder, file in record.files.items()
        },
        lora_rank=_served_rank(_lora_rank(router_folder)) if variant == "decoder" else None,
    )


def _promise(row: dict[str, Any]) -> dict[str, Any]:
    """A `risk[]` entry's figures; None where the data supports no threshold."""
    figures = {key: (row.get(key) or {}).get("value") for key in ("coverage", "error")}
    return {key: row.get(key) for key in ("alpha", "delta", "threshold")} | figures


def _stage(row: dict[str, Any]) -> dict[str, Any]:
    """A `stages[]` entry's figures; None where there are none."""
    names = ("share", "tool_accuracy", "right", "p50")
    return {"stage": row["stage"]} | {name: _estimate(row, name) for name in names}


def metadata(record: Record, repo_id: str) -> ModelCardData:
    """The card's YAML head: one evaluation result per measured metric, unrounded."""
    dataset = record.manifest["dataset"]
    results = []
    for key, label, metric in _QUALITY:
        estimate = _estimate(record.measured, key)
        if estimate is None:
            continue
        results.append(
            EvalResult(
                task_type="text-generation" if record.kind == "decoder" else _CLASSIFICATION,
                task_name="Tool routing",
                dataset_type="tool-call-traces",
                dataset_name=_line(dataset["source"]["name"]),
                dataset_split="test",
                dataset_revision=_line(dataset["hash"]),
                metric_type=metric,
                metric_name=label,
                metric_value=estimate.value,
                metric_args=None
                if estimate.low is None
                else {"interval_95": [estimate.low, estimate.high]},
            )
        )
    repos = list(dict.fromkeys(base.repo for base in record.bases.values() if base.repo))
    tags = ["tool-calling", "function-calling", "routing", "distillation", record.kind]
    tags += _TAGS.get(_variant(record), [])
    return ModelCardData(
        base_model=repos if len(repos) > 1 else next(iter(repos), None),
        license=record.license or "other",
        library_name=_LIBRARIES.get(_variant(record), "tool-router-distill"),
        pipeline_tag=_PIPELINES.get(_variant(record), _CLASSIFICATION),
        tags=tags,
        model_name=repo_id if results else None,
        eval_results=results or None,
    )


def _variant(record: Record) -> str:
    """The kind; of those that no other library loads, what they are told apart by."""
    config = record.router["config"]
    if config.get("soft_prompt"):
        return "soft decoder"
    return "open encoder" if config.get("catalogue") == "open" else record.kind


def template() -> str:
    """The card's template: inside the package once installed, at the top of a checkout."""
    installed = Path(__file__).with_name("TEMPLATE.md")
    checkout = Path(__file__).parents[2] / "model_cards" / "TEMPLATE.md"
    return (installed if installed.exists() else checkout).read_text(encoding="utf-8")


@cache
def _compiled() -> Template:
    # Markdown, not HTML: `md` escapes what Markdown would read as markup, tags included.
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "md": _md,
        "code": _code,
        "shell": _shell,
        "figure": _figure,
        "interval": _interval,
    }
    return environment.from_string(template())


def _estimate(values: dict[str, Any] | None, key: str) -> Estimate | None:
    """A metric by its dotted key: a bare number or `{value, low, high}`; None if not measured."""
    found: Any = values
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if isinstance(found, dict):
        value, low, high = (found.get(name) for name in ("value", "low", "high"))
        numbers = [n for n in (value, low, high) if n is not None]
    else:
        value, low, high = found, None, None
        numbers = [] if found is None else [found]
    if not all(isinstance(n, int | float) for n in numbers):
        raise RouterError("report.json", f"{key} is no number", "run distill evaluate again")
    return None if value is None else Estimate(value, low, high)


def _present(rows: list[tuple[str, Estimate | None]]) -> list[tuple[str, Estimate]]:
    return [(name, estimate) for name, estimate in rows if estimate is not None]


def _license(record: Record) -> str:
    """The licence in words; of a cascade whose stages differ, each stage's."""
    each = {folder: _license_in_words(base.license) for folder, base in record.bases.items()}
    if len(set(each.values())) > 1:
        return "; ".join(f"{folder}: {words}" for folder, words in each.items())
    return _license_in_words(record.license)


def _license_in_words(name: str | None) -> str:
    """`other` is what hubs call a licence that they have no name for."""
    if name in (None, "other", "unknown"):
        return f"{name or 'unknown'}, see the base model"
    return str(name)


def _base(base: Base) -> str:
    name, facts = base.repo, base.facts
    text = _md(base.name) if name is None else f"[{_md(name)}](https://huggingface.co/{name})"
    if name not in (None, base.name):
        text += f", as `{_code(base.name)}`"
    if facts.get("revision"):
        text += f", revision `{_code(facts['revision'])}`"
    if facts.get("sha256"):
        text += f", SHA-256 `{_code(facts['sha256'])}`"
    return text


def _lora_rank(folder: Path) -> int:
    place = folder / "adapter_config.json"
    rank = read_json(place).get("r")
    if not isinstance(rank, int):
        raise RouterError(place, "says no rank `r`", "train the router again")
    return rank


def _served_rank(rank: int) -> int | None:
    """The least `--max-lora-rank` that vLLM takes for an adapter; None where it is too large."""
    return next((served for served in _VLLM_RANKS if served >= rank), None)


def _line(value: object) -> str:
    """One printable line: a name from somebody's traces may hold anything."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())


def _md(value: object) -> str:
    if value is None:
        return "unknown"
    return re.sub(r"([\\`*_{}\[\]<>#|~$!&])", r"\\\1", _line(value))


def _code(value: object) -> str:
    """For a code span, within a table too, where a backslash escapes nothing."""
    return re.sub(r"[`|<>]", "?", _line(value))


def _shell(value: object) -> str:
    """One word of a command, as `_code` otherwise."""
    return shlex.quote(_code(value))


def _figure(value: object) -> str:
    """A number for reading: whole numbers in full, others to four significant digits."""
    if value is None:
        return "–"
    if isinstance(value, float) and abs(value) < 1000:
        return f"{value:.4g}"
    return f"{value:,.0f}" if isinstance(value, int | float) else _md(value)


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "–"
    return f"{_figure(estimate.low)} to {_figure(estimate.high)}"
