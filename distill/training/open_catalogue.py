"""Training the encoder that matches contexts with tools, for catalogues that are open.

An example learns to choose among candidates: the reply, the tools its label calls, those of its
other offered tools that are most like its context before training (hard negatives), and a few tools
of other examples' labels. All of it is settled before the first step and belongs to the example
alone, not to its batch as is usual with contrastive losses: so steps do not change with the size of
micro-batches or the number of processes. Validation chooses among everything that is offered.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any, cast

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from distill.config import EncoderConfig
from distill.errors import DatasetError
from distill.routers import candidates, devices, pretrained
from distill.routers.folder import RouterFile
from distill.routers.labels import LabelSpace
from distill.routers.open_encoder import OpenEncoder, OpenEncoderRouter
from distill.routers.words import REPLY_IN_WORDS, tool_text
from distill.training import loop
from distill.training.adapt import adapted_encoder, base_encoder, count
from distill.training.job import Job, Trained
from distill.training.logs import RunLog
from distill.training.rename import renamed
from distill.training.validation import accuracy_scores, distinct
from distill.types import Example, ToolSpec

_STARTING_ROWS, _STARTING_BATCH = 512, 32
_WEIGHT_RIDGE, _RIDGE, _ROUGHNESS = 0.2, 1e-4, 1e-3

_NONE = -1
"""In `candidates`, where a row has fewer than the longest of its batch."""


def train_open_encoder(config: EncoderConfig, job: Job) -> Trained:
    """LoRA on the encoder's linear layers and the matching head; merged into plain weights.

    Raises:
        ModelError: the base model cannot be had, or its tokenizer does not pad.
        ConfigError: `max_tokens` or `lora.targets` does not fit the base model.
        DatasetError: no label of the training part calls a tool.
    """
    set_seed(job.seed)
    base, tokenizer, encoder = base_encoder(config)
    log = RunLog(job, config.train)
    labels = [example.label for example in job.parts.train]
    most = max((len(label.calls) for label in labels), default=0)
    if not most:
        raise DatasetError("training part", "no label calls a tool", "give traces that do")
    vocabulary = len(tokenizer)
    model = OpenEncoder(encoder, min(most, candidates.MAX_CALLS), vocabulary).to(devices.device())
    # Before LoRA: the untuned encoder says which negatives are hard.
    reader = OpenEncoderRouter(
        RouterFile(config, job.parts.catalogue, LabelSpace.of(labels)), tokenizer, model
    )
    rows = _Rows(reader)
    model.bm25.count(rows.tools(job.parts.train), tokenizer.all_special_ids)
    train = [rows.add(example) for example in _narrowed(job.parts.train, reader, job.seed)]
    _start(model, rows, train)
    validation, weights = distinct(job.parts.validation)
    loop.require_validation(validation)
    judged = [rows.add(example) for example in validation]
    lora = adapted_encoder(model, config.lora)
    trainable = count(lora, trainable=True)
    figures = _Figures()
    trainer = loop.trainer_class(Trainer, figures)(
        model=lora,
        args=loop.training_arguments(
            TrainingArguments, config.train, job, rows=len(train), metric="eval_score"
        ),
        train_dataset=train,
        eval_dataset=judged,
        data_collator=rows.collate,
        compute_metrics=lambda found: accuracy_scores(np.asarray(found.predictions), weights),
        callbacks=[*loop.callbacks(log, job, config.train), figures],
        optimizers=(loop.optimizer(lora, config.train, head=config.head_learning_rate), None),
    )
    best: Any = loop.fit(trainer, job.run)
    assert isinstance(best, PeftModel)
    merged: Any = best.merge_and_unload()
    # The folder holds all weights: where the base lay on this machine is nobody's business.
    base = pretrained.pinned(base, encoder)
    config = config.model_copy(update={"model": base.name, "revision": base.revision})
    # The labels' classes are recorded for the report; the router itself may name any tool.
    file = RouterFile(config, job.parts.catalogue, LabelSpace.of(labels), base.describe())
    router = OpenEncoderRouter(file, tokenizer, merged.cpu())
    return Trained(router, count(merged), trainable, log.seconds)


def _start(model: OpenEncoder, rows: "_Rows", train: list[loop.Row]) -> None:
    """Fit the head's few numbers to the untuned encoder, by L-BFGS.

    A dozen numbers far from where they belong would else take the encoder's few steps to get there,
    and bend it meanwhile. The ridge keeps near where it was what the rows say little about, and the
    comparisons' weights above zero, where nothing would teach an encoder that knows no tool yet.
    """
    model.eval()
    features: list[Tensor] = []
    offered: list[Tensor] = []
    counts: list[Tensor] = []
    for start in range(0, min(len(train), _STARTING_ROWS), _STARTING_BATCH):
        batch = rows.collate(train[start : min(start + _STARTING_BATCH, _STARTING_ROWS)])
        batch = {name: tensor.to(devices.device()) for name, tensor in batch.items()}
        counts += batch.pop("counts").double()
        with torch.no_grad():
            tools = model.vectors(batch["tool_ids"], batch["tool_mask"])
            pairs = model.pairs(tools, **batch)
            features += model.head.features(pairs).double()
            offered += pairs.offered
    held = [pad_sequence(each, batch_first=True) for each in (features, offered, counts)]
    head = copy.deepcopy(model.head).double()
    numbers = [head.log_weights, head.reply_bias, head.numbers, head.once]
    before = [number.detach().clone() for number in numbers]
    ridges = [_WEIGHT_RIDGE, _RIDGE, _RIDGE, _RIDGE]
    optimizer: Any = torch.optim.LBFGS(numbers, max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = head.weigh(held[0], held[1]).losses(held[2]).mean()
        for number, old, ridge in zip(numbers, before, ridges, strict=True):
            found = found + ridge * (number - old).square().sum()
        # Numbers of calls that are rare take after those beside them.
        found = found + _ROUGHNESS * head.numbers.diff().square().sum()
        torch.autograd.backward(found)
        return found

    optimizer.step(loss)
    model.head.load_state_dict(head.state_dict())


def _narrowed(examples: Sequence[Example], reader: OpenEncoderRouter, seed: int) -> list[Example]:
    """The examples with the tools they learn to choose among, and some of them renamed."""
    settings = reader.config.match
    called: dict[str, ToolSpec] = {}
    for example in examples:
        called |= {t.name: t for t in example.context.tools if t.name in example.label.tool_counts}
    names = sorted(called)
    made = []
    for number, (example, similarity) in enumerate(
        zip(examples, _similarities(examples, reader, settings.negatives), strict=True)
    ):
        # A row's own luck: what is drawn for it does not depend on the rows before.
        luck = Random(f"{seed} {number}")
        tools = example.context.tools
        right = [tool for tool in tools if tool.name in example.label.tool_counts]
        wrong = [tool for tool in tools if tool.name not in example.label.tool_counts]
        wrong.sort(key=lambda tool: (-similarity(tool), tool.name))
        kept = {tool.name: tool for tool in right + wrong[: settings.negatives]}
        for name in luck.sample(names, min(settings.others, len(names))):
            kept.setdefault(name, called[name])
        narrow = replace(example, context=replace(example.context, tools=tuple(kept.values())))
        made.append(renamed(narrow, luck) if luck.random() < settings.rename else narrow)
    return made


def _similarities(
    examples: Sequence[Example], reader: OpenEncoderRouter, wanted: int
) -> list[Callable[[ToolSpec], float]]:
    """For each example, how much its context resembles a tool as the router reads both.

    Where no example has more than the wanted negatives there is nothing to choose: all are alike.
    """
    spare = (len(e.context.tools) - len(set(e.label.tools)) for e in examples)
    if max(spare, default=0) <= wanted:
        return [lambda tool: 0.0] * len(examples)
    decisions = reader.decide([example.context for example in examples])
    return [
        lambda tool, scores=decision.scores: scores[tool.name]  # type: ignore[misc]
        for decision in decisions
    ]


class _Rows:
    """Examples as rows of token ids; tools' ids are kept once, in a table that rows point into."""

    def __init__(self, reader: OpenEncoderRouter) -> None:
        self.reader = reader
        self.tokenizer: PreTrainedTokenizerBase = reader.tokenizer
        self.table: list[list[int]] = []
        self.places: dict[str, int] = {}
        self.place(REPLY_IN_WORDS)
        self.pad = loop.padded(cast(int, self.tokenizer.pad_token_id))

    def place(self, text: str) -> int:
        """Where a tool's text stands in the table."""
        if text not in self.places:
            self.places[text] = len(self.table)
            self.table.append(self.ids(text))
        return self.places[text]

    def tools(self, examples: Sequence[Example]) -> list[list[int]]:
        """The ids of all tools that the examples offer, once each."""
        chars = self.reader.config.match.tool_chars
        offered = (tool_text(t, chars) for example in examples for t in example.context.tools)
        return [self.ids(text) for text in dict.fromkeys(offered)]

    def ids(self, text: str) -> list[int]:
        limit = self.reader.config.max_tokens
        return cast(list[int], self.tokenizer(text, truncation=True, max_length=limit)["input_ids"])

    def add(self, example: Example) -> loop.Row:
        """The row of an example: its context's ids, its candidates and how often it calls each."""
        tools = candidates.offered(example.context)
        chars = self.reader.config.match.tool_chars
        return {
            "input_ids": self.ids(self.reader.text(example.context)),
            "candidates": [0, *(self.place(tool_text(tool, chars)) for tool in tools)],
            "counts": [example.label.tool_counts[tool.name] for tool in tools],
        }

    def collate(self, rows: list[loop.Row]) -> dict[str, Tensor]:
        """A batch as `OpenEncoder.forward` takes it; each tool of the rows is in it once."""
        used = sorted({0, *(place for row in rows for place in row["candidates"])})
        column = {place: i for i, place in enumerate(used)}
        tools = self.pad([{"input_ids": self.table[place], "labels": 0} for place in used])
        width = max(len(row["candidates"]) for row in rows)
        chosen = torch.full((len(rows), width), _NONE)
        counts = torch.zeros(len(rows), width - 1)
        for i, row in enumerate(rows):
            n = len(row["candidates"])
            chosen[i, :n] = torch.tensor([column[place] for place in row["candidates"]])
            counts[i, : n - 1] = torch.tensor(row["counts"], dtype=counts.dtype)
        contexts = self.pad([{"input_ids": row["input_ids"], "labels": 0} for row in rows])
        return {
            "input_ids": contexts["input_ids"],
            "attention_mask": contexts["attention_mask"],
            "tool_ids": tools["input_ids"],
            "tool_mask": tools["attention_mask"],
            "candidates": chosen,
            "counts": counts,
        }


