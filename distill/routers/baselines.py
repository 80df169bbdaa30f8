"""The two baselines every reader asks for: the most frequent decision, and TF-IDF.

Both are plain arrays on disk; nothing of scikit-learn is pickled.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer

from distill.config import TfidfConfig
from distill.errors import RouterError
from distill.render import render_text
from distill.routers.classifier import ClassifierRouter
from distill.routers.folder import RouterFile, require_files
from distill.routers.labels import Probabilities
from distill.runs import read_json, write_json
from distill.types import Context

Floats = npt.NDArray[np.floating[Any]]


class MajorityRouter(ClassifierRouter):
    """Always the training part's class frequencies, whatever the context says."""

    def __init__(self, file: RouterFile, frequencies: Floats) -> None:
        super().__init__(file)
        self.frequencies = frequencies

    def text(self, context: Context) -> str:
        return ""

    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        return np.tile(self.frequencies, (len(texts), 1))

    def save(self, path: Path) -> None:
        save_file({"frequencies": self.frequencies}, path / "model.safetensors")
        self.file.save(path)


def vectorizers() -> dict[str, TfidfVectorizer]:
    """Unfitted word 1-2-gram and character 2-4-gram vectorizers, sublinear term frequencies."""
    return {
        "words": TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        "characters": TfidfVectorizer(
            analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, min_df=3
        ),
    }


class TfidfRouter(ClassifierRouter):
    """Multinomial logistic regression on TF-IDF features.

    Args:
        features: fitted vectorizers, in the order in which their columns stand in `weights`.
        weights: [classes, features].
        bias: [classes].
    """

    def __init__(
        self, file: RouterFile, features: dict[str, TfidfVectorizer], weights: Floats, bias: Floats
    ) -> None:
        super().__init__(file)
        self.features, self.weights, self.bias = features, weights, bias
        # As scipy multiplies with them; otherwise it would copy them so at each decision.
        ends = np.cumsum([len(vectorizer.vocabulary_) for vectorizer in features.values()])[:-1]
        self._columns = [np.ascontiguousarray(part.T) for part in np.split(weights, ends, axis=1)]

    def text(self, context: Context) -> str:
        return tfidf_text(context, cast(TfidfConfig, self.file.config))

    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        logits = np.tile(self.bias, (len(texts), 1))
        for vectorizer, columns in zip(self.features.values(), self._columns, strict=True):
            logits += vectorizer.transform(texts) @ columns
        return cast(Probabilities, softmax(logits, axis=1))

    def save(self, path: Path) -> None:
        arrays = {"weights": self.weights, "bias": self.bias}
        terms = {}
        for name, vectorizer in self.features.items():
            arrays[f"{name}.idf"] = vectorizer.idf_
            terms[name] = vectorizer.get_feature_names_out().tolist()
        save_file(
            {k: np.ascontiguousarray(v) for k, v in arrays.items()}, path / "model.safetensors"
        )
        write_json(path / "terms.json", terms)
        self.file.save(path)


def tfidf_text(context: Context, config: TfidfConfig) -> str:
    """The text that training and routing alike vectorize."""
    return render_text(context, config.render)


def load(folder: Path, file: RouterFile) -> ClassifierRouter:
    """Load either baseline from its folder."""
    require_files(folder, ["model.safetensors"])
    arrays = load_file(folder / "model.safetensors")
    if file.config.kind == "majority":
        return MajorityRouter(file, arrays["frequencies"])
    terms = read_json(folder / "terms.json")
    features = vectorizers()
    for name, vectorizer in features.items():
        if len(terms[name]) != len(arrays[f"{name}.idf"]):
            raise RouterError(folder / "terms.json", "does not fit the weights", "copy it again")
        vectorizer.vocabulary_ = {term: i for i, term in enumerate(terms[name])}
        vectorizer.fixed_vocabulary_ = True
        vectorizer.idf_ = arrays[f"{name}.idf"]
    return TfidfRouter(file, features, arrays["weights"], arrays["bias"])
