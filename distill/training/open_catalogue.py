"""Training the encoder that matches contexts with tools, for catalogues that are open.

An example learns to choose among candidates: the reply, the tools its label calls, those of its
other offered tools that are most like its context before training (hard negatives), and a few tools
of other examples' labels. All of it is settled before the first step and belongs to the example
alone, not to its batch as is usual with contrastive losses: so steps do not change with the size of
micro-batches or the number of processes. Validation chooses among everything that is offered.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any, cast

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
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
from distill.routers.open_encoder import OpenEncoder, OpenEncoderRouter, row_losses
from distill.routers.words import REPLY_IN_WORDS, tool_text
from distill.training import loop
from distill.training.adapt import adapted_encoder, base_encoder, count
from distill.training.job import Job, Trained
from distill.training.logs import RunLog
from distill.training.rename import renamed
from distill.training.validation import accuracy_scores, distinct
from distill.types import Decision, Example, ToolSpec

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
    model = OpenEncoder(encoder, min(most, candidates.MAX_CALLS)).to(devices.device())
    model.head.repeat.fill_(_repeat(labels))
    # Before LoRA: the untuned encoder says which negatives are hard.
    reader = OpenEncoderRouter(
        RouterFile(config, job.parts.catalogue, LabelSpace.of(labels)), tokenizer, model
    )
    narrowed = _narrowed(job.parts.train, reader, job.seed)
    rows = _Rows(reader)
    train = [rows.add(example) for example in narrowed]
    calling = [row for row in train if row["labels"]]
    model.head.start_counting(
        calls=sum(row["labels"] for row in calling) / len(calling),
        tokens=sum(len(row["input_ids"]) for row in calling) / len(calling),
    )
    validation, weights = distinct(job.parts.validation)
    loop.require_validation(validation)
    judged = [rows.add(example) for example in validation]
    lora = adapted_encoder(model, config.lora)
    trainable = count(lora, trainable=True)
    figures = _Figures(float(model.head.repeat))
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
        optimizers=(loop.optimizer(lora, config.train, config.head_learning_rate), None),
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


def _repeat(labels: Sequence[Decision]) -> float:
    """The odds that a further call of a decision repeats a tool, at most 1 (`candidates`).

    Half a call is added to either side, so that what was never seen is not impossible.
    """
    further = sum(max(len(label.calls) - 1, 0) for label in labels)
    again = sum(len(label.calls) - len(set(label.tools)) for label in labels if label.calls)
    return min(1.0, (again + 0.5) / (further - again + 0.5))


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

    def ids(self, text: str) -> list[int]:
        limit = self.reader.config.max_tokens
        return cast(list[int], self.tokenizer(text, truncation=True, max_length=limit)["input_ids"])

    def add(self, example: Example) -> loop.Row:
        """The row of an example: its context's ids, its candidates and how often it calls each."""
        tools = candidates.offered(example.context)
        chars = self.reader.config.match.tool_chars
        calls = Counter(call.name for call in example.label.calls)
        return {
            "input_ids": self.ids(self.reader.text(example.context)),
            "candidates": [0, *(self.place(tool_text(tool, chars)) for tool in tools)],
            "counts": [int(not calls), *(calls[tool.name] for tool in tools)],
            "labels": calls.total(),
        }

    def collate(self, rows: list[loop.Row]) -> dict[str, Tensor]:
        """A batch as `OpenEncoder.forward` takes it; each tool of the rows is in it once."""
        used = sorted({0, *(place for row in rows for place in row["candidates"])})
        column = {place: i for i, place in enumerate(used)}
        tools = self.pad([{"input_ids": self.table[place], "labels": 0} for place in used])
        width = max(len(row["candidates"]) for row in rows)
        chosen = torch.full((len(rows), width), _NONE)
        counts = torch.zeros(len(rows), width)
        for i, row in enumerate(rows):
            n = len(row["candidates"])
            chosen[i, :n] = torch.tensor([column[place] for place in row["candidates"]])
            counts[i, :n] = torch.tensor(row["counts"], dtype=counts.dtype)
        return {
            **self.pad(rows),
            "tool_ids": tools["input_ids"],
            "tool_mask": tools["attention_mask"],
            "candidates": chosen,
            "counts": counts,
        }


class _Figures(TrainerCallback):
    """What each validation row adds: its loss, and 1 where the router's decision is the label's.

    Tools' vectors are remembered between two steps of training, since rows offer the same ones.
    """

    def __init__(self, repeat: float) -> None:
        self.repeat = repeat
        self.vectors: dict[tuple[int, ...], Tensor] = {}

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.vectors.clear()

    def __call__(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        tools = self._vectors(model, inputs["tool_ids"], inputs["tool_mask"])
        mask = inputs["attention_mask"]
        places, counts = inputs["candidates"], inputs["counts"]
        own = places != _NONE
        states = model.states(inputs["input_ids"], mask)
        scores, numbers = model.head(states, mask, tools[places.clamp(min=0)], own)
        losses = row_losses(scores.double(), numbers.double(), counts.double(), inputs["labels"])
        shares = numbers.double().softmax(1).cpu().numpy()
        hits = []
        for row in range(len(losses)):
            logits = scores[row, own[row]].double().cpu().numpy()
            found = candidates.choose(logits, shares[row], self.repeat)
            # Candidate 0 is the reply: calling nothing is choosing it.
            hits.append(np.array_equal(found, counts[row, own[row]][1:].cpu().numpy()))
        return torch.stack([losses, torch.tensor(hits).to(losses)], dim=1)

    def _vectors(self, model: Any, ids: Tensor, mask: Tensor) -> Tensor:
        lengths = mask.sum(1).tolist()
        keys = [tuple(row[:n]) for row, n in zip(ids.tolist(), lengths, strict=True)]
        new = [i for i, key in enumerate(keys) if key not in self.vectors]
        if new:
            width = max(lengths[i] for i in new)
            made = model.vectors(ids[new, :width], mask[new, :width])
            self.vectors |= {keys[i]: vector for i, vector in zip(new, made, strict=True)}
        return torch.stack([self.vectors[key] for key in keys])
