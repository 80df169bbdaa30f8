"""What a decoder may write: `reply`, or calls of offered tools under their schemas, as a grammar.

A context becomes the text of a Lark grammar with inline JSON Schemas (`grammar_text`);
llguidance compiles it for a tokenizer (`Grammars`) and says at each step which tokens may follow,
and `Constraint` keeps a batch to them (masking after Willard and Louf 2023, arXiv:2307.09702; the
parser is Earley's, see guidance-ai/llguidance). The grammar accepts what `render.completion`
writes: compact JSON, the name first, keys in the schema's order. Nothing here knows models,
prompts or probabilities.

Where llguidance and JSON Schema part:

- A schema that it cannot follow is loosened until it can, and the log says so once: keywords that
  it does not know are left out, else the arguments are any JSON object. A catalogue too large for
  one grammar (2,000 tools with as many schemas) has such arguments for all its tools.
- `format` is left out: to JSON Schema it is an annotation, and labels are not checked against it.
- Numbers under `minimum` and the like have no exponent, `integer` no `5.0`, and `enum` and `const`
  only the schema's own spelling. A whole number may exceed 64 bits, and a key that the schema does
  not name may come twice.
"""

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import orjson
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from distill.chat import MAX_DEPTH
from distill.render import CALL_CLOSING, CALL_SEPARATOR, REPLY_COMPLETION, call_opening
from distill.types import Context, ToolSpec

log = logging.getLogger(__name__)

_COMPACT = {"whitespace_flexible": False, "json_allow_general_unicode_escapes": True}
"""llguidance's options for JSON as orjson prints it; an escaped `<` is within it."""
_ANY_OBJECT = {"x-guidance": _COMPACT, "type": "object"}

_BYTES = LLTokenizer("byte")
"""Grammars are tried out on a tokenizer of single bytes: they depend on no model's."""

_PROBE = f'{call_opening("probe")}{{"number": 1}}{CALL_CLOSING}'
"""A call to try a tokenizer with: it has line ends and a space."""

_Schema = dict[str, Any]
_Tool = tuple[str, _Schema]
"""A tool's name and the schema of its arguments."""


def grammar_text(context: Context) -> str:
    """The Lark text for a decision: `reply`, or calls of offered tools joined by newlines."""
    return _decision(_printed(context.tools))


def calls_text(context: Context, names: Sequence[str]) -> str:
    """The Lark text for calls of exactly these tools, which must be on offer, in this order."""
    offered = {tool.name: tool for tool in context.tools}
    return _calls(_printed([offered[name] for name in names]))


