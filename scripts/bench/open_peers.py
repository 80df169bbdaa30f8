"""Our encoder with an open catalogue beside other ways to find tools never seen in training.

    encoder   the job's trained run
    bm25      BM25 of request and tool, over words
    cosine    cosine of the untuned base model's embeddings of request and tool: zero-shot, and
              what semantic-router ranks by that is given a route for each tool, the tool's
              text its utterance
    knn       the likeness of the most similar training request that called the tool

All read the text that the encoder reads of the request and of the tools. A peer scores tools and
does not say how many are meant: it calls the best, and those that come within a margin of it and
above a threshold, both chosen on the training part for the most right decisions, or as many as are
mostly called there, whichever is better.
`encoder −` is the paired difference, with its 95% interval from a bootstrap over groups. Times are
of one decision, the tools' embeddings known (as the encoder knows its own).

Example:
    python scripts/bench/open_peers.py runs/seal-tools --run open --seeds 0 1 2
"""

import math
import re
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from comparison import comparing, parser
from table import ordered

from distill.dataset import load_dataset
from distill.dataset.vote import vote
from distill.errors import InputError, RouterError
from distill.evaluation.predictions import load as load_predictions
from distill.routers import candidates, load_router, pretrained
from distill.routers.encoder import mean
from distill.routers.open_encoder import OpenEncoderRouter
from distill.routers.words import tool_text
from distill.runs import RunDir, read_json
from distill.types import Context, Decision, Example, ToolCall, ToolSpec

Floats = npt.NDArray[np.floating[Any]]

THRESHOLDS, MARGINS = 40, 12
"""Candidates, from the quantiles of the training part's scores."""


class Task:
    """What every peer of one seed reads and learns from."""

    def __init__(self, ours: OpenEncoderRouter, train: list[Example], base: str) -> None:
        self.ours, self.train = ours, train
        self.base = pretrained.resolve(base)
        self.tools = {self.words(tool): tool for example in train for tool in example.context.tools}

    def words(self, tool: ToolSpec) -> str:
        return tool_text(tool, self.ours.config.match.tool_chars)


class Peer(ABC):
    """Scores of tools by somebody else's method, and one rule for how many are called."""

    kind = "peer"
    note = ""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.prepare()
        asked = [example for example in task.train if example.label.calls]
        scores = [self.scores(*self._read(example.context)) for example in asked]
        labels = [
            [tool.name in example.label.tools for tool in candidates.offered(example.context)]
            for example in asked
        ]
        numbers = Counter(len(example.label.calls) for example in asked)
        self.most, _ = numbers.most_common(1)[0]
        everything = np.concatenate(scores)
        gaps = np.concatenate([row.max() - row for row in scores])
        rules = [
            (float(threshold), float(margin))
            for threshold, margin in product(
                np.quantile(everything, np.linspace(0, 1, THRESHOLDS)),
                np.quantile(gaps, np.linspace(0, 1, MARGINS)),
            )
        ]

        def right(rule: tuple[float, float] | None) -> int:
            return sum(
                bool((self._called(row, rule) == label).all())
                for row, label in zip(scores, labels, strict=True)
            )

        self.rule = max([None, *rules], key=right)
        chosen = f"{self.most} calls" if self.rule is None else "threshold {:.3g}, margin {:.3g}"
        self.note = chosen.format(*(self.rule or ()))

    @abstractmethod
    def prepare(self) -> None:
        """Learn what `scores` needs."""

    @abstractmethod
    def scores(self, text: str, tools: list[str]) -> Floats:
        """[tools] of texts of tools; higher is better."""

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        return [self._decide(context) for context in contexts]

    def save(self, path: Path) -> None:
        raise AssertionError("peers are measured and thrown away")

    def _read(self, context: Context) -> tuple[str, list[str]]:
        tools = candidates.offered(context)
        return self.task.ours.text(context), [self.task.words(tool) for tool in tools]

    def _decide(self, context: Context) -> Decision:
        tools = candidates.offered(context)
        if not tools:
            return Decision("reply")
        called = self._called(self.scores(*self._read(context)), self.rule)
        calls = tuple(ToolCall(tools[i].name, None) for i in np.flatnonzero(called))
        return Decision("call", calls)

    def _called(self, scores: Floats, rule: tuple[float, float] | None) -> npt.NDArray[np.bool_]:
        best = scores.max()
        if rule is None:
            return np.isin(np.arange(len(scores)), np.argsort(-scores, kind="stable")[: self.most])
        threshold, margin = rule
        return (scores == best) | ((scores >= threshold) & (scores >= best - margin))


