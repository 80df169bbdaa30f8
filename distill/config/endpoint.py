"""An LLM behind an endpoint: its address, its patience, its limits; never its key."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from distill.config.address import check_address
from distill.config.base import Config


class EndpointConfig(Config):
    """A large LLM behind an OpenAI-compatible endpoint, as a router of the same job.

    Nothing is trained: it is asked when it is measured, and its answers are kept in `cache`.
    """

    kind: Literal["endpoint"] = "endpoint"
    model: str = Field(min_length=1)
    """The model's name, as the endpoint knows it and a table of prices lists it."""
    base_url: str
    """Where `/chat/completions` is, e.g. `http://127.0.0.1:8000/v1`."""
    key_env: str | None = None
    """The environment variable that holds the key; null: the endpoint needs none."""
    max_tokens: int = Field(1024, ge=1)
    """Tokens an answer may take; one that is cut off within its calls is no decision."""
    temperature: float = Field(0.0, ge=0)
    """Sampling temperature."""
    seed: int | None = None
    """The endpoint's own sampling seed; null sends none."""
    extra: dict[str, Any] = {}
    """Further keys of the request, e.g. `reasoning_effort: low`; one that is null is left out, e.g.
    `{max_tokens: null, max_completion_tokens: 1024}` where a model wants that name."""
    connect_s: float = Field(10, gt=0)
    """Seconds to connect."""
    read_s: float = Field(60, gt=0)
    """Seconds without a byte of the answer."""
    total_s: float = Field(120, gt=0)
    """Seconds for the whole answer, looked at whenever a piece of it comes."""
    retries: int = Field(5, ge=0)
    """Further attempts after a timeout, a lost connection, or HTTP 408, 409, 429 or 5xx."""
    max_wait_s: float = Field(60, gt=0)
    """Longest wait before an attempt. Where the endpoint asks for more, the request has failed."""
    requests_per_minute: float | None = Field(None, gt=0)
    """Requests go out evenly, no faster than this; null: as fast as they can."""
    concurrency: int = Field(4, ge=1, le=256)
    """Requests under way at once."""
    max_answer_bytes: int = Field(4 * 1024 * 1024, ge=1024)
    """A longer answer is not read to its end, and has failed."""
    cache: Path | None = Path("llm-cache")
    """Folder of the answers had so far, shared by all jobs that name it; null keeps none."""

    @field_validator("base_url")
    @classmethod
    def _is_an_address_without_secrets(cls, value: str) -> str:
        return check_address(value)
