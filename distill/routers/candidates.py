"""Scores of the offered tools -> a decision: the open catalogue's counterpart of `labels`.

Three beliefs make a decision: the softmax over the candidates (every offered tool, and the reply)
says whether and what to call, a distribution over numbers of calls says how many, and `repeat`
says how readily one tool is called twice at once. This module knows no model and no text.

A multiset with k_i calls of tool i, n in all, has the probability

    P(k | n)  ∝  prod_i  r^max(k_i - 1, 0) · p_i^k_i / k_i!

with p the tools' shares of the softmax. r = 1 is the multinomial distribution; r below 1 makes
repeats rarer than chance has them, since n requests in one message are mostly n different ones.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, softmax

from distill.errors import InputError
from distill.types import REPLY, Context, Decision, ToolCall, ToolSpec

Floats = npt.NDArray[np.floating[Any]]
Counts = npt.NDArray[np.int64]

MAX_CALLS = 16
"""The most calls that one decision makes; a label with more of them teaches its tools alone."""


def offered(context: Context) -> list[ToolSpec]:
    """The context's tools by name, so that the order in which they are offered decides nothing.

    Raises:
        InputError: two tools of one name, between which no answer could tell.
    """
    tools = sorted(context.tools, key=lambda tool: tool.name)
    for one, other in pairwise(tools):
        if one.name == other.name:
            raise InputError("tools", f"{one.name!r} is offered twice", "offer each name once")
    if any(tool.name == REPLY for tool in tools):
        fault = f"a tool named {REPLY!r} cannot be told from replying"
        raise InputError("tools", fault, "rename it")
    return tools


def decide(tools: Sequence[ToolSpec], scores: Floats, numbers: Floats, repeat: float) -> Decision:
    """The decision that the scores make.

    Args:
        tools: as `offered` sorts them.
        scores: [1 + tools] logits, the reply's first.
        numbers: [at most MAX_CALLS] probabilities of 1, 2, … calls, given that something is called.
        repeat: r of the module's formula, in (0, 1].

    Returns:
        What `choose` takes, with the confidence P(reply), or P(call) · P(n | call) · P(k | n). The
        scores are each tool's probability of being called at least once, were calls independent.
        Arguments are filled (with nothing) only where the tool's schema has no properties. Where
        the scores are no numbers, a reply of confidence 0.
    """
    assert len(scores) == 1 + len(tools)
    if not (np.isfinite(scores).all() and np.isfinite(numbers).all()):
        return Decision("reply", confidence=0.0)  # damaged weights must not seem certain
    reply, given = _shares(scores)
    beliefs = {REPLY: reply}
    powers = np.arange(1, len(numbers) + 1)
    once = (1 - reply) * ((1 - (1 - given[:, None]) ** powers) @ numbers)
    beliefs |= {tool.name: float(value) for tool, value in zip(tools, once, strict=True)}
    counts = choose(scores, numbers, repeat)
    if not counts.any():
        return Decision("reply", confidence=reply, scores=beliefs)
    confidence = (1 - reply) * float(numbers.max()) * probability(given, counts, repeat)
    calls = tuple(
        ToolCall(tool.name, None if tool.parameters.get("properties") else {})
        for tool, count in zip(tools, counts, strict=True)
        for _ in range(count)
    )
    return Decision("call", calls, min(1.0, confidence), beliefs)


def choose(scores: Floats, numbers: Floats, repeat: float) -> Counts:
    """How often each tool is called, [tools]; nothing is where a reply is more probable than not.

    Else the number of calls is the most probable one, and the tools are the most probable multiset
    of that size. Arguments as `decide`.
    """
    reply, given = _shares(scores)
    if reply >= 0.5:
        return np.zeros(len(given), dtype=np.int64)
    return most_probable(given, 1 + int(numbers.argmax()), repeat)


def _shares(scores: Floats) -> tuple[float, Floats]:
    """P(reply), and the tools' shares among themselves, [tools]."""
    reply = float(softmax(scores.astype(np.float64))[0])
    return reply, softmax(scores[1:].astype(np.float64)) if len(scores) > 1 else np.zeros(0)


def most_probable(shares: Floats, n: int, repeat: float) -> Counts:
    """The mode of P(k | n), [tools]; among equals the multiset of the tools that come first.

    One call at a time goes to the tool where it raises the probability most. That is exact: the
    logarithm is a sum over tools of terms concave in their counts.
    """
    counts = np.zeros(len(shares), dtype=np.int64)
    gains = shares.astype(np.float64)
    for _ in range(n):
        best = int(gains.argmax())
        counts[best] += 1
        gains[best] = shares[best] * repeat / (counts[best] + 1)
    return counts


def probability(shares: Floats, counts: Counts, repeat: float) -> float:
    """P(k | n) of one multiset among all of its size."""
    n = int(counts.sum())
    orders = np.arange(n + 1)
    penalties = np.where(orders > 0, repeat ** np.maximum(orders - 1, 0), 1.0)
    # terms[i, k] = r^(k-1) p_i^k / k!, so the sum over multisets of size n is the coefficient of
    # x^n in the product of the tools' polynomials in x.
    terms = penalties * shares[:, None] ** orders * np.exp(-gammaln(orders + 1))
    total = float(_product(terms)[n])
    chosen = float(terms[np.arange(len(shares)), counts].prod())
    return chosen / total if total > 0 else 0.0


def _product(polynomials: Floats) -> Floats:
    """The product of polynomials [many, 1 + degree] up to their degree; pairwise, so that rows of
    nonnegative terms lose no digits and thousands cost a dozen steps."""
    while len(polynomials) > 1:
        if len(polynomials) % 2:
            one = np.eye(1, polynomials.shape[1])
            polynomials = np.concatenate([polynomials, one])
        left, right = polynomials[0::2], polynomials[1::2]
        made = np.zeros_like(left)
        for k in range(made.shape[1]):
            made[:, k:] += left[:, k : k + 1] * right[:, : made.shape[1] - k]
        polynomials = made
    return np.asarray(polynomials[0])
