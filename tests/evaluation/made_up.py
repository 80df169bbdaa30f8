"""Examples, predictions, a scripted router and run directories, made up for these tests."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import yaml

from distill.config import EvaluationConfig, MajorityConfig
from distill.evaluation.difficulty import Difficulty
from distill.evaluation.latency import Timing
from distill.evaluation.predictions import Draft, Prediction
from distill.routers.confidence import Threshold
from distill.routers.folder import RouterFile
from distill.routers.labels import LabelSpace
from distill.runs import RunDir, write, write_json
from distill.types import Context, Decision, Example, Message, ToolCall, ToolSpec

TOOLS = ["get_order", "find_customer", "refund", "cancel_order", "list_products"]
FAST = EvaluationConfig(bootstrap=200)
TIMING: Timing = {
    "latency_ms": {"p50": 4.0, "p95": 6.0, "p99": 9.0},
    "latency_samples": 100,
    "decisions_per_s": 500.0,
    "stages": {},
}
TEACHER = {
    "name": "big-model",
    "self_agreement": 0.96,
    "self_agreement_contexts": 31,
    "label_agreement": 0.96,
    "label_agreement_contexts": 31,
    "success_rate": None,
    "latency_ms": {"p50": 900.0, "p95": 2400.0},
    "tokens_per_decision": 1234.0,
    "input_tokens_per_decision": 1200.0,
    "output_tokens_per_decision": 34.0,
}
HARDWARE = {"cpu": "Some CPU", "cores": 4, "gpus": []}


def call(
    *names: str, confidence: float | None = None, arguments: dict[str, Any] | None = None
) -> Decision:
    """A decision for these tools, or to reply when there are none."""
    calls = tuple(ToolCall(name, arguments if arguments is not None else {}) for name in names)
    return Decision("call" if calls else "reply", calls, confidence)


def example(i: int, label: Decision, group: str = "g", turns: int = 0) -> Example:
    messages = [Message("user", f"request {i}")]
    messages += [Message("assistant", "one moment"), Message("user", "go on")] * turns
    tools = tuple(ToolSpec(name) for name in TOOLS)
    return Example(f"e{i}", f"t{i}", group, Context(tuple(messages), tools), label)


def predictions(
    pairs: Sequence[tuple[Decision, Decision]], groups: Sequence[str] | None = None
) -> list[Prediction]:
    """One prediction per (label, decision); every one is a group of its own unless named."""
    groups = groups or [f"g{i}" for i in range(len(pairs))]
    return [
        Prediction(e.id, e.group, e.label, decision, e.weight, Difficulty.of(e))
        for i, (label, decision) in enumerate(pairs)
        for e in [example(i, label, groups[i])]
    ]


class Scripted:
    """A router that answers as a function says."""

    kind = "scripted"

    def __init__(self, answer: Callable[[Context], Decision]) -> None:
        self.answer = answer
        self.batches: list[int] = []

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        self.batches.append(len(contexts))
        return [self.answer(context) for context in contexts]

    def save(self, path: Path) -> None:
        raise NotImplementedError


def simulate(
    skill: float, seed: int, groups: int = 40, names: Sequence[str] = (), confident: bool = True
) -> list[Prediction]:
    """A router that is right with probability `skill`, on conversations that only `seed` fixes."""
    names = names or TOOLS
    world, luck = Random(seed), Random(f"{seed} {skill}")
    made = []
    for g in range(groups):
        hardness = world.uniform(-0.2, 0.2)
        for step in range(world.randint(1, 7)):
            chosen = tuple(world.choices(names, k=world.choice([0, 1, 1, 1, 2])))
            label = call(*chosen, arguments=dict.fromkeys("abcdef"[: world.randint(0, 4)], 1))
            sure = luck.random() < skill + hardness - 0.03 * step
            wrong = call(luck.choice([*names, "unheard_of"])) if luck.random() < 0.8 else call()
            decided = label if sure else wrong
            confidence = min(1.0, max(0.0, luck.gauss(0.9 if sure else 0.6, 0.15)))
            decided = Decision(decided.action, decided.calls, confidence if confident else None)
            e = example(len(made), label, f"g{g}", turns=step)
            made.append(Prediction(e.id, e.group, label, decided, 1.0, Difficulty.of(e)))
    return made


def save(path: Path, made: Iterable[Prediction]) -> None:
    """Write a file of predictions in one go."""
    draft = Draft(path, {})
    for prediction in made:
        draft.add(prediction)
    draft.finish()


def write_run(
    path: Path,
    router: str,
    made: Sequence[Prediction],
    *,
    seed: int = 0,
    dataset: str = "d" * 64,
    kind: str = "rnn",
    teacher: dict[str, Any] | None = None,
    timing: Timing = TIMING,
    parameters: int = 22_700_000,
    source: str = "5" * 64,
    data: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    thresholds: Sequence[Threshold] = (),
    base_model: str | None = None,
) -> RunDir:
    """A run directory as training and evaluation leave it, without a router's weights.

    `data` and `settings` (of the router) are what its config states besides the defaults.
    """
    run = RunDir(path)
    config = {"name": "job", "seeds": [seed], "data": data or {}}
    # The names of some tests are none that a config may have; they are no router's there.
    name = router if router.isalnum() else "other"
    write(
        run.config, yaml.safe_dump(config | {"routers": {name: {"kind": kind, **(settings or {})}}})
    )
    write_json(
        run.manifest,
        {
            "format": 1,
            "run": "job",
            "router": router,
            "kind": kind,
            "seed": seed,
            "dataset": {
                "hash": dataset,
                "parts": {
                    part: {"examples": len(made), "groups": 1}
                    for part in ("train", "validation", "calibration", "test")
                },
                "n_groups": 99,
                "source": {"name": "traces.jsonl", "sha256": source},
            },
            "teacher": teacher or TEACHER,
            "base_model": None if base_model is None else {"name": base_model},
            "parameters": parameters,
            "trainable_parameters": parameters,
            "train_seconds": 312.0,
            "environment": {"hardware": HARDWARE},
        },
    )
    run.router.mkdir(parents=True, exist_ok=True)
    RouterFile(MajorityConfig(), (), LabelSpace(()), thresholds=tuple(thresholds)).save(run.router)
    save(run.predictions, made)
    write_json(run.report, {"evaluation": {"seed": seed, "hardware": HARDWARE, **timing}})
    return run
