"""What tokens and training cost: what `configs/prices.yaml` says."""

from datetime import date as Date  # noqa: N812  (a field is called `date`)

from pydantic import Field

from distill.config.base import Config


class PriceConfig(Config):
    """What a model's tokens cost, per million, in the table's currency."""

    input: float = Field(ge=0)
    """Prompt tokens."""
    output: float = Field(ge=0)
    """Tokens of the answer."""
    cached: float | None = Field(None, ge=0)
    """Prompt tokens that the endpoint had kept; null: as much as others."""
    date: Date
    """When the prices were looked up."""


class PricesConfig(Config):
    """A table of prices, by the models' names."""

    currency: str = Field("USD", min_length=1)
    """Of every price in the table."""
    models: dict[str, PriceConfig]
    """By the name that traces (their `model`) or an endpoint router (its `model`) give."""
    training_per_hour: float | None = Field(None, ge=0)
    """What an hour of the machine that trains costs; null: not known."""
