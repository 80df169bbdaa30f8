"""A distilled decoder that learns from recorded outcomes: weighted SFT, DPO or KTO, through TRL.

What is learned is the adapter, from where distillation left it. A copy of that beginning stays in
the model as a second adapter, the reference. For a decision y let

    r(y) = beta * (log p(y) - log p_reference(y)),

the reward that the router acts as if y had, were it the best router near the reference (Rafailov et
al. 2023, arXiv:2305.18290). Each method moves r towards the outcomes, whose unit is a success:

- `sft`: (r - w)^2 / 2, where w is the share of the decision's trials that succeeded: weighted
  maximum likelihood that ends at r = w, not beyond. After Richemond et al. 2024 (DRO,
  arXiv:2405.19107), without their learned value of the context.
- `dpo`: -log sigmoid(r(better) - r(worse)) on `trials.preferences`, which alone would drive the two
  apart for ever (Azar et al. 2023, arXiv:2310.12036), and, so that it does not,
  (r(better) - 1/2)^2 + (r(worse) + 1/2)^2 (SPPO, Wu et al. 2024, arXiv:2405.00675).
- `kto`: Ethayarajh et al. 2024, arXiv:2402.01306. A decision is a success where more of its trials
  succeeded than failed, a failure where more failed, and left out between. The rarer of the two
  weighs so much more that both have the same weight (section 4.3 there). To it comes r^2 / 2:
  alone it would drive r on for ever, too.

So with a large beta nothing moves far, whatever the outcomes say, and the learning rate has to be
small enough for the optimum to be met.

Rows reach TRL as token ids, as `distill.training.sft` makes them. Nothing is evaluated on the way:
the last weights are kept, and what they are worth is for `distill evaluate` to say.
"""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from datasets.arrow_dataset import Dataset as ArrowDataset
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments, set_seed
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer
from trl.trainer.utils import use_adapter

from distill.config import DecoderConfig, OutcomesConfig
from distill.errors import ConfigError, DatasetError
from distill.render import completion
from distill.routers import pretrained
from distill.routers.decoder import DecoderRouter, load_adapted
from distill.routers.decoding import PromptFormat
from distill.routers.devices import dtype
from distill.routers.folder import RouterFile, read_router_file
from distill.training import loop
from distill.training.adapt import count
from distill.training.job import Job, Trained
from distill.training.logs import RunLog
from distill.training.sft import IGNORED
from distill.training.trials import Trial, Tried, preferences, tally

log = logging.getLogger(__name__)

Rows = dict[str, torch.Tensor]

LEARNED, REFERENCE = "default", "ref"
"""The adapters' names: PEFT's own, and what TRL looks for."""


def learn_outcomes(
    config: OutcomesConfig, folder: Path, made: Sequence[Trial], job: Job
) -> Trained:
    """The decoder of a router folder, taught by what came of decisions.

    Its calibration and thresholds, which were fitted to other weights, are left behind.

    Args:
        config: of a method that learns from a record.
        folder: the distilled router's.
        job: the run that is made; a killed one goes on from its last checkpoint.

    Raises:
        DatasetError: nothing to learn from: no decision that succeeded, no two in one context of
            which one succeeded more often, or none that fits `max_new_tokens`.
        ConfigError: a batch too small for the method, or the training diverged.
        ModelError: the base model cannot be had.
        RouterError: the folder is not whole.
    """
    student = Student(config, folder, job)
    trainer = {"sft": _sft, "dpo": _dpo, "kto": _kto}[config.method]
    return student.fit(trainer(student, student.tried(made)))


