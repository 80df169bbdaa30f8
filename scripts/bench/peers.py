"""Our encoder beside other ways to route: tool accuracy, time of a decision, time of training.

    encoder          the job's trained run
    encoder-int8     the same, exported for ONNX Runtime
    ensemble         the job's run, where it has one: the encoder and others decide together
    tfidf            the job's trained run: TF-IDF with logistic regression
    knn              the nearest training texts by the untuned base model's embeddings; k is chosen
                     on validation
    semantic-router  aurelio's, with the same base as its local encoder: a route for each decision,
                     the training texts its utterances, otherwise as it comes (the mean similarity
                     of the five nearest decides, no threshold); its calibration is fitted on
                     validation, since it warns against fitting on the utterances themselves
    setfit           contrastive fine-tuning of all the base's weights on --pairs sampled pairs of
                     training texts, then logistic regression (Tunstall et al. 2022,
                     arXiv:2209.11055), otherwise as it comes

All learn from the same training examples (each question once), choose among the tools on offer, and
fill no arguments, which peers cannot; peers read the text that the encoder reads. `encoder −` is
the paired difference, with its 95% interval from a bootstrap over groups. The accuracies of the
job's routers are those of their runs' predictions; times are measured here, one decision at a time,
but their runs' own in training.

A peer that is not installed is named with the command that installs it. Nothing is fetched.

Example:
    HF_HUB_OFFLINE=1 python scripts/bench/peers.py runs/workbench --seeds 0
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import cast

import numpy as np
import torch
from comparison import comparing, parser
from table import Table, ordered

from distill.dataset import Dataset, load_dataset
from distill.dataset.vote import vote
from distill.errors import InputError, MissingExtraError, RouterError
from distill.evaluation.predictions import load as load_predictions
from distill.routers import load_router, pretrained
from distill.routers.arguments import FillingRouter
from distill.routers.classifier import ClassifierRouter
from distill.routers.encoder import EncoderClassifier, EncoderRouter
from distill.routers.ensemble import EnsembleRouter
from distill.routers.export import export
from distill.routers.labels import Probabilities
from distill.runs import RunDir, read_json
from distill.types import Context, Example, Router

K = [1, 3, 5, 10, 20, 40]
"""Numbers of neighbours that validation chooses among."""


@dataclass
class Task:
    """What every peer of one seed learns from and is asked."""

    ours: EncoderRouter
    train: list[Example]
    validation: list[Example]
    base: pretrained.BaseModel
    """Untuned; a sentence-transformers model."""
    pairs: int
    seed: int

    def texts(self, examples: Sequence[Example]) -> list[str]:
        return [self.ours.text(example.context) for example in examples]

    def classes(self, examples: Sequence[Example]) -> list[int]:
        """The examples' decision classes; -1 where training never saw the decision."""
        found = (self.ours.file.labels.index(example.label) for example in examples)
        return [-1 if index is None else index for index in found]


class Peer(ClassifierRouter):
    """Scores of decision classes by somebody else's method, decided as ours are.

    `note` says what was chosen while it was fitted.
    """

    note = ""

    def __init__(self, task: Task) -> None:
        super().__init__(task.ours.file)
        self._text = task.ours.text

    def text(self, context: Context) -> str:
        return self._text(context)

    def save(self, path: Path) -> None:
        raise AssertionError("peers are measured and thrown away")


class Neighbours(Peer):
    """Cosine similarities of the k nearest training texts, summed by class."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.tokenizer = pretrained.load_tokenizer(task.base)
        self.encoder = EncoderClassifier(pretrained.load_encoder(task.base), 1).eval()
        self.known = self._embed(task.texts(task.train))
        self.classes = np.eye(len(self.file.labels))[task.classes(task.train)]
        contexts = [example.context for example in task.validation]
        similar = self._embed(task.texts(task.validation)) @ self.known.T

        def hits(k: int) -> int:
            decisions = self.file.labels.decide(self._votes(similar, k), contexts)
            pairs = zip(decisions, task.validation, strict=True)
            return sum(decision.tools == example.label.tools for decision, example in pairs)

        self.k = max(K, key=hits)
        self.note = f"k = {self.k}"

    def _embed(self, texts: Sequence[str]) -> Probabilities:
        """Mean-pooled unit vectors [texts, hidden], as MiniLM was pretrained to be compared."""
        rows = []
        with torch.inference_mode():
            for text in texts:  # alone, nothing is padded
                batch = self.tokenizer([text], truncation=True, max_length=256, return_tensors="pt")
                rows.append(self.encoder.pooled(batch["input_ids"], batch["attention_mask"]))
        return cast(Probabilities, torch.nn.functional.normalize(torch.cat(rows)).numpy())

    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        return self._votes(self._embed(texts) @ self.known.T, self.k)

    def _votes(self, similar: Probabilities, k: int) -> Probabilities:
        cut = np.sort(similar, axis=1)[:, -min(k, len(self.known)), None]
        return _shares(np.where(similar >= cut, similar, 0.0) @ self.classes)


class SemanticRouter(Peer):
    """aurelio's `semantic-router`."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        from semantic_router import Route  # noqa: PLC0415
        from semantic_router.encoders.local import LocalEncoder  # noqa: PLC0415
        from semantic_router.routers.indexed import IndexedRouter  # noqa: PLC0415

        utterances: dict[int, dict[str, None]] = {}
        labels = task.classes(task.train)
        for text, index in zip(task.texts(task.train), labels, strict=True):
            utterances.setdefault(index, {})[text] = None
        routes = [Route(name=str(i), utterances=list(texts)) for i, texts in utterances.items()]
        self.router = IndexedRouter(LocalEncoder(name=task.base.source), routes)
        known = [None if i < 0 else str(i) for i in task.classes(task.validation)]
        self.router.fit(task.texts(task.validation), known)

    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        scores = np.zeros((len(texts), len(self.file.labels)))
        for row, text in zip(scores, texts, strict=True):
            # Its confidences may tie and need not sum to 1; its ranking is what it decides by.
            for rank, choice in enumerate(self.router(text, limit=None)):
                row[int(choice.name)] = 0.5**rank
        return _shares(scores)


