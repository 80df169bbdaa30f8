"""What a decoder router is, whatever computes it: its prompt, its grammar, and what is read of it.

transformers (`distill.routers.decoder`) and a server complete the same token ids under the same
grammars; this module knows neither. The prompt is made by `PromptFormat`, which training uses too,
through a chat template that is saved with the router: a server that is given the template and the
same messages renders the same tokens.
What is written is held to `distill.routers.grammar`; what does not end in `max_new_tokens`, or
cannot be relied on, becomes a reply of confidence 0, which no policy takes for an answer.

Confidence is the probability that the model itself gives to all that it wrote, the end included,
and not the larger share among the allowed tokens: where the model would have written something
else than a valid call, the grammar mends the form but not the doubt. A call of an unfamiliar tool
that the model had to be forced into would otherwise look certain.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import orjson
from transformers import PreTrainedTokenizerBase

from distill.chat import check_json, parse_call
from distill.config import DecoderConfig
from distill.errors import ModelError
from distill.render import Chat, fit, render_chat
from distill.routers import soft_prompt
from distill.routers.confidence import calibrated
from distill.routers.folder import RouterFile
from distill.routers.grammar import Grammars, calls_text, grammar_text
from distill.routers.grounding import UNSUPPORTED, unsupported
from distill.types import Context, Decision, ToolCall

_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
# Tags within JSON strings are text. No two alternatives begin alike, so that the time is linear in
# the length; possessive quantifiers, which would say so, fail here in Python 3.11.2 (Debian 12's).
_CALL = re.compile(
    r'<tool_call>((?:[^"<]|"(?:[^"\\]|\\.)*"|<(?!/?tool_call>))*)</tool_call>', re.DOTALL
)
_NAME = re.compile(r'\s*\{\s*"name"\s*:\s*"((?:[^"\\]|\\.)*)"')


def chat_template(style: str, first: str = "") -> str:
    """The ChatML template with its tools section in the given style, for any tokenizer.

    Args:
        first: what every prompt begins with.
    """
    lines = [f'{{%- set tool_style = "{style}" -%}}', _TEMPLATE.read_text()]
    if first:
        lines.insert(1, f'{{{{- "{first}" -}}}}')
    return "\n".join(lines)


def prompt_text(tokenizer: PreTrainedTokenizerBase, chat: Chat, **variables: Any) -> str:
    """A request as the tokenizer's template words it; `variables` are the template's own."""
    rendered = tokenizer.apply_chat_template(
        chat.messages,
        tools=cast(Any, chat.tools) or None,
        tokenize=False,
        add_generation_prompt=True,
        **variables,
    )
    return cast(str, rendered)


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a prompt or a completion; the template names all special tokens."""
    return cast(list[int], tokenizer(text, add_special_tokens=False)["input_ids"])


class PromptFormat:
    """Context -> prompt, as training and routing see it, through the tokenizer's own template.

    `grammars` holds completions to their form in the same tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: DecoderConfig) -> None:
        if tokenizer.eos_token is None:
            raise ModelError(config.model, "its tokenizer has no end token", "use a chat model")
        self.tokenizer, self.config = tokenizer, config
        try:
            self.grammars = Grammars(tokenizer)
        except ValueError as error:
            fault = (
                f"its tokenizer cannot be held to a grammar ({str(error).splitlines()[0][:200]})"
            )
            raise ModelError(
                config.model, fault, "use a model with a byte-level tokenizer"
            ) from None

    @classmethod
    def new(cls, tokenizer: PreTrainedTokenizerBase, config: DecoderConfig) -> "PromptFormat":
        """For a training: gives the tokenizer our template, which the router's folder keeps.

        A soft prompt's tokens are added to the tokenizer, and the template puts them first.

        Raises:
            ModelError: the tokenizer has no end token, none of llguidance's forms, or tokens of a
                soft prompt already.
        """
        soft_prompt.add_tokens(tokenizer, config.soft_prompt)
        first = "".join(soft_prompt.tokens(config.soft_prompt))
        tokenizer.chat_template = chat_template(config.tools, first)
        return cls(tokenizer, config)

    def prompt(self, context: Context) -> str:
        """The prompt's text, shrunk to `max_tokens`."""
        return fit(
            lambda scale: prompt_text(
                self.tokenizer, render_chat(context, self.config.render, scale)
            ),
            lambda text: len(self.ids(text)),
            self.config.max_tokens,
        )

    def ids(self, text: str) -> list[int]:
        """Token ids of a prompt or a completion; the template names all special tokens."""
        return token_ids(self.tokenizer, text)


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
            value = orjson.loads(match[1])
            check_json(value, match[1], "tool call")
            call = parse_call(value)
        except ValueError:
            return None
        if call.name not in offered or call.arguments is None:
            return None
        calls.append(call)
    complete = calls and "<tool_call>" not in _CALL.sub("", text)
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
        call = _CALL.match(text, opening)
        spans.append((end, name.end() if name else len(text)))
        end = call.end() if call else len(text)
        if name is None:
            end = len(text)  # all of it stands for a call that is none
    return [*spans, (end, len(text) + 1)]


@dataclass(frozen=True)
class Completion:
    """What was written after a prompt: `whole` where it ended in time and within its grammar."""

    ids: list[int]
    """The end token included, where it was reached."""
    log_probabilities: list[float]
    """Of each id, the model's own: over all tokens, although only an allowed one is taken."""
    whole: bool
    error: str | None = None
    """Why there is no completion at all."""