class Bm25(Peer):
    """k1 = 1.2, b = 0.75; document frequencies from the training part's tools."""

    def prepare(self) -> None:
        documents = [set(_words(text)) for text in self.task.tools]
        frequent = Counter(word for document in documents for word in document)
        self.length = sum(len(_words(text)) for text in self.task.tools) / len(documents)
        self.rarity = {
            word: math.log1p((len(documents) - n + 0.5) / (n + 0.5)) for word, n in frequent.items()
        }
        self.unseen = math.log1p((len(documents) + 0.5) / 0.5)

    def scores(self, text: str, tools: list[str]) -> Floats:
        asked = set(_words(text))
        return np.array([self._score(asked, _words(tool)) for tool in tools])

    def _score(self, asked: set[str], document: list[str]) -> float:
        long = 0.25 + 0.75 * len(document) / self.length
        return sum(
            self.rarity.get(word, self.unseen) * times * 2.2 / (times + 1.2 * long)
            for word, times in Counter(document).items()
            if word in asked
        )


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


class Cosine(Peer):
    """Mean-pooled unit vectors, as MiniLM was pretrained to be compared."""

    def prepare(self) -> None:
        self.tokenizer = pretrained.load_tokenizer(self.task.base)
        self.encoder = pretrained.load_encoder(self.task.base).eval()
        self.known: dict[str, Floats] = {}

    def scores(self, text: str, tools: list[str]) -> Floats:
        return self._vectors(tools) @ self._vector(text)

    def _vectors(self, texts: Iterable[str]) -> Floats:
        for text in texts:
            if text not in self.known:
                self.known[text] = self._vector(text)
        return np.stack([self.known[text] for text in texts])

    def _vector(self, text: str) -> Floats:
        batch = self.tokenizer([text], truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            states = self.encoder(**batch)[0]
            pooled = mean(states, batch["attention_mask"])
        return cast(Floats, torch.nn.functional.normalize(pooled, dim=-1)[0].numpy())


class Neighbours(Cosine):
    """A tool that no training request called scores 0."""

    def prepare(self) -> None:
        super().prepare()
        self.requests = self._vectors([self.task.ours.text(e.context) for e in self.task.train])
        self.callers: dict[str, list[int]] = {}
        for i, example in enumerate(self.task.train):
            for tool in example.context.tools:
                if tool.name in example.label.tools:
                    self.callers.setdefault(self.task.words(tool), []).append(i)

    def scores(self, text: str, tools: list[str]) -> Floats:
        alike = self.requests @ self._vector(text)
        # A training request is no neighbour of itself.
        alike[alike > 1 - 1e-5] = 0.0
        return np.array([max(alike[self.callers.get(tool, [])], default=0.0) for tool in tools])


PEERS: dict[str, type[Peer]] = {
    "bm25": Bm25,
    "cosine": Cosine,
    "knn": Neighbours,
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__, [*PEERS])
    options.add_argument("--run", default="open", help="the job's encoder with an open catalogue")
    args = options.parse_args(arguments)
    with comparing(args) as table:
        for seed in args.seeds:
            dataset = load_dataset(args.job / f"dataset-s{seed}")
            run = RunDir(args.job / f"{args.run}-s{seed}")
            run.require_whole()
            ours = load_router(run.path)
            if not isinstance(ours, OpenEncoderRouter):
                raise RouterError(run.path, "has a closed catalogue", "peers.py compares such")
            task = Task(ours, vote(dataset.examples("train")), args.base)
            for name in ordered("encoder", args.routers):
                if name == "encoder":
                    seconds = read_json(run.manifest)["train_seconds"]
                    table.add(name, ours, dataset, seconds, load_predictions(run.predictions))
                    continue
                start = time.perf_counter()
                peer = PEERS[name](task)
                table.add(name, peer, dataset, time.perf_counter() - start)
                print(f"{name}, seed {seed}: done", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"open_peers.py: {error}")
