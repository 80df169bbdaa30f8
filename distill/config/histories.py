"""The history experiment: what an LLM is shown, and under which model it is measured."""

from typing import Literal

from pydantic import Field, model_validator

from distill.config.base import Config
from distill.config.render import RenderConfig

ArmName = Literal[
    "own", "own-no-tools", "handed", "handed-with-tools", "synthetic", "synthetic-no-tools"
]
"""What an LLM is shown of tool calls (`distill.evaluation.arms`)."""


class HistoriesConfig(Config):
    """The history experiment without an endpoint (`distill.evaluation.likelihood`)."""

    arms: list[ArmName] = Field(["own", "handed", "synthetic", "synthetic-no-tools"], min_length=1)
    """Histories of which each reply is told the likelihood under."""
    model: str = "packaged:smollm2"
    """A causal LM: `packaged:smollm2`, a hub name or a local folder."""
    revision: str | None = None
    """Commit or tag on the hub."""
    part: Literal["train", "validation", "calibration", "test"] = "test"
    """The dataset's part whose traces are measured."""
    limit: int | None = Field(None, ge=1)
    """Measure at most this many replies, drawn by the seed; null takes all."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Draws the replies that `limit` keeps."""
    tools: Literal["names", "signatures", "schemas"] = "schemas"
    """How the prompt words offered tools, as for a decoder."""
    max_tokens: int = Field(4096, ge=64)
    """Tokens of prompt and reply together. Of a longer conversation less is kept, the same in all
    arms; where the tools and the reply alone are too long, the reply is left out and counted."""
    render: RenderConfig = RenderConfig(
        system_chars=4000, first_chars=4000, turn_chars=2000, turns=16
    )
    """What is kept of a conversation: the first user message and the latest turns."""
    batch_size: int = Field(1, ge=1)
    """Prompts computed at once; a processor gains nothing from more."""
    bootstrap: int = Field(2000, ge=100)
    """Resamples of groups behind every interval."""

    @model_validator(mode="after")
    def _names_distinct_arms(self) -> "HistoriesConfig":
        if len(set(self.arms)) < len(self.arms):
            raise ValueError("arms: one of them comes twice")
        return self
