"""Several closed routers as one: the mean of what they believe, by the logarithm.

    router.json     kind `ensemble`; calibration and thresholds are those of all together
    NAME/           each member's router folder, under its name in the job

The logarithmic opinion pool (Genest and Zidek 1986, "Combining Probability Distributions", section
3) with equal weights, so that nothing has to be fitted. It is right more often than its members
where these err on different decisions (Heskes 1998, "Selecting Weighting Factors in Logarithmic
Opinion Pools"), as an encoder, which reads meaning, and TF-IDF, which reads words, do.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from scipy.special import softmax

from distill.config import EnsembleConfig
from distill.errors import RouterError
from distill.routers.arguments import ArgumentFiller, FillingRouter
from distill.routers.classifier import ClosedRouter
from distill.routers.confidence import calibrated
from distill.routers.folder import RouterFile
from distill.routers.labels import LabelSpace, Probabilities
from distill.types import Context, Decision

_LEAST = 1e-6
"""A member's least belief in any class, so that none has a veto."""


class EnsembleRouter(ClosedRouter):
    """All members as one router.

    Args:
        members: each over classes of `file.labels`.
        filler: fills the arguments of what all of them chose.
        folders: where the members' router folders lie, by their names, to be copied on save.
    """

    def __init__(
        self,
        file: RouterFile,
        members: Sequence[ClosedRouter],
        filler: ArgumentFiller | None,
        folders: Mapping[str, Path],
    ) -> None:
        super().__init__(file)
        self.members, self.filler, self.folders = members, filler, folders

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        decisions = self.choose(contexts)
        if self.filler is not None:
            decisions = self.filler.fill(decisions, contexts)
        return calibrated(decisions, self.file.calibration)

    def beliefs(self, contexts: Sequence[Context]) -> Probabilities:
        place = {names: i for i, names in enumerate(self.file.labels.classes)}
        total = np.zeros((len(contexts), len(place)))
        for member in self.members:
            found = np.zeros_like(total)
            found[:, [place[names] for names in member.file.labels.classes]] = member.beliefs(
                contexts
            )
            total += np.log(np.maximum(found, _LEAST))
        return cast(Probabilities, softmax(total / len(self.members), axis=1))

    def save(self, path: Path) -> None:
        for name, folder in self.folders.items():
            shutil.copytree(folder, path / name)
        self.file.save(path)

    @classmethod
    def load(cls, folder: Path, file: RouterFile) -> "EnsembleRouter":
        names = cast(EnsembleConfig, file.config).members
        return cls.of(file, {name: folder / name for name in names})

    @classmethod
    def of(cls, file: RouterFile, folders: Mapping[str, Path]) -> "EnsembleRouter":
        """An ensemble of its members' router folders.

        Raises:
            RouterError: a folder is no closed router's, is damaged, or has classes of its own.
        """
        # `load` knows every kind, this one too.
        from distill.routers.load import load_router  # noqa: PLC0415

        members: list[ClosedRouter] = []
        filler = None
        for folder in folders.values():
            router = load_router(folder)
            if isinstance(router, FillingRouter):
                filler = filler or router.filler
                router = router.tools
            if not isinstance(router, ClosedRouter):
                raise RouterError(
                    folder, "is no router of a closed catalogue", "name another member"
                )
            if not set(router.file.labels.classes) <= set(file.labels.classes):
                raise RouterError(folder, "has classes that the ensemble lacks", "copy it again")
            members.append(router)
        return cls(file, members, filler, folders)


def joined(spaces: Sequence[LabelSpace]) -> LabelSpace:
    """The classes that any member knows."""
    return LabelSpace(tuple(sorted({names for space in spaces for names in space.classes})))
