"""A small shop's decision points, and jobs, configs and traces that train routers on them.

Every request names its decision plainly, so that even a tiny model learns most of them.
"""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import orjson

from distill.chat import trace_json
from distill.config import (
    AttentionConfig,
    DecoderConfig,
    EncoderConfig,
    LoraConfig,
    MatchConfig,
    RnnConfig,
    ScratchConfig,
    TrainConfig,
)
from distill.progress import Progress, silent
from distill.runs import RunDir
from distill.training import Job, Parts
from distill.types import Context, Decision, Example, Message, ToolCall, ToolSpec, Trace

_ORDER = {"order": {"type": "integer"}}
GET = ToolSpec(
    "get_order", "Reads.", {"type": "object", "properties": _ORDER, "required": ["order"]}
)
CANCEL = ToolSpec(
    "cancel_order",
    "Cancels.",
    {
        "type": "object",
        "properties": _ORDER | {"reason": {"type": "string"}},
        "required": ["order"],
    },
)
LIST = ToolSpec("list_orders", "Lists.", {"type": "object", "properties": {}})
TOOLS = (GET, CANCEL, LIST)


def call(name: str, **arguments: object) -> ToolCall:
    return ToolCall(name, arguments)


def ask(text: str, tools: tuple[ToolSpec, ...] = TOOLS) -> Context:
    """A conversation of one request."""
    return Context((Message("user", text),), tools)


def example(i: int, luck: Random) -> Example:
    """One decision point; every sixth has a tool's result before it."""
    n, m = luck.randrange(10), luck.randrange(10)
    opening = luck.choice(["", "hi, ", "please: ", "one thing, "])
    text, calls = luck.choice(
        [
            (f"where is order {n}", (call("get_order", order=n),)),
            (f"cancel order {n}", (call("cancel_order", order=n),)),
            (f"cancel {n}, it is late", (call("cancel_order", order=n, reason="late"),)),
            ("what did I buy", (call("list_orders"),)),
            (f"show orders {n} and {m}", (call("get_order", order=n), call("get_order", order=m))),
            ("thank you", ()),
        ]
    )
    messages = [Message("user", opening + text)]
    if i % 6 == 5:
        asked = ToolCall("get_order", {"order": n}, "c1")
        messages = [
            Message("user", f"{opening}where is order {n}"),
            Message("assistant", None, (asked,)),
            Message("tool", f'{{"order": {n}, "status": "shipped"}}', call_id="c1"),
        ]
        calls = ()
    label = Decision("call" if calls else "reply", calls)
    return Example(f"t{i}#0", f"t{i}", f"g{i}", Context(tuple(messages), TOOLS), label)


def examples(count: int, seed: int = 0) -> list[Example]:
    """Reproducible examples, each of a group of its own."""
    luck = Random(seed)
    return [example(i, luck) for i in range(count)]


PARTS = Parts(examples(48), examples(16, seed=1), TOOLS)


def job(
    path: Path,
    seed: int = 0,
    parts: Parts = PARTS,
    progress: Progress = silent,
    trackers: Sequence[str] = (),
) -> Job:
    """A training of a run directory at `path`, which is made."""
    path.mkdir(parents=True, exist_ok=True)
    return Job(parts, RunDir(path), seed, trackers, progress)


_TRAIN = TrainConfig(epochs=2, batch_size=8, micro_batch=4, learning_rate=1e-2, evaluations=3)
_LORA = LoraConfig(rank=4, alpha=8)


def rnn(**train: object) -> RnnConfig:
    """A GRU of width 16; keywords go to its `TrainConfig`."""
    return RnnConfig(
        vocabulary=300,
        max_tokens=64,
        embedding=16,
        hidden=16,
        train=_TRAIN.model_copy(update=train),
    )


def attention(**train: object) -> AttentionConfig:
    """A transformer of one layer of width 16; keywords go to its `TrainConfig`."""
    return AttentionConfig(
        vocabulary=300,
        max_tokens=64,
        width=16,
        layers=1,
        heads=2,
        train=_TRAIN.model_copy(update=train),
    )


def without_dropout(config: Any) -> Any:
    """The config of a training whose loss does not depend on who computes which rows.

    The tiny base models have no dropout.
    """
    if isinstance(config, ScratchConfig):
        return config.model_copy(update={"dropout": 0.0})
    return config


def encoder(model: Path, **train: object) -> EncoderConfig:
    return EncoderConfig(
        model=str(model), max_tokens=96, lora=_LORA, train=_TRAIN.model_copy(update=train)
    )


def filling(model: Path, **train: object) -> EncoderConfig:
    """An encoder that fills arguments, too; keywords go to both of its trainings."""
    settings = encoder(model, **train).train
    return encoder(model, **train).model_copy(
        update={"arguments": "extract", "argument_tokens": 160, "argument_train": settings}
    )


def open_encoder(model: Path, **train: object) -> EncoderConfig:
    """The encoder that matches: few negatives, so that they are chosen among the three tools."""
    match = MatchConfig(tool_chars=32, negatives=1, rename=0.1)
    # The head learns fast, since a tiny encoder's random vectors give it little to start from.
    changes = {"catalogue": "open", "match": match, "head_learning_rate": 1e-2}
    return encoder(model, **train).model_copy(update=changes)


def decoder(model: Path, **train: object) -> DecoderConfig:
    return DecoderConfig(
        model=str(model),
        max_tokens=256,
        max_new_tokens=64,
        lora=_LORA,
        train=_TRAIN.model_copy(update=train),
    )


def teach_calls(folder: Path) -> Path:
    """Teach a tiny Llama to write the shop's calls, in place."""
    from tiny_models import teach  # noqa: PLC0415  (imports torch)

    from distill.routers import pretrained  # noqa: PLC0415
    from distill.routers.decoding import PromptFormat  # noqa: PLC0415
    from distill.training.sft import row  # noqa: PLC0415

    tokenizer = pretrained.load_tokenizer(pretrained.resolve(str(folder)))
    prompts = PromptFormat.new(tokenizer, decoder(folder))
    rows = [row(example, prompts, 64) for example in examples(200, seed=2)]
    teach(folder, [row for row in rows if row is not None])
    return folder


GOLDEN_LOSSES = 8
"""How many of a run's first losses `tests/golden/` pins."""


def losses(run: RunDir) -> list[float]:
    """The training losses of `log.jsonl`, in order."""
    lines = map(orjson.loads, run.log.read_bytes().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def write_traces(path: Path, count: int = 80) -> Path:
    """A trace file of `count` one-decision conversations."""
    with path.open("wb") as file:
        for made in examples(count):
            answer = Message("assistant", None if made.label.calls else "Fine.", made.label.calls)
            messages = (*made.context.messages, answer)
            trace = Trace(made.trace_id, made.group, "teacher", "made up", TOOLS, messages)
            file.write(orjson.dumps(trace_json(trace)) + b"\n")
    return path


def job_values(folder: Path, **changes: Any) -> dict[str, Any]:
    """The config of a job of seconds on `folder/traces.jsonl`; changes are top-level keys."""
    value: dict[str, Any] = {
        "name": "shop",
        "output": str(folder / "runs"),
        "data": {"traces": str(folder / "traces.jsonl"), "split": {"merge_jaccard": None}},
        "routers": {
            "majority": {"kind": "majority"},
            "tfidf": {"kind": "tfidf", "regularisation": [10.0]},
        },
        "evaluation": {"bootstrap": 100, "latency_samples": 2},
    }
    return value | changes
