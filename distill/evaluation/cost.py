"""What a router saves of the large LLM, and what the LLM costs alone: calls, tokens, time, money.

Every decision of the traces was one request to the LLM. Such a request is saved only where the
router's decision is taken *and* is a call with all its arguments: to reply means that the LLM finds
the words, and a call without arguments that it fills them in. Everything else is sent to the LLM
and paid as before, so all figures are net of that.

Tokens. Where the traces' usage states the teacher's tokens, their means per decision are taken:
a request's prompt tokens are the mean times its length by the mean length (`recorded`). Else
(`estimated`) four bytes of JSON are a token, a rule of thumb for English, and of answers only calls
count. What tool definitions take of a prompt is in either case their share of its bytes: no API
reports it.

What the figures leave out: what the router's own machine costs, prompts that an endpoint would have
had in its cache, and requests that follow from a wrong call.

Pure functions; it knows nothing of files or reports.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from typing import Any, Literal

import numpy as np

from distill.config import PriceConfig
from distill.evaluation import metrics
from distill.evaluation.intervals import Array, Estimate, estimate, ratio
from distill.evaluation.predictions import Prediction
from distill.types import Decision

PER = 1000
"""Decisions that amounts are stated for."""

BYTES_PER_TOKEN = 4
"""Of JSON, where no usage was recorded."""

_MILLION = 1_000_000


@dataclass(frozen=True)
class Llm:
    """What is known of the LLM that decides where the router does not; None where it is not."""

    input_tokens: float | None = None
    """Recorded, mean of a decision; known together with `output_tokens` or not at all."""
    output_tokens: float | None = None
    latency_ms: float | None = None
    """Of a request, median."""
    price: PriceConfig | None = None

    @property
    def basis(self) -> Literal["recorded", "estimated"]:
        """Where token counts come from."""
        return "estimated" if self.input_tokens is None else "recorded"


@dataclass(frozen=True)
class Demand:
    """Tokens that the LLM would take for each of n decisions; `tools` are part of `prompt`."""

    weights: Array
    prompt: Array
    tools: Array
    output: Array

    @classmethod
    def of(cls, predictions: Sequence[Prediction], llm: Llm) -> "Demand | None":
        """None where a request's size is not known."""
        sizes = [p.size for p in predictions]
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes) or not sizes:
            return None
        weights = np.array([p.weight for p in predictions], dtype=np.float64)
        tools = np.array([size.tools for size in known], dtype=np.float64)
        prompt = tools + np.array([size.messages for size in known], dtype=np.float64)
        if llm.input_tokens is None or llm.output_tokens is None:
            per_byte = 1 / BYTES_PER_TOKEN
            output = np.array([size.answer for size in known], dtype=np.float64) * per_byte
        else:
            per_byte = llm.input_tokens / float(np.average(prompt, weights=weights))
            output = np.full(len(known), llm.output_tokens)
        return cls(weights, prompt * per_byte, tools * per_byte, output)


def amounts(demand: Demand | None, llm: Llm, among: Array | None = None) -> dict[str, float | None]:
    """`prompt_tokens`, of them `tool_tokens`, `output_tokens` and `cost` of `PER` decisions.

    Args:
        demand: None gives None throughout.
        among: (n,) 1 where the LLM's part counts; everywhere where not given.
    """
    if demand is None:
        return dict.fromkeys(("prompt_tokens", "tool_tokens", "output_tokens", "cost"))
    among = np.ones_like(demand.weights) if among is None else among
    share = PER * demand.weights * among / demand.weights.sum()
    prompt, tools, output = (
        float((share * tokens).sum()) for tokens in (demand.prompt, demand.tools, demand.output)
    )
    cost = None if llm.price is None else money(llm.price, prompt, output)
    return {"prompt_tokens": prompt, "tool_tokens": tools, "output_tokens": output, "cost": cost}


def money(price: PriceConfig, prompt: float, output: float, cached: float = 0.0) -> float:
    """What so many tokens cost; `cached` are part of `prompt`."""
    of_cached = price.input if price.cached is None else price.cached
    paid = price.input * (prompt - cached) + of_cached * cached + price.output * output
    return paid / _MILLION


