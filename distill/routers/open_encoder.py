"""A pretrained encoder that scores whatever tools a context offers, its LoRA merged on save.

One encoder reads contexts and tools alike. A tool is one vector, the mean of its text's states, and
does not depend on who asks: it is computed once and remembered. Of a context all token states are
kept, and a tool is compared with it in three ways, whose weights are learned:

- the cosine with those tokens that are most like the tool (attention with its vector as the query,
  as in the Poly-encoder of Humeau et al. 2019, arXiv:1905.01969), since the mean of a message that
  asks for five things resembles none of them;
- the logarithm of the tool's share of the token that it wins most clearly from the others on offer
  (a softmax the other way round, as in Cheng et al. 2021, arXiv:2109.04290): of several tools for
  one part of a request, one is meant;
- BM25 of the two texts (`distill.routers.lexical`), as search engines mix it with embeddings.

What the scores decide is said in `distill.routers.candidates`.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.config import EncoderConfig
from distill.errors import RouterError
from distill.routers import candidates, pretrained
from distill.routers.candidates import Beliefs
from distill.routers.confidence import calibrated
from distill.routers.devices import device
from distill.routers.encoder import mean
from distill.routers.encoding import encoder_text
from distill.routers.folder import RouterFile, require_files
from distill.routers.lexical import Bm25
from distill.routers.words import REPLY_IN_WORDS, tool_text
from distill.types import Context, Decision

_HEAD = "head.safetensors"
_BATCH = 32

_SHARPNESS, _RIVALRY = 15.0, 20.0
_WEIGHTS = (20.0, 2.0, 0.3)
"""Where training starts: what suits an untuned MiniLM on requests for several tools."""

_NEVER = -1e4
"""A logit that leaves no probability; finite, so that rows of nothing else stay numbers."""


@dataclass(frozen=True)
class Pairs:
    """Contexts, and for each the candidates that it is compared with; the reply is the first."""

    states: Tensor
    """[batch, time, hidden] of the contexts."""
    attention_mask: Tensor
    """[batch, time], 1 for real tokens."""
    tools: Tensor
    """[batch, 1 + tools, hidden] unit vectors."""
    offered: Tensor
    """[batch, 1 + tools], False where a row has fewer."""
    lexical: Tensor
    """[batch, 1 + tools] BM25 of the two texts."""


class MatchHead(nn.Module):
    """Token states of contexts and vectors of tools -> beliefs about what is called.

    Args:
        most: the most calls in one decision.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(_SHARPNESS)))
        self.log_rivalry = nn.Parameter(torch.tensor(math.log(_RIVALRY)))
        self.log_weights = nn.Parameter(torch.tensor(_WEIGHTS).log())
        self.reply_bias = nn.Parameter(torch.tensor(0.0))
        self.numbers = nn.Parameter(torch.zeros(most))
        self.once = nn.Parameter(torch.tensor(2.0))

    def forward(self, pairs: Pairs) -> Beliefs:
        """Weigh each context's own candidates."""
        # Not in bfloat16: a cosine's third digit, times its weight, is what tells tools apart.
        with torch.autocast(pairs.states.device.type, enabled=False):
            return self.weigh(self.features(pairs), pairs.offered)

    def features(self, pairs: Pairs) -> Tensor:
        """[batch, 1 + tools, 3] the three comparisons; the reply has the first one alone."""
        states, tools = pairs.states.float(), pairs.tools.float()
        near = nn.functional.normalize(states, dim=-1) @ tools.transpose(1, 2)
        absent = pairs.attention_mask.unsqueeze(-1) == 0
        attention = (self.log_sharpness.exp() * near).masked_fill(absent, _NEVER).softmax(1)
        seen = nn.functional.normalize(attention.transpose(1, 2) @ states, dim=-1)
        cosine = (seen * tools).sum(-1)
        rivals = near[:, :, 1:].masked_fill(~pairs.offered[:, None, 1:], -1.0)
        won = (self.log_rivalry.exp() * rivals).log_softmax(2).masked_fill(absent, _NEVER)
        nothing = torch.zeros_like(cosine[:, :1])
        contest = torch.cat([nothing, won.amax(1)], dim=1)
        shared = torch.cat([nothing, pairs.lexical.float()[:, 1:]], dim=1)
        return torch.stack([cosine, contest, shared], dim=-1)

    def weigh(self, features: Tensor, offered: Tensor) -> Beliefs:
        """The beliefs that `features` make."""
        scores = features @ self.log_weights.exp()
        scores = torch.cat([scores[:, :1] + self.reply_bias, scores[:, 1:]], dim=1)
        return Beliefs(scores, offered, self.numbers, -nn.functional.softplus(self.once))


