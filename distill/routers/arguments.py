"""Filling in the arguments of the tools that an encoder chose, from what stands in the context.

However the tools were chosen, each call that has arguments to fill is asked about by itself
(`distill.routers.pointers`). A call stays unfilled, for an LLM to fill, where a value is not to be
found, where the schema is not plain enough, where the result would break the schema, and where a
decision calls one tool several times, since nothing tells the calls apart.

    arguments/          in the router folder
        model.safetensors, config.json, tokenizer…   the encoder
        head.safetensors                             the pointers
        constants.json                               values that the teacher gives unasked
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from distill.config import EncoderConfig
from distill.errors import RouterError
from distill.routers import pretrained
from distill.routers.confidence import calibrated
from distill.routers.devices import device
from distill.routers.folder import RouterFile, require_files
from distill.routers.pointers import Array, Missing, PointerReader, Reading, padded, read
from distill.routers.slots import Constants, slots
from distill.runs import read_json, write_json
from distill.types import Context, Decision, Router, ToolCall, ToolSpec
from distill.validation import check_arguments

FOLDER = "arguments"
_BATCH = 16


@dataclass(frozen=True)
class Filled:
    """A call's arguments with the belief that all of them are right."""

    call: ToolCall
    confidence: float


class ArgumentFiller:
    """Fills calls; knows the tools' schemas from the context, and no router."""

    def __init__(
        self,
        config: EncoderConfig,
        tokenizer: PreTrainedTokenizerBase,
        model: PointerReader,
        constants: Constants,
    ) -> None:
        self.config, self.tokenizer, self.model = config, tokenizer, model.eval()
        self.constants = constants

    def reading(self, context: Context, tool: ToolSpec) -> Reading | None:
        """What is read to fill a call of `tool`; None where it cannot be filled at all."""
        return reading(context, tool, self.constants, self.tokenizer, self.config)

    def fill(self, decisions: Sequence[Decision], contexts: Sequence[Context]) -> list[Decision]:
        """The decisions with arguments where these could be filled.

        The confidence of a decision whose calls are all filled is multiplied by the probability
        of each value: it is the belief that tools and arguments are right. Where a call stays
        unfilled it remains the belief in the tools.
        """
        asked: dict[tuple[int, int], tuple[ToolSpec, Reading]] = {}
        for d, (decision, context) in enumerate(zip(decisions, contexts, strict=True)):
            offered = {tool.name: tool for tool in context.tools}
            times = Counter(call.name for call in decision.calls)
            for c, call in enumerate(decision.calls):
                if call.arguments is None and times[call.name] == 1:
                    made = self.reading(context, offered[call.name])
                    if made is not None:
                        asked[d, c] = offered[call.name], made
        filled = dict(zip(asked, self._answers(list(asked.values())), strict=True))
        return [
            _with_arguments(decision, [filled.get((d, c)) for c in range(len(decision.calls))])
            for d, decision in enumerate(decisions)
        ]

    def _answers(self, asked: Sequence[tuple[ToolSpec, Reading]]) -> list[Filled | None]:
        order = sorted(range(len(asked)), key=lambda i: len(asked[i][1].ids))
        found: list[Filled | None] = [None] * len(asked)
        where = self.model.head.score.weight.device
        for start in range(0, len(order), _BATCH):
            chunk = order[start : start + _BATCH]
            batch = padded([asked[i][1] for i in chunk], cast(int, self.tokenizer.pad_token_id))
            with torch.inference_mode():
                output = self.model(**{name: tensor.to(where) for name, tensor in batch.items()})
            pointers = output["pointers"].double().exp().cpu().numpy()
            for row, i in enumerate(chunk):
                found[i] = _filled(*asked[i], pointers[0, row], pointers[1, row])
        return found

    def save(self, path: Path) -> None:
        """Write the filler's folder."""
        self.model.encoder.save_pretrained(path)
        self.tokenizer.save_pretrained(path)
        state = self.model.head.state_dict()
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in state.items()},
            path / "head.safetensors",
        )
        write_json(path / "constants.json", self.constants)

    @classmethod
    def load(cls, folder: Path, config: EncoderConfig) -> "ArgumentFiller":
        """Read the filler's folder.

        Raises:
            RouterError: a file is missing or damaged, or the head fits another encoder.
        """
        require_files(folder, ["model.safetensors", "head.safetensors", "constants.json"])
        local = pretrained.BaseModel(FOLDER, str(folder), None, FOLDER, None)
        model = PointerReader(pretrained.load_encoder(local))
        try:
            model.head.load_state_dict(load_file(folder / "head.safetensors"))
        except RuntimeError:
            raise RouterError(
                folder / "head.safetensors", "does not fit the encoder", "copy the folder again"
            ) from None
        constants = read_json(folder / "constants.json")
        if not _are_constants(constants):
            raise RouterError(folder / "constants.json", "damaged", "copy the folder again")
        return cls(config, pretrained.load_tokenizer(local), model.to(device()), constants)


def reading(
    context: Context,
    tool: ToolSpec,
    constants: Constants,
    tokenizer: PreTrainedTokenizerBase,
    config: EncoderConfig,
) -> Reading | None:
    """What training and routing alike read to fill a call; None where it cannot be filled at all.

    That is so where the schema has parts that are not understood, a required parameter cannot have
    a value that is found, or the question alone is too long.
    """
    asked = slots(tool, constants)
    if asked is None or any(s.required and s.kind is None and not s.options for s in asked):
        return None
    return read(context, tool, asked, tokenizer, config.argument_tokens)


def _filled(tool: ToolSpec, made: Reading, starts: Array, ends: Array) -> Filled | None:
    arguments, confidence = {}, 1.0
    for i, slot in enumerate(made.slots):
        value, probability = made.answer(i, starts[i], ends[i])
        confidence *= min(1.0, probability)
        if value is Missing.UNKNOWN:
            return None
        if value is not Missing.OMITTED:
            arguments[slot.name] = value
    call = ToolCall(tool.name, arguments)
    return Filled(call, confidence) if check_arguments(call, tool) is None else None


def _with_arguments(decision: Decision, filled: Sequence[Filled | None]) -> Decision:
    calls = tuple(
        call if found is None else found.call
        for call, found in zip(decision.calls, filled, strict=True)
    )
    confidence = decision.confidence
    if confidence is not None and all(call.arguments is not None for call in calls):
        for found in filled:
            confidence *= 1.0 if found is None else found.confidence
    return replace(decision, calls=calls, confidence=confidence)


def _are_constants(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(tool, dict) and all(isinstance(values, list) for values in tool.values())
        for tool in value.values()
    )


class FillingRouter:
    """A router that chooses tools, and a filler after it.

    Args:
        tools: chooses with raw confidences.
        filler: fills what it chose.
        file: what the folder's `router.json` holds, the calibration of both together included.
    """

    def __init__(self, tools: Router, filler: ArgumentFiller, file: RouterFile) -> None:
        self.tools, self.filler, self.file = tools, filler, file

    @property
    def kind(self) -> str:
        return self.tools.kind

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        decisions = self.filler.fill(self.tools.decide(contexts), contexts)
        return calibrated(decisions, self.file.calibration)

    def save(self, path: Path) -> None:
        self.tools.save(path)
        self.file.save(path)
        self.filler.save(path / FOLDER)