def spares(decision: Decision) -> bool:
    """Whether to take the decision is to ask no LLM: it is a call with all its arguments."""
    return decision.action == "call" and decision.filled


def savings(
    predictions: Sequence[Prediction],
    taken: Array,
    llm: Llm,
    *,
    latency_ms: float | None,
    training_cost: float | None,
    resamples: int,
) -> dict[str, Any]:
    """What the LLM is spared in `PER` decisions, and what that risks.

    Args:
        predictions: of a router; n of them, at least one.
        taken: (n,) 1 where a decision is confident enough to be taken.
        latency_ms: the router's own, median; it is spent on every decision.
        training_cost: in the currency of the prices.
        resamples: behind the intervals.

    Returns:
        `llm_calls` `{value, low, high}`; `prompt_tokens`, of them `tool_tokens`, `output_tokens`
        and `cost`, which are saved; `seconds` saved, by medians, negative where the router's own
        time outweighs it; `wrong` `{value, low, high}`, the share of all decisions that are taken
        and are wrong; `break_even`, the decisions after which training has paid for itself, None
        where it never does or a price is missing.
    """
    scores = metrics.score(predictions)
    saved = taken * np.array([spares(p.decision) for p in predictions], dtype=np.float64)
    every = np.ones_like(taken)
    statistics = {"saved": ratio(saved, every), "wrong": ratio(taken * (1 - scores.right), every)}
    found = estimate(statistics, scores.groups, resamples, scores.weights)
    calls, wrong = found["saved"], found["wrong"]
    assert calls is not None
    assert wrong is not None
    spared = amounts(Demand.of(predictions, llm), llm, saved)
    seconds = None
    if llm.latency_ms is not None and latency_ms is not None:
        seconds = PER * (calls.value * llm.latency_ms - latency_ms) / 1000
    return {
        "llm_calls": _scaled(calls)._asdict(),
        **spared,
        "seconds": seconds,
        "wrong": wrong._asdict(),
        "break_even": break_even(training_cost, spared["cost"]),
    }


def break_even(training_cost: float | None, saved: float | None) -> int | None:
    """Decisions after which `saved`, in `PER` of them, has paid for the training."""
    if training_cost is None or saved is None or saved <= 0:
        return None
    decisions = PER * training_cost / saved
    return ceil(decisions) if isfinite(decisions) else None


def spent(predictions: Sequence[Prediction], price: PriceConfig | None) -> dict[str, Any] | None:
    """What the LLM that was asked for these decisions took; None where none was asked.

    `requests` made, and `n` of them whose usage was stated; means of these in `PER` decisions:
    `prompt_tokens`, of them `cached_tokens` (0 where the endpoint speaks of none), `output_tokens`,
    and `cost`. Answers that are no decision are paid for and counted, too.
    """
    asked = [p for p in predictions if p.decision.usage is not None]
    if not asked:
        return None
    told = [
        (p.weight, usage.input_tokens, usage.cached_tokens or 0, usage.output_tokens)
        for p in asked
        if (usage := p.decision.usage) is not None
        and usage.input_tokens is not None
        and usage.output_tokens is not None
    ]
    found: dict[str, Any] = {"requests": len(asked), "n": len(told)}
    if not told:
        names = ("prompt_tokens", "cached_tokens", "output_tokens", "cost")
        return found | dict.fromkeys(names)
    weights, *columns = np.array(told, dtype=np.float64).T
    prompt, cached, output = (float(PER * np.average(c, weights=weights)) for c in columns)
    cached = min(cached, prompt)
    return found | {
        "prompt_tokens": prompt,
        "cached_tokens": cached,
        "output_tokens": output,
        "cost": None if price is None else money(price, prompt, output, cached),
    }


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """The points than which no other is lower in one coordinate and no higher in the other.

    Returns their places, by rising first coordinate; of equal points, the first.
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (*points[i], i)):
        if not front or points[i][1] < points[front[-1]][1]:
            front.append(i)
    return front


def _scaled(share: Estimate) -> Estimate:
    return Estimate(*(None if end is None else PER * end for end in share))  # type: ignore[arg-type]
