"""What trained routers share: the optimisation, and LoRA."""

from typing import Literal

from pydantic import Field

from distill.config.base import Config


class TrainConfig(Config):
    """The optimisation that every trained router shares."""

    epochs: float = Field(5, gt=0)
    """Passes over the training part."""
    batch_size: int = Field(16, ge=1)
    """Examples per optimiser step, over all processes together."""
    micro_batch: int = Field(16, ge=1)
    """Examples computed at once on one device; fewer need less memory and give the same step."""
    learning_rate: float = Field(5e-4, gt=0)
    """Peak learning rate, reached after `warmup` and then decayed to zero along a cosine."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    evaluations: int = Field(5, ge=1)
    """Evaluations on validation, and checkpoints, spread evenly over the run."""
    patience: int = Field(3, ge=1)
    """Stop after this many evaluations without a new best. Kept is the latest checkpoint within
    one standard error of the best (`distill.training.loop.trainer_class`)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 where the GPU computes in it, else float32."""


class LoraConfig(Config):
    """LoRA (Hu et al. 2021, arXiv:2106.09685) on linear layers, through PEFT."""

    rank: int = Field(16, ge=1)
    """Rank r of the update B·A."""
    alpha: float = Field(32, gt=0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the update's input."""
    targets: str | list[str] = "all-linear"
    """Layers that get an update, as PEFT's `target_modules`."""
