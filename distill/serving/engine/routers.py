"""Routers whose neural part is asked of the engine; all else of them is what runs in process.

A decision that could not be had is a reply with an `error`, as of any endpoint.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from llguidance import LLMatcher
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from distill.errors import EngineError, RouterError
from distill.routers import pretrained
from distill.routers.cascade import FIRST, SECOND, CascadeRouter
from distill.routers.decoding import Completion, DecodingRouter
from distill.routers.encoding import EncodingRouter, Logits, TokenRows
from distill.routers.folder import RouterFile, read_router_file
from distill.routers.load import load_as, load_router, router_folder
from distill.routers.open_encoder import OpenEncoderRouter
from distill.serving.engine.attached import Attached
from distill.serving.engine.client import Vectors
from distill.serving.engine.engine import Engine
from distill.types import Context, Decision, Router

AnyEngine = Engine | Attached


class ServedRouter:
    """A router whose engine may fail: what fails is no exception but a decision's `error`."""

    def __init__(self, router: Router, file: RouterFile) -> None:
        self.router, self.file = router, file

    @property
    def kind(self) -> str:
        return self.router.kind

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        try:
            return self.router.decide(contexts)
        except EngineError as error:
            return [Decision("reply", error=_words(error))] * len(contexts)

    def save(self, path: Path) -> None:
        """Raises RouterError: the weights are the engine's."""
        raise RouterError(path, "a served router has no weights", "copy its folder")


_AT_ONCE = 32
"""Tokens written between two looks, once the grammar has changed one."""


def _mask(matcher: LLMatcher) -> npt.NDArray[np.uint8]:
    """Of each token whether it may follow; of a forced text, its canonical tokens alone."""
    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    return np.unpackbits(bits, bitorder="little")


def _taken(matcher: LLMatcher, ids: Sequence[int]) -> int:
    """How many of the tokens the masks let through, one after another; the matcher takes them."""
    for place, token in enumerate(ids):
        mask = _mask(matcher)
        if token >= len(mask) or not mask[token] or not matcher.consume_token(token):
            return place
    return len(ids)


class ServedDecoder(DecodingRouter):
    """A decoder completed by vLLM."""

    batch = 64

    def __init__(
        self, file: RouterFile, tokenizer: PreTrainedTokenizerBase, engine: AnyEngine, model: str
    ) -> None:
        super().__init__(file, tokenizer)
        self._engine, self._model = engine, model

    def complete(self, prompts: list[list[int]], grammars: Sequence[str]) -> list[Completion]:
        try:
            self._engine.require_ready()
        except EngineError as error:
            return [_failed(error)] * len(prompts)
        answers = self._engine.client.each(self._complete, prompts, grammars)
        return [_failed(a) if isinstance(a, EngineError) else a for a in answers]

    def _complete(self, prompt: list[int], grammar: str) -> Completion:
        """What greedy decoding within the grammar writes, and the model's own log-probabilities.

        The engine writes freely, and what the grammar allows of it is kept: so far the grammar
        changes nothing. Then the likeliest allowed token is put in place of the first other one,
        and the engine goes on from there. A trained router seldom needs that. vLLM could keep to
        the grammar by itself, but then tells probabilities among the allowed tokens alone.
        """
        client, most = self._engine.client, self.config.max_new_tokens
        end_by = time.monotonic() + client.request_s
        matcher = self.format.grammars.matcher(grammar)
        ids: list[int] = []
        own: list[float] = []
        at_once = most
        while len(ids) < most and self.tokenizer.eos_token_id not in ids[-1:]:
            if time.monotonic() > end_by:
                raise EngineError(self._engine.url, "no completion in time", "see the engine's log")
            written = client.write(self._model, prompt + ids, min(at_once, most - len(ids)))
            fits = _taken(matcher, written.ids)
            ids += written.ids[:fits]
            own += written.log_probabilities[:fits]
            if fits < len(written.ids):
                allowed = set(np.flatnonzero(_mask(matcher)).tolist())
                if matcher.is_error() or not allowed:
                    break
                taken = client.step(self._model, prompt + ids, allowed)
                if taken is None:
                    break
                matcher.consume_token(taken[0])
                ids.append(taken[0])
                own.append(taken[1])
                at_once = _AT_ONCE
        whole = self.tokenizer.eos_token_id in ids[-1:] and not matcher.is_error()
        return Completion(ids, own, whole)

    def save(self, path: Path) -> None:
        raise RouterError(path, "a served decoder has no weights", "copy its folder")