class _Figures(TrainerCallback):
    """What each validation row adds: its loss, and 1 where the router's decision is the label's.

    Tools' vectors are remembered between two steps of training, since rows offer the same ones.
    """

    def __init__(self) -> None:
        self.vectors: dict[tuple[int, ...], Tensor] = {}

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.vectors.clear()

    def __call__(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        tools = self._vectors(model, inputs["tool_ids"], inputs["tool_mask"])
        counts = inputs.pop("counts")
        beliefs = model.head(model.pairs(tools, **inputs))
        hits = (beliefs.most_probable() == counts).all(1)
        losses = beliefs.losses(counts).double()
        return torch.stack([losses, hits.to(losses)], dim=1)

    def _vectors(self, model: Any, ids: Tensor, mask: Tensor) -> Tensor:
        lengths = mask.sum(1).tolist()
        keys = [tuple(row[:n]) for row, n in zip(ids.tolist(), lengths, strict=True)]
        new = [i for i, key in enumerate(keys) if key not in self.vectors]
        if new:
            width = max(lengths[i] for i in new)
            made = model.vectors(ids[new, :width], mask[new, :width])
            self.vectors |= {keys[i]: vector for i, vector in zip(new, made, strict=True)}
        return torch.stack([self.vectors[key] for key in keys])
