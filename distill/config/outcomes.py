"""How a decoder router learns from recorded outcomes, or from those of its own tries."""

from typing import Literal

from pydantic import Field

from distill.config.base import Config
from distill.config.training import TrainConfig


class OutcomesConfig(Config):
    """The optimisation of a distilled decoder by outcomes (`distill.training.outcomes`).

    A row is a decision in a context; of `dpo` a pair of decisions; of `grpo` one try.
    """

    method: Literal["sft", "dpo", "kto", "grpo"] = "dpo"
    """`sft`: decisions weigh as much as the share of their trials that succeeded. `dpo`: of two
    decisions in one context the one that succeeded more often is preferred. `kto`: each decision is
    a success or a failure by itself. `grpo`: the router tries, and an environment judges."""
    beta: float = Field(1.0, gt=0)
    """The trust region: weight of the divergence from the distilled router, in units of an outcome
    (1: success instead of failure). A decision whose outcome is better by r becomes at most about
    exp(r / beta) times as likely as the distilled router made it. TRL's 0.1 lets that be 22,000
    times: what was learned of one kind of context then decides in all."""
    learning_rate: float = Field(5e-5, gt=0)
    """Peak learning rate; a tenth of what distillation takes, or less."""
    epochs: float = Field(2, gt=0)
    """Passes over the rows."""
    batch_size: int = Field(8, ge=1)
    """Rows per optimiser step."""
    micro_batch: int = Field(4, ge=1)
    """Rows computed at once on one device; `kto` needs two."""
    max_rows: int | None = Field(None, ge=1)
    """Learn from at most this many rows, drawn by the seed (of `grpo`: contexts); null takes
    all."""
    generations: int = Field(4, ge=2)
    """Tries in each context, which are compared with each other (`grpo`)."""
    temperature: float = Field(1.0, gt=0)
    """Of the tries (`grpo`)."""
    checkpoints: int = Field(5, ge=1)
    """Checkpoints, spread evenly over the run, from which a killed one goes on."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """As `train.precision` of a router."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Of the order of rows and of all chance."""

    @property
    def optimisation(self) -> TrainConfig:
        """What the training loop reads of it; nothing is evaluated on the way."""
        return TrainConfig(
            epochs=self.epochs,
            batch_size=self.batch_size,
            micro_batch=self.micro_batch,
            learning_rate=self.learning_rate,
            weight_decay=0.0,  # it would draw the adapter to the base model, not to its beginning
            evaluations=self.checkpoints,
            precision=self.precision,
        )
