"""The contract of report.json as a JSON Schema: all that the page, the tables and the card read.

Of a run's own report, `evaluation` is `RUN_EVALUATION`; of a comparison's, `COMPARED`, and only
this has `closed_loop`: `CLOSED_LOOP`.
"""

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
_SOME = {"type": "integer", "minimum": 1}
_FLAG = {"type": "boolean"}
_HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
# Fewer than five groups give no interval.
_ESTIMATE = _object({"value": _SHARE, "low": _or_null(_SHARE), "high": _or_null(_SHARE)})
_BUCKETS = {
    "type": "array",
    "items": _object({"bucket": _TEXT, "n": _SOME, "n_groups": _SOME, "tool_accuracy": _ESTIMATE}),
}
_BREAKDOWNS = (
    *("complexity", "n_tools", "step", "n_calls", "n_arguments"),
    *("dependent_steps", "argument_kind", "branches", "length"),
)
_STANDING = _object(
    {
        "name": _TEXT,
        "holds": _or_null(_TEXT),
        "falls": _or_null(_object({"bucket": _TEXT, "tool_accuracy": _ESTIMATE, "mark": _SHARE})),
        "open": {"type": "array", "items": _TEXT},
    }
)
_PERCENTILES = _object({"p50": _NUMBER, "p95": _NUMBER})
# Fewer than 20 samples tell no p95, fewer than 100 no p99.
_TIMING = {
    "latency_ms": _object({"p50": _NUMBER, "p95": _or_null(_NUMBER), "p99": _or_null(_NUMBER)}),
    "latency_samples": _COUNT,
    "decisions_per_s": _or_null(_NUMBER),
}
_HARDWARE = _object({"cpu": _TEXT, "cores": _SOME, "gpus": {"type": "array", "items": _TEXT}})
RUN_EVALUATION = _object({"seed": _COUNT, "bootstrap": _SOME, "hardware": _HARDWARE, **_TIMING})
COMPARED = _object(
    {
        "bootstrap": _SOME,
        "seeds": {"type": "array", "minItems": 1, "items": _COUNT},
        "hardware": {"type": "array", "minItems": 1, "items": _HARDWARE},
        "runs": {
            "type": "array",
            "minItems": 1,
            "items": _object({"path": _TEXT, "router": _TEXT, "seed": _COUNT}),
        },
    }
)
_SPLIT = {"n_train": _COUNT, "n_calibration": _COUNT, "n_test": _COUNT}

# Of 1,000 decisions; amounts are null where neither traces nor prices tell them.
_OF_1000 = _object(
    {
        end: {"type": "number", "minimum": 0, "maximum": 1000}
        if end == "value"
        else _or_null(_NUMBER)
        for end in ("value", "low", "high")
    }
)
_AMOUNTS = dict.fromkeys(
    ("prompt_tokens", "tool_tokens", "output_tokens", "cost"), _or_null(_NUMBER)
)
_SAVINGS = _object(
    {
        "llm_calls": _OF_1000,
        **_AMOUNTS,
        "seconds": _or_null({"type": "number"}),
        "wrong": _ESTIMATE,
        "break_even": _or_null(_COUNT),
    }
)
_SPENT = _object(
    {
        "requests": _SOME,
        "n": _COUNT,
        **dict.fromkeys(
            ("prompt_tokens", "cached_tokens", "output_tokens", "cost"), _or_null(_NUMBER)
        ),
    }
)
_PRICE = _object({"input": _NUMBER, "output": _NUMBER, "cached": _or_null(_NUMBER), "date": _TEXT})
_COST = _object(
    {
        "decisions": {"const": 1000},
        "llm": _or_null(_TEXT),
        "tokens": {"enum": ["recorded", "estimated", None]},
        **_AMOUNTS,
        "seconds": _or_null(_NUMBER),
        "currency": _or_null(_TEXT),
        "training_per_hour": _or_null(_NUMBER),
        "prices": _or_null({"type": "object", "additionalProperties": _PRICE}),
        "missing_prices": _or_null({"type": "array", "items": _TEXT}),
    }
)

_TAKEN = {"coverage": _or_null(_ESTIMATE), "error": _or_null(_ESTIMATE)}
_RISK = _object(
    {
        "alpha": _SHARE,
        "delta": _SHARE,
        "threshold": _or_null(_SHARE),
        "supported": _COUNT,
        **_TAKEN,
        "savings": _SAVINGS,
        "by_seed": {
            "type": "array",
            "minItems": 1,
            "items": _object(
                {
                    "seed": _COUNT,
                    "threshold": _or_null(_SHARE),
                    "bound": _or_null(_SHARE),
                    "n_calibration": _COUNT,
                    "coverage": _SHARE,
                    "error": _or_null(_SHARE),
                }
            ),
        },
        "by_tool": {"type": "array", "items": _object({"tool": _TEXT, **_TAKEN})},
    }
)

