"""The same decisions in process and through vLLM, on test contexts of a run.

The engine is started for the run's router, as `distill serve` does; each context is decided by the
router in process and by the router on the engine. Printed, and written with `--output`, are the
share of decisions that are the same in action, tools and arguments, how far the confidences of
those lie apart, decisions that the engine gave no answer to, decisions per second of both where 64
are asked for together, the time of one asked for alone, and how much of its prompts the engine
found in its prefix cache. A decoder in process is transformers' `generate`. Rounding differs
between the two, so a decision on the edge may differ; each one that does is listed with both
confidences.

Example:
    python scripts/bench/served.py runs/orderdesk/decoder-s0 --python vllm/bin/python
    python scripts/bench/served.py runs/orderdesk/decoder-s0 --python vllm/bin/python \
        --engine options.gpu-memory-utilization=0.3
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from distill import config as configs
from distill.chat import decision_json
from distill.config import EngineConfig, parse
from distill.errors import InputError
from distill.pipeline.build import dataset_of
from distill.routers import load_router
from distill.routers.decoder import DecoderRouter
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


def decide(
    router: Router, examples: Sequence[Example], alone: int
) -> tuple[list[Decision], dict[str, float | None]]:
    """The decisions, and their speed, after one that does not count."""
    if isinstance(router, DecoderRouter):
        router.batch = BATCH
    contexts = [example.context for example in examples]
    router.decide(contexts[:1])
    start, made = time.perf_counter(), []
    for i in range(0, len(contexts), BATCH):
        made += router.decide(contexts[i : i + BATCH])
    per_s = len(made) / (time.perf_counter() - start)
    taken = []
    for context in contexts[:alone]:
        start = time.perf_counter()
        router.decide([context])
        taken.append(1000 * (time.perf_counter() - start))
    # Of fewer than a hundred, none need lie above a 99th percentile.
    p99 = float(np.percentile(taken, 99)) if len(taken) >= 100 else None
    return made, {
        "decisions_per_s": per_s,
        "alone_p50_ms": float(np.median(taken)),
        "alone_p99_ms": p99,
    }


def prefix_cache(url: str) -> float | None:
    """The share of prompt tokens that the engine at `url` found computed; None without a cache."""
    text = httpx.get(f"{url}/metrics", trust_env=False).raise_for_status().text
    samples = [s for f in text_string_to_metric_families(text) for s in f.samples]
    total = {
        what: sum(s.value for s in samples if s.name == f"vllm:prefix_cache_{what}_total")
        for what in ("queries", "hits")
    }
    return total["hits"] / total["queries"] if total["queries"] else None


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
    parser.add_argument("--alone", type=int, default=100, help="of them timed one by one")
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
            served, served_speed = decide(served_router(run.path, engine), examples, asked.alone)
            version, down = engine.installed.version, engine.last_error
            found = prefix_cache(engine.url)
        local, local_speed = decide(load_router(run.path), examples, asked.alone)
    except InputError as error:
        sys.exit(str(error))
    figures = {
        "run": run.path.name,
        "vllm": version,
        "hardware": hardware(),
        **compare(examples, local, served),
        "engine_was_down": down,
        "prefix_cache_hits": found,
        "speed": {"in process": local_speed, "engine": served_speed},
    }
    counted = figures["contexts"] - figures["failed"]
    print(f"{run.path.name}: {figures['same']} of {counted} decisions are the same")
    print(f"no answer: {figures['failed']}")
    if down is not None:
        print(f"the engine was down: {down}")
    print(f"confidences apart: {figures['confidence_apart']}")
    print(f"prompt tokens found in the prefix cache: {found if found is None else f'{found:.1%}'}")
    for where, speed in figures["speed"].items():
        print(
            f"{where}: {speed['decisions_per_s']:.2f} decisions/s in batches of {BATCH}; alone "
            f"p50 {speed['alone_p50_ms']:.1f} ms"
            + ("" if speed["alone_p99_ms"] is None else f", p99 {speed['alone_p99_ms']:.1f} ms")
        )
    if asked.output is not None:
        write_json(asked.output, figures)


if __name__ == "__main__":
    main()