@dataclass(frozen=True)
class _Answer:
    """What was read of a completion, and the log-probabilities of its two kinds of tokens."""

    decision: Decision
    choice: float
    """Of those that settle which tools are called, the end included (`decision_spans`)."""
    arguments: float
    """Of the others."""


_UNREADABLE = Decision("reply", confidence=0.0)


class DecodingRouter(ABC):
    """A decoder router but for its forward passes."""

    batch: int
    """Prompts completed together at most."""

    def __init__(self, file: RouterFile, tokenizer: PreTrainedTokenizerBase) -> None:
        self.file, self.tokenizer = file, tokenizer
        self.config = cast(DecoderConfig, file.config)
        self.format = PromptFormat(tokenizer, self.config)

    @property
    def kind(self) -> str:
        return "decoder"

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        """Reply or calls, `scores` telling the probability of the tools without their arguments."""
        answers = self._answers(contexts, [grammar_text] * len(contexts))
        decisions = [
            self._decision(answer, context)
            for answer, context in zip(answers, contexts, strict=True)
        ]
        return calibrated(decisions, self.file.calibration)

    def fill(self, contexts: Sequence[Context], decisions: Sequence[Decision]) -> list[Decision]:
        """Arguments for tools that were chosen elsewhere, in the order of each decision's calls.

        Args:
            contexts: what was decided on.
            decisions: one a context; the tools called are on offer there.

        Returns:
            The decisions with filled calls, and as confidence the probability of the arguments
            given the tools; a reply of confidence 0 where they did not end in `max_new_tokens`, and
            one with an `error` where nothing could be had. Where no call is left to fill, the
            decision's calls at confidence 1.
        """
        filled = [replace(decision, confidence=1.0) for decision in decisions]
        empty = [i for i, d in enumerate(decisions) if any(c.arguments is None for c in d.calls)]
        grammars = [
            partial(calls_text, names=[call.name for call in decisions[i].calls]) for i in empty
        ]
        answers = self._answers([contexts[i] for i in empty], grammars)
        for i, answer in zip(empty, answers, strict=True):
            if isinstance(answer, Decision):
                filled[i] = answer
            else:
                confidence = _confidence(answer.arguments, answer.decision, contexts[i])
                filled[i] = replace(
                    decisions[i], calls=answer.decision.calls, confidence=confidence
                )
        return filled

    @abstractmethod
    def complete(self, prompts: list[list[int]], grammars: Sequence[str]) -> list[Completion]:
        """Greedy completions of at most `config.max_new_tokens`, each within its Lark grammar.

        Args:
            prompts: token ids, at most `batch` rows of any lengths.
            grammars: one a prompt, as `distill.routers.grammar` writes them.
        """

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write the router folder's files into an existing folder."""

    def _decision(self, answer: _Answer | Decision, context: Context) -> Decision:
        if isinstance(answer, Decision):
            return answer
        return replace(
            answer.decision,
            confidence=_confidence(answer.choice + answer.arguments, answer.decision, context),
            scores=dict.fromkeys(answer.decision.tools, _probability(answer.choice)),
        )

    def _answers(
        self, contexts: Sequence[Context], grammars: Sequence[Callable[[Context], str]]
    ) -> list[_Answer | Decision]:
        """Completes the contexts' prompts, each under its grammar, in batches of like length."""
        prompts = [self.format.ids(self.format.prompt(context)) for context in contexts]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        answers: dict[int, _Answer | Decision] = {}
        for start in range(0, len(order), self.batch):
            chunk = order[start : start + self.batch]
            completions = self.complete(
                [prompts[i] for i in chunk], [grammars[i](contexts[i]) for i in chunk]
            )
            for i, output in zip(chunk, completions, strict=True):
                answers[i] = self._read(output, contexts[i])
        return [answers[i] for i in range(len(contexts))]

    def _read(self, output: Completion, context: Context) -> _Answer | Decision:
        """A reply of confidence 0 where the completion is not whole, or not to be relied on."""
        if output.error is not None:
            return Decision("reply", error=output.error)
        if not output.whole or not all(map(math.isfinite, output.log_probabilities)):
            return _UNREADABLE
        body = output.ids[:-1]
        text = self._text(body)
        decision = parse_completion(text, context)
        if decision is None:
            return _UNREADABLE
        # The end token stands one character after the text: it settles that no call follows.
        ends = [*(len(self._text(body[: i + 1])) for i in range(len(body))), len(text) + 1]
        spans = decision_spans(text)
        choice = arguments = 0.0
        for start, stop, value in zip([0, *ends[:-1]], ends, output.log_probabilities, strict=True):
            if any(start < high and stop > low for low, high in spans):
                choice += value
            else:
                arguments += value
        return _Answer(decision, choice, arguments)

    def _text(self, ids: list[int]) -> str:
        return cast(str, self.tokenizer.decode(ids, skip_special_tokens=True))


def _confidence(log_probability: float, decision: Decision, context: Context) -> float:
    """The probability, less what the context does not support of the arguments."""
    specs = {tool.name: tool for tool in context.tools}
    doubts = sum(len(unsupported(call, specs[call.name], context)) for call in decision.calls)
    return _probability(log_probability) * UNSUPPORTED**doubts


def _probability(log_probability: float) -> float:
    # Rounding may lift a sum of zeros above 0.
    return min(1.0, math.exp(log_probability))
