"""The tiny torch baseline: a bidirectional GRU from scratch on a byte-level BPE of its own.

It shows what a few hundred thousand parameters learn without any pretraining, and what a
pretrained router therefore owes to its.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from distill.config import RnnConfig
from distill.render import TEXT_STEPS, fit, render_text
from distill.routers.classifier import ClassifierRouter
from distill.routers.folder import RouterFile, require_files
from distill.routers.labels import Probabilities
from distill.types import Context

PAD = 0


def learn_tokenizer(texts: Sequence[str], config: RnnConfig) -> Tokenizer:
    """A byte-level BPE (no unknown token) with `[PAD]` at 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary,
        special_tokens=["[PAD]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class Gru(nn.Module):
    """Embedding, a GRU in each direction, max- and mean-pooling over time, linear head."""

    def __init__(self, config: RnnConfig, vocabulary: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, config.embedding, padding_idx=PAD)
        self.forwards = nn.GRU(config.embedding, config.hidden, batch_first=True)
        self.backwards = nn.GRU(config.embedding, config.hidden, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(4 * config.hidden, classes)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Classify padded token rows.

        Args:
            input_ids: [batch, time] int64.
            attention_mask: [batch, time], 1 for real tokens, which come first.
            labels: [batch] class indices; adds the mean cross-entropy as `loss`.

        Returns:
            `logits` [batch, classes], and `loss` when labels are given.
        """
        embedded = self.dropout(self.embedding(input_ids))
        # Reversed row by row, so that padding comes last in both directions and changes nothing.
        # On a CPU, two GRUs on padded rows train three times as fast as one on packed sequences.
        lengths, places = attention_mask.sum(1, keepdim=True), torch.arange(input_ids.shape[1])
        places = places.to(input_ids.device).expand_as(input_ids)
        reverse = torch.where(places < lengths, lengths - 1 - places, places).unsqueeze(-1)
        flipped = self.backwards(_reordered(embedded, reverse))[0]
        states = torch.cat([self.forwards(embedded)[0], _reordered(flipped, reverse)], dim=2)
        mask = attention_mask[:, :, None].bool()
        largest = states.masked_fill(~mask, float("-inf")).amax(1)
        average = (states * mask).sum(1) / mask.sum(1)
        logits = self.head(self.dropout(torch.cat([largest, average], dim=1)))
        output = {"logits": logits}
        if labels is not None:
            output["loss"] = nn.functional.cross_entropy(logits, labels)
        return output


def _reordered(states: Tensor, places: Tensor) -> Tensor:
    """[batch, time, width] with time in the order of `places` [batch, time, 1]."""
    return states.gather(1, places.expand(-1, -1, states.shape[2]))


class RnnRouter(ClassifierRouter):
    """The GRU as a router."""

    def __init__(self, file: RouterFile, tokenizer: Tokenizer, model: Gru) -> None:
        super().__init__(file)
        self.tokenizer, self.model = tokenizer, model.eval()
        self.config = cast(RnnConfig, file.config)

    def text(self, context: Context) -> str:
        return fit(
            lambda scale: render_text(context, self.config.render, scale),
            lambda text: len(self.tokenizer.encode(text).ids),
            self.config.max_tokens,
            TEXT_STEPS,
        )

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text, at most `max_tokens`, at least one."""
        return self.tokenizer.encode(text).ids[: self.config.max_tokens] or [PAD]

    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        rows = [torch.tensor(self.tokens(text)) for text in texts]
        device = self.model.head.weight.device
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD).to(device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()
        with torch.inference_mode():
            logits: Tensor = self.model(ids, mask)["logits"]
        return cast(Probabilities, logits.double().softmax(1).cpu().numpy())

    def save(self, path: Path) -> None:
        state = {
            name: tensor.contiguous().cpu() for name, tensor in self.model.state_dict().items()
        }
        save_file(state, path / "model.safetensors")
        self.tokenizer.save(str(path / "tokenizer.json"))
        self.file.save(path)

    @classmethod
    def load(cls, folder: Path, file: RouterFile) -> "RnnRouter":
        require_files(folder, ["model.safetensors", "tokenizer.json"])
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        config = cast(RnnConfig, file.config)
        model = Gru(config, tokenizer.get_vocab_size(), len(file.labels))
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return cls(file, tokenizer, model)
