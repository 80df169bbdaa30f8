"""A full disk, as every library that writes reports it: real writers, against a real limit."""

import errno
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow
import pytest
import torch
from pyarrow import feather
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from distill.disk import refusal

TENSORS = {"weight": torch.zeros(100_000)}
TOKENIZER = Tokenizer(WordLevel({f"word {i}": i for i in range(2000)}, unk_token="word 0"))
TABLE = pyarrow.table({"column": list(range(100_000))})


def sqlite(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA max_page_count = 2")
        database.execute("CREATE TABLE big (text)")
        database.execute("INSERT INTO big VALUES (?)", ("x" * 100_000,))


WRITERS: dict[str, Callable[[Path], object]] = {
    "python": lambda path: path.write_bytes(b"x" * 100_000),
    "safetensors": lambda path: save_file(TENSORS, path),
    "torch": lambda path: torch.save(TENSORS, path),
    "tokenizers": lambda path: TOKENIZER.save(str(path)),
    "arrow": lambda path: feather.write_feather(TABLE, str(path), compression="uncompressed"),
    "sqlite": sqlite,
}


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The operating system refuses to let any file grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", WRITERS)
def test_every_writers_failure_is_the_disks(name: str, tmp_path: Path):
    with pytest.raises(Exception) as caught, files_of_at_most(20_000):
        WRITERS[name](tmp_path / "file")
    said = refusal(caught.value)
    assert said is not None
    place, _, reason = said.partition(": ")
    assert place in ("disk", str(tmp_path / "file"))
    assert any(word in reason for word in ("File too large", "full"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EBADF, "Bad file descriptor"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        Exception("expected value at line 1 column 1"),
        sqlite3.OperationalError("no such table: spool"),
    ],
    ids=repr,
)
def test_other_failures_are_not(error: Exception):
    if isinstance(error, sqlite3.OperationalError):
        error.sqlite_errorcode = sqlite3.SQLITE_ERROR
    assert refusal(error) is None
