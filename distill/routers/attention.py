"""A small transformer from scratch that reads the conversation and the tool catalogue alike.

Self-attention goes over the conversation's tokens. A decision class is a vector made of what its
tools say of themselves (name, description, parameters' names), in the conversation's own token
embedding, so that a tool of few examples borrows from its description. Each class then asks the
conversation by cross-attention, as labels do in Mullenbach et al. 2018 (arXiv:1802.05695), and its
logit is how well the answer fits the class.

The catalogue's tokens follow from `router.json` and the tokenizer, and are not saved again.
"""

from collections.abc import Sequence
from typing import cast

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from distill.config import AttentionConfig
from distill.routers.folder import RouterFile
from distill.routers.labels import LabelSpace
from distill.routers.scratch import PAD, ScratchRouter
from distill.routers.words import REPLY_IN_WORDS, in_words
from distill.types import REPLY, ToolSpec

_TEXT_TOKENS = 64
"""Tokens read of each of a tool's texts."""


def rotation(time: int, width: int, device: torch.device) -> Tensor:
    """Cosines and sines of rotary positions (Su et al. 2021, arXiv:2104.09864, eq. 34).

    Returns:
        [2, time, width / 2], for heads of `width`, which is even.
    """
    rates = 10_000 ** -(torch.arange(0, width, 2, device=device) / width)
    angles = torch.outer(torch.arange(time, device=device), rates)
    return torch.stack([angles.cos(), angles.sin()])


def rotated(states: Tensor, turns: Tensor) -> Tensor:
    """States [batch, heads, time, width] turned by their positions' `rotation`."""
    (cosine, sine), (a, b) = turns.to(states.dtype), states.chunk(2, dim=-1)
    return torch.cat([a * cosine - b * sine, a * sine + b * cosine], dim=-1)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries = nn.Linear(width, width, bias=False)
        self.keys = nn.Linear(width, width, bias=False)
        self.values = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self, asking: Tensor, states: Tensor, mask: Tensor, turns: Tensor | None = None
    ) -> Tensor:
        """What is found in `states` by each of `asking`.

        Args:
            asking: [batch, questions, width], or one batch row of questions that all rows share.
            states: [batch, time, width].
            mask: [batch, 1, 1, time] bool, true for real tokens.
            turns: the `rotation` of `asking` and `states` alike; None without positions.

        Returns:
            [batch, questions, width].
        """
        queries, keys = self._split(self.queries(asking)), self._split(self.keys(states))
        if turns is not None:
            queries, keys = rotated(queries, turns), rotated(keys, turns)
        found = functional.scaled_dot_product_attention(
            queries.expand(len(keys), -1, -1, -1),
            keys,
            self._split(self.values(states)),
            attn_mask=mask,
        )
        return cast(Tensor, self.out(found.transpose(1, 2).flatten(2)))

    def _split(self, states: Tensor) -> Tensor:
        """[batch, heads, time, width / heads]."""
        batch, time, _ = states.shape
        return states.view(batch, time, self.heads, -1).transpose(1, 2)


