"""Finished tasks, one JSON object a line, so that a killed run goes on after the last.

A line names the `arm` that it belongs to (a router under a policy) and the hash of all that the
outcome depends on. Lines are appended; one that was cut off by a kill is dropped. Of a task that
was tried again the last line counts. Nothing but the tasks' names and places is held in memory.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from distill.environment import Score
from distill.errors import RouterError
from distill.evaluation.closed_loop.loop import End, Outcome
from distill.types import Usage

_BLOCK = 1 << 16
_OPENING = b'{"arm":'


class TaskLog:
    """The outcomes of one arm in a file that several may share.

    Args:
        path: made when the first outcome is added.
        arm: its name, unique in the file.
        settings: hash of everything that outcomes of this arm depend on.

    Raises:
        RouterError: the file holds outcomes of this arm with other settings, or is damaged.
    """

    def __init__(self, path: Path, arm: str, settings: str) -> None:
        self.path, self.arm, self.settings = path, arm, settings
        self._places: dict[str, int] = {}
        self.done: set[str] = set()
        """The tasks that need not be tried again: those that did not end in an error."""
        if path.is_file():
            _drop_half_a_line(path)
            self._find()

    def add(self, outcome: Outcome) -> None:
        """Append an outcome; it stays if the program is killed now."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        value = {"arm": self.arm, "settings": self.settings, **asdict(outcome)}
        with self.path.open("ab") as file:
            place = file.tell()
            file.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
        self._note(outcome.task, outcome.end, place)

    def outcomes(self) -> Iterator[Outcome]:
        """The latest of each task, in the order in which the tasks were first added."""
        if not self._places:
            return
        with self.path.open("rb") as file:
            for place in self._places.values():
                file.seek(place)
                yield _outcome(orjson.loads(file.readline()))

    def _note(self, task: str, end: End, place: int) -> None:
        self._places[task] = place
        if end != "error":
            self.done.add(task)

    def _find(self) -> None:
        place = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                where = f"{self.path}:{number}"
                try:
                    value = orjson.loads(line)
                    arm, settings, task, end = (
                        value[key] for key in ("arm", "settings", "task", "end")
                    )
                except (ValueError, KeyError, TypeError):
                    raise RouterError(where, "not an outcome", "name another folder") from None
                if arm == self.arm:
                    if settings != self.settings:
                        raise RouterError(
                            where,
                            f"{arm} was simulated with other settings",
                            "name another folder, or delete this one",
                        )
                    self._note(task, end, place)
                place += len(line)


def _outcome(value: dict[str, Any]) -> Outcome:
    del value["arm"], value["settings"]
    if value["score"] is not None:
        reasons = tuple(value["score"]["reasons"])
        value["score"] = Score(**value["score"] | {"reasons": reasons})
    value["steps"], value["usage"] = tuple(value["steps"]), Usage(**value["usage"])
    return Outcome(**value)


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