class Student:
    """A distilled decoder that is about to learn, with all that its trainers have in common.

    Args:
        folder: its router folder.
    """

    def __init__(self, config: OutcomesConfig, folder: Path, job: Job) -> None:
        set_seed(job.seed)
        self.config, self.job = config, job
        self.file: RouterFile = read_router_file(folder)
        self.router = cast(DecoderConfig, self.file.config)
        self.tokenizer, self.model = load_adapted(
            folder, self.router, dtype(config.precision), trainable=True
        )
        # By its public name, PEFT would ask the hub for the base's config at each checkpoint.
        base = pretrained.resolve(self.router.model, self.router.revision)
        self.model.peft_config[LEARNED].base_model_name_or_path = base.source
        self.prompts = PromptFormat(self.tokenizer, self.router)
        self.log = RunLog(job, config.optimisation)
        self.trainable = count(self.model, trainable=True)
        self.parameters = count(self.model)

    def tried(self, made: Sequence[Trial]) -> list[Tried]:
        """The trials counted by texts, those that no router could write apart."""
        found = tally(
            made,
            lambda trial: (
                self.prompts.prompt(trial.context),
                completion(trial.decision, trial.context.tools),
            ),
        )
        limit = self.router.max_new_tokens
        fitting = [one for one in found if len(self.answer(one)) <= limit]
        if len(fitting) < len(found):
            log.warning("%d decisions over %d tokens left out", len(found) - len(fitting), limit)
        return fitting

    def answer(self, one: Tried) -> list[int]:
        """What is written of a decision, the end included."""
        return [*self.prompts.ids(one.completion), cast(int, self.tokenizer.eos_token_id)]

    def drawn(self, rows: list[Any], missing: str) -> list[Any]:
        """At most `max_rows` of them, in an order of chance.

        Raises:
            DatasetError: there are none; `missing` says of what.
        """
        if not rows:
            raise DatasetError(
                self.config.method, f"there is no {missing} to learn from", "give other traces"
            )
        return random.Random(self.job.seed).sample(
            rows, min(len(rows), self.config.max_rows or len(rows))
        )

    def arguments(self, kind: type[loop.Arguments], rows: int, **settings: Any) -> loop.Arguments:
        """TRL's arguments for a training on so many rows; errors as `loop.training_arguments`."""
        with _own_keys():
            return loop.training_arguments(
                kind,
                self.config.optimisation,
                self.job,
                rows=rows,
                metric=None,
                gradient_checkpointing=False,
                **settings,
            )

    def trainer(
        self, kind: type[Trainer], args: TrainingArguments, rows: list[loop.Row], **extra: Any
    ) -> Trainer:
        """A trainer with the reference in its model; `extra` are further arguments of it."""
        trainer = anchored(kind)(
            model=self.model,
            args=args,
            train_dataset=ArrowDataset.from_list(rows),
            processing_class=self.tokenizer,
            callbacks=[self.log],
            optimizers=(loop.optimizer(self.model, self.config.optimisation), None),
            **extra,
        )
        refer(self.model)
        return trainer

    def fit(self, trainer: Trainer) -> Trained:
        """Train, and make a router of the result that is like any other decoder."""
        with _own_keys():
            learned: Any = loop.fit(trainer, self.job.run)
        assert isinstance(learned, PeftModel)
        learned.delete_adapter(REFERENCE)
        file = replace(self.file, calibration=None, thresholds=())
        router = DecoderRouter(file, self.tokenizer, learned)
        return Trained(router, self.parameters, self.trainable, self.log.seconds)


def refer(model: PeftModel) -> None:
    """Make the reference adapter an exact copy of the one that learns.

    TRL makes such a copy itself, but not for SFT, and of LoRA's matrices alone.
    """
    if REFERENCE not in model.peft_config:
        model.add_adapter(REFERENCE, model.peft_config[LEARNED])
    state = get_peft_model_state_dict(model, adapter_name=LEARNED, save_embedding_layers=False)
    set_peft_model_state_dict(model, state, adapter_name=REFERENCE)


def anchored(base: type[Trainer]) -> type[Trainer]:
    """TRL's trainer, for rows that are token ids already and a model with a reference."""

    class Anchored(base):  # type: ignore[misc, valid-type]
        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            # TRL would tokenise prompt and completion in one, and so perhaps divide them otherwise.
            return dataset

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            # transformers would load the reference, which lies in a folder of its own there, and
            # leave the adapter that learns as it began.
            model = self.model if model is None else model
            self.accelerator.unwrap_model(model).load_adapter(
                resume_from_checkpoint, LEARNED, is_trainable=True
            )

    return Anchored


@contextmanager
def _own_keys() -> Iterator[None]:
    """The training loop names `train.` keys, which stand at the top of this config."""
    try:
        yield
    except ConfigError as error:
        place = error.place.removeprefix("train.")
        raise ConfigError(place, error.fault, error.cure) from None


def _rewards(trainer: Trainer, model: nn.Module, ids: Rows, beta: float) -> torch.Tensor:
    """What the router acts as if each row's decision were worth, r above, [rows].

    Args:
        ids: `input_ids`, `attention_mask` and `labels`, each [rows, length].
    """
    now = cast(Any, model)(**ids, fused_lm_head=True).log_probs.sum(1)
    with torch.no_grad(), use_adapter(trainer.accelerator.unwrap_model(model), REFERENCE):
        before = cast(Any, model)(**ids, fused_lm_head=True).log_probs.sum(1)
    return cast(torch.Tensor, beta * (now - before))


