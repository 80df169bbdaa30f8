"""One Arrow file of a dataset: written and read a megabyte at a time, hashed row by row.

Arrow IPC stream, readable with `datasets`. The hash is over values, not over the file, so that it
survives another version of Arrow. What the columns mean is not known here.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import orjson
from datasets.arrow_dataset import Dataset as ArrowDataset
from datasets.arrow_writer import ArrowWriter
from datasets.features import Features, Value

from distill.errors import DatasetError

REBUILD = "build it again with distill build"
"""The cure for every folder that is not whole."""

Columns = Mapping[str, Literal["string", "int32", "int64"]]
"""Types by name, in order."""

_BATCH_BYTES = 1024 * 1024


class TableWriter:
    """Appends rows to one file; what is held back is a megabyte and one row at most."""

    def __init__(self, writer: Any, columns: Columns) -> None:
        self._writer = writer
        self._columns = tuple(columns)
        self._held: list[Sequence[Any]] = []
        self._bytes = 0
        self._sha256 = hashlib.sha256()
        self.rows = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row; its keys are the columns."""
        values = [row[column] for column in self._columns]
        self._bytes += _hash_row(self._sha256, values)
        self._held.append(values)
        self.rows += 1
        if self._bytes > _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write out what is held back."""
        if self._held:
            columns = zip(self._columns, zip(*self._held, strict=True), strict=True)
            self._writer.write_batch({name: list(values) for name, values in columns})
        self._held = []
        self._bytes = 0

    @property
    def hash(self) -> str:
        """SHA-256 over the rows so far."""
        return self._sha256.hexdigest()


@contextmanager
def write_table(file: Path, columns: Columns) -> Iterator[TableWriter]:
    """Write `file`, whose folder exists."""
    features = Features({name: Value(kind) for name, kind in columns.items()})  # type: ignore[arg-type]
    with ArrowWriter(path=str(file), features=features) as writer:
        table = TableWriter(writer, columns)
        yield table
        table.flush()
        writer.finalize()


def open_table(file: Path, columns: Columns) -> ArrowDataset:
    """Map a file into memory.

    Raises:
        DatasetError: it is missing, cut off or has other columns.
    """
    if not file.is_file():
        raise DatasetError(file, "missing", REBUILD)
    try:
        table = ArrowDataset.from_file(str(file))
    except (OSError, ValueError):  # pyarrow's own errors derive from these
        raise DatasetError(file, "not a whole Arrow file", REBUILD) from None
    if table.column_names != list(columns):
        raise DatasetError(file, f"has columns {', '.join(table.column_names)}", REBUILD)
    return table


def hash_table(table: ArrowDataset) -> str:
    """`TableWriter.hash` of the rows of a file.

    Raises ValueError for bytes that are no rows. The rows are read in the batches in which they
    were written, since a fixed number of rows could hold any number of bytes.
    """
    sha256 = hashlib.sha256()
    for batch in table.data.to_batches():
        batch.validate(full=True)
        for values in zip(*batch.to_pydict().values(), strict=True):
            _hash_row(sha256, values)
    return sha256.hexdigest()


def _hash_row(sha256: Any, values: Sequence[Any]) -> int:
    """Add one row's values, in the order of the columns; returns how many bytes they make."""
    line = orjson.dumps(values) + b"\n"
    sha256.update(line)
    return len(line)
