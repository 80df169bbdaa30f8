"""What the gateway adds to the time of a chat completion, how many it takes, and its memory.

A stub upstream answers at once, and the same requests (conversations of the embedded domain with
its 16 tools, 9 KB each) are asked

    direct         of the stub itself
    pass-through   through `distill serve`, mode `off`: the router is not asked
    shadow         through it, mode `shadow`: the router is asked beside the upstream
    local          through it, mode `on`: the router decides, and the upstream is never asked
    litellm        through LiteLLM's proxy, from an environment of its own (`--litellm-python`)

at constant rates (`load.py`: latencies count from when a request should have been sent). Every
round runs each arm at each rate, in an order that rotates, so that noise falls on all alike.
`added` is an arm's percentile less that of `direct` in the same round, averaged over the rounds,
with a 95% interval by Student's t over them (from five rounds on). A failed or unanswered request
counts as infinitely slow; a percentile that reaches one is left out. `CPU` is what a request costs
the server, the stub and the load in milliseconds of processor time: all share the machine.

Then the ceiling: requests per second of `--connections` clients that ask as soon as they are
answered. Then, in a fresh process, resident memory before and after `--requests` of the same.

The gateway runs as its users start it: one worker, its defaults, every request kept in SQLite
before its answer is whole. That is a write-ahead log with `synchronous=NORMAL`, where a commit
waits for a write and only a checkpoint for the disk (`distill/store/database.py`). `--store` names
a PostgreSQL in its place, which several `--workers` need. The called tools take no arguments in
these requests, since a router of the kinds here fills none in; it learned from the decisions that
call. LiteLLM has as many workers, no database, no callbacks and logs errors alone, as its
documentation advises for production, and keeps no records.

All of it takes about half an hour; the machine should do nothing else.

Example:
    python -m venv litellm && litellm/bin/pip install 'litellm[proxy]'
    python scripts/bench/gateway.py --litellm-python litellm/bin/python --output gateway.json
"""

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil
from load import Measured, Target, closed_loop, open_loop
from machine import describe
from scipy.special import stdtrit
from servers import ARMS, KEY, MODEL, START_S, Arm, Servers, cpu_s, versions
from stub_upstream import stub_upstream
from training import open_dataset, training_parts

from distill.chat import message_json, tool_json
from distill.config import MajorityConfig, RnnConfig, TfidfConfig
from distill.errors import InputError
from distill.evaluation.intervals import LEVEL, MIN_GROUPS
from distill.progress import silent
from distill.routers import load_router
from distill.runs import RunDir, hardware, new_folder, write_json
from distill.training import Job, Parts, train
from distill.types import Context, Decision, ToolSpec

_ROUTERS = {"majority": MajorityConfig, "tfidf": TfidfConfig, "rnn": RnnConfig}
_BODIES = 64
_SETTLE_S = 5
_MEMORY_S = 3600
"""Seconds that a tenth of the requests for memory may take."""
_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_PARTS = 10
"""Times that memory is read while it is measured."""


