"""Where a job's folders lie.

    <output>/<name>/dataset-s<seed>/            the dataset of a seed
    <output>/<name>/<router>-s<seed>/           a run directory (`distill.runs`)
    <output>/<name>/comparison/                 report.{json,md,csv,html}

A run finds its dataset beside it, so that a job may move with its folder.
"""

from pathlib import Path

from distill.config import RunConfig
from distill.runs import RunDir


def run_dir(config: RunConfig, router: str, seed: int) -> RunDir:
    """Where the run of one router and seed lies."""
    return RunDir(config.output / config.name / f"{router}-s{seed}")


def dataset_dir(config: RunConfig, seed: int) -> Path:
    """Where the dataset of a seed lies."""
    return config.output / config.name / f"dataset-s{seed}"


def comparison_dir(config: RunConfig) -> Path:
    """Where the comparison of all the job's routers lies."""
    return config.output / config.name / "comparison"
