"""Training the decoder: TRL's SFTTrainer with a PEFT LoRA, loss on the completion only.

Rows reach TRL as token ids: the prompt comes from the router's own `PromptFormat`, so what is
trained is what is served. TRL computes the vocabulary projection at the completion's positions
only, which is most of the cost of a small model with a large vocabulary.
"""

import logging
import random
from collections.abc import Sequence
from typing import Any

import torch
from datasets.arrow_dataset import Dataset as ArrowDataset
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from transformers import set_seed
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from distill.config import DecoderConfig
from distill.errors import DatasetError
from distill.render import completion
from distill.routers import pretrained
from distill.routers.decoder import DecoderRouter, PromptFormat
from distill.routers.folder import RouterFile
from distill.routers.labels import LabelSpace
from distill.training import loop
from distill.training.job import Job, Trained
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
    """A LoRA adapter on the base model.

    Raises:
        DatasetError: no completion of the training or the validation part fits `max_new_tokens`.
    """
    set_seed(job.seed)
    base = pretrained.resolve(config.model, config.revision)
    tokenizer = pretrained.load_tokenizer(base)
    prompts = PromptFormat(tokenizer, config)
    limit = config.max_examples
    train = _rows(_sample(job.parts.train, limit, job.seed), prompts, config)
    if not train:
        raise DatasetError(
            "max_new_tokens", f"no label fits in {config.max_new_tokens} tokens", "raise it"
        )
    fifth = None if limit is None else max(1, limit // 5)
    validation = _rows(_sample(job.parts.validation, fifth, job.seed), prompts, config)
    loop.require_validation(validation)
    # Frozen weights are kept as they are computed with; PEFT keeps the adapter's in float32.
    dtype = torch.bfloat16 if loop.in_bfloat16(config.train) else torch.float32
    model = get_peft_model(
        pretrained.load_decoder(base, dtype),
        PeftLoraConfig(
            r=config.lora.rank,
            lora_alpha=config.lora.alpha,  # type: ignore[arg-type]
            lora_dropout=config.lora.dropout,
            target_modules=config.lora.targets,
            task_type="CAUSAL_LM",
        ),
    )
    trainable, parameters = model.get_nb_trainable_parameters()
    log, callbacks = loop.callbacks(job, config.train)
    trainer = loop.trainer_class(SFTTrainer)(
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
            prediction_loss_only=True,
        ),
        train_dataset=ArrowDataset.from_list(train),
        eval_dataset=ArrowDataset.from_list(validation),
        processing_class=tokenizer,
        callbacks=callbacks,
        optimizers=(loop.optimizer(model, config.train), None),
    )
    best: Any = loop.fit(trainer, job.run)
    assert isinstance(best, PeftModel)
    # The labels' classes are recorded for the report; the decoder itself may name any tool.
    labels = LabelSpace.of(example.label for example in job.parts.train)
    file = RouterFile(config, job.parts.catalogue, labels, base.describe())
    return Trained(DecoderRouter(file, tokenizer, best), parameters, trainable, log.seconds)


def _sample(examples: Sequence[Example], limit: int | None, seed: int) -> Sequence[Example]:
    if limit is None or len(examples) <= limit:
        return examples
    return random.Random(seed).sample(list(examples), limit)


def _rows(
    examples: Sequence[Example], prompts: PromptFormat, config: DecoderConfig
) -> list[loop.Row]:
    rows = [row(example, prompts, config.max_new_tokens) for example in examples]
    fitting = [r for r in rows if r is not None]
    left_out = len(rows) - len(fitting)
    if left_out:
        log.warning("%d labels over %d tokens left out", left_out, config.max_new_tokens)
    too_long = sum(r["labels"].count(IGNORED) > config.max_tokens for r in fitting)
    if too_long:
        # Their tools alone fill the prompt; routing will read these contexts in full length too.
        log.warning("%d prompts stay over %d tokens", too_long, config.max_tokens)
    return fitting
