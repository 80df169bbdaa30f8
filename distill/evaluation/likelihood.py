"""How expected the teacher's recorded replies are to a local LM, by what it is shown of the calls.

Of each reply the negative log-likelihood under each arm's history (`distill.evaluation.arms`), in
nats: the lower, the more in-distribution that history is for the LM. The reply's tokens and the end
of its turn count, and nothing of the prompt. All arms see the same shortened conversation: it is
cut first, to what the longest arm needs, and made into each arm's history then; what is kept is the
first user message and the latest turns (`distill.render.shortened`).

Limits: a likely reply is not a good one, and an LM that was never taught tool calls says what is
unusual to it. Rows go to a `Ledger` one by one, so memory does not grow with the replies.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.config import HistoriesConfig, RenderConfig
from distill.errors import ConfigError, DatasetError, ModelError
from distill.evaluation.arms import ARMS, Arm
from distill.evaluation.intervals import Array, mean, number_groups, paired_difference
from distill.evaluation.ledger import Ledger
from distill.evaluation.paired import adjusted, entry
from distill.render import fit, shortened, whole_chat
from distill.routers import pretrained
from distill.routers.decoding import chat_template, prompt_text, token_ids
from distill.routers.devices import device
from distill.types import Context

_INSTRUCTION = "You are a helpful assistant."
_WITH_TOOLS = f"{_INSTRUCTION} Call tools with <tool_call>."
_STEPS = 12
"""Scales tried until a conversation fits: the last keeps a fiftieth of each message."""
_ALL = 10**9
_EVERYTHING = RenderConfig(system_chars=_ALL, first_chars=_ALL, turn_chars=_ALL, turns=_ALL)
TOO_LONG = "the reply and the tools leave no room"
"""Why a reply is left out."""


@dataclass(frozen=True)
class Reply:
    """The words that ended a recorded conversation, and the conversation before them."""

    id: str
    group: str
    context: Context
    text: str


class LocalLM:
    """A causal LM that tells how likely a reply is after a conversation."""

    def __init__(
        self,
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel,
        config: HistoriesConfig,
    ) -> None:
        """Gives the tokenizer the project's template, whose tools section every arm needs.

        Raises:
            ModelError: the tokenizer has no end token.
            ConfigError: `max_tokens` is more than the model reads.
        """
        if tokenizer.eos_token is None:
            raise ModelError(name, "its tokenizer has no end token", "use a chat model")
        most = getattr(model.config, "max_position_embeddings", None)
        if most is not None and config.max_tokens > most:
            fault = f"{config.max_tokens} is more than the {most} tokens that {name} reads"
            raise ConfigError("max_tokens", fault, "lower it")
        tokenizer.chat_template = chat_template(config.tools)
        self.name, self.config = name, config
        self.tokenizer, self.model = tokenizer, cast(Any, model).to(device()).eval()

    @classmethod
    def load(cls, base: pretrained.BaseModel, config: HistoriesConfig) -> "LocalLM":
        """Load a base model in float32; errors as those of loading it, and as `LocalLM`."""
        tokenizer = pretrained.load_tokenizer(base)
        return cls(base.name, tokenizer, pretrained.load_decoder(base), config)

    def prompt(self, context: Context) -> list[int]:
        """The request's token ids, up to where the assistant speaks."""
        instruction = _WITH_TOOLS if context.tools else _INSTRUCTION
        text = prompt_text(self.tokenizer, whole_chat(context), instruction=instruction)
        return token_ids(self.tokenizer, text)

    def reply(self, text: str) -> list[int]:
        """The reply's token ids and the end of the turn."""
        return [*token_ids(self.tokenizer, text), cast(int, self.tokenizer.eos_token_id)]

    def nll(self, prompts: Sequence[list[int]], reply: list[int]) -> list[float]:
        """Negative log-likelihood in nats of one reply after each prompt.

        Raises:
            ModelError: the model gives no finite one.
        """
        # Equal histories, as those of a teacher that says nothing beside its calls, cost one pass.
        distinct = sorted({tuple(prompt) for prompt in prompts}, key=len)
        found: dict[tuple[int, ...], float] = {}
        for start in range(0, len(distinct), self.config.batch_size):
            chunk = distinct[start : start + self.config.batch_size]
            found |= dict(zip(chunk, self._nll(list(map(list, chunk)), reply), strict=True))
        if not np.isfinite(list(found.values())).all():
            raise ModelError(self.name, "gives no finite likelihood", "use another model")
        return [found[tuple(prompt)] for prompt in prompts]

    def _nll(self, prompts: Sequence[list[int]], reply: list[int]) -> list[float]:
        # Padded on the left, all rows end with the reply, and only its logits are computed.
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(p)) + p + reply for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * (len(p) + len(reply)) for p in prompts])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        where = self.model.device
        with torch.inference_mode():
            output = self.model(
                input_ids=ids.to(where),
                attention_mask=mask.to(where),
                position_ids=positions.to(where),
                use_cache=False,
                logits_to_keep=len(reply) + 1,
            )
        target = torch.tensor(reply, device=where)
        values = []
        for logits in output.logits:
            log_probabilities = logits[-len(reply) - 1 : -1].float().log_softmax(-1)
            picked = log_probabilities.gather(-1, target[:, None])
            values.append(-float(picked.double().sum()))
        return values


