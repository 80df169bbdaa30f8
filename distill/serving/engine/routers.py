"""Routers whose neural part is asked of the engine; all else of them is what runs in process.

A decision that could not be had is a reply with an `error`, as of any endpoint.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from distill.errors import EngineError, RouterError
from distill.routers import pretrained
from distill.routers.cascade import FIRST, SECOND, CascadeRouter
from distill.routers.decoding import Completion, DecodingRouter
from distill.routers.encoding import EncodingRouter, Logits, TokenRows
from distill.routers.folder import RouterFile, read_router_file
from distill.routers.grammar import for_older
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
        """What greedy decoding within the grammar writes, whatever the engine makes of grammars.

        Without one at first: as long as every token is allowed a grammar changes none, and a
        trained router seldom needs it. That spares the engine the grammar, and log-probabilities
        are the model's own; those of a completion that was held to a grammar are read once more.
        """
        client, most = self._engine.client, self.config.max_new_tokens
        written = client.write(self._model, prompt, most)
        own = written.log_probabilities
        if not self._allowed(grammar, written.ids):
            text = self.format.grammars.spaced(grammar)
            text = text if self._engine.installed.escapes else for_older(text)
            written = client.write(self._model, prompt, most, text)
            if not self._allowed(grammar, written.ids):
                return Completion(written.ids, [], whole=False)
            own = client.score(self._model, prompt, written.ids)
        whole = written.ended and written.ids[-1] == self.tokenizer.eos_token_id
        return Completion(written.ids, own, whole)

    def _allowed(self, grammar: str, ids: list[int]) -> bool:
        return self.format.grammars.matcher(grammar).validate_tokens(ids) == len(ids)

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