class _WeightedTrainer(SFTTrainer):
    """SFT on whole decisions with weights, near the reference."""

    loss_is_scaled_for_ga: Any = False
    beta: float

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Rows,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        ids = {name: inputs[name] for name in ("input_ids", "attention_mask", "labels")}
        return ((_rewards(self, model, ids, self.beta) - inputs["weights"]) ** 2 / 2).mean()


class _NearKtoTrainer(KTOTrainer):
    """KTO that has an end."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Rows,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        loss = super().compute_loss(model, inputs)  # type: ignore[no-untyped-call]
        ids = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        ids["labels"] = ids["input_ids"].masked_fill(inputs["completion_mask"] == 0, IGNORED)
        rewards = _rewards(self, model, ids, self.beta)
        return cast(torch.Tensor, loss + (rewards**2 / 2).mean())


def _sft(student: Student, tried: list[Tried]) -> Trainer:
    kept = [one for one in tried if one.share > 0]
    rows = []
    for one in student.drawn(kept, "decision that succeeded"):
        prompt, answer = student.prompts.ids(one.prompt), student.answer(one)
        labels = [IGNORED] * len(prompt) + answer
        rows.append({"input_ids": prompt + answer, "labels": labels, "weight": one.share})
    args = student.arguments(SFTConfig, len(rows), max_length=None)
    trainer = student.trainer(
        _WeightedTrainer, args, rows, data_collator=_weighted(student.tokenizer)
    )
    cast(_WeightedTrainer, trainer).beta = student.config.beta
    return trainer


def _weighted(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[loop.Row]], loop.Row]:
    """A collator of rows with a `weight`, which become `weights` [rows]."""
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    texts = DataCollatorForLanguageModeling(pad_token_id=cast(int, pad))

    def collate(rows: list[loop.Row]) -> loop.Row:
        named = [{name: row[name] for name in ("input_ids", "labels")} for row in rows]
        weights = torch.tensor([row["weight"] for row in rows])
        return {**texts(named), "weights": weights}

    return collate


def _dpo(student: Student, tried: list[Tried]) -> Trainer:
    missing = "decision beside one of the same context that succeeded less often"
    rows = [
        {
            "prompt_ids": student.prompts.ids(better.prompt),
            "chosen_ids": student.answer(better),
            "rejected_ids": student.answer(worse),
        }
        for better, worse in student.drawn(preferences(tried), missing)
    ]
    beta = student.config.beta
    args = student.arguments(
        DPOConfig,
        len(rows),
        max_length=None,
        beta=beta,
        loss_type=["sigmoid", "sppo_hard"],
        # TRL's second loss is in log-probabilities.
        loss_weights=[1.0, beta**2],
    )
    return student.trainer(DPOTrainer, args, rows)


def _kto(student: Student, tried: list[Tried]) -> Trainer:
    kept = [one for one in tried if one.successes != one.failures]
    rows = [
        {
            "prompt_ids": student.prompts.ids(one.prompt),
            "completion_ids": student.answer(one),
            "label": one.successes > one.failures,
        }
        for one in student.drawn(kept, "decision that succeeded or failed")
    ]
    good = sum(row["label"] for row in rows)
    bad = len(rows) - good
    args = student.arguments(
        KTOConfig,
        len(rows),
        max_length=None,
        beta=student.config.beta,
        desirable_weight=max(1.0, bad / good) if good else 1.0,
        undesirable_weight=max(1.0, good / bad) if bad else 1.0,
    )
    together = args.per_device_train_batch_size
    if together < 2:
        raise ConfigError(
            "micro_batch",
            "kto compares decisions that are computed together, and there is one",
            "use two or more, and a batch_size that they divide",
        )
    return student.trainer(_NearKtoTrainer, args, _mismatched(rows, together))


def _mismatched(rows: list[loop.Row], together: int) -> list[loop.Row]:
    """Rows with a `KL_completion_ids`: the answer of the row before in their batch, in a circle.

    By these KTO estimates how far the router has moved from the reference. A row that would be
    alone in the last batch is left out.

    Args:
        together: rows that are computed at once.
    """
    rows = rows[: len(rows) - (len(rows) % together == 1)]
    batches = [rows[i : i + together] for i in range(0, len(rows), together)]
    return [
        {**row, "KL_completion_ids": batch[i - 1]["completion_ids"]}
        for batch in batches
        for i, row in enumerate(batch)
    ]
