"""Training the decoder: TRL's SFTTrainer with a PEFT adapter, loss on the completion only.

Rows reach TRL as token ids: the prompt comes from the router's own `PromptFormat`, so what is
trained is what is served. TRL computes the vocabulary projection at the completion's positions
only, which is most of the cost of a small model with a large vocabulary.
"""

import logging
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets.arrow_dataset import Dataset as ArrowDataset
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import set_seed
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from distill.config import DecoderConfig
from distill.errors import ConfigError, DatasetError
from distill.render import completion
from distill.routers import pretrained
from distill.routers.decoder import DecoderRouter
from distill.routers.decoding import PromptFormat
from distill.routers.devices import dtype
from distill.routers.folder import RouterFile
from distill.routers.labels import LabelSpace
from distill.training import loop
from distill.training.adapt import adapted_decoder, count
from distill.training.job import Job, Trained
from distill.training.logs import RunLog
from distill.training.validation import Array, distinct, ratio
from distill.types import Example

log = logging.getLogger(__name__)

IGNORED = -100
"""The label of positions that carry no loss, as transformers has it."""


def row(example: Example, prompts: PromptFormat, limit: int) -> loop.Row | None:
    """Token ids and labels of one example; None when the completion needs more than `limit`."""
    prompt = prompts.ids(prompts.prompt(example.context))
    text = completion(example.label, example.context.tools)
    answer = [*prompts.ids(text), prompts.tokenizer.eos_token_id]
    if len(answer) > limit:
        return None
    return {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}


def train_decoder(config: DecoderConfig, job: Job) -> Trained:
    """An adapter of the base model: a LoRA, a soft prompt, or both.

    Raises:
        DatasetError: no completion of the training or the validation part fits `max_new_tokens`.
        ModelError: the base model cannot be had, or its tokenizer has no end token, or a soft
            prompt already.
        ConfigError: `lora.targets` does not fit the base model.
    """
    set_seed(job.seed)
    base = pretrained.resolve(config.model, config.revision)
    tokenizer = pretrained.load_tokenizer(base)
    # Frozen weights are kept as they are computed with; PEFT keeps the adapter's in float32.
    plain = pretrained.load_decoder(base, dtype(config.train.precision))
    run_log = RunLog(job, config.train)
    prompts = PromptFormat.new(tokenizer, config)
    limit = config.max_examples
    sample = _sample(job.parts.train, limit, job.seed)
    train = [made for made in _rows(sample, prompts, config) if made is not None]
    if not train:
        raise DatasetError(
            "max_new_tokens", f"no label fits in {config.max_new_tokens} tokens", "raise it"
        )
    fifth = None if limit is None else max(1, limit // 5)
    drawn, counts = distinct(_sample(job.parts.validation, fifth, job.seed))
    made = _rows(drawn, prompts, config)
    validation = [row for row in made if row is not None]
    weights = counts[[row is not None for row in made]]
    loop.require_validation(validation)
    parameters = count(plain)
    model = adapted_decoder(plain, tokenizer, config, job.seed)
    if isinstance(model.get_output_embeddings(), BaseTunerLayer):
        # TRL multiplies by the projection's plain weight, so that an adapter would not be trained.
        raise ConfigError(
            "lora.targets", "LoRA cannot be put on the vocabulary projection", "leave it out"
        )
    trainable = count(model, trainable=True)
    trainer = loop.trainer_class(SFTTrainer, _figures)(
        model=model,
        args=loop.training_arguments(
            SFTConfig,
            config.train,
            job,
            rows=len(train),
            metric="eval_loss",
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            gradient_checkpointing=False,
        ),
        train_dataset=ArrowDataset.from_list(train),
        eval_dataset=ArrowDataset.from_list(validation),
        processing_class=tokenizer,
        compute_metrics=lambda found: _scores(np.asarray(found.predictions), weights),
        callbacks=loop.callbacks(run_log, job, config.train),
        optimizers=(
            loop.optimizer(model, config.train, soft_prompt=config.soft_prompt_learning_rate),
            None,
        ),
    )
    best: Any = loop.fit(trainer, job.run)
    assert isinstance(best, PeftModel)
    # The labels' classes are recorded for the report; the decoder itself may name any tool.
    labels = LabelSpace.of(example.label for example in job.parts.train)
    base = pretrained.pinned(base, plain)
    # An adapter needs its base again: the same commit, or the folder wherever one stands.
    config = config.model_copy(
        update={"model": base.source if base.local else config.model, "revision": base.revision}
    )
    file = RouterFile(config, job.parts.catalogue, labels, base.describe())
    router = DecoderRouter(file, tokenizer, best)
    # All that is trained is new, and what it started from is no part of the router.
    return Trained(router, parameters + trainable, trainable, run_log.seconds)


def _sample(examples: Sequence[Example], limit: int | None, seed: int) -> Sequence[Example]:
    if limit is None or len(examples) <= limit:
        return examples
    return random.Random(seed).sample(list(examples), limit)


def _rows(
    examples: Sequence[Example], prompts: PromptFormat, config: DecoderConfig
) -> list[loop.Row | None]:
    """A row for each example, or None where its label is too long; says how many are."""
    rows = [row(example, prompts, config.max_new_tokens) for example in examples]
    fitting = [r for r in rows if r is not None]
    left_out = len(rows) - len(fitting)
    if left_out:
        log.warning("%d labels over %d tokens left out", left_out, config.max_new_tokens)
    too_long = sum(r["labels"].count(IGNORED) > config.max_tokens for r in fitting)
    if too_long:
        # Their tools alone fill the prompt; routing will read these contexts in full length too.
        log.warning("%d prompts stay over %d tokens", too_long, config.max_tokens)
    return rows


def _figures(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """[rows, 2]: the loss summed over the label's tokens, and how many these are."""
    output = model(**inputs, use_cache=False, fused_lm_head=True)
    tokens = output.label_mask.double()
    return torch.stack([-output.log_probs.double().sum(1), tokens.sum(1)], dim=1)


def _scores(figures: Array, weights: Array) -> dict[str, float]:
    """The loss per label token of the whole part, which decides early stopping.

    Args:
        figures: [rows, 2] as `_figures` makes them.
        weights: [rows] how often each row counts.
    """
    loss, error = ratio(weights * figures[:, 0], weights * figures[:, 1])
    return {"loss": loss, "standard_error": error}