class Layer(nn.Module):
    """A transformer layer, normalised before each half (Xiong et al. 2020, arXiv:2002.04745)."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        width = config.width
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, config.heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: Tensor, mask: Tensor, turns: Tensor) -> Tensor:
        normed = self.attention_norm(states)
        states = states + self.dropout(self.attention(normed, normed, mask, turns))
        return cast(Tensor, states + self.dropout(self.mlp(self.mlp_norm(states))))


class ToolTransformer(nn.Module):
    """Transformer layers over the conversation, asked by classes that are made of their tools.

    Args:
        vocabulary: tokens of the tokenizer.
        tools: [tools, texts, time] int64, each tool's texts as tokens, padded with `PAD`.
        classes: [classes, tools], each class's share of each tool; rows sum to 1.
    """

    def __init__(
        self, config: AttentionConfig, vocabulary: int, tools: Tensor, classes: Tensor
    ) -> None:
        super().__init__()
        width = config.width
        self.tools: Tensor
        self.classes: Tensor
        self.register_buffer("tools", tools, persistent=False)
        self.register_buffer("classes", classes, persistent=False)
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PAD)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.describe = nn.Linear(tools.shape[1] * width, width)
        self.description_norm = nn.LayerNorm(width)
        # What a class is beyond its tools' words. It begins small: few examples leave it so.
        self.own = nn.Parameter(torch.empty(len(classes), width).normal_(std=0.02))
        self.bias = nn.Parameter(torch.zeros(len(classes)))
        self.ask = Attention(width, config.heads)
        self.answer_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.head_width = width // config.heads

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Classify padded token rows.

        Args:
            input_ids: [batch, time] int64.
            attention_mask: [batch, time], 1 for real tokens.
            labels: [batch] class indices; adds the mean cross-entropy as `loss`.

        Returns:
            `logits` [batch, classes], and `loss` when labels are given.
        """
        mask = attention_mask[:, None, None, :].bool()
        states = self.dropout(self.embedding(input_ids))
        turns = rotation(input_ids.shape[1], self.head_width, input_ids.device)
        for layer in self.layers:
            states = layer(states, mask, turns)
        classes = self.class_vectors()
        answers = self.answer_norm(self.ask(classes.unsqueeze(0), self.norm(states), mask))
        # Scaled as a dot product is within attention, so that it does not grow with the width.
        fit = (self.dropout(answers) * classes).sum(2) / classes.shape[1] ** 0.5
        logits = fit + self.bias
        output = {"logits": logits}
        if labels is not None:
            output["loss"] = functional.cross_entropy(logits, labels)
        return output

    def class_vectors(self) -> Tensor:
        """[classes, width]: the mean of a class's tools, and what it has of its own."""
        tools, texts, _ = self.tools.shape
        # One mean over each text's tokens: no tokens of the whole catalogue are held embedded.
        words = functional.embedding_bag(
            self.tools.flatten(0, 1), self.embedding.weight, mode="mean", padding_idx=PAD
        )
        described = self.describe(self.dropout(words.view(tools, texts * words.shape[1])))
        return cast(Tensor, self.classes @ self.description_norm(described) + self.own)


class AttentionRouter(ScratchRouter):
    """The transformer as a router."""

    @staticmethod
    def network(file: RouterFile, tokenizer: Tokenizer) -> ToolTransformer:
        tools = (*file.catalogue, ToolSpec(REPLY, REPLY_IN_WORDS))
        return ToolTransformer(
            cast(AttentionConfig, file.config),
            tokenizer.get_vocab_size(),
            _tokens([_texts(tool) for tool in tools], tokenizer),
            _shares(file.labels, tools),
        )


def _texts(tool: ToolSpec) -> tuple[str, str, str]:
    """A tool's name, description and parameters' names.

    Each begins with a space, so that its first word is the token that it is within a sentence.
    """
    parameters = " ".join(map(in_words, tool.parameters.get("properties") or {}))
    return f" {in_words(tool.name)}", f" {tool.description}", f" {parameters}"


def _tokens(texts: Sequence[Sequence[str]], tokenizer: Tokenizer) -> Tensor:
    """[tools, texts, time]."""
    rows = [
        torch.tensor(tokenizer.encode(text).ids[:_TEXT_TOKENS]) for tool in texts for text in tool
    ]
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
    return padded.view(len(texts), -1, padded.shape[1])


def _shares(labels: LabelSpace, tools: Sequence[ToolSpec]) -> Tensor:
    """[classes, tools]: how often a class calls each tool, over the number of its calls."""
    places = {tool.name: i for i, tool in enumerate(tools)}
    shares = torch.zeros(len(labels), len(tools))
    for row, names in zip(shares, labels.classes, strict=True):
        for name in names:
            row[places[name]] += 1 / len(names)
    return shares
