"""Tiny base models, and a trained router of every kind, each made once per session when asked for.

Importing torch and transformers is left to the fixtures: most tests need neither.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from distill.runs import RunDir
from distill.types import Router

if TYPE_CHECKING:
    from postgres_server import Postgres

# Tiny tensors only lose by being shared among threads; inherited by subprocesses.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# CI judges a change by examples that do not vary; a contributor's runs go on looking for new ones.
# No example has a deadline: how long one takes says more about the machine than about the code.
settings.register_profile("ours", derandomize=bool(os.environ.get("CI")), deadline=None)
settings.load_profile("ours")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The README's commands first: they take minutes, and would run last and alone."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


@dataclass(frozen=True)
class Saved:
    """A router as training left it, its run directory, and the folder it was saved to."""

    name: str
    """Its kind; `open` for an encoder with an open catalogue."""
    router: Router
    run: Path
    folder: Path


@pytest.fixture(scope="session")
def postgres() -> Iterator["Postgres"]:
    """A PostgreSQL server."""
    from postgres_server import programs, server  # noqa: PLC0415

    found = programs()
    if found is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with server(found) as running:
        yield running


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_models import save_bert  # noqa: PLC0415

    return save_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_models import save_llama  # noqa: PLC0415

    return save_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def taught_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that already writes the small shop's tool calls."""
    from small_shop import teach_calls  # noqa: PLC0415
    from tiny_models import save_llama  # noqa: PLC0415

    return teach_calls(save_llama(tmp_path_factory.mktemp("models") / "taught-llama"))


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[str], Saved]:
    """Trains a router of the given kind on the small shop, once."""
    from small_shop import attention, decoder, encoder, filling, job, open_encoder, rnn  # noqa: PLC0415

    from distill.config import MajorityConfig, TfidfConfig  # noqa: PLC0415
    from distill.training import train  # noqa: PLC0415

    configs = {
        "majority": MajorityConfig,
        "tfidf": TfidfConfig,
        "rnn": lambda: rnn(epochs=12),
        "attention": lambda: attention(epochs=12),
        "encoder": lambda: encoder(request.getfixturevalue("tiny_bert"), epochs=12),
        "filling": lambda: filling(request.getfixturevalue("tiny_bert"), epochs=12),
        "open": lambda: open_encoder(request.getfixturevalue("tiny_bert"), epochs=36),
        "decoder": lambda: decoder(request.getfixturevalue("taught_llama")),
    }
    made: dict[str, Saved] = {}

    def get(kind: str) -> Saved:
        if kind not in made:
            run = tmp_path_factory.mktemp(kind)
            router = train(configs[kind](), job(run)).router
            (run / "router").mkdir()
            router.save(run / "router")
            made[kind] = Saved(kind, router, run, run / "router")
        return made[kind]

    return get


@pytest.fixture(scope="session")
def config_of(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """The small shop's config of a trained kind on a tiny base; keywords go to its `train`."""
    from small_shop import attention, decoder, encoder, filling, open_encoder, rnn  # noqa: PLC0415

    def get(kind: str, **train: object) -> Any:
        match kind:
            case "rnn":
                return rnn(**train)
            case "attention":
                return attention(**train)
            case "encoder":
                return encoder(request.getfixturevalue("tiny_bert"), **train)
            case "filling":
                return filling(request.getfixturevalue("tiny_bert"), **train)
            case "open":
                return open_encoder(request.getfixturevalue("tiny_bert"), **train)
            case _:
                return decoder(request.getfixturevalue("tiny_llama"), **train)

    return get


@pytest.fixture(scope="session")
def unbroken(
    tmp_path_factory: pytest.TempPathFactory, config_of: Callable[..., Any]
) -> Callable[[str], tuple[Any, RunDir]]:
    """The trained router and the run of a kind at seed 0, trained once without interruption."""
    from small_shop import job  # noqa: PLC0415

    from distill.training import train  # noqa: PLC0415

    made: dict[str, tuple[Any, RunDir]] = {}

    def get(kind: str) -> tuple[Any, RunDir]:
        if kind not in made:
            run = tmp_path_factory.mktemp(f"unbroken-{kind}")
            made[kind] = train(config_of(kind), job(run)).router, RunDir(run)
        return made[kind]

    return get
