"""From traces to a dataset: which traces, which decisions, and how they are split."""

from typing import Literal

from pydantic import Field, model_validator

from distill.config.base import Config


class SplitConfig(Config):
    """Shares of the groups in each part; what train, validation and calibration leave is test."""

    train: float = Field(0.6, gt=0, lt=1)
    """Share of groups that routers are trained on."""
    validation: float = Field(0.1, ge=0, lt=1)
    """Share of groups for early stopping and the choice of hyperparameters."""
    calibration: float = Field(0.1, ge=0, lt=1)
    """Share of groups that thresholds are fitted on."""
    merge_jaccard: float | None = Field(0.8, gt=0, le=1)
    """Groups whose first requests are at least this similar (MinHash) are one group, for splits and
    intervals; null merges none."""

    @model_validator(mode="after")
    def _leaves_a_test_part(self) -> "SplitConfig":
        if self.train + self.validation + self.calibration >= 1:
            raise ValueError("train + validation + calibration must leave a share for test")
        return self


class DataConfig(Config):
    """From traces to a dataset."""

    traces: str = "sample:orderdesk"
    """A trace file (JSON lines, plain, .gz or .zst), `sample:orderdesk`, or a gateway's records
    (`gateway://gateway.db`, `gateway://env:VARIABLE`); a dataset is not built anew when these have
    grown."""
    format: Literal["auto", "traces", "openai"] = "auto"
    """`traces`: the canonical format; `openai`: logged request/response pairs."""
    group_by: str | None = None
    """The key of a trace by which splits are made; default: `group`, else `task_id`, else `id`."""
    outcome: Literal["any", "not_failed", "succeeded"] = "not_failed"
    """Which traces teach: all, those not graded as failed, or only those graded as successes."""
    invalid_arguments: Literal["drop", "keep"] = "drop"
    """Decisions whose arguments break the tool's JSON Schema (a number sent as a string, a missing
    key): drop and count them, or keep them because the choice of tool still teaches."""
    where: dict[str, str] = {}
    """Keep only traces whose top-level keys have these values, e.g. `toolset: all`."""
    drop_duplicates: float | None = Field(0.95, gt=0, le=1)
    """Among traces of one group key, merge an example into a kept one with the same label whose
    context is at least this similar; 1 merges exact copies only, null keeps all."""
    split: SplitConfig = SplitConfig()
    max_line_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    """A longer line of a trace file is rejected."""