class SetFit(Peer):
    """Contrastive fine-tuning, then logistic regression."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        from datasets import Dataset as Rows  # noqa: PLC0415
        from setfit import SetFitModel, Trainer, TrainingArguments  # noqa: PLC0415

        self.model = SetFitModel.from_pretrained(task.base.source)
        batch = 16
        with tempfile.TemporaryDirectory() as temporary:
            arguments = TrainingArguments(
                output_dir=temporary,
                batch_size=(batch, 2),
                max_steps=max(1, task.pairs // batch),
                report_to="none",
                save_strategy="no",
                show_progress_bar=False,
                seed=task.seed,
            )
            rows = {"text": task.texts(task.train), "label": task.classes(task.train)}
            Trainer(self.model, args=arguments, train_dataset=Rows.from_dict(rows)).train()
        self.columns = [int(index) for index in self.model.model_head.classes_]
        self.note = f"{task.pairs} pairs"

    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        scores = np.zeros((len(texts), len(self.file.labels)))
        scores[:, self.columns] = self.model.predict_proba(list(texts), as_numpy=True)
        return scores


def _shares(scores: Probabilities) -> Probabilities:
    """Rows summing to 1; a row without a positive score stays as it is, and decides nothing."""
    scores = np.maximum(scores, 0.0)
    total = scores.sum(1, keepdims=True)
    return cast(Probabilities, scores / np.where(total > 0, total, 1.0))


PEERS: dict[str, tuple[type[Peer], str | None]] = {
    "knn": (Neighbours, None),
    "semantic-router": (SemanticRouter, "semantic-router"),
    "setfit": (SetFit, "setfit"),
}
"""Each with the distribution that must be installed."""
OURS = ["encoder", "encoder-int8", "ensemble", "tfidf"]


@dataclass
class Bench:
    """One job's folder."""

    job: Path
    base: str
    pairs: int
    table: Table

    def seed(self, seed: int, names: Sequence[str], say: Callable[[str], None]) -> None:
        """Measure the named routers on one seed; a peer that cannot be is named as skipped."""
        dataset = load_dataset(self.job / f"dataset-s{seed}")
        run = self._run("encoder", seed)
        task = Task(
            cast(EncoderRouter, _choosing(load_router(run.path))),
            *(vote(dataset.examples(part)) for part in ("train", "validation")),
            pretrained.resolve(self.base),
            self.pairs,
            seed,
        )
        for name in names:
            try:
                if name in PEERS:
                    self._peer(name, task, dataset)
                elif name == "encoder-int8":
                    self._exported(run, dataset)
                else:
                    self._trained(name, self._run(name, seed), dataset)
            except (MissingExtraError, RouterError) as error:
                self.table.skipped[name] = str(error)
                say(f"{name}: skipped ({error})")
            else:
                say(f"{name}, seed {seed}: done")

    def _run(self, name: str, seed: int) -> RunDir:
        run = RunDir(self.job / f"{name}-s{seed}")
        run.require_whole()
        return run

    def _peer(self, name: str, task: Task, dataset: Dataset) -> None:
        kind, distribution = PEERS[name]
        if distribution is not None:
            require_installed(name, distribution)
        start = time.perf_counter()
        peer = kind(task)
        self.table.add(name, peer, dataset, time.perf_counter() - start)

    def _exported(self, run: RunDir, dataset: Dataset) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            plain = Path(temporary) / "plain"
            plain.mkdir()
            _choosing(load_router(run.path)).save(plain)
            export(plain, Path(temporary) / "router")
            router = load_router(Path(temporary) / "router")
        self.table.add("encoder-int8", router, dataset, read_json(run.manifest)["train_seconds"])

    def _trained(self, name: str, run: RunDir, dataset: Dataset) -> None:
        seconds = read_json(run.manifest)["train_seconds"]
        found = load_predictions(run.predictions)
        self.table.add(name, _choosing(load_router(run.path)), dataset, seconds, found)


def _choosing(router: Router) -> Router:
    """What chooses the tools, without what fills their arguments."""
    if isinstance(router, FillingRouter):
        tools = cast(EncoderRouter, router.tools)
        config = tools.file.config.model_copy(update={"arguments": "none"})
        return EncoderRouter(replace(tools.file, config=config), tools.tokenizer, tools.model)
    if isinstance(router, EnsembleRouter):
        return EnsembleRouter(router.file, router.members, None, router.folders)
    return router


def require_installed(name: str, distribution: str) -> None:
    """Raise MissingExtraError where a peer's distribution is not installed."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        raise MissingExtraError("bench", name) from None


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__, [*OURS, *PEERS])
    options.add_argument("--pairs", type=int, default=2000, help="that SetFit samples")
    args = options.parse_args(arguments)
    with comparing(args) as table:
        bench = Bench(args.job, args.base, args.pairs, table)
        for seed in args.seeds:
            names = ordered("encoder", args.routers)
            bench.seed(seed, names, lambda said: print(said, file=sys.stderr, flush=True))
        if "encoder" not in table.rows:
            raise RouterError(args.job, "has no evaluated encoder", "run the job with an encoder")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"peers.py: {error}")
