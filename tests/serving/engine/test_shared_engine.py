"""Several gateway processes with the one engine of their parent."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeVllm, alive, eventually
from processes import Served, gateway
from small_shop import TOOLS, ask, call, examples
from stands import HELLO, post
from wires import RawUpstream, http

from distill.chat import message_json, tool_json
from distill.routers import load_router
from distill.training.sft import row

CONTEXT = ask("what did I buy")
REQUEST = {
    "model": "m",
    "messages": [message_json(message) for message in CONTEXT.messages],
    "tools": [tool_json(tool) for tool in TOOLS],
}


@pytest.fixture
def lists_orders(trained: Any, vllm: FakeVllm) -> Path:
    """A decoder's folder, and a vLLM that writes a call of `list_orders`."""
    folder = trained("decoder").folder
    router: Any = load_router(folder)
    wanted = next(e for e in examples(50) if e.label.calls == (call("list_orders"),))
    taught = row(wanted, router.format, router.config.max_new_tokens)
    assert taught is not None
    vllm.does(ids=[token for token in taught["labels"] if token >= 0])
    return folder


@contextmanager
def two_workers(router: Path, folder: Path, vllm: FakeVllm) -> Iterator[Served]:
    with (
        RawUpstream(lambda sent: http(HELLO)) as upstream,
        gateway(
            router,
            folder,
            upstream={"base_url": upstream.url},
            workers=2,
            store={"url_env": "GATEWAY_STORE"},
            engine=vllm.config().model_dump(mode="json"),
            limits={"decide_s": 30},
            rollout={"mode": "on", "compare": 0.0, "rollback": None},
        ) as served,
    ):
        yield served


def decided_by(served: Served) -> set[str]:
    """Who decided, of requests over connections of their own that come together."""

    def asked(_: int) -> str:
        with served.client() as client:
            return post(client, REQUEST).headers["x-distill-decided-by"]

    with ThreadPoolExecutor(8) as pool:
        return set(pool.map(asked, range(16)))


def command_lines(group: int) -> list[str]:
    """Of the processes of a group, and of their children."""
    lines = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent, of = (place / "stat").read_text().rpartition(")")[2].split()[1:3]
            if group in (int(parent), int(of)):
                lines.append((place / "cmdline").read_text())
        except (FileNotFoundError, ProcessLookupError):
            pass
    return lines


def test_they_ask_the_one_engine_which_ends_with_them(
    lists_orders: Path, tmp_path: Path, vllm: FakeVllm, postgres: Any, monkeypatch: Any
):
    monkeypatch.setenv("GATEWAY_STORE", postgres.new_database())
    with two_workers(lists_orders, tmp_path, vllm) as served:
        eventually(lambda: decided_by(served) == {"local"})
        (first,) = vllm.starts
        key = first["environment"]["VLLM_API_KEY"]
        lines = command_lines(served.process.pid)
        assert len(lines) >= 4  # the parent, two children and the warden
        assert not any(key in line for line in lines)
        os.kill(first["pid"], signal.SIGKILL)
        eventually(lambda: len(vllm.starts) == 2 and decided_by(served) == {"local"})
        served.process.terminate()
        assert served.process.wait(60) == 0
        assert not any(alive(start[name]) for start in vllm.starts for name in ("pid", "helper"))
        assert served.process.stderr is not None
        assert key not in served.process.stderr.read().decode()


def test_no_engine_outlives_a_parent_that_is_killed(
    lists_orders: Path, tmp_path: Path, vllm: FakeVllm, postgres: Any, monkeypatch: Any
):
    monkeypatch.setenv("GATEWAY_STORE", postgres.new_database())
    with two_workers(lists_orders, tmp_path, vllm) as served:
        eventually(lambda: vllm.starts)
        (start,) = vllm.starts
        assert alive(start["pid"])
        served.process.kill()
        eventually(lambda: not alive(start["pid"]) and not alive(start["helper"]))
