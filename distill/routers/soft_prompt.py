"""A soft prompt: learned vectors that stand before every prompt (Lester et al. 2021).

Lester, Al-Rfou and Constant, "The Power of Scale for Parameter-Efficient Prompt Tuning",
arXiv:2104.08691. The vectors are those of tokens that the tokenizer gets for it and that the
router's chat template puts first, so that they are batched, padded, cached and counted as any other
token. Only what the model reads knows them: its projection onto the vocabulary stays as it is, and
none of them takes probability from what is written. PEFT trains the vectors, with LoRA or alone
(`distill.training.adapt`).

PEFT's own `PromptTuningConfig` would not do. An adapter of it takes no LoRA beside it. In
generation it puts the vectors before the padding on the left and drops the positions that would
make up for that, so that a prompt's answer would depend on the others of its batch (PEFT 0.21).
Tokens in the base's table (`resize_token_embeddings`) would not do, either: where the projection
shares the table, they would take part in every probability, and each step of training would compute
a gradient of all of it.
"""

from typing import Any, cast

import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.errors import ModelError

NAME = "soft_prompt"
"""The module with the vectors, as adapters name it: `embed_tokens.soft_prompt`."""

_FREQUENT = 5000
"""Tokens among which the first vectors are drawn, as in the paper. Byte-level tokenizers number
tokens in the order of their merges, the most frequent first."""


def tokens(count: int) -> list[str]:
    """The tokens of a soft prompt, in their order."""
    return [f"<|soft_{i}|>" for i in range(count)]


def add_tokens(tokenizer: PreTrainedTokenizerBase, count: int) -> None:
    """Give a base model's tokenizer the tokens of a soft prompt, as special ones: none is written.

    Raises:
        ModelError: it has tokens of these names already.
    """
    added = [AddedToken(token, special=True, normalized=False) for token in tokens(count)]
    if tokenizer.add_tokens(cast(Any, added), special_tokens=True) < count:
        raise ModelError(
            tokenizer.name_or_path, "its tokenizer has soft tokens already", "use its base model"
        )


class SoftEmbedding(nn.Module):
    """A model's embedding that also knows the soft prompt's tokens.

    Args:
        base: the embedding as it was.
        first: the id of the soft prompt's first token; the others follow it.
        vectors: [tokens, width] as they enter the model.
    """

    def __init__(self, base: nn.Module, first: int, vectors: Tensor) -> None:
        super().__init__()
        self.base, self.first, self.count = base, first, len(vectors)
        self.soft_prompt = nn.Embedding.from_pretrained(vectors)  # type: ignore[no-untyped-call]

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, length] ids -> [batch, length, width] in the base's number format."""
        place = ids - self.first
        soft = (place >= 0) & (place < self.count)
        plain = cast(Tensor, self.base(ids.masked_fill(soft, 0)))
        learned = self.soft_prompt(place.clamp(0, self.count - 1)).to(plain.dtype)
        return torch.where(soft.unsqueeze(-1), learned, plain)


def attach(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int, seed: int = 0
) -> None:
    """Teach a base model to read the soft prompt that its tokenizer has tokens for, in place.

    The vectors begin as copies of those of tokens that the seed draws from the most frequent, as
    the paper's do, which learned more than random ones (section 3.2). An adapter that is loaded
    afterwards brings its own.

    Raises:
        ValueError: the tokenizer has none, or one of another length.
    """
    vocabulary = tokenizer.get_vocab()
    found = [vocabulary.get(name) for name in tokens(count + 1)]
    first = found[0] or 0
    if found != [*range(first, first + count), None]:
        raise ValueError(f"has no soft prompt of {count} tokens")
    base = model.get_input_embeddings()
    chance = torch.Generator().manual_seed(seed)
    words = [i for i in range(first) if i not in tokenizer.all_special_ids][:_FREQUENT]
    drawn = torch.randint(len(words), (count,), generator=chance)
    with torch.no_grad():
        vectors = cast(Tensor, base(torch.tensor(words)[drawn])).float()
    model.set_input_embeddings(SoftEmbedding(base, first, vectors))
