"""What a workflow of more and more tool calls costs: the LLM in the loop, or a router.

A customer asks about so many orders of the embedded shop, one call each. With the LLM in the loop
every call is a request of its own, whose prompt holds the tools, the conversation and all results
by then; with a router the calls are made locally, and the LLM is asked once, to word the answer
from the same history (`distill.history.synthetic`), without tool definitions. Counted are the
prompt tokens of all requests, by the LLM's tokenizer; measured are the seconds of each of the
router's decisions on these contexts, and of each request to an LLM on this machine, which writes as
many tokens as the call or the answer has. A server that keeps the prefix of the last request
(prefix caching) computes the new tokens alone; both are told.

The LLM is a small one: its seconds tell how they grow, not what a large one takes. Whether the
router decides right is not the question here.

Example:
    python scripts/proofs/growth.py runs/orderdesk/encoder-s0 --calls 10
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import torch
from results import finish, panels, table

from distill import load_router
from distill.config import HistoriesConfig
from distill.evaluation.likelihood import LocalLM
from distill.history import synthetic
from distill.render import completion
from distill.routers import pretrained
from distill.runs import RunDir
from distill.sample.desk import TOOLS, call
from distill.sample.shop import open_shop
from distill.types import Context, Decision, Message, ToolCall

FIRST_ORDER = 1001


def conversations(most: int) -> list[tuple[Context, str]]:
    """After 0, 1, … `most` calls: the context, and what the assistant says next, as text."""
    conn = open_shop()
    wanted = [ToolCall("get_order", {"order_id": FIRST_ORDER + i}) for i in range(most)]
    numbers = ", ".join(str(made.arguments["order_id"]) for made in wanted)  # type: ignore[index]
    messages: tuple[Message, ...] = (Message("user", f"Where are my orders {numbers}?"),)
    found = []
    for made in wanted:
        text = completion(Decision("call", (made,)), TOOLS)
        found.append((Context(messages, TOOLS), text))
        messages = synthetic(messages, (made,), (orjson.dumps(call(conn, made)).decode(),))
    answer = " ".join(f"Order {n} is under way." for n in numbers.split(", "))
    return [*found, (Context(messages, TOOLS), answer)]


def answer_after(calls: int) -> tuple[Context, str]:
    """The last request of a workflow of so many calls, without tool definitions."""
    context, answer = conversations(calls)[-1]
    return Context(context.messages, ()), answer


def seconds(lm: LocalLM, prompt: list[int], reply: list[int], kept: int = 0) -> float:
    """That a request takes: its prompt without the first `kept` tokens, then token by token."""
    model = cast(Any, lm.model)

    def forward(tokens: list[int], past: Any) -> Any:
        ids = torch.tensor([tokens], device=lm.model.device)
        return model(input_ids=ids, past_key_values=past, use_cache=True, logits_to_keep=1)

    with torch.inference_mode():
        past = forward(prompt[:kept], None).past_key_values if kept else None
        start = time.perf_counter()
        past = forward(prompt[kept:], past).past_key_values
        for token in reply[:-1]:
            past = forward([token], past).past_key_values
        return time.perf_counter() - start


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with, short of all."""
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    return min(same, len(other) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run on the embedded domain")
    parser.add_argument("--calls", type=int, default=10, help="tool calls at most")
    parser.add_argument("--llm", default="packaged:smollm2", help="a local folder or a hub name")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/proofs/growth"))
    given = parser.parse_args()
    router = load_router(RunDir(given.run).router)
    lm = LocalLM.load(pretrained.resolve(given.llm), HistoriesConfig(max_tokens=8192))

    steps = []
    previous: list[int] = []
    for context, text in conversations(given.calls):
        prompt, reply = lm.prompt(context), lm.reply(text)
        start = time.perf_counter()
        router.decide([context])
        local = time.perf_counter() - start
        steps.append(
            {
                "prompt_tokens": len(prompt),
                "router_s": local,
                "llm_s": seconds(lm, prompt, reply),
                "llm_cached_s": seconds(lm, prompt, reply, shared(previous, prompt)),
            }
        )
        previous = prompt
        print(steps[-1], flush=True)
    rows, result = [], []
    for n in range(1, given.calls + 1):
        context, answer = answer_after(n)
        prompt, reply = lm.prompt(context), lm.reply(answer)
        # The router decides after the last call, too: that the rest is words.
        routed = sum(step["router_s"] for step in steps[: n + 1])
        one = {
            "calls": n,
            "llm_tokens": sum(step["prompt_tokens"] for step in steps[: n + 1]),
            "router_tokens": len(prompt),
            "llm_s": sum(step["llm_s"] for step in steps[: n + 1]),
            "llm_cached_s": sum(step["llm_cached_s"] for step in steps[: n + 1]),
            "router_s": routed + seconds(lm, prompt, reply),
            "router_decisions_s": routed,
        }
        result.append(one)
        rows.append(
            [
                n,
                f"{one['llm_tokens']:,}",
                f"{one['router_tokens']:,}",
                f"{one['llm_tokens'] / one['router_tokens']:.0f}",
                *(f"{one[key]:.1f}" for key in ("llm_s", "llm_cached_s", "router_s")),
                f"{1000 * one['router_decisions_s']:.0f}",
            ]
        )
    figure, (left, right) = panels(2)
    calls = [one["calls"] for one in result]
    for axis, keys, label in (
        (left, ("llm_tokens", "router_tokens"), "prompt tokens"),
        (right, ("llm_s", "llm_cached_s", "router_s"), "seconds"),
    ):
        for key in keys:
            axis.plot(calls, [one[key] for one in result], marker="o", label=NAMES[key])
        axis.set(xlabel="tool calls", ylabel=f"{label} a workflow", ylim=(0, None))
        axis.set_xticks(np.arange(1, given.calls + 1))
        axis.legend(fontsize=8)
    head = ["calls", "tokens, LLM in the loop", "tokens, router", "ratio"]
    head += ["s, LLM in the loop", "s, with its prefix kept", "s, router", "of it deciding, ms"]
    finish(given.output, figure, table(head, rows), {"steps": steps, "workflows": result})


NAMES = {
    "llm_tokens": "LLM in the loop",
    "router_tokens": "router, LLM for the answer",
    "llm_s": "LLM in the loop",
    "llm_cached_s": "LLM in the loop, prefix kept",
    "router_s": "router, LLM for the answer",
}


if __name__ == "__main__":
    main()
