"""The fake vLLM as a fixture, and a cascade beside the trained routers."""

from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeVllm

from distill.config import CascadeConfig
from distill.routers.cascade import CascadeRouter
from distill.routers.folder import RouterFile, read_router_file


@pytest.fixture
def vllm(tmp_path: Path) -> FakeVllm:
    folder = tmp_path / "vllm"
    folder.mkdir()
    return FakeVllm(folder)


@pytest.fixture(scope="session")
def cascade(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an encoder and a decoder as one router."""
    path = tmp_path_factory.mktemp("cascade")
    folders = {kind: trained(kind).folder for kind in ("encoder", "decoder")}
    known = read_router_file(folders["encoder"])
    file = RouterFile(CascadeConfig(), known.catalogue, known.labels)
    CascadeRouter.of(file, folders).save(path)
    return path
