"""A stand for each test."""

from collections.abc import Iterator

import pytest
from stands import Stand, stands


@pytest.fixture
def stand() -> Iterator[Stand]:
    yield from stands()