class OpenEncoder(nn.Module):
    """The encoder, its `MatchHead`, and BM25 beside them.

    Args:
        encoder: called with `input_ids` and `attention_mask`, gives the last states first.
        most: the most calls in one decision.
        vocabulary: of the encoder's tokenizer.
    """

    def __init__(self, encoder: nn.Module, most: int, vocabulary: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = MatchHead(most)
        self.bm25 = Bm25(vocabulary)

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The last layer's states of padded token rows, [batch, time, hidden]."""
        return cast(Tensor, self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0])

    def vectors(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Unit vectors of tool texts, [tools, hidden].

        Texts of like length are computed together: a few long ones must not pad them all.
        """
        lengths = attention_mask.sum(1)
        order = lengths.argsort()
        made = []
        for chunk in torch.split(order, _BATCH):
            width = int(lengths[chunk].max())
            mask = attention_mask[chunk, :width]
            made.append(mean(self.states(input_ids[chunk, :width], mask), mask).float())
        return nn.functional.normalize(torch.cat(made)[order.argsort()], dim=-1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        tool_ids: Tensor,
        tool_mask: Tensor,
        candidates: Tensor,
        counts: Tensor,
    ) -> dict[str, Tensor]:
        """The training loss of padded token rows.

        Args:
            input_ids: [batch, time] int64, and `attention_mask` of the same shape: the contexts.
            tool_ids: [1 + tools, tool time], and `tool_mask`: the tools of all rows, reply first.
            candidates: [batch, 1 + n] which of the tools each row chooses among, the reply first;
                -1 where it has fewer.
            counts: [batch, n] how often the label calls each of them; all 0 for a reply.

        Returns:
            The mean of the rows' `Beliefs.losses` as `loss`.
        """
        tools = self.vectors(tool_ids, tool_mask)
        pairs = self.pairs(
            tools,
            input_ids=input_ids,
            attention_mask=attention_mask,
            tool_ids=tool_ids,
            tool_mask=tool_mask,
            candidates=candidates,
        )
        return {"loss": self.head(pairs).losses(counts).mean()}

    def pairs(
        self,
        tools: Tensor,
        *,
        input_ids: Tensor,
        attention_mask: Tensor,
        tool_ids: Tensor,
        tool_mask: Tensor,
        candidates: Tensor,
    ) -> Pairs:
        """What the head compares; arguments as `forward`, `tools` their vectors."""
        states = self.states(input_ids, attention_mask)
        weights = self.bm25.weights(tool_ids, tool_mask)
        lexical = self.bm25(input_ids, attention_mask, tool_ids, weights)
        chosen, offered = candidates.clamp(min=0), candidates >= 0
        return Pairs(states, attention_mask, tools[chosen], offered, lexical.gather(1, chosen))


@dataclass(frozen=True)
class _Known:
    """What is remembered of a tool's text."""

    vector: Tensor
    """[hidden]"""
    ids: Tensor
    """[time], and what BM25 gives for each, `weights`."""
    weights: Tensor


class OpenEncoderRouter:
    """The matching encoder as a router."""

    def __init__(
        self, file: RouterFile, tokenizer: PreTrainedTokenizerBase, model: OpenEncoder
    ) -> None:
        self.file, self.tokenizer, self.model = file, tokenizer, model.eval()
        self.config = cast(EncoderConfig, file.config)
        self.remembered = 16_384
        """Tools kept between decisions: some 35 MB where the encoder is 384 wide."""
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._looking_up = Lock()

    @property
    def kind(self) -> str:
        return "encoder"

    def text(self, context: Context) -> str:
        """What the router reads of the context."""
        return encoder_text(context, self.tokenizer, self.config)

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        tools = [candidates.offered(context) for context in contexts]
        texts = [
            [REPLY_IN_WORDS, *(tool_text(tool, self.config.match.tool_chars) for tool in offered)]
            for offered in tools
        ]
        with self._looking_up:  # a server's threads share what is remembered
            known = self._look_up(text for row in texts for text in row)
        read = [self.text(context) for context in contexts]
        decisions: dict[int, Decision] = {}
        for chunk in _batches(read):
            ids, mask = self._tokens([read[i] for i in chunk])
            with torch.no_grad():
                states = self.model.states(ids, mask)
                for row, i in enumerate(chunk):
                    one = slice(row, row + 1)
                    beliefs = self._believe(
                        ids[one], mask[one], states[one], [known[text] for text in texts[i]]
                    )
                    decisions[i] = candidates.decide(tools[i], beliefs)
        decided = [decisions[i] for i in range(len(contexts))]
        return calibrated(decided, self.file.calibration)

    def _believe(self, ids: Tensor, mask: Tensor, states: Tensor, tools: list[_Known]) -> Beliefs:
        """One context's beliefs, in double precision."""
        vectors = torch.stack([tool.vector for tool in tools])[None]
        tool_ids = pad_sequence([tool.ids for tool in tools], batch_first=True)
        weights = pad_sequence([tool.weights for tool in tools], batch_first=True)
        lexical = self.model.bm25(ids, mask, tool_ids, weights)
        offered = torch.ones_like(lexical, dtype=torch.bool)
        beliefs = self.model.head(Pairs(states, mask, vectors, offered, lexical))
        return Beliefs(
            beliefs.scores.double(), offered, beliefs.numbers.double(), beliefs.again.double()
        )

    def _look_up(self, texts: Iterable[str]) -> dict[str, _Known]:
        """What is known by text, all that it depends on; only new texts are encoded."""
        wanted = dict.fromkeys(texts)
        found = {text: self._known[text] for text in wanted if text in self._known}
        new = [text for text in wanted if text not in found]
        for chunk in _batches(new):
            ids, mask = self._tokens([new[i] for i in chunk])
            with torch.no_grad():
                vectors = self.model.vectors(ids, mask)
                weights = self.model.bm25.weights(ids, mask)
            for row, i in enumerate(chunk):
                kept = slice(int(mask[row].sum()))
                made = vectors[row], ids[row, kept], weights[row, kept]
                # Copies: a view would keep the whole batch.
                found[new[i]] = _Known(*(tensor.clone() for tensor in made))
        for text in wanted:
            self._known[text] = found[text]
            self._known.move_to_end(text)
        while len(self._known) > self.remembered:
            self._known.popitem(last=False)
        return found

    def _tokens(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Padded ids and mask, [texts, time] each."""
        batch = self.tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self.config.max_tokens,
            return_tensors="pt",
        ).to(self.model.head.log_weights.device)
        return batch["input_ids"], batch["attention_mask"]

    def save(self, path: Path) -> None:
        cast(PreTrainedModel, self.model.encoder).save_pretrained(path)
        self.tokenizer.save_pretrained(path)
        head = _beside_the_encoder(self.model)
        save_file({name: tensor.cpu().contiguous() for name, tensor in head.items()}, path / _HEAD)
        self.file.save(path)

    @classmethod
    def load(cls, folder: Path, file: RouterFile) -> "OpenEncoderRouter":
        """Load the encoder and its head.

        Raises:
            RouterError: a file is missing or damaged, or the head is not this encoder's.
        """
        require_files(folder, ["model.safetensors"])
        return cls.around(pretrained.load_encoder(pretrained.saved(folder)), folder, file)

    @classmethod
    def around(cls, encoder: nn.Module, folder: Path, file: RouterFile) -> "OpenEncoderRouter":
        """The folder's router with its states from `encoder`; errors as `load`."""
        require_files(folder, [_HEAD])
        head = load_file(folder / _HEAD)
        most = len(head.get("head.numbers", [0]))
        tokenizer = pretrained.load_tokenizer(pretrained.saved(folder))
        model = OpenEncoder(encoder, most, len(tokenizer))
        expected = {name: tensor.shape for name, tensor in _beside_the_encoder(model).items()}
        if {name: tensor.shape for name, tensor in head.items()} != expected:
            raise RouterError(
                folder / _HEAD, "does not fit the encoder", "copy the whole router folder"
            )
        model.load_state_dict(head, strict=False)
        return cls(file, tokenizer, model.to(device()))


def _beside_the_encoder(model: OpenEncoder) -> dict[str, Tensor]:
    """The model's other weights by name."""
    weights = model.state_dict()
    return {name: weights[name] for name in weights if not name.startswith("encoder.")}


def _batches(texts: Sequence[str]) -> list[list[int]]:
    """Positions of texts of similar length, `_BATCH` at most together."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    return [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
