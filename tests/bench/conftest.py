"""The scripts as modules, a dataset, and tiny base models."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from small_shop import write_traces

from distill.config import DataConfig, SplitConfig
from distill.pipeline.build import build_dataset
from distill.progress import silent

BENCH = Path(__file__).parents[2] / "scripts" / "bench"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script as it is imported by the others: from its own folder."""
    monkeypatch.syspath_prepend(str(BENCH))

    def get(name: str) -> ModuleType:
        return importlib.import_module(name)

    return get


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    # The small shop's requests are much alike, and all of them are wanted.
    split = SplitConfig(merge_jaccard=None)
    traces = str(write_traces(folder / "traces.jsonl", 90))
    config = DataConfig(traces=traces, drop_duplicates=None, split=split)
    build_dataset(config, 0, folder / "dataset", silent)
    return folder / "dataset"


@pytest.fixture
def tiny(tiny_bert: Path, tiny_llama: Path) -> list[str]:
    """The options that name tiny base models."""
    return ["--encoder", str(tiny_bert), "--decoder", str(tiny_llama)]
