"""A small causal LM with a LoRA adapter that writes Hermes-style tool calls.

The prompt is made by `PromptFormat`, which training uses too, through a chat template that is saved
with the router: a server that is given the template and the same messages renders the same tokens.
Output that is no well-formed call of an offered tool becomes a reply of confidence 0, which no
policy takes for an answer.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson
import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from distill.chat import parse_call
from distill.config import DecoderConfig
from distill.errors import ModelError, RouterError
from distill.render import Chat, fit, render_chat
from distill.routers import pretrained
from distill.routers.confidence import calibrated
from distill.routers.devices import device, dtype
from distill.routers.folder import RouterFile, require_files
from distill.types import Context, Decision, ToolCall

_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
_NAME = re.compile(r'\s*\{\s*"name"\s*:\s*"((?:[^"\\]|\\.)*)"')


def chat_template(style: str) -> str:
    """The ChatML template with its tools section in the given style, for any tokenizer."""
    return f'{{%- set tool_style = "{style}" -%}}\n{_TEMPLATE.read_text()}'


class PromptFormat:
    """Context -> prompt, as training and routing see it, through the tokenizer's own template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: DecoderConfig) -> None:
        if tokenizer.eos_token is None:
            raise ModelError(config.model, "its tokenizer has no end token", "use a chat model")
        self.tokenizer, self.config = tokenizer, config

    @classmethod
    def new(cls, tokenizer: PreTrainedTokenizerBase, config: DecoderConfig) -> "PromptFormat":
        """For a training: gives the tokenizer our template, which the router's folder keeps.

        Raises:
            ModelError: the tokenizer has no end token.
        """
        tokenizer.chat_template = chat_template(config.tools)
        return cls(tokenizer, config)

    def prompt(self, context: Context) -> str:
        """The prompt's text, shrunk to `max_tokens`."""
        return fit(
            lambda scale: self._render(render_chat(context, self.config.render, scale)),
            lambda text: len(self.ids(text)),
            self.config.max_tokens,
        )

    def ids(self, text: str) -> list[int]:
        """Token ids of a prompt or a completion; the template names all special tokens."""
        return cast(list[int], self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _render(self, chat: Chat) -> str:
        rendered = self.tokenizer.apply_chat_template(
            chat.messages,
            tools=cast(Any, chat.tools) or None,
            tokenize=False,
            add_generation_prompt=True,
        )
        return cast(str, rendered)


def parse_completion(text: str, context: Context) -> Decision | None:
    """Read a completion; None when it is neither a reply nor calls of offered tools.

    Plain words are a reply: the LLM is to find its own.
    """
    if "<tool_call>" not in text:
        return Decision("reply")
    offered = {tool.name for tool in context.tools}
    calls: list[ToolCall] = []
    for match in _CALL.finditer(text):
        try:
            call = parse_call(orjson.loads(match[1]))
        except ValueError:
            return None
        if call.name not in offered or call.arguments is None:
            return None
        calls.append(call)
    complete = len(calls) == text.count("<tool_call>") > 0
    return Decision("call", tuple(calls)) if complete else None


def decision_spans(text: str) -> list[tuple[int, int]]:
    """The character spans of a completion that settle which tools it calls.

    For a reply all of it; for calls each opening up to the end of the tool's name, and all after
    the last call (where another one could have begun). Arguments are left out, unless they stand
    before the name. The end token counts as the character after the text.
    """
    if "<tool_call>" not in text:
        return [(0, len(text) + 1)]
    spans, end = [], 0
    while (opening := text.find("<tool_call>", end)) >= 0:
        body = opening + len("<tool_call>")
        name = _NAME.match(text, body)
        close = text.find("</tool_call>", body)
        spans.append((end, name.end() if name else len(text)))
        end = len(text) if close < 0 else close + len("</tool_call>")
        if name is None:
            end = len(text)  # all of it stands for a call that is none
    return [*spans, (end, len(text) + 1)]


class _ChosenLogProbability(LogitsProcessor):
    """Keeps the greedy token's log-probability of each step: [batch] instead of [batch, vocab]."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.steps.append(scores.float().log_softmax(-1).amax(-1).cpu())
        return scores


@dataclass
class _Generated:
    ids: list[int]
    log_probabilities: list[float]


class DecoderRouter:
    """The LM as a router. `model` is the base with its adapter merged in memory, or a PeftModel."""

    def __init__(
        self,
        file: RouterFile,
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel | PeftModel,
    ) -> None:
        self.file, self.tokenizer, self.model = file, tokenizer, model.eval()
        self.config = cast(DecoderConfig, file.config)
        self.format = PromptFormat(tokenizer, self.config)
        self.batch = 16
        """Prompts generated together at most."""

    @property
    def kind(self) -> str:
        return "decoder"

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        prompts = [self.format.ids(self.format.prompt(context)) for context in contexts]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        decisions: dict[int, Decision] = {}
        for start in range(0, len(order), self.batch):
            chunk = order[start : start + self.batch]
            generated = self._generate([prompts[i] for i in chunk])
            for i, output in zip(chunk, generated, strict=True):
                decisions[i] = self._decision(output, contexts[i])
        return calibrated([decisions[i] for i in range(len(contexts))], self.file.calibration)

    def _generate(self, prompts: list[list[int]]) -> list[_Generated]:
        """Greedy completions, without the end token's padding."""
        width = max(map(len, prompts))
        pad, end = cast(int, self.tokenizer.pad_token_id), cast(int, self.tokenizer.eos_token_id)
        pad = end if pad is None else pad
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        log_probabilities = _ChosenLogProbability()
        settings = GenerationConfig(
            max_new_tokens=self.config.max_new_tokens,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=end,
        )
        with torch.inference_mode():
            output = cast(Any, self.model).generate(
                input_ids=ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                generation_config=settings,
                logits_processor=LogitsProcessorList([log_probabilities]),
            )
        steps = torch.stack(log_probabilities.steps, dim=1).tolist()
        results = []
        for tokens, row in zip(output[:, width:].tolist(), steps, strict=True):
            length = tokens.index(end) + 1 if end in tokens else len(tokens)
            results.append(_Generated(tokens[:length], row[:length]))
        return results

    def _decision(self, output: _Generated, context: Context) -> Decision:
        end = self.tokenizer.eos_token_id
        body = output.ids[:-1] if output.ids and output.ids[-1] == end else output.ids
        ends = [len(self._text(body[: i + 1])) for i in range(len(body))]
        text = self._text(body)
        # The end token stands one character after the text: it settles that no call follows.
        ends += [len(text) + 1] * (len(output.ids) - len(body))
        parsed = parse_completion(text, context)
        if parsed is None or not all(map(math.isfinite, output.log_probabilities)):
            return Decision("reply", confidence=0.0)
        spans = decision_spans(text)
        total = sum(
            value
            for start, stop, value in zip([0, *ends], ends, output.log_probabilities, strict=False)
            if any(start < high and stop > low for low, high in spans)
        )
        confidence = min(1.0, math.exp(total))
        scores = dict.fromkeys(parsed.tools, confidence)
        return Decision(parsed.action, parsed.calls, confidence, scores)

    def _text(self, ids: list[int]) -> str:
        return cast(str, self.tokenizer.decode(ids, skip_special_tokens=True))

    def save(self, path: Path) -> None:
        """Write the adapter (not the base), the tokenizer and the chat template.

        Raises:
            RouterError: the router was loaded, which merged its adapter into the base.
        """
        if not isinstance(self.model, PeftModel):
            raise RouterError(
                path, "a loaded decoder has no adapter apart from its base", "copy its folder"
            )
        base = self.file.base_model or {}
        for adapter in self.model.peft_config.values():
            # PEFT records where the base lay on this machine; a reader needs its public name.
            adapter.base_model_name_or_path = base.get("origin")
            adapter.revision = base.get("revision")
        # Left to decide about embeddings by itself, PEFT asks the hub for the base's config.
        self.model.save_pretrained(str(path), save_embedding_layers=False)
        # PEFT adds a card with empty headings; ours is made from the report when it is pushed.
        (path / "README.md").unlink(missing_ok=True)
        self.tokenizer.save_pretrained(path)
        self.file.save(path)

    @classmethod
    def load(cls, folder: Path, file: RouterFile) -> "DecoderRouter":
        """Load the base by its recorded name, then the adapter, merged for speed."""
        require_files(folder, ["adapter_model.safetensors", "adapter_config.json"])
        config = cast(DecoderConfig, file.config)
        base = pretrained.resolve(config.model, config.revision)
        # Merged in float32: in a coarser format small updates of large weights would be lost.
        merged: Any = PeftModel.from_pretrained(pretrained.load_decoder(base), folder)
        merged = merged.merge_and_unload().to(device(), dtype(config.train.precision))
        local = pretrained.BaseModel(folder.name, str(folder), None, folder.name, None)
        return cls(file, pretrained.load_tokenizer(local), merged)
