"""Scores of the offered tools -> a decision: the open catalogue's counterpart of `labels`.

One distribution covers every decision that a context allows: the reply, and each multiset with
k_i calls of tool i, n = sum k_i at least 1 and at most the number that training saw:

    log P(reply)  =  s_0 - log Z
    log P(k)      =  b_n + sum_i [ k_i s_i + (k_i - 1)+ r - log k_i! ] - log Z

s are the scores, b a prior on how many calls there are, r the price of calling a tool again (a
cardinality potential, as in Tarlow et al. 2012, "Fast exact inference for recursive cardinality
models"). With b for one call only, it is the softmax over tools; with b flat, each tool is wanted
or not by itself; what is between, training finds. Z is exact: its terms of n calls are the
coefficients of a product of polynomials, one for each tool. This module knows no model and no text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from distill.errors import InputError
from distill.types import REPLY, Context, Decision, ToolCall, ToolSpec

MAX_CALLS = 16
"""The most calls that one decision makes; a label with more of them teaches nothing."""

_NEVER = -1e6
"""A logarithm that leaves no probability; finite, so that gradients stay numbers."""


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


@dataclass(frozen=True)
class Beliefs:
    """What decides a batch of contexts; the letters are the module's formula's."""

    scores: Tensor
    """s: [batch, 1 + tools], the reply's first."""
    offered: Tensor
    """[batch, 1 + tools], False where a row has fewer tools than the widest."""
    numbers: Tensor
    """b: [most], of 1, 2, … calls."""
    again: Tensor
    """r: []."""

    def log_weights(self, counts: Tensor) -> Tensor:
        """[batch], log P + log Z of decisions.

        Args:
            counts: [batch, tools] calls of each tool, all 0 for a reply; at most `most` in all.
        """
        k = counts.to(self.scores.dtype)
        n = counts.sum(1).long()
        repeats = (k - 1).clamp(min=0) * self.again - torch.lgamma(k + 1)
        # Not a product alone: a score that is minus infinity times no call would be no number.
        called = torch.where(k > 0, k * self.scores[:, 1:] + repeats, 0.0).sum(1)
        return torch.where(n > 0, called + self.numbers[(n - 1).clamp(min=0)], self.scores[:, 0])

    def log_total(self) -> Tensor:
        """[batch], log Z."""
        totals = self._log_coefficients()[:, 1:] + self.numbers
        return torch.cat([self.scores[:, :1], totals], dim=1).logsumexp(1)

    def losses(self, counts: Tensor) -> Tensor:
        """[batch], -log P of the labels; 0 for one of more calls than are known.

        Args:
            counts: as `log_weights`, but any number of calls.
        """
        known = counts.sum(1) <= len(self.numbers)
        within = counts * known[:, None]
        return torch.where(known, self.log_total() - self.log_weights(within), 0.0)

    def most_probable(self) -> Tensor:
        """[batch, tools], how often the most probable decision calls each tool.

        One call after another goes to the tool where it adds most. That is exact for every number
        of calls, since the logarithm is a sum over tools of terms concave in their counts (r is at
        most 0); the numbers are then compared. Among equals, the reply, fewer calls and the tools
        that come first win.
        """
        return torch.stack([self._most_probable(row) for row in range(len(self.scores))])

    def _most_probable(self, row: int) -> Tensor:
        own = self.scores[row, 1:].masked_fill(~self.offered[row, 1:], -torch.inf)
        gains, counts = own.clone(), torch.zeros_like(own, dtype=torch.long)
        best, found, reached = self.scores[row, 0], counts, torch.zeros_like(self.scores[row, 0])
        for prior in self.numbers if len(own) else ():
            tool = int(gains.argmax())
            reached = reached + gains[tool]
            counts = counts.clone()
            counts[tool] += 1
            gains[tool] = own[tool] + self.again - torch.log(counts[tool] + 1.0)
            if reached + prior > best:
                best, found = reached + prior, counts
        return found

    def _log_coefficients(self) -> Tensor:
        """[batch, 1 + most], logarithms of the coefficients of the product over tools of

            1 + sum_k x^k exp(k s_i + (k - 1) r) / k!

        Pairwise: thousands of tools take a dozen steps, and no term is ever subtracted.
        """
        degrees = torch.arange(
            len(self.numbers) + 1, dtype=self.scores.dtype, device=self.scores.device
        )
        price = (degrees - 1).clamp(min=0) * self.again - torch.lgamma(degrees + 1)
        absent = ~self.offered[:, 1:, None] & (degrees > 0)
        scores = torch.where(self.offered, self.scores, 0.0)[:, 1:, None]
        terms = (degrees * scores + price).masked_fill(absent, _NEVER)
        one = torch.where(degrees > 0, _NEVER, 0.0)[None, None]
        if terms.shape[1] == 0:
            terms = one.expand(len(terms), 1, -1)
        lag = (degrees[:, None] - degrees).long()
        while terms.shape[1] > 1:
            if terms.shape[1] % 2:
                terms = torch.cat([terms, one.expand(len(terms), 1, -1)], dim=1)
            left, right = terms[:, 0::2], terms[:, 1::2]
            products = left[..., lag.clamp(min=0)] + right[..., None, :]
            terms = products.masked_fill(lag < 0, _NEVER).logsumexp(-1)
        return terms[:, 0]


def decide(tools: Sequence[ToolSpec], beliefs: Beliefs) -> Decision:
    """The most probable decision of one context.

    Args:
        tools: as `offered` sorts them.
        beliefs: of one row, all of its tools offered.

    Returns:
        The decision with its exact probability as the confidence. The scores are how often each
        tool is expected to be called, at most 1, and the probability of a reply. Arguments are
        filled (with nothing) only where the tool's schema has no properties. Where the beliefs are
        no numbers, a reply of confidence 0.
    """
    assert beliefs.scores.shape == (1, 1 + len(tools))
    numbers = (beliefs.scores, beliefs.numbers, beliefs.again)
    if not all(bool(tensor.isfinite().all()) for tensor in numbers):
        return Decision("reply", confidence=0.0)  # damaged weights must not seem certain
    counts = beliefs.most_probable()
    with torch.enable_grad():
        # The derivative of log Z by a tool's score is the number of its calls to be expected.
        scores = beliefs.scores.clone().requires_grad_()
        total = Beliefs(scores, beliefs.offered, beliefs.numbers, beliefs.again).log_total()
        (expected,) = torch.autograd.grad(total.sum(), scores)
    confidence = float((beliefs.log_weights(counts) - total.detach()).exp())
    found = expected[0].clamp(0, 1).tolist()
    scored = dict(zip((REPLY, *(tool.name for tool in tools)), found, strict=True))
    calls = tuple(
        ToolCall(tool.name, None if tool.parameters.get("properties") else {})
        for tool, count in zip(tools, counts[0].tolist(), strict=True)
        for _ in range(count)
    )
    return Decision("call" if calls else "reply", calls, min(1.0, confidence), scored)
