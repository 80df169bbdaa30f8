"""A pretrained encoder that scores whatever tools a context offers, its LoRA merged on save.

One encoder reads contexts and tools alike. A tool is one vector, the mean of its text's states, and
does not depend on who asks: it is computed once and remembered. Of a context all token states are
kept, and each tool looks at those most like itself (attention with the tool's vector as the query,
as in the Poly-encoder of Humeau et al. 2019, arXiv:1905.01969), since the mean of a message that
asks for five things resembles none of them. The score is a learned scale times the cosine (CLIP,
Radford et al. 2021, arXiv:2103.00020), and a weight times the logarithm of the tool's share of the
token that it wins most clearly from the others on offer (a softmax the other way round, as in Cheng
et al. 2021, arXiv:2109.04290): of several tools for one part of a request, one is meant.

What the scores decide is said in `distill.routers.candidates`.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.config import EncoderConfig
from distill.errors import RouterError
from distill.routers import candidates, pretrained
from distill.routers.confidence import calibrated
from distill.routers.devices import device
from distill.routers.encoder import mean
from distill.routers.encoding import encoder_text
from distill.routers.folder import RouterFile, require_files
from distill.routers.words import REPLY_IN_WORDS, tool_text
from distill.types import Context, Decision

_HEAD = "head.safetensors"
_BATCH = 32

_SCALE, _SHARPNESS, _RIVALRY, _CONTEST = 20.0, 15.0, 20.0, 2.0
"""Where training starts: what suits an untuned MiniLM on requests for several tools."""

_WANTED = 6.5
"""The score from which on a tool counts as wanted, before training."""

_NEVER = -1e4
"""A logit that leaves no probability; finite, so that rows of nothing else stay numbers."""


class MatchHead(nn.Module):
    """Token states of contexts and vectors of tools -> scores, and how many calls there are.

    Calls are counted as objects are in images (Lempitsky and Zisserman 2010, "Learning to count
    objects in images"): each token says what part of a request it is, each offered tool whether
    it is wanted, and a weighted sum of both is the number. From the mean state, which knows no
    sum, it is hardly learned.

    Args:
        hidden: width of the states and vectors.
        most: the most calls in one decision.
    """

    repeat: Tensor
    """[] the odds that a further call repeats a tool: counted in training, not learned."""

    def __init__(self, hidden: int, most: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(_SCALE)))
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(_SHARPNESS)))
        self.log_rivalry = nn.Parameter(torch.tensor(math.log(_RIVALRY)))
        self.contest = nn.Parameter(torch.tensor(_CONTEST))
        self.reply_bias = nn.Parameter(torch.tensor(0.0))
        self.part = nn.Linear(hidden, 1)
        self.wanted = nn.Parameter(torch.tensor([1.0, -_WANTED]))
        self.weights = nn.Parameter(torch.tensor([0.5, 0.5]))
        self.log_precision = nn.Parameter(torch.tensor(0.0))
        self.number_bias = nn.Parameter(torch.zeros(most))
        self.register_buffer("repeat", torch.tensor(1.0))

    def forward(
        self, states: Tensor, attention_mask: Tensor, tools: Tensor, offered: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Score each context's own candidates.

        Args:
            states: [batch, time, hidden] of the contexts.
            attention_mask: [batch, time], 1 for real tokens.
            tools: [batch, 1 + tools, hidden] unit vectors, the reply's first.
            offered: [batch, 1 + tools], False where a row has fewer.

        Returns:
            Logits of the candidates, [batch, 1 + tools], minus infinity where there is none, and of
            1, 2, … calls, [batch, most].
        """
        # Not in bfloat16: a cosine's third digit, times the scale, is what tells tools apart.
        with torch.autocast(states.device.type, enabled=False):
            states, tools = states.float(), tools.float()
            near = nn.functional.normalize(states, dim=-1) @ tools.transpose(1, 2)
            absent = attention_mask.unsqueeze(-1) == 0
            attention = (self.log_sharpness.exp() * near).masked_fill(absent, _NEVER).softmax(1)
            seen = nn.functional.normalize(attention.transpose(1, 2) @ states, dim=-1)
            scores = self.log_scale.exp() * (seen * tools).sum(-1)
            near = near[:, :, 1:].masked_fill(~offered[:, None, 1:], -1.0)
            won = (self.log_rivalry.exp() * near).log_softmax(2).masked_fill(absent, _NEVER)
            contest = self.contest * won.amax(1)
            extra = torch.cat([self.reply_bias.expand(len(scores), 1), contest], dim=1)
            scores = (scores + extra).masked_fill(~offered, float("-inf"))
            return scores, self._numbers(states, attention_mask, scores[:, 1:])

    def _numbers(self, states: Tensor, attention_mask: Tensor, scores: Tensor) -> Tensor:
        """Logits of 1, 2, … calls, [batch, most]: a bell around the counted number."""
        parts = self.part(states).squeeze(-1).sigmoid() * attention_mask
        # Which tools are called must not be moved by how many are: hence detached.
        known = scores.detach().clamp(min=_NEVER)
        wanted = (self.wanted[0] * known + self.wanted[1]).sigmoid()
        counted = self.weights[0] * parts.sum(1) + self.weights[1] * wanted.sum(1)
        numbers = torch.arange(1, len(self.number_bias) + 1, device=states.device)
        distance = counted[:, None] - numbers
        logits: Tensor = self.number_bias - self.log_precision.exp() * distance.square() / 2
        return logits

    def start_counting(self, calls: float, tokens: float) -> None:
        """Before training, let every token be the same part of a request.

        Args:
            calls: in a decision that calls tools, on average.
            tokens: in its context, on average.
        """
        share = min(calls / tokens, 0.5)
        with torch.no_grad():
            self.part.weight.zero_()
            self.part.bias.fill_(math.log(share / (1 - share)))


class OpenEncoder(nn.Module):
    """The encoder and its `MatchHead`; `most` calls at most are made in one decision."""

    def __init__(self, encoder: PreTrainedModel, most: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = MatchHead(encoder.config.hidden_size, most)

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
        labels: Tensor,
    ) -> dict[str, Tensor]:
        """The training loss of padded token rows.

        Args:
            input_ids: [batch, time] int64, and `attention_mask` of the same shape: the contexts.
            tool_ids: [1 + tools, tool time], and `tool_mask`: the tools of all rows, reply first.
            candidates: [batch, n] which of the tools each row chooses among, the reply first; -1
                where it has fewer.
            counts: [batch, n] as `row_losses`, and so `labels`.

        Returns:
            The mean of `row_losses` as `loss`.
        """
        tools = self.vectors(tool_ids, tool_mask)
        states = self.states(input_ids, attention_mask)
        offered = candidates >= 0
        scores, numbers = self.head(states, attention_mask, tools[candidates.clamp(min=0)], offered)
        return {"loss": row_losses(scores, numbers, counts, labels).mean()}


def row_losses(scores: Tensor, numbers: Tensor, counts: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the candidates with the label's shares, plus that of the number of calls.

    Args:
        scores: [batch, n] logits of each row's candidates; minus infinity where there is none.
        numbers: [batch, most] logits of 1, 2, … calls.
        counts: [batch, n] how often the label calls each of them; a reply is 1 for candidate 0.
        labels: [batch] calls in all; 0 for a reply. More than `most` teach no number.

    Returns:
        [batch], each from its own row alone.
    """
    shares = counts / counts.sum(1, keepdim=True)
    # Zero shares are left out before the product: padding's logarithm is minus infinity.
    parts = scores.log_softmax(1).masked_fill(counts == 0, 0.0)
    most = numbers.shape[1]
    known = ((labels > 0) & (labels <= most)).to(numbers.dtype)
    which = labels.clamp(1, most) - 1
    number = nn.functional.cross_entropy(numbers, which, reduction="none")
    return -(shares * parts).sum(1) + known * number


class OpenEncoderRouter:
    """The matching encoder as a router."""

    def __init__(
        self, file: RouterFile, tokenizer: PreTrainedTokenizerBase, model: OpenEncoder
    ) -> None:
        self.file, self.tokenizer, self.model = file, tokenizer, model.eval()
        self.config = cast(EncoderConfig, file.config)
        self.remembered = 16_384
        """Tool vectors kept between decisions: 25 MB where the encoder is 384 wide."""
        self._vectors: OrderedDict[str, Tensor] = OrderedDict()
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
            vectors = self._look_up(text for row in texts for text in row)
        read = [self.text(context) for context in contexts]
        decisions: dict[int, Decision] = {}
        for chunk in _batches(read):
            ids, mask = self._tokens([read[i] for i in chunk])
            with torch.inference_mode():
                states = self.model.states(ids, mask)
                for row, i in enumerate(chunk):
                    these = torch.stack([vectors[text] for text in texts[i]])[None]
                    one, all_of_them = slice(row, row + 1), these.new_ones(these.shape[:2]).bool()
                    scores, numbers = self.model.head(states[one], mask[one], these, all_of_them)
                    decisions[i] = candidates.decide(
                        tools[i],
                        scores[0].double().cpu().numpy(),
                        numbers[0].double().softmax(0).cpu().numpy(),
                        float(self.model.head.repeat),
                    )
        decided = [decisions[i] for i in range(len(contexts))]
        return calibrated(decided, self.file.calibration)

    def _look_up(self, texts: Iterable[str]) -> dict[str, Tensor]:
        """Vectors by text, which is all that a vector depends on; only new texts are encoded."""
        wanted = dict.fromkeys(texts)
        found = {text: self._vectors[text] for text in wanted if text in self._vectors}
        new = [text for text in wanted if text not in found]
        for chunk in _batches(new):
            with torch.inference_mode():
                made = self.model.vectors(*self._tokens([new[i] for i in chunk]))
            found |= {new[i]: vector.clone() for i, vector in zip(chunk, made, strict=True)}
        for text in wanted:
            self._vectors[text] = found[text]
            self._vectors.move_to_end(text)
        while len(self._vectors) > self.remembered:
            self._vectors.popitem(last=False)
        return found

    def _tokens(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Padded ids and mask, [texts, time] each."""
        batch = self.tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self.config.max_tokens,
            return_tensors="pt",
        ).to(self.model.head.log_scale.device)
        return batch["input_ids"], batch["attention_mask"]

    def save(self, path: Path) -> None:
        self.model.encoder.save_pretrained(path)
        self.tokenizer.save_pretrained(path)
        head = self.model.head.state_dict()
        save_file({name: tensor.cpu().contiguous() for name, tensor in head.items()}, path / _HEAD)
        self.file.save(path)

    @classmethod
    def load(cls, folder: Path, file: RouterFile) -> "OpenEncoderRouter":
        """Load the encoder and its head.

        Raises:
            RouterError: a file is missing or damaged, or the head is not this encoder's.
        """
        require_files(folder, ["model.safetensors", _HEAD])
        local = pretrained.BaseModel(folder.name, str(folder), None, folder.name, None)
        head = load_file(folder / _HEAD)
        most = len(head.get("number_bias", [0]))
        model = OpenEncoder(pretrained.load_encoder(local), most)
        expected = {name: tensor.shape for name, tensor in model.head.state_dict().items()}
        if {name: tensor.shape for name, tensor in head.items()} != expected:
            raise RouterError(
                folder / _HEAD, "does not fit the encoder", "copy the whole router folder"
            )
        model.head.load_state_dict(head)
        return cls(file, pretrained.load_tokenizer(local), model.to(device()))


def _batches(texts: Sequence[str]) -> list[list[int]]:
    """Positions of texts of similar length, `_BATCH` at most together."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    return [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
