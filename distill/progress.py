"""How long work reports where it stands; drawing it is the command line's business."""

from typing import Protocol


class Progress(Protocol):
    """Called as often as the work likes: what it does, how far it is, and of how much."""

    def __call__(self, stage: str, done: int, total: int | None = None) -> None: ...


def silent(stage: str, done: int, total: int | None = None) -> None:
    """A `Progress` that draws nothing."""
