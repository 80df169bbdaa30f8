"""Training the routers that classify: networks from scratch, the encoder through LoRA."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments, set_seed

from distill.config import AttentionConfig, EncoderConfig, RnnConfig, TrainConfig
from distill.render import cut, render_text
from distill.routers import pretrained
from distill.routers.encoder import EncoderClassifier, EncoderRouter
from distill.routers.encoding import encoder_text
from distill.routers.folder import RouterFile
from distill.routers.labels import LabelSpace
from distill.routers.scratch import PAD, ScratchRouter, learn_tokenizer
from distill.routers.words import REPLY_IN_WORDS, in_words
from distill.training import loop
from distill.training.adapt import adapted_encoder, base_encoder, count
from distill.training.job import Job, Trained
from distill.training.logs import RunLog
from distill.training.validation import accuracy_scores, distinct
from distill.types import REPLY, Example, ToolSpec

_PRIOR = 5.0
"""The logit with which a tool's own description starts (`_describe_classes`)."""


def train_from_scratch(
    config: RnnConfig | AttentionConfig, kind: type[ScratchRouter], job: Job
) -> Trained:
    """A network and its tokenizer, both from the training part alone."""
    set_seed(job.seed)
    log = RunLog(job, config.train)
    labels = LabelSpace.of(example.label for example in job.parts.train)
    texts = [render_text(example.context, config.render) for example in job.parts.train]
    tokenizer = learn_tokenizer(texts, config.vocabulary)
    router = kind.untrained(RouterFile(config, job.parts.catalogue, labels), tokenizer)

    def row(example: Example) -> loop.Row:
        ids = router.tokens(router.text(example.context))
        return {"input_ids": ids, "labels": labels.index(example.label)}

    best = _train(router.model, row, labels, config.train, job, log=log, pad=PAD)
    router.model = best.eval().cpu()
    return Trained(router, count(best), count(best), log.seconds)


def train_encoder(config: EncoderConfig, job: Job) -> Trained:
    """LoRA on the encoder's linear layers and a fresh head; merged into plain weights.

    Raises:
        ModelError: the base model cannot be had, or its tokenizer does not pad.
        ConfigError: `max_tokens` or `lora.targets` does not fit the base model.
    """
    set_seed(job.seed)
    base, tokenizer, encoder = base_encoder(config)
    log = RunLog(job, config.train)
    labels = LabelSpace.of(example.label for example in job.parts.train)
    model = EncoderClassifier(encoder, len(labels))
    _describe_classes(model, tokenizer, labels, job.parts.catalogue)
    lora = adapted_encoder(model, config.lora)
    trainable = count(lora, trainable=True)

    def row(example: Example) -> loop.Row:
        text = encoder_text(example.context, tokenizer, config)
        ids = tokenizer(text, truncation=True, max_length=config.max_tokens)["input_ids"]
        return {"input_ids": ids, "labels": labels.index(example.label)}

    best = _train(
        lora,
        row,
        labels,
        config.train,
        job,
        log=log,
        pad=cast(int, tokenizer.pad_token_id),
        head_learning_rate=config.head_learning_rate,
    )
    assert isinstance(best, PeftModel)
    merged: Any = best.merge_and_unload()
    # The folder holds all weights: where the base lay on this machine is nobody's business.
    base = pretrained.pinned(base, encoder)
    config = config.model_copy(update={"model": base.name, "revision": base.revision})
    file = RouterFile(config, job.parts.catalogue, labels, base.describe())
    router = EncoderRouter(file, tokenizer, merged.cpu())
    return Trained(router, count(merged), trainable, log.seconds)


def _describe_classes(
    model: EncoderClassifier,
    tokenizer: PreTrainedTokenizerBase,
    labels: LabelSpace,
    catalogue: Sequence[ToolSpec],
) -> None:
    """Start the head at what the encoder makes of each class's tool names and descriptions.

    A context then begins with the tool whose description it resembles, so that a tool of few
    examples is not learned from nothing (prototypes as in Snell et al. 2017, arXiv:1703.05175,
    section 2.6, from descriptions instead of examples). Their mean is taken out, since all
    descriptions share it; a context equal to a description gets a logit of about `_PRIOR`.
    """
    descriptions = {tool.name: tool.description for tool in catalogue}
    texts = ["; ".join(_in_words(name, descriptions) for name in names) for names in labels.classes]
    batch = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    with torch.no_grad():
        pooled = model.pooled(batch["input_ids"], batch["attention_mask"])
        # Descriptions that hardly differ must not become huge weights on their small differences.
        floor = float(pooled.square().sum(1).mean()) / 4
        pooled = pooled - pooled.mean(0)
        squared = pooled.square().sum(1, keepdim=True).clamp(min=floor)
        model.head.weight.copy_(_PRIOR * pooled / squared)
        model.head.bias.zero_()


def _in_words(name: str, descriptions: Mapping[str, str]) -> str:
    if name == REPLY:
        return REPLY_IN_WORDS
    return f"{in_words(name)}: {cut(descriptions.get(name, ''), 200)}"


def _train(
    model: nn.Module,
    row: Callable[[Example], loop.Row],
    labels: LabelSpace,
    config: TrainConfig,
    job: Job,
    *,
    log: RunLog,
    pad: int,
    head_learning_rate: float | None = None,
) -> Any:
    """The best model on validation."""
    train = [row(example) for example in job.parts.train]
    validation, weights = distinct(
        # A decision that training never saw has no class; it is counted as wrong in the report.
        example
        for example in job.parts.validation
        if labels.index(example.label) is not None
    )
    loop.require_validation(validation)
    trainer = loop.trainer_class(Trainer, _figures)(
        model=model,
        args=loop.training_arguments(
            TrainingArguments,
            config,
            job,
            rows=len(train),
            metric="eval_score",
        ),
        train_dataset=train,
        eval_dataset=[row(example) for example in validation],
        data_collator=loop.padded(pad),
        compute_metrics=lambda found: accuracy_scores(np.asarray(found.predictions), weights),
        callbacks=loop.callbacks(log, job, config),
        optimizers=(loop.optimizer(model, config, head=head_learning_rate), None),
    )
    return loop.fit(trainer, job.run)


def _figures(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """[rows, 2]: the cross-entropy, and 1 where the most probable class is the label."""
    logits = model(inputs["input_ids"], inputs["attention_mask"])["logits"].double()
    labels = inputs["labels"]
    loss = nn.functional.cross_entropy(logits, labels, reduction="none")
    return torch.stack([loss, (logits.argmax(1) == labels).double()], dim=1)
