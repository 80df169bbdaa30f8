"""What the networks trained from scratch share: a byte-level BPE of their own, texts, a folder.

A subclass names its network (`network`); the rest, from a context to class probabilities and from
a router to its folder and back, is here. Knows no architecture.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self, cast

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from distill.config import ScratchConfig
from distill.errors import RouterError
from distill.render import TEXT_STEPS, fit, render_text
from distill.routers.classifier import ClassifierRouter
from distill.routers.folder import RouterFile, require_files
from distill.routers.labels import Probabilities
from distill.types import Context

PAD = 0

_BATCH = 64
"""Texts computed together at most."""


def learn_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE (no unknown token) of at most `vocabulary` tokens, `[PAD]` at 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["[PAD]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class ScratchRouter(ClassifierRouter):
    """A network on token rows as a router.

    The network takes `input_ids` and `attention_mask`, both [batch, time], and optional `labels`
    [batch]; it gives `logits` [batch, classes], and their mean cross-entropy as `loss`.
    """

    def __init__(self, file: RouterFile, tokenizer: Tokenizer, model: nn.Module) -> None:
        super().__init__(file)
        self.tokenizer, self.model = tokenizer, model.eval()
        self.config = cast(ScratchConfig, file.config)

    @staticmethod
    @abstractmethod
    def network(file: RouterFile, tokenizer: Tokenizer) -> nn.Module:
        """The untrained network of this kind."""

    @classmethod
    def untrained(cls, file: RouterFile, tokenizer: Tokenizer) -> Self:
        """The router as training begins with it."""
        return cls(file, tokenizer, cls.network(file, tokenizer))

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
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        found = torch.empty(len(rows), len(self.file.labels), dtype=torch.float64)
        for start in range(0, len(order), _BATCH):
            chunk = order[start : start + _BATCH]
            with torch.inference_mode():
                logits: Tensor = self.model(*self._padded([rows[i] for i in chunk]))["logits"]
            found[chunk] = logits.double().softmax(1).cpu()
        return cast(Probabilities, found.numpy())

    def rows(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask of texts, [texts, time] each, on the network's device."""
        return self._padded([torch.tensor(self.tokens(text)) for text in texts])

    def _padded(self, rows: list[Tensor]) -> tuple[Tensor, Tensor]:
        device = next(self.model.parameters()).device
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD).to(device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        return ids, (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()

    def save(self, path: Path) -> None:
        state = {
            name: tensor.contiguous().cpu() for name, tensor in self.model.state_dict().items()
        }
        save_file(state, path / "model.safetensors")
        self.tokenizer.save(str(path / "tokenizer.json"))
        self.file.save(path)

    @classmethod
    def load(cls, folder: Path, file: RouterFile) -> Self:
        """Read the router from its folder.

        Raises:
            RouterError: a file is missing or damaged, or the weights are another router's.
        """
        require_files(folder, ["model.safetensors", "tokenizer.json"])
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing narrower
            reason = str(error).splitlines()[0]
            raise RouterError(
                folder / "tokenizer.json", f"damaged ({reason})", "copy the folder again"
            ) from None
        router = cls.untrained(file, tokenizer)
        try:
            router.model.load_state_dict(load_file(folder / "model.safetensors"))
        except RuntimeError:
            raise RouterError(
                folder / "model.safetensors",
                "does not fit router.json and tokenizer.json",
                "copy the whole router folder",
            ) from None
        return router