@dataclass
class Bench:
    """What all measurements share."""

    stub: psutil.Process
    servers: Servers
    bodies: list[bytes]
    connections: int
    loading: ProcessPoolExecutor
    """One process, which makes the load."""
    rows: dict[tuple[str, float], list[dict[str, Any]]] = field(default_factory=dict)
    """What each round found, by arm and rate."""

    def __post_init__(self) -> None:
        self.load = psutil.Process(self.loading.submit(os.getpid).result())

    def target(self, arm: Arm) -> Target:
        return Target(arm.port, KEY, self.bodies, self.connections)

    def check(self, arm: Arm) -> None:
        """Raise unless the arm answers, and does what its name says."""
        asked = self.target(arm)
        found = self.loading.submit(closed_loop, asked, 1, START_S, len(self.bodies)).result()
        local = len(self.bodies) if arm.name == "local" else 0
        if found.errors or found.local != local:
            fault = f"{found.errors} errors, {found.local} decided locally"
            raise InputError(arm.name, fault, f"read {self.servers.folder / arm.name}.log (--keep)")

    def at_rate(self, arm: Arm, rate: float, seconds: float, warm_up: float) -> None:
        """One arm in one round."""
        parts: dict[str, Callable[[], float]] = {
            "server": arm.cpu_s,
            "stub": lambda: cpu_s(self.stub),
            "load": lambda: cpu_s(self.load),
        }
        before = {name: read() for name, read in parts.items()}
        found: Measured = self.loading.submit(
            open_loop, self.target(arm), rate, seconds, warm_up
        ).result()
        count = max(1, round(rate * (seconds + warm_up)))
        cpu_ms = {name: 1000 * (read() - before[name]) / count for name, read in parts.items()}
        self.rows.setdefault((arm.name, rate), []).append({"found": found, "cpu_ms": cpu_ms})
        _settle(arm)

    def figures(self, name: str, rate: float) -> dict[str, Any]:
        """Of one arm at one rate, from all rounds."""
        rounds = self.rows[name, rate]
        found: list[Measured] = [row["found"] for row in rounds]
        latencies = [ms for measured in found for ms in measured.latencies_ms]
        errors = sum(measured.errors for measured in found)
        seconds = sum(measured.seconds for measured in found)
        row: dict[str, Any] = {
            "arm": name,
            "rate": rate,
            "requests": len(latencies),
            "errors": errors,
            "achieved_per_s": (len(latencies) - errors) / seconds,
            "local": sum(measured.local for measured in found),
            "latency_ms": {key: quantile(latencies, q) for key, q in _PERCENTILES.items()},
            "late_ms_p99": quantile([ms for one in found for ms in one.late_ms], 0.99),
            "cpu_ms": {
                part: float(np.mean([row["cpu_ms"][part] for row in rounds]))
                for part in rounds[0]["cpu_ms"]
            },
        }
        direct = self.rows.get(("direct", rate))
        if name != "direct" and direct is not None:
            row["added_ms"] = {
                key: added(
                    [one.latencies_ms for one in found],
                    [row["found"].latencies_ms for row in direct],
                    q,
                )
                for key, q in _PERCENTILES.items()
            }
        return row

    def ceiling(self, arm: Arm, seconds: float) -> dict[str, Any]:
        """Requests per second in a closed loop."""
        before = arm.cpu_s()
        found: Measured = self.loading.submit(
            closed_loop, self.target(arm), self.connections, seconds
        ).result()
        answered = len(found.latencies_ms) - found.errors
        return {
            "arm": arm.name,
            "connections": self.connections,
            "requests_per_s": answered / found.seconds,
            "errors": found.errors,
            "local": found.local,
            "latency_ms": {k: quantile(found.latencies_ms, q) for k, q in _PERCENTILES.items()},
            "server_cpu_share": (arm.cpu_s() - before) / found.seconds,
        }

    def memory(self, arm: Arm, requests: int) -> dict[str, Any]:
        """Resident memory before, while and after so many requests in a closed loop."""
        marks = [{"requests": 0, "rss_mib": arm.rss_mib()}]
        errors, seconds, asked = 0, 0.0, 0
        for i in range(_PARTS):
            part = requests * (i + 1) // _PARTS - asked
            found: Measured = self.loading.submit(
                closed_loop, self.target(arm), self.connections, _MEMORY_S, part
            ).result()
            asked += part
            errors, seconds = errors + found.errors, seconds + found.seconds
            marks.append({"requests": asked, "rss_mib": arm.rss_mib()})
            _progress(f"memory of {arm.name}: {asked:,} of {requests:,} requests")
        return {"arm": arm.name, "errors": errors, "seconds": seconds, "marks": marks}


def quantile(values: Sequence[float], q: float) -> float | None:
    """The least value that a share of `q` does not exceed; None where that is no time, or where
    less than one value lies above it."""
    if len(values) * (1 - q) < 1 - 1e-9:
        return None
    found = float(np.quantile(values, q, method="inverted_cdf"))
    return found if math.isfinite(found) else None


def added(
    slow: Sequence[Sequence[float]], fast: Sequence[Sequence[float]], q: float
) -> dict[str, float | None]:
    """Mean over rounds of the difference of both quantiles, with its interval."""
    pairs = [(quantile(a, q), quantile(b, q)) for a, b in zip(slow, fast, strict=True)]
    apart = [a - b for a, b in pairs if a is not None and b is not None]
    nothing: dict[str, float | None] = {"value": None, "low": None, "high": None}
    if len(apart) < len(pairs):
        return nothing
    n, value = len(apart), float(np.mean(apart))
    if n < MIN_GROUPS:
        return nothing | {"value": value}
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2) * np.std(apart, ddof=1) / math.sqrt(n))
    return {"value": value, "low": value - half, "high": value + half}


