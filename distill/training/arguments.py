"""Training what fills arguments: a row for each call of the labels, LoRA on the encoder again.

The filler is a training of its own beside that of the tools (`RunDir.training`), on the same loop:
a run killed in either goes on there. A value that stands nowhere in the evidence is taught as not
to be found, unless other groups have it, too: then it is one of the parameter's options. Which
they are, a training row is told without its own group, as an unseen one would be; else every value
would be an option where it is learned and hardly any where it is used.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, cast

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments, set_seed

from distill.chat import canonical
from distill.config import EncoderConfig
from distill.errors import DatasetError, ModelError
from distill.routers import pretrained
from distill.routers.arguments import ArgumentFiller, FillingRouter, reading
from distill.routers.pointers import Missing, PointerReader, padded
from distill.routers.slots import OPTION_CHARS, Constants, option_text
from distill.runs import RunDir
from distill.training import loop
from distill.training.adapt import adapted_encoder, count, require_fit
from distill.training.job import Job, Trained
from distill.training.logs import RunLog
from distill.training.validation import accuracy_scores, distinct
from distill.types import Context, Example, ToolCall, ToolSpec

_CONSTANTS = 12
"""Options that a parameter has of the teacher's values, those of most groups."""
_GROUPS = 2
"""Groups that must have a value for it to be one."""

Value = tuple[str, str, bytes]
"""A tool, its parameter and a value's canonical JSON."""


@dataclass(frozen=True)
class SeenValues:
    """Values that stood nowhere in the evidence, and the groups whose teacher gave them."""

    values: dict[Value, Any]
    groups: dict[Value, frozenset[str]]

    def constants(self, without: str | None = None) -> Constants:
        """The values that at least `_GROUPS` groups have, `without` not counted."""
        spread = {value: len(groups - {without}) for value, groups in self.groups.items()}
        found: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
        # Sorting keeps the order of training among equals.
        for key in sorted(spread, key=lambda key: -spread[key]):
            tool, parameter, _ = key
            if spread[key] >= _GROUPS and len(found[tool][parameter]) < _CONSTANTS:
                found[tool][parameter].append(self.values[key])
        return {tool: dict(parameters) for tool, parameters in found.items()}


def calls(example: Example) -> Iterator[tuple[ToolSpec, ToolCall]]:
    """The label's calls that a filler is asked about: filled ones, of tools called once."""
    offered = {tool.name: tool for tool in example.context.tools}
    times = Counter(call.name for call in example.label.calls)
    for call in example.label.calls:
        tool = offered[call.name]
        if (
            call.arguments is not None
            and times[call.name] == 1
            and tool.parameters.get("properties")
        ):
            yield tool, call


def value_of(call: ToolCall, parameter: str) -> Any:
    """The value that the call has for a parameter, or `Missing.OMITTED`."""
    return (call.arguments or {}).get(parameter, Missing.OMITTED)


def seen_values(
    examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase, config: EncoderConfig
) -> SeenValues:
    """What the labels' calls have that stands nowhere in their conversations.

    A value that stands there and is missing from the evidence alone, such as one of fifty search
    results, is not the teacher's own.
    """
    values: dict[Value, Any] = {}
    groups: dict[Value, set[str]] = defaultdict(set)
    for example in examples:
        said = _said(example.context)
        for tool, call in calls(example):
            made = reading(example.context, tool, {}, tokenizer, config)
            for i, slot in enumerate(made.slots if made else ()):
                value = value_of(call, slot.name)
                if value is Missing.OMITTED or slot.kind is None:
                    continue
                assert made is not None
                starts, _ = made.targets(i, value)
                if (
                    starts == made.names[i][:1]
                    and len(option_text(value)) <= OPTION_CHARS
                    and not _stands(option_text(value), said)
                ):
                    key = (tool.name, slot.name, canonical(value))
                    values.setdefault(key, value)
                    groups[key].add(example.group)
    return SeenValues(values, {key: frozenset(found) for key, found in groups.items()})


def _said(context: Context) -> str:
    parts: list[str] = []
    for message in context.messages:
        parts.append(message.content or "")
        parts.extend(canonical(call.arguments).decode() for call in message.calls)
    return "\n".join(parts)


def _stands(value: str, text: str) -> bool:
    """Whether the value stands in the text by itself, and not within a longer word or number.

    As it is written: `distill.mentions` would also take `total visits` for `total_visits`, which
    the teacher knows and the text does not show.
    """
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text) is not None


