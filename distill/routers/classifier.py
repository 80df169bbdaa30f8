"""What all routers over a closed set of decision classes share: from probabilities to decisions.

Choosing among the offered tools is `LabelSpace`'s. A classifier says how a context becomes text
(`text`) and how texts become probabilities (`probabilities`).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from distill.routers.catalogue import ClosedCatalogue
from distill.routers.confidence import calibrated
from distill.routers.folder import RouterFile
from distill.routers.labels import Probabilities
from distill.types import Context, Decision


class ClosedRouter(ABC):
    """A `Router` over `file.labels`."""

    def __init__(self, file: RouterFile) -> None:
        self.file = file
        self.catalogue = ClosedCatalogue(file.catalogue)

    @property
    def kind(self) -> str:
        return self.file.config.kind

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        return calibrated(self.choose(contexts), self.file.calibration)

    def choose(self, contexts: Sequence[Context]) -> list[Decision]:
        """The decisions with raw confidences."""
        if not contexts:
            return []
        decisions = self.file.labels.decide(self.beliefs(contexts), contexts)
        return self.catalogue.without_unknown(decisions, contexts)

    @abstractmethod
    def beliefs(self, contexts: Sequence[Context]) -> Probabilities:
        """Class probabilities [contexts, classes], rows summing to 1."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write the router folder's files into an existing folder."""


class ClassifierRouter(ClosedRouter):
    """A closed router that reads a context as text."""

    def beliefs(self, contexts: Sequence[Context]) -> Probabilities:
        return self.probabilities([self.text(context) for context in contexts])

    @abstractmethod
    def text(self, context: Context) -> str:
        """What the router reads of the context."""

    @abstractmethod
    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        """Class probabilities [texts, classes], rows summing to 1."""
