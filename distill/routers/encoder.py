"""A pretrained encoder with mean pooling and a linear tool head, its LoRA merged on save.

The folder is a sentence-transformers model (transformer, mean pooling, dense layer) whose
"embedding" is the vector of class logits, so that sentence-transformers, text-embeddings-inference
and vLLM's pooling runner serve it as it is. Mean pooling rather than the `[CLS]` state that
`AutoModelForSequenceClassification` reads: MiniLM was pretrained with it (Reimers and Gurevych
2019, arXiv:1908.10084), and from its untrained pooler the same training stays far behind.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.routers import pretrained
from distill.routers.devices import device
from distill.routers.encoding import EncodingRouter, Logits, TokenRows
from distill.routers.folder import RouterFile, require_files
from distill.runs import write_json

_HEAD = "2_Dense"


class EncoderClassifier(nn.Module):
    """Encoder, mean over the unmasked positions, linear head."""

    def __init__(self, encoder: PreTrainedModel, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, classes)

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
        logits = self.head(self.pooled(input_ids, attention_mask).to(self.head.weight.dtype))
        output = {"logits": logits}
        if labels is not None:
            output["loss"] = nn.functional.cross_entropy(logits, labels)
        return output

    def pooled(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Mean of the last states over the unmasked positions, [batch, hidden]."""
        states: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        return mean(states, attention_mask)


def mean(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over the unmasked positions, [batch, time, hidden] -> [batch, hidden]."""
    mask = attention_mask.unsqueeze(-1).to(states.dtype)
    return (states * mask).sum(1) / mask.sum(1)


class EncoderRouter(EncodingRouter):
    """The encoder as a router."""

    batch = 32

    def __init__(
        self, file: RouterFile, tokenizer: PreTrainedTokenizerBase, model: EncoderClassifier
    ) -> None:
        super().__init__(file, tokenizer)
        self.model = model.eval()

    def logits(self, input_ids: TokenRows, attention_mask: TokenRows) -> Logits:
        with torch.inference_mode():
            logits: Tensor = self.model(self._moved(input_ids), self._moved(attention_mask))[
                "logits"
            ]
        return cast(Logits, logits.cpu().numpy())

    def rows(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask of texts, [texts, time] each, on the network's device."""
        input_ids, attention_mask = self.token_rows(texts)
        return self._moved(input_ids), self._moved(attention_mask)

    def _moved(self, rows: TokenRows) -> Tensor:
        return torch.from_numpy(rows).to(self.model.head.weight.device)

    def save(self, path: Path) -> None:
        self.model.encoder.save_pretrained(path)
        self.tokenizer.save_pretrained(path)
        self._save_head(path)
        self.file.save(path)

    def _save_head(self, path: Path) -> None:
        """The pooling and dense modules as sentence-transformers describes them."""
        hidden, classes = self.model.head.in_features, self.model.head.out_features
        module = "sentence_transformers.models"
        names = [("", "Transformer"), ("1_Pooling", "Pooling"), (_HEAD, "Dense")]
        write_json(
            path / "modules.json",
            [
                {"idx": i, "name": str(i), "path": folder, "type": f"{module}.{kind}"}
                for i, (folder, kind) in enumerate(names)
            ],
        )
        write_json(
            path / "sentence_bert_config.json",
            {"max_seq_length": self.config.max_tokens, "do_lower_case": False},
        )
        write_json(
            path / "1_Pooling" / "config.json",
            {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True},
        )
        write_json(
            path / _HEAD / "config.json",
            {
                "in_features": hidden,
                "out_features": classes,
                "bias": True,
                "activation_function": "torch.nn.modules.linear.Identity",
            },
        )
        state = self.model.head.state_dict()
        save_file(
            {f"linear.{name}": tensor.cpu().contiguous() for name, tensor in state.items()},
            path / _HEAD / "model.safetensors",
        )

    @classmethod
    def load(cls, folder: Path, file: RouterFile) -> "EncoderRouter":
        require_files(folder, ["model.safetensors", f"{_HEAD}/model.safetensors"])
        local = pretrained.saved(folder)
        model = EncoderClassifier(pretrained.load_encoder(local), len(file.labels))
        head = load_file(folder / _HEAD / "model.safetensors")
        model.head.load_state_dict(
            {name.removeprefix("linear."): tensor for name, tensor in head.items()}
        )
        return cls(file, pretrained.load_tokenizer(local), model.to(device()))
