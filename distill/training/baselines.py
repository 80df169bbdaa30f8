"""Fitting the two baselines: counting, and scikit-learn."""

import time
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from distill.config import MajorityConfig, TfidfConfig
from distill.errors import DatasetError
from distill.routers.baselines import MajorityRouter, TfidfRouter, tfidf_text, vectorizers
from distill.routers.folder import RouterFile
from distill.routers.labels import LabelSpace
from distill.training.job import Job, Trained
from distill.types import Example


def train_baseline(config: MajorityConfig | TfidfConfig, job: Job) -> Trained:
    """Fit either baseline; its parameters are the numbers it keeps."""
    started = time.monotonic()
    router: MajorityRouter | TfidfRouter
    if isinstance(config, MajorityConfig):
        router = _fit_majority(config, job)
        parameters = router.frequencies.size
    else:
        router = _fit_tfidf(config, job)
        parameters = router.weights.size + router.bias.size
    return Trained(router, parameters, parameters, time.monotonic() - started)


def _fit_majority(config: MajorityConfig, job: Job) -> MajorityRouter:
    """Class frequencies of the training part."""
    labels = LabelSpace.of(example.label for example in job.parts.train)
    counts = Counter(labels.index(example.label) for example in job.parts.train)
    frequencies = np.array([counts[i] for i in range(len(labels))], dtype=np.float64)
    file = RouterFile(config, job.parts.catalogue, labels)
    return MajorityRouter(file, frequencies / frequencies.sum())


def _fit_tfidf(config: TfidfConfig, job: Job) -> TfidfRouter:
    """Logistic regression at the regularisation that decides validation best."""
    labels = LabelSpace.of(example.label for example in job.parts.train)
    file = RouterFile(config, job.parts.catalogue, labels)
    texts = [tfidf_text(example.context, config) for example in job.parts.train]
    targets = [labels.index(example.label) for example in job.parts.train]
    features = vectorizers()
    try:
        columns = [vectorizer.fit_transform(texts) for vectorizer in features.values()]
    except ValueError as error:
        fault = f"{len(texts)} examples leave no terms to learn from ({error})"
        raise DatasetError("training part", fault, "give more traces") from None
    matrix = hstack(columns).tocsr()
    candidates = []
    for i, strength in enumerate(config.regularisation):
        job.progress(f"training {job.run.path.name}", i, len(config.regularisation))
        fitted = _fit(matrix, targets, strength, job.seed)
        candidates.append(TfidfRouter(file, features, *fitted))
    return max(candidates, key=lambda router: _accuracy(router, job.parts.validation))


def _fit(
    matrix: csr_matrix, targets: Sequence[int | None], strength: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    if len(set(targets)) == 1:  # scikit-learn refuses what needs no learning
        return np.zeros((1, matrix.shape[1])), np.zeros(1)
    # A looser tolerance than scikit-learn's stops too early where there are hundreds of classes.
    model = LogisticRegression(C=strength, max_iter=200, random_state=seed)
    with warnings.catch_warnings():
        # A regularisation too weak to converge is a candidate that validation will judge.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(matrix, targets)
    if len(model.classes_) == 2:  # scikit-learn keeps one row of weights for two classes
        zeros = np.zeros_like(model.coef_)
        return np.vstack([zeros, model.coef_]), np.concatenate([[0.0], model.intercept_])
    return model.coef_, model.intercept_


def _accuracy(router: TfidfRouter, examples: Sequence[Example]) -> float:
    decisions = router.decide([example.context for example in examples])
    hits = [d.tools == e.label.tools for d, e in zip(decisions, examples, strict=True)]
    return float(np.mean(hits)) if hits else 0.0
