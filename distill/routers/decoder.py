"""A small causal LM with an adapter that writes Hermes-style tool calls, by transformers.

What it is given and what is read of it is `distill.routers.decoding`.

Tokens that the grammar forces cost a forward pass each. llguidance could name them at once
(`compute_ff_tokens`), and they could be fed together; but they may be divided otherwise than the
model learned to write them, and then the rest would be another, too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from distill.config import DecoderConfig
from distill.errors import RouterError
from distill.routers import pretrained, soft_prompt
from distill.routers.decoding import Completion, DecodingRouter
from distill.routers.devices import device, dtype
from distill.routers.folder import RouterFile, require_files
from distill.routers.grammar import Constraint

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
"""What PEFT writes of an adapter."""


class _Recorded(LogitsProcessor):
    """Keeps, for each step, the log-probability [batch] of the token that greedy decoding takes.

    It is the model's own, over all tokens, although only an allowed one is taken.
    """

    def __init__(self, constraint: Constraint) -> None:
        self.constraint = constraint
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        allowed = self.constraint(input_ids, scores)
        taken = allowed.argmax(-1, keepdim=True)
        self.steps.append(scores.float().log_softmax(-1).gather(-1, taken).squeeze(-1).cpu())
        return allowed


class DecoderRouter(DecodingRouter):
    """The LM as a router. `model` is the base with its adapter merged in memory, or a PeftModel."""

    batch = 16

    def __init__(
        self,
        file: RouterFile,
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel | PeftModel,
    ) -> None:
        super().__init__(file, tokenizer)
        self.model = model.eval()

    def complete(self, prompts: list[list[int]], grammars: Sequence[str]) -> list[Completion]:
        matchers = [self.format.grammars.matcher(grammar) for grammar in grammars]
        width = max(map(len, prompts))
        pad, end = cast(int, self.tokenizer.pad_token_id), cast(int, self.tokenizer.eos_token_id)
        pad = end if pad is None else pad
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        recorded = _Recorded(Constraint(matchers, end))
        settings = GenerationConfig(
            max_new_tokens=self.config.max_new_tokens,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=end,
        )
        with torch.inference_mode():
            output = cast(Any, self.model).generate(
                input_ids=ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                generation_config=settings,
                logits_processor=LogitsProcessorList([recorded]),
            )
        steps = torch.stack(recorded.steps, dim=1).tolist()
        results = []
        rows = zip(output[:, width:].tolist(), steps, recorded.constraint.failed, strict=True)
        for tokens, row, failed in rows:
            ended = end in tokens
            length = tokens.index(end) + 1 if ended else len(tokens)
            results.append(Completion(tokens[:length], row[:length], ended and not failed))
        return results

    def save(self, path: Path) -> None:
        """Write the adapter (not the base), the tokenizer and the chat template.

        Raises:
            RouterError: the router was loaded, which merged its adapter into the base.
        """
        if not isinstance(self.model, PeftModel):
            raise RouterError(
                path, "a loaded decoder has no adapter apart from its base", "copy its folder"
            )
        base = self.file.base_model or {}
        for adapter in self.model.peft_config.values():
            # PEFT records where the base lay on this machine; a reader needs its public name.
            adapter.base_model_name_or_path = base.get("origin")
            adapter.revision = base.get("revision")
        # Left to decide about embeddings by itself, PEFT asks the hub for the base's config.
        self.model.save_pretrained(str(path), save_embedding_layers=False)
        # PEFT adds a card with empty headings; ours is made from the report when it is pushed.
        (path / "README.md").unlink(missing_ok=True)
        self.tokenizer.save_pretrained(path)
        self.file.save(path)

    @classmethod
    def load(cls, folder: Path, file: RouterFile) -> "DecoderRouter":
        """Load the base by its recorded name, then the adapter, merged for speed.

        Raises:
            ModelError: the base cannot be had.
            RouterError: the folder is not whole, or its files do not fit each other.
        """
        config = cast(DecoderConfig, file.config)
        # Merged in float32: in a coarser format small updates of large weights would be lost.
        tokenizer, model = load_adapted(folder, config)
        merged: Any = cast(Any, model).merge_and_unload()
        return cls(file, tokenizer, merged.to(device(), dtype(config.train.precision)))


def load_adapted(
    folder: Path,
    config: DecoderConfig,
    kind: torch.dtype = torch.float32,
    *,
    trainable: bool = False,
) -> tuple[PreTrainedTokenizerBase, PeftModel]:
    """The tokenizer of a decoder's folder, and its base with the adapter apart.

    Args:
        config: the folder's.
        kind: the base's number format.
        trainable: whether the adapter, in float32 then, is to be trained further.

    Errors as `DecoderRouter.load`.
    """
    require_files(folder, ADAPTER_FILES)
    base = pretrained.resolve(config.model, config.revision)
    tokenizer = pretrained.load_tokenizer(pretrained.saved(folder))
    model = pretrained.load_decoder(base, kind)
    if config.soft_prompt:
        try:
            soft_prompt.attach(model, tokenizer, config.soft_prompt)
        except ValueError as error:
            raise RouterError(
                folder / "tokenizer.json", str(error), "copy the folder again"
            ) from None
    return tokenizer, PeftModel.from_pretrained(model, folder, is_trainable=trainable)
