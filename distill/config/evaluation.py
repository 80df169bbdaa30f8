"""How routers are measured, and what they may get wrong."""

from typing import Annotated

from pydantic import Field

from distill.config.base import Config


class EvaluationConfig(Config):
    """How a trained router is measured."""

    bootstrap: int = Field(2000, ge=100)
    """Resamples of groups behind every interval."""
    batch_size: int = Field(32, ge=1)
    """Contexts decided together when throughput is measured."""
    latency_samples: int = Field(40, ge=2)
    """Decisions timed one at a time."""
    max_examples: int | None = Field(None, ge=1)
    """Evaluate at most this many test examples, whole groups drawn by the seed; null takes all."""
    target_accuracy: float | None = Field(None, gt=0, lt=1)
    """The report recommends the cheapest router that holds this tool accuracy, and says up to which
    complexity each holds it; null recommends none."""


class RiskConfig(Config):
    """What a router may get wrong where it decides alone (`distill.evaluation.risk`)."""

    alphas: list[Annotated[float, Field(gt=0, lt=1)]] = Field([0.05, 0.1, 0.2], min_length=1)
    """Shares of wrong decisions among those taken locally; each gets a threshold of its own."""
    delta: float = Field(0.1, gt=0, lt=1)
    """Probability with which a threshold may fail its promise."""
    max_examples: int | None = Field(None, ge=1)
    """Decide at most this many calibration examples, whole groups drawn by the seed."""
