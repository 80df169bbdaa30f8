"""Made-up runs that are true to the schema: what a training and an evaluation would leave.

`test_factory.py` holds them to report.json's schema and to a real run's keys.
"""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

from distill.chat import digest
from distill.evaluation.buckets import TITLES
from distill.routers.folder import FORMAT
from distill.routers.pretrained import PACKAGES, BaseModel
from distill.runs import RunDir, write, write_json

KINDS = ["majority", "tfidf", "rnn", "attention", "encoder", "decoder", "cascade", "ensemble"]
STAGES = {"cascade": ["encoder", "decoder"], "ensemble": ["encoder", "tfidf"]}
"""What is put together, and of what."""

_MINILM = PACKAGES["packaged:minilm"]
BASES = {
    "encoder": BaseModel(
        "packaged:minilm", "/elsewhere", None, _MINILM.origin, _MINILM.sha256, _MINILM.license
    ),
    "decoder": BaseModel("acme/tiny-lm", "acme/tiny-lm", "v1", "acme/tiny-lm", None),
}
"""What `resolve` finds of a packaged model and of a hub's name."""


def base_model(kind: str, **changes: Any) -> dict[str, Any] | None:
    """What a run records of its base model; None for what is trained from scratch."""
    return BASES[kind].describe() | changes if kind in BASES else None


def estimate(value: float, spread: float = 0.03) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread}


def tool(name: str) -> dict[str, Any]:
    properties = {"order_id": {"type": "string"}}
    parameters = {"type": "object", "properties": properties, "required": ["order_id"]}
    function = {"name": name, "description": f"{name} of /orders", "parameters": parameters}
    return {"type": "function", "function": function}


def manifest(kind: str) -> dict[str, Any]:
    return {
        "format": 1,
        "run": "demo",
        "router": kind,
        "kind": kind,
        "seed": 0,
        "dataset": {
            "hash": "d" * 64,
            "parts": {
                "train": {"examples": 600, "groups": 120},
                "validation": {"examples": 90, "groups": 20},
                "calibration": {"examples": 95, "groups": 20},
                "test": {"examples": 201, "groups": 41},
            },
            "n_groups": 201,
            "source": {"name": "sample:orderdesk", "sha256": "5" * 64},
        },
        "teacher": teacher(),
        "base_model": base_model(kind),
        "parameters": 22_713_216,
        "trainable_parameters": 299_520,
        "train_seconds": 61.25,
        "finished": "2026-01-01T00:00:00+00:00",
        "environment": {
            "python": "3.11.9",
            "libraries": {"torch": "2.13.0", "trl": None},
            "git_commit": None,
            "hardware": hardware("Some CPU @ 2 GHz"),
        },
    }


def teacher() -> dict[str, Any]:
    return {
        "name": "big-llm",
        "self_agreement": 0.93125,
        "self_agreement_contexts": 80,
        "label_agreement": 0.915,
        "label_agreement_contexts": 85,
        "success_rate": None,
        "latency_ms": {"p50": 900.0, "p95": 2100.0},
        "tokens_per_decision": 812.5,
        "input_tokens_per_decision": 800.0,
        "output_tokens_per_decision": 12.5,
    }


def hardware(cpu: str) -> dict[str, Any]:
    return {"cpu": cpu, "cores": 2, "gpus": []}


