"""LoRA and soft prompts through PEFT, and what a base model must have for a config to fit it."""

import re
from typing import Any, Literal, cast

from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, TrainableTokensConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.config import DecoderConfig, EncoderConfig, LoraConfig
from distill.errors import ConfigError, ModelError
from distill.routers import pretrained, soft_prompt


def adapted(
    model: nn.Module, config: LoraConfig, *, targets: str | list[str] | None = None, **extra: Any
) -> PeftModel:
    """The model with a fresh LoRA; its own weights are frozen.

    Args:
        targets: in place of the config's `targets`.
        extra: further arguments of PEFT's config.

    Raises:
        ConfigError: `lora.targets` names no layer of the model, or one that takes no LoRA.
    """
    # PEFT changes the model in place, so what there is to choose from is asked for before.
    names = sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and not name.endswith("head")
        }
    )
    settings = PeftLoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=config.targets if targets is None else targets,
        **extra,
    )
    try:
        return cast(PeftModel, get_peft_model(cast(Any, model), settings))
    except (ValueError, re.error) as error:
        raise ConfigError(
            "lora.targets",
            f"{config.targets!r} names no layer that takes LoRA ({str(error).splitlines()[0]})",
            f"use all-linear, or some of: {', '.join(names)}",
        ) from None


def adapted_encoder(model: nn.Module, config: LoraConfig) -> PeftModel:
    """A model of an `encoder` and a `head`: LoRA on the one, the other trained whole.

    Raises:
        ConfigError: as `adapted`.
    """
    # PEFT's own "all-linear" takes the pooler too, whose output is never read.
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("encoder.") and "pooler" not in name
    ]
    targets = linear if config.targets == "all-linear" else config.targets
    return adapted(model, config, targets=targets, modules_to_save=["head"])


def adapted_decoder(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: DecoderConfig, seed: int
) -> PeftModel:
    """A causal LM with a fresh LoRA, soft prompt or both; its own weights are frozen.

    Args:
        tokenizer: has the soft prompt's tokens.

    Raises:
        ConfigError: as `adapted`.
    """
    vectors = list(range(config.soft_prompt))
    if vectors:
        soft_prompt.attach(model, tokenizer, len(vectors), seed)
    if config.lora is None:
        alone = TrainableTokensConfig(
            task_type="CAUSAL_LM", target_modules=[soft_prompt.NAME], token_indices=vectors
        )
        return cast(PeftModel, get_peft_model(model, alone))
    trained = {soft_prompt.NAME: vectors} if vectors else None
    return adapted(model, config.lora, task_type="CAUSAL_LM", trainable_token_indices=trained)


def count(model: nn.Module, trainable: bool = False) -> int:
    """Parameters of a model, or those of them that are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def base_encoder(
    config: EncoderConfig,
) -> tuple[pretrained.BaseModel, PreTrainedTokenizerBase, PreTrainedModel]:
    """The config's base model: what it is, its tokenizer, and its encoder in float32.

    Raises:
        ModelError: it cannot be had, or its tokenizer does not pad.
        ConfigError: `max_tokens` is more than it has positions for.
    """
    base = pretrained.resolve(config.model, config.revision)
    tokenizer = pretrained.load_tokenizer(base)
    encoder = pretrained.load_encoder(base)
    require_fit(encoder, tokenizer, config)
    return base, tokenizer, encoder


def require_fit(
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: EncoderConfig,
    length: Literal["max_tokens", "argument_tokens"] = "max_tokens",
) -> None:
    """Check that texts of the length that the config has under `length` can be read, in batches.

    Raises:
        ModelError: the tokenizer has no padding token.
        ConfigError: the length is more than the model has positions for.
    """
    tokens = getattr(config, length)
    if tokenizer.pad_token_id is None:
        raise ModelError(config.model, "its tokenizer has no padding token", "use another encoder")
    limit = _positions(encoder)
    if limit is not None and tokens > limit:
        raise ConfigError(
            length,
            f"{config.model} reads at most {limit} tokens, not {tokens}",
            f"use {limit} or fewer",
        )


def _positions(encoder: PreTrainedModel) -> int | None:
    """Rows of the table of absolute positions; None for a model that knows none."""
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and its like count positions from after the padding row.
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - first
    return None