def rows(
    example: Example,
    constants: Constants,
    tokenizer: PreTrainedTokenizerBase,
    config: EncoderConfig,
) -> list[loop.Row]:
    """A reading for each call that can be filled, and where each slot's pointers should be."""
    found: list[loop.Row] = []
    for tool, call in calls(example):
        made = reading(example.context, tool, constants, tokenizer, config)
        if made is not None:
            values = [value_of(call, slot.name) for slot in made.slots]
            targets = [made.targets(i, value) for i, value in enumerate(values)]
            found.append({"input_ids": made.ids, "reading": made, "targets": targets})
    return found


def with_arguments(trained: Trained, config: EncoderConfig, job: Job) -> Trained:
    """The trained router of tools, followed by a filler trained on the same job.

    Raises:
        DatasetError: no call of training or validation has arguments that can be learned.
        ModelError: the base model's tokenizer does not know its tokens' characters.
        ConfigError: `argument_tokens` is more than the base model reads.
    """
    # Anew, so that the filler does not depend on how the tools were learned, or when.
    set_seed(job.seed)
    job = replace(job, run=RunDir(job.run.path, "arguments"))
    base = pretrained.resolve(config.model, config.revision)
    tokenizer = pretrained.load_tokenizer(base)
    if not tokenizer.is_fast:
        raise ModelError(
            config.model,
            "its tokenizer does not know its tokens' characters",
            "use another encoder",
        )
    encoder = pretrained.load_encoder(base)
    require_fit(encoder, tokenizer, config, "argument_tokens")
    log = RunLog(job, config.argument_train)
    # Each example once: its copies would cost their time again and show no other words.
    examples, _ = distinct(job.parts.train)
    held_out, weights = distinct(job.parts.validation)
    seen = seen_values(examples, tokenizer, config)
    constants = seen.constants()
    train = [
        row
        for example in examples
        for row in rows(example, seen.constants(example.group), tokenizer, config)
    ]
    validation = [rows(example, constants, tokenizer, config) for example in held_out]
    weights = np.repeat(weights, [len(found) for found in validation])
    if not train:
        raise DatasetError(
            "routers: arguments", "no call in training has arguments to learn", "set it to none"
        )
    evaluated = list(chain.from_iterable(validation))
    loop.require_validation(evaluated)
    lora = adapted_encoder(PointerReader(encoder), config.lora)
    trainable = count(lora, trainable=True)
    trainer = loop.trainer_class(Trainer, _figures)(
        model=lora,
        args=loop.training_arguments(
            TrainingArguments, config.argument_train, job, rows=len(train), metric="eval_score"
        ),
        train_dataset=train,
        eval_dataset=evaluated,
        data_collator=_collator(cast(int, tokenizer.pad_token_id)),
        compute_metrics=lambda found: accuracy_scores(np.asarray(found.predictions), weights),
        callbacks=loop.callbacks(log, job, config.argument_train),
        optimizers=(
            loop.optimizer(lora, config.argument_train, head=config.head_learning_rate),
            None,
        ),
    )
    best: Any = loop.fit(trainer, job.run)
    assert isinstance(best, PeftModel)
    merged: Any = best.merge_and_unload()
    filler = ArgumentFiller(config, tokenizer, merged.cpu(), constants)
    return Trained(
        FillingRouter(trained.router, filler, cast(Any, trained.router).file),
        trained.parameters + count(merged),
        trained.trainable_parameters + trainable,
        trained.seconds + log.seconds,
    )


def _collator(pad: int) -> Any:
    def collate(rows: Sequence[loop.Row]) -> dict[str, torch.Tensor]:
        batch = padded([row["reading"] for row in rows], pad)
        starts, ends = torch.zeros_like(batch["starts"]), torch.zeros_like(batch["ends"])
        starts[:, :, 0] = True  # where slots that only fill up a row begin
        for i, made in enumerate(rows):
            starts[i, : len(made["targets"]), 0] = False
            for j, (begin, end) in enumerate(made["targets"]):
                starts[i, j, begin] = True
                ends[i, j, end] = True
        return batch | {"start_targets": starts, "end_targets": ends}

    return collate


def _figures(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """[rows, 2]: the loss, and 1 where every slot's most probable places are right."""
    output = model(**inputs)
    starts, ends = output["pointers"].argmax(-1)
    right = inputs["start_targets"].gather(2, starts.unsqueeze(-1)).squeeze(-1)
    ended = inputs["end_targets"].gather(2, ends.unsqueeze(-1)).squeeze(-1)
    # The second pointer counts only where the first one begins a stretch.
    option = starts.unsqueeze(-1) < inputs["ends"].long().argmax(-1, keepdim=True)
    right &= ended | option.squeeze(-1) | ~inputs["ends"].any(-1)
    return torch.stack([output["losses"].double(), right.all(1).double()], dim=1)
