"""Two routers in a row: an encoder decides, and a decoder fills the arguments that it cannot.

    router.json     kind `cascade`; calibration and thresholds are those of both together
    encoder/        the router folder of the stage that chooses the tools
    decoder/        that of the stage that writes arguments for them

The encoder's decision stands as it is where it replies, or where its calls have all their arguments
(from pointers, or because the tool takes none). The decoder is asked for the others only, and held
to the tools that were chosen. `Decision.stage` says which stage had the last word.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from distill.routers.confidence import calibrated
from distill.routers.decoder import DecoderRouter
from distill.routers.decoding import DecodingRouter
from distill.routers.folder import RouterFile, read_router_file
from distill.types import Context, Decision, Router

FIRST, SECOND = "encoder", "decoder"
"""The stages' names, and their folders'."""


class CascadeRouter:
    """Both stages as one router.

    Args:
        first: decides; its confidences are the belief in what it says.
        second: fills arguments.
        folders: where the stages' router folders lie, by their names, to be copied on save.
    """

    def __init__(
        self, file: RouterFile, first: Router, second: DecodingRouter, folders: Mapping[str, Path]
    ) -> None:
        self.file, self.first, self.second, self.folders = file, first, second, folders

    @property
    def kind(self) -> str:
        return "cascade"

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        """A filled call's confidence is that in its tools times that in its arguments."""
        decisions = [replace(decision, stage=FIRST) for decision in self.first.decide(contexts)]
        unfilled = [i for i, decision in enumerate(decisions) if not decision.filled]
        chosen = [decisions[i] for i in unfilled]
        written = self.second.fill([contexts[i] for i in unfilled], chosen)
        for i, decision, answer in zip(unfilled, chosen, written, strict=True):
            if answer.action == "call":  # else it did not end in time: the tools alone are decided
                confidence = (decision.confidence or 0.0) * (answer.confidence or 0.0)
                decisions[i] = replace(answer, confidence=confidence, stage=SECOND)
            elif answer.error is not None:
                decisions[i] = replace(answer, stage=SECOND)
        return calibrated(decisions, self.file.calibration)

    def save(self, path: Path) -> None:
        for name, folder in self.folders.items():
            shutil.copytree(folder, path / name)
        self.file.save(path)

    @classmethod
    def load(cls, folder: Path, file: RouterFile) -> "CascadeRouter":
        return cls.of(file, {name: folder / name for name in (FIRST, SECOND)})

    @classmethod
    def of(cls, file: RouterFile, folders: Mapping[str, Path]) -> "CascadeRouter":
        """A cascade of its stages' router folders.

        Raises:
            RouterError: a folder is no router's or is damaged, or the second is no decoder's.
            ModelError: the base model that an adapter needs cannot be had.
        """
        # `load` knows every kind, this one too.
        from distill.routers.load import load_router  # noqa: PLC0415

        decoder = DecoderRouter.load(folders[SECOND], read_router_file(folders[SECOND]))
        return cls(file, load_router(folders[FIRST]), decoder, folders)
