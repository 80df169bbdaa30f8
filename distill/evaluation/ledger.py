"""Rows of long work, appended to a file one by one, so that a killed job goes on where it was.

    {"part": …, "settings": {…}}    begins a part: what its rows are made with
    {"part": …, "id": …, …}         a row of that part

A file holds one part or several, each of its own settings. A row whose `error` is not null is of
work that is tried again; of several rows of one id the last counts. A line that was cut off by a
kill is dropped. In memory are held ids and their places in the file. Knows nothing else of what is
in a row.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from distill.chat import canonical
from distill.errors import RouterError

_CURE = "name another folder, or delete the file"
_BLOCK = 1 << 16
_OPENING = b'{"part":'


class Ledger:
    """One part of a file of rows.

    Args:
        path: made with the first row.
        settings: all that the rows depend on, as JSON has it.
        part: its name.

    Raises:
        RouterError: the part was begun with other settings, or a line is none of a ledger; the file
            is left as it is.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], part: str = "rows") -> None:
        self.path, self.settings, self.part = path, settings, part
        self._begun = False
        self._places: dict[str, int] = {}
        self.done: set[str] = set()
        """The ids of what need not be tried again."""
        if path.is_file():
            _drop_half_a_line(path)
            self._find()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row with an `id` that is not done; it stays if the program is killed now."""
        assert row["id"] not in self.done, f"{row['id']} comes twice"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            if not self._begun:
                file.write(self._line({"settings": self.settings}))
                self._begun = True
            place = file.tell()
            file.write(self._line(row))
        self._note(row, place)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The latest row of each id, in the order in which the ids were first added."""
        if not self._places:
            return
        with self.path.open("rb") as file:
            for place in self._places.values():
                file.seek(place)
                row: dict[str, Any] = orjson.loads(file.readline())
                del row["part"]
                yield row

    def _line(self, value: Mapping[str, Any]) -> bytes:
        return orjson.dumps({"part": self.part, **value}, option=orjson.OPT_APPEND_NEWLINE)

    def _note(self, row: Mapping[str, Any], place: int) -> None:
        self._places[row["id"]] = place
        if row.get("error") is None:
            self.done.add(row["id"])

    def _find(self) -> None:
        begun: set[str] = set()
        place = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                where = f"{self.path}:{number}"
                part, value = _parsed(line, where)
                if "id" not in value:
                    begun.add(part)
                    if part == self.part:
                        self._check(value["settings"], where)
                elif part not in begun:
                    raise RouterError(where, "not a row", _CURE)
                elif part == self.part:
                    self._note(value, place)
                place += len(line)
        self._begun = self.part in begun

    def _check(self, found: Mapping[str, Any], where: str) -> None:
        differing = sorted(
            key
            for key in found.keys() | self.settings.keys()
            if canonical(found.get(key)) != canonical(self.settings.get(key))
        )
        if differing:
            fault = f"{self.part} was begun with other settings ({', '.join(differing)})"
            raise RouterError(where, fault, _CURE)


def _parsed(line: bytes, where: str) -> tuple[str, dict[str, Any]]:
    """A line's part and the whole of it, which has an id or settings."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise RouterError(where, f"not JSON ({error})", _CURE) from None
    known = isinstance(value, dict) and isinstance(value.get("part"), str)
    if not known or not (
        isinstance(value.get("id"), str) or isinstance(value.get("settings"), dict)
    ):
        raise RouterError(where, "not a row", _CURE)
    return value["part"], value


def _drop_half_a_line(path: Path) -> None:
    """Cut the file after its last line break, if what follows is of ours."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(end - _BLOCK, 0)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        file.seek(end)
        if _OPENING.startswith(file.read(len(_OPENING))):
            file.truncate(end)