def measure(
    replies: Iterable[Reply],
    lm: LocalLM,
    ledger: Ledger,
    on_measured: Callable[[int], None] = lambda done: None,
) -> None:
    """Add to the ledger a row for each reply that is not in it.

    A row: `id`, `group`, `tokens` (of the reply), `cut` (whether the conversation was shortened),
    and by arm `nll` (nats) and `prompt_tokens`; or `id`, `group` and `left_out`, the reason.

    Args:
        on_measured: told how many of the replies are in it, after each.
    """
    arms = [ARMS[name] for name in lm.config.arms]
    for done, reply in enumerate(replies, start=1):
        if reply.id not in ledger.done:
            ledger.add(_row(reply, arms, lm))
        on_measured(done)


def _row(reply: Reply, arms: Sequence[Arm], lm: LocalLM) -> dict[str, Any]:
    words = lm.reply(reply.text)
    limit = lm.config.max_tokens - len(words)

    def kept(scale: float) -> tuple[Context, list[list[int]]]:
        context = shortened(reply.context, lm.config.render, scale)
        return context, [lm.prompt(arm.shown(context)) for arm in arms]

    def longest(made: tuple[Context, list[list[int]]]) -> int:
        return max(map(len, made[1]))

    context, prompts = made = fit(kept, longest, limit, _STEPS)
    row: dict[str, Any] = {"id": reply.id, "group": reply.group}
    if longest(made) > limit:
        return row | {"left_out": TOO_LONG}
    nll = lm.nll(prompts, words)
    names = [arm.name for arm in arms]
    return row | {
        "tokens": len(words),
        "cut": context != shortened(reply.context, _EVERYTHING),
        "nll": dict(zip(names, nll, strict=True)),
        "prompt_tokens": dict(zip(names, map(len, prompts), strict=True)),
    }


def summary(rows: Iterable[dict[str, Any]], config: HistoriesConfig) -> dict[str, Any]:
    """The figures of the ledger's rows.

    Returns:
        `n_replies`, `n_groups`, `n_tokens`, `n_cut`; `left_out`, counts by reason; `arms`, each
        with `nats_per_token` (all nats over all tokens), `nats_per_reply` and mean
        `prompt_tokens`; and `paired`: of every pair, the later arm `a` less the earlier `b`, for
        either metric, by reply, with intervals over groups and Holm's adjusted p-value.

    Raises:
        DatasetError: no reply was measured.
    """
    measured, left_out = [], Counter[str]()
    for row in rows:
        if "left_out" in row:
            left_out[row["left_out"]] += 1
        else:
            measured.append(row)
    if not measured:
        why = "; ".join(f"{reason}: {count}" for reason, count in left_out.items())
        raise DatasetError(
            "replies", f"none was measured ({why or 'none to measure'})", "raise max_tokens"
        )
    groups = number_groups([row["group"] for row in measured])
    tokens = np.array([row["tokens"] for row in measured], dtype=np.float64)
    names: list[str] = list(config.arms)
    nats = {name: np.array([row["nll"][name] for row in measured]) for name in names}

    def differences(metric: str, values: dict[str, Array], weights: Array | None) -> Any:
        for b, a in combinations(names, 2):
            found = paired_difference(
                values[a], values[b], groups, config.bootstrap, weights, shares=False
            )
            yield entry(a, b, metric, found)

    per_token = {name: nats[name] / tokens for name in names}
    paired = [
        *adjusted(differences("nats_per_token", per_token, tokens)),
        *adjusted(differences("nats_per_reply", nats, None)),
    ]
    arms = [
        {
            "name": name,
            "history": ARMS[name].history,
            "tools": ARMS[name].tools,
            # A reply counts as often as it has tokens: all nats over all tokens.
            "nats_per_token": mean(per_token[name], groups, config.bootstrap, tokens)._asdict(),
            "nats_per_reply": mean(nats[name], groups, config.bootstrap)._asdict(),
            "prompt_tokens": float(np.mean([row["prompt_tokens"][name] for row in measured])),
        }
        for name in config.arms
    ]
    return {
        "n_replies": len(measured),
        "n_groups": int(groups.max()) + 1,
        "n_tokens": int(tokens.sum()),
        "n_cut": sum(row["cut"] for row in measured),
        "left_out": dict(left_out),
        "arms": arms,
        "paired": paired,
    }
