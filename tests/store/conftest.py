"""Stores on either database."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distill.config import StoreConfig
from distill.store import Store


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database that holds nothing yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/gateway.db"
    return str(request.getfixturevalue("postgres").new_database())


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/gateway.db"


@pytest.fixture
def open_store() -> Iterator[Callable[..., Store]]:
    """Opens stores that are closed at the test's end."""
    opened: list[Store] = []

    def open_(url: str, **settings: object) -> Store:
        store = Store(StoreConfig.model_validate({"url": url, **settings}))
        opened.append(store)
        return store

    yield open_
    for store in opened:
        store.close()
