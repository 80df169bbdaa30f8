"""The load on the gateway: what it counts, and a run of the gateway's own."""

import json
import math
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from wires import RawUpstream, Wire, http


@contextmanager
def silent_server() -> Iterator[int]:
    """Accepts connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


def target(script: Any, port: int, connections: int = 4) -> Any:
    return script("load").Target(port, "sk-key", [b'{"a":1}', b'{"b":2}'], connections)


def port_of(upstream: RawUpstream) -> int:
    return int(upstream.url.rpartition(":")[2].partition("/")[0])


def test_an_open_loop_asks_for_every_body_at_its_rate(script: Any):
    with RawUpstream(lambda sent: http(b"{}", "200 OK", "x-distill-decided-by: local")) as there:
        asked = target(script, port_of(there))
        found = script("load").open_loop(asked, rate=100, seconds=0.5, warm_up=0.1)
        bodies = [sent.body for sent in there.requests]
    assert (len(found.latencies_ms), found.local, found.errors) == (50, 50, 0)
    assert sorted(bodies) == sorted([*asked.bodies] * 30)
    assert there.requests[0].header("authorization") == [b"Bearer sk-key"]


def test_a_server_that_stalls_delays_all_that_should_have_been_asked_meanwhile(script: Any):
    """One connection, and one answer that takes 0.4 s: the requests behind it are late, too."""
    slow = iter([0.4])

    def said(sent: object) -> Wire:
        whole = http(b"{}")
        return Wire([next(slow, 0.0), *whole.pieces], closes=False)

    with RawUpstream(said) as there:
        asked = target(script, port_of(there), connections=1)
        found = script("load").open_loop(asked, rate=50, seconds=0.4, warm_up=0)
    assert found.errors == 0
    assert sum(ms > 100 for ms in found.latencies_ms) >= 10


@pytest.mark.parametrize("said", [http(b"{}", "503 Busy"), Wire([]), Wire([b"\0nothing\r\n\r\n"])])
def test_what_is_no_good_answer_is_infinitely_slow(script: Any, said: Wire):
    load = script("load")
    with RawUpstream(lambda sent: said) as there:
        asked = target(script, port_of(there))
        found = load.open_loop(asked, rate=50, seconds=0.2, warm_up=0)
        closed = load.closed_loop(asked, 2, 10, 20)
    assert found.latencies_ms == [math.inf] * 10
    assert closed.errors == len(closed.latencies_ms) == 20


def test_no_answer_at_all_is_an_error(script: Any, monkeypatch: pytest.MonkeyPatch):
    load = script("load")
    monkeypatch.setattr(load, "_GRACE_S", 0.2)
    with silent_server() as port:
        found = load.open_loop(target(script, port, 2), rate=50, seconds=0.2, warm_up=0)
    assert found.errors == 10


def test_a_closed_loop_asks_as_often_as_it_is_told_on_so_many_connections(script: Any):
    most, now, lock = 0, 0, threading.Lock()

    def said(sent: object) -> Wire:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        whole = http(b"{}")
        with lock:
            now -= 1
        return whole

    with RawUpstream(said) as there:
        found = script("load").closed_loop(target(script, port_of(there)), 3, 10, 100)
        assert len(there.requests) == 100
    assert (len(found.latencies_ms), found.errors) == (100, 0)
    assert most <= 3


def test_quantiles_and_what_is_added(script: Any):
    gateway = script("gateway")
    assert gateway.quantile(list(range(1, 101)), 0.99) == 99
    assert gateway.quantile([1.0] * 50, 0.99) is None, "too few"
    assert gateway.quantile([1.0] * 98 + [math.inf] * 2, 0.99) is None
    assert gateway.quantile([1.0] * 98 + [math.inf] * 2, 0.5) == 1
    fast = [[1.0] * 9, [2.0] * 9, [3.0] * 9, [4.0] * 9, [5.0] * 9]
    slow = [[value + 2 for value in one] for one in fast]
    assert gateway.added(slow, fast, 0.5) == {"value": 2, "low": 2, "high": 2}
    slow[0] = [4.0] * 9
    found = gateway.added(slow, fast, 0.5)
    # Differences 3, 2, 2, 2, 2: a standard error of 0.2, and t = 2.776 for four degrees of freedom.
    assert found["value"] == pytest.approx(2.2)
    assert found["high"] - found["value"] == pytest.approx(0.2 * 2.776, abs=1e-3)
    assert gateway.added(slow[:4], fast[:4], 0.5)["low"] is None
    slow[1] = [math.inf] * 9
    assert gateway.added(slow, fast, 0.5)["value"] is None


def test_the_stub_answers_plainly_and_in_streams_as_the_openai_client_reads_them(script: Any):
    import openai  # noqa: PLC0415

    with script("stub_upstream").stub_upstream() as (port, _):
        url = f"http://127.0.0.1:{port}/v1"
        with openai.OpenAI(base_url=url, api_key="k", max_retries=0) as client:
            asked: Any = {"model": "large", "messages": [{"role": "user", "content": "hi"}]}
            plain = client.chat.completions.create(**asked).choices[0].message.content
            events = client.chat.completions.create(**asked, stream=True)
            text = "".join(event.choices[0].delta.content or "" for event in events)
    assert plain
    assert text.strip() == plain


def test_arms_in_one_run(
    script: Any, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = "--rates 20 --seconds 0.5 --warm-up 0.1 --rounds 1 --connections 4 --ceiling-s 0.3"
    kept, output = tmp_path / "kept", tmp_path / "figures.json"
    options += f" --requests 30 --router majority --dataset {dataset} --keep {kept}"
    arms = ["--arms", "pass-through", "local", "litellm"]
    script("gateway").main([*options.split(), *arms, "--output", str(output)])
    figures = json.loads(output.read_bytes())
    names = ["direct", "pass-through", "local"]
    assert [row["arm"] for row in figures["load"]] == names
    assert [(row["requests"], row["errors"]) for row in figures["load"]] == [(10, 0)] * 3
    assert [row["local"] for row in figures["load"]] == [0, 0, 10]
    assert all(row["requests_per_s"] > 0 for row in figures["ceilings"])
    (memory,) = figures["memory"]
    assert [mark["requests"] for mark in memory["marks"]] == list(range(0, 31, 3))
    assert all(mark["rss_mib"] > 10 for mark in memory["marks"])
    assert {path.name for path in kept.glob("*.log")} == {f"{name}.log" for name in names[1:]}
    said = capsys.readouterr().out
    assert "litellm: left out" in said
    assert "added p99" in said
