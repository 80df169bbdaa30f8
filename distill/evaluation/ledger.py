"""Rows of long work, appended to a file one by one, so that a killed job goes on where it was.

    {"settings": {…}}       first line: what the rows were made with
    {"id": …, …}            one line per row; ids are unique

Knows nothing of what is in a row.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import orjson

from distill.chat import canonical
from distill.errors import RouterError

_CURE = "name another folder, or delete the file"


class Ledger:
    """A file of rows, opened for appending; use as a context manager.

    `done` holds the ids of the rows that are there.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Open a file that is missing or was begun with equal settings.

        What a killed job left of its last line is cut off.

        Raises:
            RouterError: it was begun with other settings, or holds a line that is no row.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("a+b")
        try:
            self._file.truncate(_whole(self._file))
            if self._file.seek(0, 2) == 0:
                self._write({"settings": settings})
            self._check(settings)
            self.done = {str(row["id"]) for row in self.rows()}
        except BaseException:
            self._file.close()
            raise

    def _check(self, settings: Mapping[str, Any]) -> None:
        self._file.seek(0)
        found = _parsed(self._file.readline(), self.path, 1).get("settings")
        if not isinstance(found, dict):
            raise RouterError(self.path, "its first line holds no settings", _CURE)
        if canonical(found) != canonical(settings):
            keys = sorted(
                key
                for key in found.keys() | settings.keys()
                if canonical(found.get(key)) != canonical(settings.get(key))
            )
            raise RouterError(
                self.path, f"was begun with other settings ({', '.join(keys)})", _CURE
            )

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row, in the order of the file."""
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                row = _parsed(line, self.path, number)
                if number > 1:
                    if "id" not in row:
                        raise RouterError(f"{self.path}:{number}", "not a row", _CURE)
                    yield row

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row with an `id` of its own; it is in the file when this returns."""
        assert row["id"] not in self.done, f"{row['id']} comes twice"
        self._write(row)
        self.done.add(str(row["id"]))

    def _write(self, value: Mapping[str, Any]) -> None:
        self._file.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
        self._file.flush()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def _whole(file: BinaryIO) -> int:
    """How many bytes of the file are whole lines."""
    file.seek(0)
    return sum(len(line) for line in file if line.endswith(b"\n"))


def _parsed(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise RouterError(f"{path}:{number}", f"not JSON ({error})", _CURE) from None
    if not isinstance(value, dict):
        raise RouterError(f"{path}:{number}", "not a row", _CURE)
    return value