REPORT = _object(
    {
        "dataset": _object(
            {
                "hash": _HASH,
                **_SPLIT,
                "n_groups": _COUNT,
                "seeds": {
                    "type": "array",
                    "minItems": 1,
                    "items": _object(
                        {
                            "seed": _COUNT,
                            "hash": _HASH,
                            **_SPLIT,
                            "n_measured": _SOME,
                            "n_measured_groups": _SOME,
                        }
                    ),
                },
            }
        ),
        "teacher": _object(
            {
                "name": _or_null(_TEXT),
                "self_agreement": _or_null(_SHARE),
                "self_agreement_contexts": _or_null(_COUNT),
                "label_agreement": _or_null(_SHARE),
                "label_agreement_contexts": _or_null(_COUNT),
                "success_rate": _or_null(_SHARE),
                "latency_ms": _or_null(_PERCENTILES),
                "tokens_per_decision": _or_null(_NUMBER),
                "input_tokens_per_decision": _or_null(_NUMBER),
                "output_tokens_per_decision": _or_null(_NUMBER),
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
                    "base_model": _or_null(_object({"name": _TEXT})),
                    "n_examples": _SOME,
                    "n_distinct": _SOME,
                    "n_decisions": _SOME,
                    "n_groups": _SOME,
                    "fills_arguments": _FLAG,
                    "share_of_agreement": _or_null(_NUMBER),
                    "tool_accuracy": _ESTIMATE,
                    "call_accuracy": _ESTIMATE,
                    "macro_f1": _ESTIMATE,
                    "no_call": _object(
                        {"precision": _or_null(_ESTIMATE), "recall": _or_null(_ESTIMATE)}
                    ),
                    "by_bucket": _object(dict.fromkeys(_BREAKDOWNS, _BUCKETS)),
                    "by_seed": {
                        "type": "array",
                        "minItems": 1,
                        "items": _object(
                            {"seed": _COUNT, "n_examples": _SOME, "tool_accuracy": _ESTIMATE}
                        ),
                    },
                    "calibration": _object(
                        {
                            "ece": _or_null(_ESTIMATE),
                            "ece_if_calibrated": _or_null(_SHARE),
                            "brier": _or_null(_ESTIMATE),
                        }
                    ),
                    "risk": {"type": "array", "items": _RISK},
                    "stages": {
                        "type": "array",
                        "items": _object(
                            {
                                "stage": _TEXT,
                                "share": _ESTIMATE,
                                "tool_accuracy": _ESTIMATE,
                                "right": _ESTIMATE,
                                "p50": _or_null(_NUMBER),
                            }
                        ),
                    },
                    **_TIMING,
                    "train_seconds": _or_null(_NUMBER),
                    "failed": _object(
                        {
                            "n": _COUNT,
                            "share": _SHARE,
                            "reasons": {"type": "object", "additionalProperties": _SOME},
                        }
                    ),
                    "spent": _or_null(_SPENT),
                    "llm_calls_saved": _or_null(_NUMBER),
                    "tokens_saved": _or_null(_NUMBER),
                    "cost_saved_usd": _or_null(_NUMBER),
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
                    "low": _or_null(_DIFFERENCE),
                    "high": _or_null(_DIFFERENCE),
                    "p_value": _or_null(_SHARE),
                    "p_value_holm": _or_null(_SHARE),
                    "by_seed": {
                        "type": "array",
                        "minItems": 1,
                        "items": _object(
                            {"seed": _COUNT, "n_examples": _SOME, "difference": _DIFFERENCE}
                        ),
                    },
                }
            ),
        },
        "cost": _COST,
        "reach": _object(
            {
                "target": _or_null(_SHARE),
                "recommended": _or_null(_object({"name": _TEXT, "sure": _FLAG})),
                "by": {
                    "type": "object",
                    "propertyNames": {"enum": list(_BREAKDOWNS)},
                    "additionalProperties": {"type": "array", "items": _STANDING},
                },
            }
        ),
        "evaluation": {"anyOf": [RUN_EVALUATION, COMPARED]},
    }
)

_AMOUNT = _or_null(_object({"value": _NUMBER, "low": _or_null(_NUMBER), "high": _or_null(_NUMBER)}))
_ARM = _object(
    {
        "name": _TEXT,
        "kind": _TEXT,
        "n_tasks": _SOME,
        "n_groups": _SOME,
        "ends": {"type": "object", "additionalProperties": _SOME},
        "attacks": {"type": "object"},
        **dict.fromkeys(("success", "unresolved", "harmful", "taken"), _ESTIMATE),
        "attack_followed": _or_null(_ESTIMATE),
        **dict.fromkeys(("steps", "wrong_calls", "harmful_calls"), _AMOUNT),
        **dict.fromkeys(("llm_calls", "input_tokens", "output_tokens", "duration_ms"), _AMOUNT),
    }
)
_SIGNED = {"type": "number"}
CLOSED_LOOP = {
    "type": "array",
    "items": _object(
        {
            "path": _TEXT,
            "environment": _TEXT,
            "fallback": {"enum": ["none", "recorded", "llm"]},
            "endpoint": _or_null(_object({"model": _TEXT})),
            "attacks": _FLAG,
            "arms": {"type": "array", "minItems": 1, "items": _ARM},
            "paired": {
                "type": "array",
                "items": _object(
                    {
                        "a": _TEXT,
                        "b": _TEXT,
                        "metric": _TEXT,
                        "difference": _SIGNED,
                        "low": _or_null(_SIGNED),
                        "high": _or_null(_SIGNED),
                        "p_value": _or_null(_SHARE),
                        "p_value_holm": _or_null(_SHARE),
                        "n_tasks": _SOME,
                    }
                ),
            },
        }
    ),
}
