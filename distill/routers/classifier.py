"""What all routers over a closed set of decision classes share: text in, class probabilities out.

A subclass says how a context becomes text (`text`) and how texts become probabilities
(`probabilities`); choosing among the offered tools is `LabelSpace`'s.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from distill.routers.catalogue import ClosedCatalogue
from distill.routers.confidence import calibrated
from distill.routers.folder import RouterFile
from distill.routers.labels import Probabilities
from distill.types import Context, Decision


class ClassifierRouter(ABC):
    """A `Router` over `file.labels`."""

    def __init__(self, file: RouterFile) -> None:
        self.file = file
        self.catalogue = ClosedCatalogue(file.catalogue)

    @property
    def kind(self) -> str:
        return self.file.config.kind

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        if not contexts:
            return []
        probabilities = self.probabilities([self.text(context) for context in contexts])
        decisions = self.file.labels.decide(probabilities, contexts)
        known = self.catalogue.without_unknown(decisions, contexts)
        return calibrated(known, self.file.calibration)

    @abstractmethod
    def text(self, context: Context) -> str:
        """What the router reads of the context."""

    @abstractmethod
    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        """Class probabilities [texts, classes], rows summing to 1."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write the router folder's files into an existing folder."""