class ServedEncoder(EncodingRouter):
    """A closed encoder whose class logits vLLM computes."""

    batch = 64

    def __init__(
        self, file: RouterFile, tokenizer: PreTrainedTokenizerBase, engine: AnyEngine, model: str
    ) -> None:
        super().__init__(file, tokenizer)
        self._engine, self._model = engine, model

    def logits(self, input_ids: TokenRows, attention_mask: TokenRows) -> Logits:
        rows = _pool(self._engine, self._model, "embed", _rows(input_ids, attention_mask))
        found = np.stack(rows) if len({len(row) for row in rows}) == 1 else np.empty((0, 0))
        if found.shape != (len(input_ids), len(self.file.labels)):
            raise EngineError(
                self._engine.url, "answered with other classes", "serve the router's own folder"
            )
        return cast(Logits, found)

    def save(self, path: Path) -> None:
        raise RouterError(path, "a served encoder has no weights", "copy its folder")


def _failed(error: EngineError) -> Completion:
    return Completion([], [], whole=False, error=_words(error))


def _words(error: EngineError) -> str:
    return f"engine: {error.fault}"


class _States(nn.Module):
    """An encoder in the engine: padded token rows -> the last states."""

    def __init__(self, engine: AnyEngine, model: str) -> None:
        super().__init__()
        self._engine, self._model = engine, model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor]:
        """[batch, time, hidden], 0 where the mask is."""
        ids, mask = input_ids.cpu().numpy(), attention_mask.cpu().numpy()
        rows = _rows(ids, mask)
        found = _pool(self._engine, self._model, "token_embed", rows)
        width = len(found[0]) // len(rows[0])
        fits = [len(states) == len(row) * width for states, row in zip(found, rows, strict=True)]
        if width == 0 or not all(fits):
            raise EngineError(
                self._engine.url, "answered with states of other tokens", "use a supported vLLM"
            )
        states = torch.zeros(*ids.shape, width)
        for i, (row, values) in enumerate(zip(rows, found, strict=True)):
            states[i, : len(row)] = torch.from_numpy(values.reshape(len(row), width).copy())
        return (states.to(input_ids.device),)


def _rows(input_ids: TokenRows, attention_mask: TokenRows) -> list[list[int]]:
    """Padded rows without their padding, which stands behind."""
    return [
        row[: int(mask.sum())].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)
    ]


def _pool(engine: AnyEngine, model: str, task: str, rows: list[list[int]]) -> list[Vectors]:
    engine.require_ready()
    return engine.client.pool(model, rows, task)


def served_router(path: str | Path, engine: AnyEngine) -> ServedRouter:
    """The counterpart of `load_router`, with the neural part in the engine.

    Args:
        path: what the engine was made for, or what its `load` returned.

    Raises:
        RouterError: no router there, a damaged one, or one that this engine does not serve.
    """
    folder = router_folder(path)
    file = read_router_file(folder)
    if file.config.kind == "cascade":
        folders = {name: folder / name for name in (FIRST, SECOND)}
        second = _served(folders[SECOND], read_router_file(folders[SECOND]), engine)
        first = load_router(folders[FIRST])
        cascade = CascadeRouter(file, first, cast(DecodingRouter, second), folders)
        return ServedRouter(cascade, file)
    router = load_as(folder, file, lambda where, what: _served(where, what, engine))
    return ServedRouter(router, file)


def _served(folder: Path, file: RouterFile, engine: AnyEngine) -> Router:
    model = engine.model(folder)
    if file.config.kind == "encoder" and engine.part.task == "token_embed":
        return OpenEncoderRouter.around(_States(engine, model), folder, file)
    tokenizer = pretrained.load_tokenizer(pretrained.saved(folder))
    kind = ServedDecoder if file.config.kind == "decoder" else ServedEncoder
    return kind(file, tokenizer, engine, model)
