"""The same decisions in process and through vLLM, on test contexts of a run.

The engine is started for the run's router, as `distill serve` does; each context is decided by the
router in process and by the router on the engine. Printed, and written with `--output`, are the
share of decisions that are the same in action, tools and arguments, how far the confidences of
those lie apart, decisions that the engine gave no answer to, and decisions per second of both.
Rounding differs between the two, so a decision on the edge may differ; each one that does is listed
with both confidences.

Example:
    python scripts/bench/served.py runs/orderdesk/decoder-s0 --python vllm/bin/python
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from distill import config as configs
from distill.chat import decision_json
from distill.config import EngineConfig, parse
from distill.errors import InputError
from distill.pipeline.build import dataset_of
from distill.routers import load_router
from distill.runs import RunDir, hardware, write_json
from distill.serving.engine import Engine, served_router
from distill.types import Decision, Example, Router

BATCH = 64
"""Contexts decided together."""


def test_examples(run: RunDir, count: int) -> list[Example]:
    """So many of the run's test part, drawn by a fixed seed, in their order."""
    single = configs.load(run.config)
    found = list(dataset_of(run, single).examples("test"))
    chosen = sorted(Random(0).sample(range(len(found)), min(count, len(found))))
    return [found[i] for i in chosen]


def decide(router: Router, examples: Sequence[Example]) -> tuple[list[Decision], float]:
    """The decisions, and how many a second, after one that does not count."""
    router.decide([examples[0].context])
    start, made = time.perf_counter(), []
    for i in range(0, len(examples), BATCH):
        made += router.decide([example.context for example in examples[i : i + BATCH]])
    return made, len(made) / (time.perf_counter() - start)


def compare(
    examples: Sequence[Example], local: Sequence[Decision], engine: Sequence[Decision]
) -> dict[str, Any]:
    """What agrees, by counts and shares, and the decisions that do not."""
    failed = [d for d in engine if d.error is not None]
    pairs = [p for p in zip(examples, local, engine, strict=True) if p[2].error is None]
    same = [(a, b) for _, a, b in pairs if (a.action, a.calls) == (b.action, b.calls)]
    apart = [
        abs(a.confidence - b.confidence)
        for a, b in same
        if a.confidence is not None and b.confidence is not None
    ]
    return {
        "contexts": len(examples),
        "failed": len(failed),
        "errors": sorted({str(d.error) for d in failed}),
        "same": len(same),
        "same_share": len(same) / len(pairs) if pairs else None,
        "confidence_apart": {
            "mean": float(np.mean(apart)) if apart else None,
            "largest": max(apart, default=None),
        },
        "different": [
            {"id": e.id, "in_process": decision_json(a), "engine": decision_json(b)}
            for e, a, b in pairs
            if (a.action, a.calls) != (b.action, b.calls)
        ],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run directory, its dataset beside it")
    parser.add_argument("--python", type=Path, required=True, help="an interpreter with vLLM")
    parser.add_argument("--contexts", type=int, default=200)
    parser.add_argument(
        "--engine",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the engine's config, e.g. start_s=1200 or options.max-model-len=2048",
    )
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    asked = parser.parse_args(arguments)
    run = RunDir(asked.run)
    try:
        config = parse({"python": asked.python}, "--engine", EngineConfig, asked.engine)
        run.require_whole()
        examples = test_examples(run, asked.contexts)
        with Engine(run.path, config) as engine:
            engine.wait_ready()
            served, served_speed = decide(served_router(run.path, engine), examples)
            version, down = engine.installed.version, engine.last_error
        local, local_speed = decide(load_router(run.path), examples)
    except InputError as error:
        sys.exit(str(error))
    figures = {
        "run": run.path.name,
        "vllm": version,
        "hardware": hardware(),
        **compare(examples, local, served),
        "engine_was_down": down,
        "decisions_per_s": {"in_process": local_speed, "engine": served_speed},
    }
    counted = figures["contexts"] - figures["failed"]
    print(f"{run.path.name}: {figures['same']} of {counted} decisions are the same")
    print(f"no answer: {figures['failed']}")
    if down is not None:
        print(f"the engine was down: {down}")
    print(f"confidences apart: {figures['confidence_apart']}")
    print(f"decisions/s: in process {local_speed:.2f}, engine {served_speed:.2f}")
    if asked.output is not None:
        write_json(asked.output, figures)


if __name__ == "__main__":
    main()
