"""A distilled decoder that tries by itself and learns from the rewards: GRPO, through TRL.

Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300): in each context several
decisions are drawn, and each is made likelier by as much as its reward is above their mean. Rewards
are not divided by their spread, nor tokens by their number (Liu et al. 2025, arXiv:2503.20783), so
that `beta` weighs the divergence from the distilled router in units of the reward
(`distill.training.outcomes` says how that router is kept).

Decisions are drawn without a grammar: what cannot be read has a reward, too.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from transformers import PreTrainedTokenizerBase
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from distill.config import OutcomesConfig
from distill.errors import ConfigError, WorkflowError
from distill.routers.decoding import parse_completion, token_ids
from distill.training.job import Job, Trained
from distill.training.outcomes import Student
from distill.types import Context, Decision

log = logging.getLogger(__name__)

_NAMED = 5
"""Contexts that a warning names."""


class Situation(Protocol):
    """A context in which the router tries, and what a decision there is worth."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def context(self) -> Context:
        """What is decided on."""

    def reward(self, decision: Decision | None) -> float:
        """A finite number, by custom 1 for a success; None: no decision could be read."""


class _TextGrpoTrainer(GRPOTrainer):
    """GRPO on prompts that are tokenised as routing does it."""

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        # TRL would let the tokenizer add special tokens to those that the template has written.
        tokenizer = cast(PreTrainedTokenizerBase, self.processing_class)
        return [token_ids(tokenizer, prompt) for prompt in prompts], None, {}


def learn_online(
    config: OutcomesConfig, folder: Path, situations: Sequence[Situation], job: Job
) -> Trained:
    """The decoder of a router folder, taught by the rewards of its own tries.

    Calibration, thresholds and what is raised as `distill.training.outcomes.learn_outcomes`.

    Raises:
        ConfigError: tries of one context do not fit whole into a batch.
        WorkflowError: a reward that is no finite number.
    """
    if config.batch_size % config.generations:
        raise ConfigError(
            "batch_size",
            f"{config.batch_size} tries are not whole groups of {config.generations}",
            "use a multiple of generations",
        )
    student = Student(config, folder, job)
    chosen = student.drawn(list(situations), "context to try in")
    judge = _Judge(student, chosen)
    rows = [
        {"prompt": student.prompts.prompt(one.context), "situation": i}
        for i, one in enumerate(chosen)
    ]
    args = student.arguments(
        GRPOConfig,
        len(rows) * config.generations,
        beta=config.beta,
        num_generations=config.generations,
        temperature=config.temperature,
        max_completion_length=student.router.max_new_tokens,
        loss_type="dr_grpo",
        scale_rewards="none",
        disable_dropout=True,
        # TRL's order of later passes would not be that of an unbroken run after a resume. Contexts
        # that do not fill a batch are not tried in.
        shuffle_dataset=False,
    )
    trained = student.fit(student.trainer(_TextGrpoTrainer, args, rows, reward_funcs=judge.rewards))
    judge.warn()
    return trained


class _Judge:
    """Reads tries, and remembers which rewards came of them."""

    def __init__(self, student: Student, situations: Sequence[Situation]) -> None:
        self.tokenizer, self.situations = student.tokenizer, situations
        self.seen: dict[str, set[float]] = defaultdict(set)

    def rewards(
        self, completion_ids: list[list[int]], situation: list[int], **others: Any
    ) -> list[float]:
        """TRL's reward function."""
        return [
            self._reward(ids, self.situations[i])
            for ids, i in zip(completion_ids, situation, strict=True)
        ]

    def _reward(self, ids: list[int], situation: Situation) -> float:
        decision = None
        if ids and ids[-1] == self.tokenizer.eos_token_id:
            text = cast(str, self.tokenizer.decode(ids[:-1], skip_special_tokens=True))
            decision = parse_completion(text, situation.context)
        value = situation.reward(decision)
        if not math.isfinite(value):
            raise WorkflowError(
                situation.name, f"its reward is {value!r}, no finite number", "mend the reward"
            )
        self.seen[situation.name].add(value)
        return value

    def warn(self) -> None:
        """Say where all tries were worth the same, so that there was nothing to learn from."""
        same = [name for name, values in self.seen.items() if len(values) == 1]
        if same:
            log.warning(
                "all tries were worth the same, and taught nothing, in %d of %d contexts: %s",
                len(same),
                len(self.seen),
                ", ".join(same[:_NAMED]) + (", …" if len(same) > _NAMED else ""),
            )