def make_router(kind: str, parts: Parts, folder: Path) -> Path:
    """A router folder, made of the decisions that call."""
    calling = replace(parts, train=_calls(parts.train), validation=_calls(parts.validation))
    config = _ROUTERS[kind]()
    router = train(config, Job(calling, RunDir(folder / "run"), 0, (), silent)).router
    with new_folder(folder / "router") as made:
        router.save(made)
    return folder / "router"


def _calls(examples: Sequence[Any]) -> list[Any]:
    return [example for example in examples if example.label.action == "call"]


def request_bodies(router: Path, contexts: Sequence[Context], *, stream: bool) -> list[bytes]:
    """Requests that the router answers with calls whose arguments it fills in.

    Raises:
        InputError: it calls nothing.
    """
    decisions = load_router(router).decide(contexts)
    bodies: list[bytes] = []
    for context, decision in zip(contexts, decisions, strict=True):
        if decision.action != "call" or len(bodies) == _BODIES:
            continue
        body: dict[str, Any] = {
            "model": MODEL,
            "messages": [message_json(message) for message in context.messages],
            "tools": [tool_json(_fitting(tool, decision)) for tool in context.tools],
            "temperature": 0,
        }
        bodies.append(orjson.dumps(body | ({"stream": True} if stream else {})))
    if not bodies:
        raise InputError("--router", "it calls none of the tools", "name another")
    return bodies


def _fitting(tool: ToolSpec, decision: Decision) -> ToolSpec:
    """The tool, without arguments if the decision calls it without."""
    if any(call.name == tool.name and not call.arguments for call in decision.calls):
        return replace(tool, parameters={"type": "object", "properties": {}})
    return tool


def _settle(arm: Arm) -> None:
    """Wait until an overloaded server has done what nobody waits for any more."""
    until = time.monotonic() + _SETTLE_S
    busy = True
    while busy and time.monotonic() < until:
        before = arm.cpu_s()
        time.sleep(0.2)
        busy = arm.cpu_s() - before > 0.02


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _interval(figure: Mapping[str, float | None] | None) -> str:
    if figure is None:
        return ""
    text = _number(figure["value"])
    if figure["low"] is not None:
        text += f" ({_number(figure['low'])} to {_number(figure['high'])})"
    return text


def _print_load(rows: Sequence[Mapping[str, Any]]) -> None:
    print(
        f"{'rate/s':>6}  {'arm':<12} {'answered/s':>10} {'errors':>6} {'p50 ms':>7} {'p90 ms':>7}"
        f" {'p99 ms':>7}  {'added p50 ms':<22} {'added p99 ms':<22} CPU ms server/stub/load"
    )
    for row in rows:
        p50, p90, p99 = (_number(row["latency_ms"][key]) for key in _PERCENTILES)
        more = row.get("added_ms", {})
        cpu = "/".join(_number(row["cpu_ms"][part]) for part in ("server", "stub", "load"))
        print(
            f"{row['rate']:>6g}  {row['arm']:<12} {row['achieved_per_s']:>10.1f}"
            f" {row['errors']:>6} {p50:>7} {p90:>7} {p99:>7}  {_interval(more.get('p50')):<22}"
            f" {_interval(more.get('p99')):<22} {cpu}"
        )


def _print_ceilings(rows: Sequence[Mapping[str, Any]], connections: int) -> None:
    print(f"\nceiling, {connections} at once")
    print(f"{'arm':<14} requests/s  errors   p50 ms   p99 ms  server's CPU")
    for row in rows:
        p50, p99 = (_number(row["latency_ms"][key], 1) for key in ("p50", "p99"))
        print(
            f"{row['arm']:<14} {row['requests_per_s']:>10.0f} {row['errors']:>7} {p50:>8}"
            f" {p99:>8} {row['server_cpu_share']:>12.0%}"
        )


