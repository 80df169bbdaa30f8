"""BM25 between contexts and tools, over the tokenizer's word pieces: what they share literally.

Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", equation
3.15, tools as the documents; inverse document frequencies as Lucene has them, never negative. An
encoder blurs what it has not been trained on; a rare word that stands in the request and in one
tool's description alone needs no training. Knows no encoder.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

_SATURATION, _LENGTH = 1.2, 0.75
"""k1 and b, as nearly everybody has them."""


class Bm25(nn.Module):
    """Statistics of training's tools, and scores by them.

    Args:
        vocabulary: of the tokenizer.
    """

    rarity: Tensor
    """[vocabulary] inverse document frequencies; 0 for special tokens."""
    length: Tensor
    """[] pieces of a tool, on average."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.register_buffer("rarity", torch.zeros(vocabulary))
        self.register_buffer("length", torch.tensor(1.0))

    def count(self, tools: Sequence[Sequence[int]], special: Iterable[int]) -> None:
        """Take the statistics of these tools' token ids; `special` ids say nothing."""
        found = torch.zeros_like(self.rarity)
        for ids in tools:
            found[list(set(ids))] += 1
        rarity = torch.log1p((len(tools) - found + 0.5) / (found + 0.5))
        rarity[list(special)] = 0.0
        self.rarity.copy_(rarity)
        self.length.fill_(sum(map(len, tools)) / max(1, len(tools)))

    def weights(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What each piece of a tool adds where the context has it, too; [tools, time].

        A piece that stands twice shares its weight between its places.

        Args:
            ids: [tools, time] token ids, and `mask`: 1 for real ones.
        """
        same = (ids[:, :, None] == ids[:, None, :]) & (mask[:, None, :] > 0)
        times = same.sum(2)
        long = 1 - _LENGTH + _LENGTH * mask.sum(1, keepdim=True) / self.length
        weights = self.rarity[ids] * (_SATURATION + 1) / (times + _SATURATION * long)
        return weights * mask

    def forward(self, context: Tensor, mask: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """Scores of tools for contexts, [batch, tools].

        Args:
            context: [batch, time] token ids, and `mask`: 1 for real ones.
            ids: [tools, tool time] token ids, and their `weights`.
        """
        seen = torch.zeros(len(context), len(self.rarity), device=context.device)
        seen.scatter_(1, context, mask.to(seen.dtype))
        return (seen[:, ids] * weights).sum(-1)
