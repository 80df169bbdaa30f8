"""One job, from traces to a comparison: what a file in `configs/run/` says."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from distill.config.base import Config
from distill.config.data import DataConfig
from distill.config.evaluation import EvaluationConfig, RiskConfig
from distill.config.routers import RouterConfig


class RunConfig(Config):
    """One job: traces -> dataset -> trained routers -> one comparison."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the folder under `output`."""
    output: Path = Path("runs")
    """Where run directories go: `output/name/router-sSEED`."""
    data: DataConfig = DataConfig()
    routers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")], RouterConfig] = (
        Field(min_length=1)
    )
    """The routers to train and compare, by name (no dots: overrides divide keys by them)."""
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field([0], min_length=1)
    """Each seed makes its own split and its own training of every router."""
    risk: RiskConfig = RiskConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    trackers: list[Literal["tensorboard", "trackio", "wandb"]] = []
    """Where training metrics go besides `log.jsonl`."""
    prices: Path | None = None
    """A table of prices like `configs/prices.yaml`; without one the report knows no money."""

    @model_validator(mode="after")
    def _names_distinct_folders(self) -> "RunConfig":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one of them comes twice")
        if "dataset" in self.routers:
            raise ValueError("routers: 'dataset' is the name of the dataset's folder")
        return self