def _print_memory(rows: Sequence[Mapping[str, Any]]) -> None:
    print(f"\nmemory\n{'arm':<14} requests  errors  MiB at start  after a tenth  at the end")
    for row in rows:
        first, tenth, *_, last = row["marks"]
        print(
            f"{row['arm']:<14} {last['requests']:>8,} {row['errors']:>7} {first['rss_mib']:>13.0f}"
            f" {tenth['rss_mib']:>14.0f} {last['rss_mib']:>11.0f}"
        )


def measure(bench: Bench, args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Run all of it, and print each part when it is there."""
    with ExitStack() as servers:
        arms = [servers.enter_context(bench.servers.start(name)) for name in names]
        for arm in arms:
            bench.check(arm)
        for n in range(args.rounds):
            for rate in args.rates:
                for arm in arms[n % len(arms) :] + arms[: n % len(arms)]:
                    bench.at_rate(arm, rate, args.seconds, args.warm_up)
                _progress(f"round {n + 1} of {args.rounds}: {rate:g}/s")
        load = [bench.figures(name, rate) for rate in args.rates for name in names]
        _print_load(load)
        ceilings = [bench.ceiling(arm, args.ceiling_s) for arm in arms]
        _print_ceilings(ceilings, args.connections)
    asked = {"pass-through": args.requests, "litellm": args.litellm_requests}
    memory = []
    for name in (name for name in asked if name in names and asked[name]):
        with bench.servers.start(name) as fresh:
            memory.append(bench.memory(fresh, asked[name]))
    if memory:
        _print_memory(memory)
    return {"load": load, "ceilings": ceilings, "memory": memory}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS[1:], default=ARMS[1:])
    parser.add_argument("--rates", nargs="+", type=float, default=[50, 200, 500])
    parser.add_argument("--seconds", type=float, default=10, help="of an arm at a rate in a round")
    parser.add_argument("--warm-up", type=float, default=1, help="seconds before these")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64, help="at most, of the clients")
    parser.add_argument("--ceiling-s", type=float, default=10, help="seconds of a closed loop")
    parser.add_argument("--requests", type=int, default=100_000, help="for memory; 0: none")
    parser.add_argument("--litellm-requests", type=int, default=20_000, help="the same of LiteLLM")
    parser.add_argument("--stream", action="store_true", help="ask for streams")
    parser.add_argument("--dataset", type=Path, help="a dataset folder (default: the sample)")
    parser.add_argument("--router", choices=_ROUTERS, default="tfidf", help="of shadow and local")
    parser.add_argument("--workers", type=int, default=1, help="processes of a server")
    parser.add_argument("--store", help="the gateway's store.url (default: a SQLite file each)")
    parser.add_argument("--litellm-python", type=Path, help="an interpreter with LiteLLM's proxy")
    parser.add_argument("--keep", type=Path, help="a new folder for logs, configs and databases")
    parser.add_argument("--output", type=Path, help="also write the figures here, as JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    about = {"hardware": hardware(), "versions": versions(args.litellm_python)}
    names = ["direct", *args.arms]
    if "litellm" in names and args.litellm_python is None:
        names.remove("litellm")
        print("litellm: left out, no --litellm-python")
    print(describe(about["hardware"]))
    print(", ".join(f"{name} {version}" for name, version in about["versions"].items()))
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = (args.keep or temporary / "servers").resolve()
        folder.mkdir(parents=True)
        _progress(f"fitting the router ({args.router})")
        dataset = open_dataset(args.dataset, temporary)
        router = make_router(args.router, training_parts(dataset), temporary)
        contexts = [example.context for example in dataset.examples("test")]
        stub_port, stub = stack.enter_context(stub_upstream())
        bench = Bench(
            stub=psutil.Process(stub),
            servers=Servers(
                stub_port=stub_port,
                router=router,
                folder=folder,
                store=args.store,
                litellm=args.litellm_python and args.litellm_python.absolute(),
                workers=args.workers,
            ),
            bodies=request_bodies(router, contexts, stream=args.stream),
            connections=args.connections,
            loading=stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"))),
        )
        size = sum(map(len, bench.bodies)) / len(bench.bodies)
        print(f"{len(bench.bodies)} bodies of {size:,.0f} bytes on average\n", flush=True)
        figures = measure(bench, args, names)
    if args.output is not None:
        settings = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in vars(args).items()
            if key not in ("output", "keep", "litellm_python")
        }
        write_json(args.output, {**about, "settings": settings, "body_bytes": size, **figures})


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"gateway.py: {error}")
