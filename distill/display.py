"""Drawing progress: a live line on a terminal, plain lines in a log.

`Display` is a `Progress` for one piece of work, and shares the estimate of what is left among the
steps of a job by their rough costs, corrected by the time that the finished ones really took.
"""

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress

_PLAIN_SECONDS = 15.0
_DONE_BEFORE_SECONDS = 1.0


class Display:
    """Use as a context manager around the work; call `step` before each step of a job."""

    def __init__(self, console: Console, costs: Sequence[float] = (1.0,)) -> None:
        self.console, self.costs = console, list(costs)
        self.index, self.fraction = -1, 0.0
        self.started = self.printed = self.step_started = time.monotonic()
        self.bar = RichProgress(
            TextColumn("{task.fields[where]}"),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
        )
        self.task = self.bar.add_task("", where="", left="", total=None)

    def __enter__(self) -> "Display":
        if self.console.is_interactive:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.console.is_interactive:
            self.bar.stop()

    def step(self, name: str) -> None:
        """Begin the next step of the job."""
        now = time.monotonic()
        if self.index >= 0 and now - self.step_started < _DONE_BEFORE_SECONDS:
            # Most likely done in an earlier session: it says nothing of how fast the rest will be.
            self.costs[self.index] = 0.0
        self.step_started = now
        self.index += 1
        self.fraction = 0.0
        if not self.console.is_interactive:
            self._plain(name)
        self.bar.update(self.task, where=self._where(), description=name, total=None, completed=0)

    def __call__(self, stage: str, done: int, total: int | None = None) -> None:
        self.fraction = done / total if total else 0.0
        left = self._left()
        if self.console.is_interactive:
            self.bar.update(
                self.task,
                where=self._where(),
                description=stage,
                completed=done,
                total=total,
                left=left,
            )
        elif time.monotonic() - self.printed > _PLAIN_SECONDS:
            self._plain(f"{stage} {done}" + (f"/{total}" if total else ""), left)

    def note(self, line: str) -> None:
        """A line that stays on the screen."""
        self.console.print(line, markup=False, highlight=False)

    def _plain(self, line: str, left: str = "") -> None:
        self.printed = time.monotonic()
        elapsed = _duration(self.printed - self.started)
        self.note(f"{self._where()}{line} · {elapsed} elapsed" + (f" · {left}" if left else ""))

    def _where(self) -> str:
        return f"[{self.index + 1}/{len(self.costs)}] " if len(self.costs) > 1 else ""

    def _left(self) -> str:
        before = sum(self.costs[: max(self.index, 0)])
        done = before + self.costs[max(self.index, 0)] * self.fraction
        todo = sum(self.costs) - done
        elapsed = time.monotonic() - self.started
        if done < 0.02 * sum(self.costs) or elapsed < 5:
            return ""
        return f"about {_duration(elapsed / done * todo)} left"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
