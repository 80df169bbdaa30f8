"""What training takes and gives, whatever the kind of router."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from distill.errors import MissingExtraError
from distill.progress import Progress
from distill.runs import RunDir
from distill.types import Example, Router, ToolSpec


@dataclass(frozen=True)
class Parts:
    """What a router may see of a dataset while it is trained."""

    train: Sequence[Example]
    validation: Sequence[Example]
    catalogue: tuple[ToolSpec, ...]


@dataclass(frozen=True)
class Job:
    """One training: what is learned from, where the run lies, and who is told."""

    parts: Parts
    run: RunDir
    seed: int
    trackers: Sequence[str]
    progress: Progress


@dataclass(frozen=True)
class Trained:
    """A trained router with what its manifest says of the training."""

    router: Router
    parameters: int
    trainable_parameters: int
    seconds: float


def require_trackers(trackers: Sequence[str]) -> None:
    """Raise MissingExtraError for a tracker that is not installed."""
    for tracker in trackers:
        try:
            # Not `find_spec`: it takes a folder `wandb` that earlier runs left here for it.
            metadata.version(tracker)
        except metadata.PackageNotFoundError:
            raise MissingExtraError(tracker, f"trackers: {tracker}") from None
