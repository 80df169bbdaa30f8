"""What an encoder router is, whatever computes it: the text it reads, its tokens, its classes.

PyTorch (`distill.routers.encoder`) and ONNX Runtime (`distill.routers.onnx`) turn the same token
rows into class logits; this module knows neither.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from transformers import PreTrainedTokenizerBase

from distill.config import EncoderConfig
from distill.render import TEXT_STEPS, fit, render_text
from distill.routers.classifier import ClassifierRouter
from distill.routers.folder import RouterFile
from distill.routers.labels import Probabilities
from distill.types import Context

TokenRows = npt.NDArray[np.int64]
Logits = npt.NDArray[np.floating[Any]]


class EncodingRouter(ClassifierRouter):
    """An encoder router but for its forward pass."""

    batch: ClassVar[int]
    """Rows computed together at most."""

    def __init__(self, file: RouterFile, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(file)
        self.tokenizer = tokenizer
        self.config = cast(EncoderConfig, file.config)

    def text(self, context: Context) -> str:
        return encoder_text(context, self.tokenizer, self.config)

    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows = np.empty((len(texts), len(self.file.labels)))
        for start in range(0, len(order), self.batch):
            chunk = order[start : start + self.batch]
            logits = self.logits(*self.token_rows([texts[i] for i in chunk]))
            rows[chunk] = softmax(logits.astype(np.float64), axis=1)
        return rows

    def token_rows(self, texts: Sequence[str]) -> tuple[TokenRows, TokenRows]:
        """Token ids and mask of texts, [texts, time] each."""
        tokens = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.config.max_tokens,
            return_tensors="np",
        )
        return cast(TokenRows, tokens["input_ids"]), cast(TokenRows, tokens["attention_mask"])

    @abstractmethod
    def logits(self, input_ids: TokenRows, attention_mask: TokenRows) -> Logits:
        """Class logits [rows, classes] of token rows.

        Args:
            input_ids: [rows, time], padded.
            attention_mask: [rows, time], 1 for real tokens.
        """


def encoder_text(
    context: Context, tokenizer: PreTrainedTokenizerBase, config: EncoderConfig
) -> str:
    """The text that training and routing alike tokenize, shrunk to `max_tokens`."""
    return fit(
        lambda scale: render_text(context, config.render, scale),
        lambda text: len(cast(list[int], tokenizer(text, verbose=False)["input_ids"])),
        config.max_tokens,
        TEXT_STEPS,
    )