class Grammars:
    """Compiles grammars for one tokenizer, and keeps the latest.

    Raises:
        ValueError: llguidance cannot tell, or mistakes, which bytes the tokens stand for.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        # What is not fast is refused there.
        self._tokenizer = from_tokenizer(cast(PreTrainedTokenizerFast, tokenizer))
        # Tokenizers after SentencePiece put a space before a text, which decoding takes away.
        ids = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
        read = self._tokenizer.decode_str(ids)
        if not read.endswith(_PROBE):
            # No call could be written, and all that is would be taken for replies.
            raise ValueError(f"of its tokens for {_PROBE!r} llguidance makes {read!r}")
        self._space = read.removesuffix(_PROBE)
        # A hundred tools take some 50 ms and a few MB, and a service meets few catalogues at once.
        self._compiled = lru_cache(maxsize=32)(self._compile)

    def matcher(self, text: str) -> LLMatcher:
        """A matcher at the start of the grammar; it raises nothing, `is_error` tells its faults."""
        return self._compiled(text).deep_copy()

    def _compile(self, text: str) -> LLMatcher:
        if self._space:
            text = f"start: {_literal(self._space)} text\n{text.replace('start:', 'text:', 1)}"
        return LLMatcher(self._tokenizer, text, log_level=0)


class Constraint(LogitsProcessor):
    """Leaves each row of a batch only the tokens that its grammar allows next.

    Args:
        matchers: one a row, at the start of its grammar; they advance with the generation.
        end: the end token, which a grammar allows where its text is whole.

    A row that leaves its grammar (a pattern that takes too many states, a model that gives -inf to
    all that is allowed) may only end, and `failed` tells it.
    """

    def __init__(self, matchers: Sequence[LLMatcher], end: int) -> None:
        self._matchers, self._end = matchers, end
        self._writing = [True] * len(matchers)
        self._started = False

    @property
    def failed(self) -> list[bool]:
        """Which rows have left their grammar."""
        return [matcher.is_error() for matcher in self._matchers]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores [batch, vocabulary], -inf for what is not allowed; ended rows as they are."""
        if self._started:
            self._advance(input_ids[:, -1].tolist())
        self._started = True
        width = scores.shape[1]
        # A model may have more tokens than its tokenizer: those stay 0.
        bits = np.zeros((len(scores), (width + 7) // 8), dtype=np.uint8)
        for row, matcher in enumerate(self._matchers):
            if self._writing[row]:
                allowed = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)[: bits.shape[1]]
                bits[row, : len(allowed)] = allowed
                if matcher.is_error():
                    bits[row] = 0
                    bits[row, self._end // 8] = 1 << self._end % 8
            else:
                bits[row] = 255
        mask: npt.NDArray[np.uint8] = np.unpackbits(bits, axis=1, count=width, bitorder="little")
        return scores.masked_fill(torch.from_numpy(mask).to(scores.device) == 0, float("-inf"))

    def _advance(self, tokens: Sequence[int]) -> None:
        for row, token in enumerate(tokens):
            if self._writing[row]:
                self._matchers[row].consume_token(token)
                self._writing[row] = token != self._end


def _printed(tools: Sequence[ToolSpec]) -> bytes:
    """All that a grammar depends on. The order of keys counts, so the JSON is not canonical."""
    return orjson.dumps([[tool.name, tool.parameters] for tool in tools])


@lru_cache(maxsize=32)
def _decision(tools: bytes) -> str:
    return _compilable(_decision_lark, orjson.loads(tools))


@lru_cache(maxsize=256)
def _calls(tools: bytes) -> str:
    return _compilable(_calls_lark, orjson.loads(tools))


def _decision_lark(tools: Sequence[_Tool]) -> str:
    """Tools under the same schema share one rule, since a grammar has room for fewer than 2,000."""
    openings: dict[bytes, list[str]] = {}
    for name, schema in tools:
        openings.setdefault(orjson.dumps(schema), []).append(_literal(call_opening(name)))
    reply, separator = _literal(REPLY_COMPLETION), _literal(CALL_SEPARATOR)
    if not openings:
        return f"start: {reply}"
    calls = " | ".join(f"call_{i}" for i in range(len(openings)))
    rules = [f"start: {reply} | call ({separator} call)*", f"call: {calls}"]
    for i, (schema_json, names) in enumerate(openings.items()):
        rules.append(f"call_{i}: OPENING_{i} arguments_{i} {_literal(CALL_CLOSING)}")
        rules.append(f"OPENING_{i}: {' | '.join(names)}")
        rules.append(f"arguments_{i}: %json {schema_json.decode()}")
    return "\n".join(rules)


def _calls_lark(tools: Sequence[_Tool]) -> str:
    schemas = list(dict.fromkeys(orjson.dumps(schema) for _, schema in tools))
    calls = (
        f"{_literal(call_opening(name))} arguments_{schemas.index(orjson.dumps(schema))} "
        f"{_literal(CALL_CLOSING)}"
        for name, schema in tools
    )
    rules = [f"start: {f' {_literal(CALL_SEPARATOR)} '.join(calls)}"]
    rules += [f"arguments_{i}: %json {schema.decode()}" for i, schema in enumerate(schemas)]
    return "\n".join(rules)


def _compilable(write: Callable[[Sequence[_Tool]], str], tools: Sequence[_Tool]) -> str:
    """The grammar with the schemas as they are, or as loose as it takes for llguidance."""
    if not tools:
        return write(tools)
    begin = call_opening(tools[0][0])
    prepared = [(name, _prepared(schema)) for name, schema in tools]
    text = write(prepared)
    fault = _fault(text, begin)
    if fault is None:
        return text
    loose = [(name, _loosened(name, orjson.dumps(schema))) for name, schema in prepared]
    if loose != prepared:
        text = write(loose)
        fault = _fault(text, begin)
    if fault is not None:
        log.warning("the arguments of all tools are decoded as any JSON objects: %s", fault)
        text = write([(name, _ANY_OBJECT) for name, _ in tools])
        assert _fault(text, begin) is None
    return text


def _literal(text: str) -> str:
    """A Lark string, which is written as in JSON."""
    return orjson.dumps(text).decode()


def _fault(text: str, begin: str) -> str | None:
    """Why llguidance cannot use the grammar of texts that begin so, in a line; None where it can.

    Some limits are met only when a matcher is made, and some only when it has begun.
    """
    matcher = LLMatcher(_BYTES, text, log_level=0)
    matcher.consume_tokens(_BYTES.tokenize_str(begin))
    return matcher.get_error().splitlines()[0][:200] if matcher.is_error() else None


@lru_cache(maxsize=8192)
def _loosened(name: str, prepared: bytes) -> _Schema:
    """The tightest form of the schema that compiles by itself; as it is cached, logged once."""
    schema: _Schema = orjson.loads(prepared)
    begin = call_opening(name)
    fault = _fault(_calls_lark([(name, schema)]), begin)
    if fault is None:
        return schema
    lenient = schema | {"x-guidance": _COMPACT | {"lenient": True}}
    if _fault(_calls_lark([(name, lenient)]), begin) is None:
        log.warning("%s: parts of its schema do not constrain decoding: %s", name, fault)
        return lenient
    log.warning("%s: its arguments are decoded as any JSON object: %s", name, fault)
    return _ANY_OBJECT


def _prepared(schema: _Schema) -> _Schema:
    """The schema as llguidance is to read it: of an object, with our options, without `format`."""
    return {**_without_format(schema), **_ANY_OBJECT}


_ONE = {
    *("additionalItems", "additionalProperties", "contains", "else", "if", "items", "not"),
    *("propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"),
}
_LIST = {"allOf", "anyOf", "items", "oneOf", "prefixItems"}
_NAMED = {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
"""Keywords under which schemas stand: one, a list of them, one for each name."""


def _without_format(schema: Any, depth: int = 0) -> Any:
    # Deeper ones are beyond llguidance, too.
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return schema
    kept: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in _NAMED and isinstance(value, dict):
            kept[keyword] = {k: _without_format(v, depth + 1) for k, v in value.items()}
        elif keyword in _LIST and isinstance(value, list):
            kept[keyword] = [_without_format(item, depth + 1) for item in value]
        elif keyword in _ONE:
            kept[keyword] = _without_format(value, depth + 1)
        elif keyword != "format":
            kept[keyword] = value
    return kept
