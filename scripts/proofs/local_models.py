"""Small models on this machine: an LM as DSPy's, one request at a time, and an encoder as a tool.

What two requests of the LM in a row begin with alike is computed once (prefix caching): a program's
prompts share their instructions and demonstrations. Its tokens are counted each time all the same.
"""

from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any, cast

import dspy
import torch
from dspy import lm15
from torch import Tensor, nn
from transformers import DynamicCache

from distill.routers import pretrained
from distill.routers.decoding import chat_template, token_ids


def local_lm(name: str, **options: Any) -> dspy.LM:
    """A packaged model, a local folder or a hub name; greedy unless DSPy asks for a temperature.

    Args:
        options: of `dspy.LM`; `max_tokens` and `stop` are heeded.
    """
    return dspy.LM(name, engine=_Engine(name), **options)


class _Engine:
    def __init__(self, name: str) -> None:
        base = pretrained.resolve(name)
        self.name = name
        self.tokenizer = pretrained.load_tokenizer(base)
        if self.tokenizer.chat_template is None:
            self.tokenizer.chat_template = chat_template("names")
        self.model = cast(Any, pretrained.load_decoder(base)).eval()
        self.lock = Lock()
        self.past: Any = DynamicCache()
        self.computed: list[int] = []
        """The tokens that `past` is of."""

    def complete(self, request: lm15.Request) -> lm15.Response:
        """One answer, up to where the request says that it stops."""
        chat = [{"role": one.role, "content": one.text or ""} for one in request.messages]
        if request.system is not None:
            whole = request.system
            text = whole if isinstance(whole, str) else "".join(part.text for part in whole)
            chat.insert(0, {"role": "system", "content": text})
        worded = self.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True
        )
        prompt = token_ids(self.tokenizer, cast(str, worded))
        with self.lock:
            answer, text = self._answer(prompt, request.config)
        return lm15.Response(
            id=None,
            model=self.name,
            message=lm15.Message.assistant(lm15.TextPart(text)),
            finish_reason="length" if len(answer) == request.config.max_tokens else "stop",
            usage=lm15.Usage(input_tokens=len(prompt), output_tokens=len(answer)),
        )

    def _answer(self, prompt: list[int], config: lm15.Config) -> tuple[list[int], str]:
        """The tokens that were written, and their text up to a stop."""
        pairs = enumerate(zip(prompt[:-1], self.computed, strict=False))
        shared = next(
            (i for i, (a, b) in pairs if a != b), min(len(prompt) - 1, len(self.computed))
        )
        if shared < len(self.computed):
            self.past.crop(shared - len(self.computed))
        self.computed = self.computed[:shared]
        tokens, answer, text = prompt[shared:], [], ""
        with torch.inference_mode():
            while len(answer) < config.max_tokens:
                found = self.model(
                    input_ids=torch.tensor([tokens]), past_key_values=self.past, logits_to_keep=1
                )
                self.computed += tokens
                token = _drawn(found.logits[0, -1], config.temperature)
                if token == self.tokenizer.eos_token_id:
                    break
                answer.append(token)
                text, tokens = self.tokenizer.decode(answer), [token]
                if stops := [stop for stop in config.stop if stop in text]:
                    return answer, min((text.partition(stop)[0] for stop in stops), key=len)
        return answer, text


def _drawn(logits: Tensor, temperature: float | None) -> int:
    """The likeliest token, or at a temperature one by chance."""
    if not temperature:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(-1), 1))


def embedder(name: str) -> Callable[[str], list[float]]:
    """A tool that gives a text as numbers: the mean of an encoder's tokens, of length 1."""
    base = pretrained.resolve(name)
    tokenizer = pretrained.load_tokenizer(base)
    model: Any = pretrained.load_encoder(base).eval()

    @cache
    def embed(request: str) -> list[float]:
        with torch.inference_mode():
            tokens = model(**tokenizer(request, return_tensors="pt")).last_hidden_state
        return cast(list[float], nn.functional.normalize(tokens[0].mean(0), dim=0).tolist())

    return embed
