"""How fast traces become a dataset, and that memory stays flat while their number grows.

Synthetic traces are made in memory, built in a fresh process per size, and thrown away.

Example:
    python scripts/bench/dataset.py --sizes 1000 10000 100000 --output bench-dataset.json
"""

import argparse
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from machine import describe

from distill.config import DataConfig
from distill.dataset import build
from distill.runs import hardware, write_json
from distill.types import Message, Outcome, ToolCall, ToolSpec, Trace, Usage

N_TOOLS = 24
SYLLABLES = ["ba", "do", "fe", "gi", "ku", "la", "mi", "no", "pe", "ra", "so", "tu", "va", "chi"]


def catalogue() -> tuple[ToolSpec, ...]:
    """Tools with a schema of the usual size."""
    parameters = {
        "type": "object",
        "properties": {
            "subject": {"type": "string", "description": "Whom or what the request is about."},
            "amount": {"type": "integer", "minimum": 0, "description": "How many."},
            "mode": {"type": "string", "enum": ["now", "later", "never"]},
        },
        "required": ["subject"],
        "additionalProperties": False,
    }
    return tuple(
        ToolSpec(f"tool_{i}", f"Does the work of kind {i} on a subject.", parameters)
        for i in range(N_TOOLS)
    )


def traces(n: int) -> Iterator[Trace]:
    """`n` traces of 1 to 4 calls and a reply; three traces a group, of which a tenth repeat."""
    draw = random.Random(0)
    tools = catalogue()
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(4000)]
    messages: tuple[Message, ...] = ()
    for i in range(n):
        if i % 3 == 0 or draw.random() > 0.1:
            messages = conversation(draw, words)
        yield Trace(
            id=f"trace-{i}",
            group=f"group-{i // 3}",
            teacher="teacher",
            source="synthetic",
            tools=tools,
            messages=messages,
            outcome=Outcome(draw.random() < 0.9),
            usage=Usage(1500, 60, len(messages) // 2, 900.0),
        )


def conversation(draw: random.Random, words: list[str]) -> tuple[Message, ...]:
    """A request of 8 to 30 words, calls with results of 20 words, and a reply."""
    messages = [
        Message("system", f"The time is {draw.random()}. Use the tools."),
        Message("user", " ".join(draw.choices(words, k=draw.randint(8, 30)))),
    ]
    for turn in range(draw.randint(1, 4)):
        arguments = {"subject": draw.choice(words), "amount": draw.randint(0, 9)}
        call = ToolCall(f"tool_{draw.randrange(N_TOOLS)}", arguments, f"c{turn}")
        messages.append(Message("assistant", None, (call,)))
        result = " ".join(draw.choices(words, k=20))
        messages.append(Message("tool", result, call_id=f"c{turn}", name=call.name))
    return (*messages, Message("assistant", "Done."))


def measure(n: int) -> dict[str, Any]:
    """Build `n` traces in this process: traces per second and peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        manifest = build(traces(n), DataConfig(), 0, Path(folder) / "data", source="synthetic")
        seconds = time.perf_counter() - start
    return {
        "traces": n,
        "examples": sum(part["examples"] for part in manifest["parts"].values()),
        "seconds": seconds,
        "traces_per_s": n / seconds,
        "peak_rss_mib": peak_mib(),
    }


def peak_mib() -> float:
    """Peak resident memory of this process."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not ru_maxrss: on Linux a child starts with its parent's peak.
        line = next(s for s in status.read_text().splitlines() if s.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    # macOS counts in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--output", type=Path, help="also write the figures here, as JSON")
    args = parser.parse_args()
    machine = hardware()
    print(describe(machine))
    print("   traces  examples  traces/s  peak MiB     time   memory")
    rows: list[dict[str, Any]] = []
    for n in args.sizes:
        with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
            rows.append(fresh.submit(measure, n).result())
        row, first = rows[-1], rows[0]
        print(
            f"{n:>9} {row['examples']:>9} {row['traces_per_s']:>9.0f} {row['peak_rss_mib']:>9.0f}"
            f" {row['seconds'] / first['seconds']:>7.1f}x"
            f" {row['peak_rss_mib'] / first['peak_rss_mib']:>7.2f}x",
            flush=True,
        )
    if args.output is not None:
        write_json(args.output, {"hardware": machine, "rows": rows})


if __name__ == "__main__":
    main()
