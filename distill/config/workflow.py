"""How a workflow learns from outcomes."""

from pydantic import Field

from distill.config.base import Config


class LearnConfig(Config):
    """The optimisation of a workflow's deciders."""

    epochs: float = Field(20, gt=0)
    """Passes over the inputs."""
    batch_size: int = Field(32, ge=1)
    """Inputs per step, over all processes together."""
    samples: int = Field(4, ge=1)
    """Rollouts of each input where decisions are sampled; where all are enumerated, one will do."""
    learning_rate: float = Field(0.01, gt=0)
    """AdamW's."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's, decoupled."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    cost: float = Field(1.0, ge=0)
    """What a unit of the tools' cost weighs, in units of the loss."""
    second: float = Field(0.0, ge=0)
    """What a second of the tools' time weighs; being measured, it makes every run another."""
    trust: float = Field(0.0, ge=0)
    """Weight of the divergence from the deciders as learning began, in units of the loss: a few bad
    outcomes cannot lead far from what was distilled. 0: none."""
    frozen: list[str] = []
    """Decisions whose deciders stay as they are."""
    evaluations: int = Field(10, ge=1)
    """Evaluations on the held-out inputs, and checkpoints, spread evenly over the run."""
    failures: float = Field(0.5, ge=0, le=1)
    """Learning stops when a larger share of an evaluation's paths ends without a loss."""
    seed: int = 0
    """Of the order of inputs and of all chance."""