def report(kind: str) -> dict[str, Any]:
    counts = {"hash": "d" * 64, "n_train": 600, "n_calibration": 95, "n_test": 201}
    bucket = {"bucket": "1", "n": 180, "n_groups": 38, "tool_accuracy": estimate(0.875)}
    seed = counts | {"seed": 0, "n_measured": 180, "n_measured_groups": 38}
    timing = {
        "latency_ms": {"p50": 3.25, "p95": 4.5, "p99": 6.0},
        "latency_samples": 100,
        "decisions_per_s": 310.0,
    }
    return {
        "dataset": counts | {"n_groups": 201, "seeds": [seed]},
        "teacher": teacher(),
        "routers": [
            {
                "name": kind,
                "kind": kind,
                "base_model": base_model(kind),
                "parameters": 22_713_216,
                "trainable_parameters": 299_520,
                "n_examples": 180,
                "n_distinct": 180,
                "n_decisions": 240,
                "n_groups": 38,
                "failed": {"n": 0, "share": 0.0, "reasons": {}},
                "fills_arguments": kind in ("decoder", "cascade"),
                "tool_accuracy": estimate(0.87654321),
                "share_of_agreement": 0.96,
                "call_accuracy": estimate(0.1 + 0.2),
                "macro_f1": estimate(0.75),
                "no_call": {"precision": estimate(0.9), "recall": None},
                "by_bucket": {name: [bucket] for name in TITLES},
                "by_seed": [{"seed": 0, "n_examples": 180, "tool_accuracy": estimate(0.87654321)}],
                "calibration": {
                    "ece": estimate(0.00001, 0.000001),
                    "ece_if_calibrated": 0.02,
                    "brier": None,
                },
                "risk": [],
                "stages": [stage(name) for name in STAGES[kind]] if kind == "cascade" else [],
                **timing,
                "train_seconds": 61.25,
                "spent": None,
                "llm_calls_saved": None,
                "tokens_saved": None,
                "cost_saved_usd": None,
            }
        ],
        "paired": [],
        "cost": {
            "decisions": 1000,
            "llm": "big-llm",
            "tokens": "recorded",
            **dict.fromkeys(("prompt_tokens", "tool_tokens", "output_tokens", "cost")),
            "seconds": 900.0,
            **dict.fromkeys(("currency", "training_per_hour", "prices", "missing_prices")),
        },
        "reach": {"target": None, "recommended": None, "by": {}},
        "evaluation": {"seed": 0, "bootstrap": 1000, "hardware": hardware("Other CPU"), **timing},
    }


def stage(name: str) -> dict[str, Any]:
    """What a cascade's report says of a stage."""
    figures = {"share": estimate(0.625), "tool_accuracy": estimate(0.75), "right": estimate(0.5)}
    return {"stage": name, **figures, "p50": 31.25 if name == "encoder" else None}


def make_run(path: Path, kind: str = "encoder", **changes: dict[str, Any]) -> RunDir:
    """A whole run directory; `manifest=`, `report=`, `config=` and `router=` replace top keys."""
    run = RunDir(path)
    settings = _router(run.router, kind, changes.get("router", {}))
    for name in STAGES.get(kind, []):
        _router(run.router / name, name, {})
    config = {"name": "demo", "output": "runs", "data": {"traces": "sample:orderdesk"}}
    config["routers"] = {kind: settings}
    write(run.config, yaml.safe_dump(config | changes.get("config", {})))
    write_json(run.report, report(kind) | changes.get("report", {}))
    write_json(run.manifest, manifest(kind) | changes.get("manifest", {}))
    return run


def _router(folder: Path, kind: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Write a router folder; returns the config that made it."""
    tools = [tool("get_order"), tool("cancel_order")]
    model: dict[str, Any] = {"model": "packaged:minilm"} if kind == "encoder" else {}
    if kind == "ensemble":
        model = {"members": STAGES[kind]}
    router: dict[str, Any] = {
        "format": FORMAT,
        "kind": kind,
        "config": {"kind": kind, **model},
        "catalogue": [{"tool": entry, "hash": digest(entry)} for entry in tools],
        "classes": [["cancel_order"], ["get_order"], ["reply"]],
        "base_model": base_model(kind),
        "calibration": None,
        "thresholds": None,
    }
    write_json(folder / "router.json", router | changes)
    _weights(folder, kind)
    config: dict[str, Any] = router["config"]
    return config


def _weights(folder: Path, kind: str) -> None:
    tensor = np.arange(6, dtype=np.float32).reshape(2, 3)
    if kind in ("majority", *STAGES):
        return
    if kind == "decoder":
        save_file({"lora_A": tensor}, folder / "adapter_model.safetensors")
        settings = {"base_model_name_or_path": "acme/tiny-lm", "peft_type": "LORA", "r": 16}
        write_json(folder / "adapter_config.json", settings)
        write(folder / "chat_template.jinja", "{{ messages }}\n")
        write(folder / "README.md", "PEFT's own words\n")
    else:
        save_file({"weight": tensor}, folder / "model.safetensors")
    if kind in ("encoder", "decoder"):
        write_json(folder / "tokenizer.json", {"model": {"vocab": {"/usr/lib": 0}}})
        write(folder / "vocab.txt", "a\nb\n")
    if kind == "encoder":
        write_json(folder / "config.json", {"architectures": ["Some"], "_name_or_path": "minilm"})
