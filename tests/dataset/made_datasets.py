"""Building a dataset from traces, and looking at all of it, for the dataset tests."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distill.config import DataConfig
from distill.dataset import Dataset, build, load_dataset
from distill.dataset.parts import PARTS
from distill.types import Example, Trace

CONFIG = DataConfig()


def make(
    traces: Iterable[Trace], out: Path, config: DataConfig = CONFIG, seed: int = 0
) -> tuple[dict[str, Any], Dataset]:
    manifest = build(traces, config, seed, out, source="test")
    return manifest, load_dataset(out)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def all_examples(dataset: Dataset) -> list[Example]:
    return [example for part in PARTS for example in dataset.examples(part)]


def parts_by_group(dataset: Dataset) -> dict[str, str]:
    return {e.group: part for part in PARTS for e in dataset.examples(part)}
