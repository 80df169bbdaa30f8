"""The contract of report.json as a JSON Schema."""

from typing import Any


def _object(required: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": required, "required": list(required)}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_DIFFERENCE = {"type": "number", "minimum": -1, "maximum": 1}
_NUMBER = {"type": "number", "minimum": 0}
_COUNT = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string"}
_ESTIMATE = _object({"value": _SHARE, "low": _SHARE, "high": _SHARE})
_BUCKETS = {
    "type": "array",
    "items": _object(
        {"bucket": _TEXT, "n": {"type": "integer", "minimum": 1}, "tool_accuracy": _ESTIMATE}
    ),
}
_PERCENTILES = _object({"p50": _NUMBER, "p95": _NUMBER})

REPORT = _object(
    {
        "dataset": _object(
            {
                "hash": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                "n_train": _COUNT,
                "n_calibration": _COUNT,
                "n_test": _COUNT,
                "n_groups": _COUNT,
            }
        ),
        "teacher": _object(
            {
                "name": _or_null(_TEXT),
                "self_agreement": _or_null(_SHARE),
                "success_rate": _or_null(_SHARE),
                "latency_ms": _or_null(_PERCENTILES),
                "tokens_per_decision": _or_null(_NUMBER),
            }
        ),
        "routers": {
            "type": "array",
            "minItems": 1,
            "items": _object(
                {
                    "name": _TEXT,
                    "kind": _TEXT,
                    "parameters": _or_null(_COUNT),
                    "trainable_parameters": _or_null(_COUNT),
                    "tool_accuracy": _ESTIMATE,
                    "call_accuracy": _ESTIMATE,
                    "macro_f1": _ESTIMATE,
                    "no_call": _object(
                        {"precision": _or_null(_ESTIMATE), "recall": _or_null(_ESTIMATE)}
                    ),
                    "by_bucket": _object(
                        dict.fromkeys(("n_tools", "step", "n_calls", "n_arguments"), _BUCKETS)
                    ),
                    "calibration": _object(
                        {"ece": _or_null(_ESTIMATE), "brier": _or_null(_ESTIMATE)}
                    ),
                    "risk": {"type": "array", "maxItems": 0},
                    "latency_ms": _object({"p50": _NUMBER, "p95": _NUMBER, "p99": _NUMBER}),
                    "decisions_per_s": _NUMBER,
                    "train_seconds": _or_null(_NUMBER),
                    "llm_calls_saved": {"type": "null"},
                    "tokens_saved": {"type": "null"},
                    "cost_saved_usd": {"type": "null"},
                }
            ),
        },
        "paired": {
            "type": "array",
            "items": _object(
                {
                    "a": _TEXT,
                    "b": _TEXT,
                    "metric": {"enum": ["tool_accuracy", "call_accuracy"]},
                    "difference": _DIFFERENCE,
                    "low": _DIFFERENCE,
                    "high": _DIFFERENCE,
                    "p_value": _SHARE,
                }
            ),
        },
    }
)
