"""`distill serve` as its user starts, signals and kills it, with a real router and a real store."""

import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import pytest
import yaml
from processes import DISTILL, START_S, Served, gateway
from small_shop import TOOLS
from stands import HELLO, post
from wires import RawUpstream, body, http

from distill.chat import tool_json
from distill.routers.confidence import Calibration
from distill.routers.folder import read_router_file
from distill.serving.access import key_hash

REQUEST = body("what did I buy") | {"tools": [tool_json(tool) for tool in TOOLS]}


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory) -> Path:
    """A calibrated router of the small shop that calls tools which need no arguments."""
    file = read_router_file(trained("tfidf").folder)
    path = tmp_path_factory.mktemp("router")
    for part in trained("tfidf").folder.iterdir():
        (path / part.name).write_bytes(part.read_bytes())
    replace(file, calibration=Calibration(1.0, 0.0, 100, 100)).save(path)
    return path


Start = Callable[..., Served]


@pytest.fixture
def start(folder, tmp_path) -> Iterator[Start]:
    """Starts a gateway of the router."""
    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(gateway(folder, tmp_path, **changes))


def recorded(database: Path) -> list[tuple[str, str]]:
    """Ids and who decided, by another program than ours."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return connection.execute("SELECT id, decided_by FROM distill_records").fetchall()
    finally:
        connection.close()


def test_an_openai_client_needs_only_another_base_url(start, tmp_path):
    with RawUpstream(lambda sent: http(HELLO)) as upstream:
        served = start(upstream={"base_url": upstream.url})
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="k", max_retries=0) as client:
            local = client.chat.completions.create(**REQUEST)
            other = client.chat.completions.create(**body("thank you", tools=[]))
    (call,) = local.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("list_orders", "{}")
    assert other.choices[0].message.content == "Hello."
    assert sorted(by for _, by in recorded(tmp_path / "gateway.db")) == ["local", "upstream"]
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(START_S) in (0, -signal.SIGTERM)


def test_what_a_killed_gateway_answered_is_on_record(start, tmp_path):
    answered: list[str] = []

    def ask(url: str) -> None:
        with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
            try:
                for i in range(10_000):
                    request = REQUEST if i % 2 else body("thank you", tools=[])
                    answered.append(post(client, request).headers["x-distill-request"])
            except httpx.TransportError:
                return

    with RawUpstream(lambda sent: http(HELLO)) as upstream:
        served = start(upstream={"base_url": upstream.url})
        threads = [threading.Thread(target=ask, args=(served.url,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        while len(answered) < 200:
            time.sleep(0.01)
        served.process.kill()
        for thread in threads:
            thread.join()
    kept = [identity for identity, _ in recorded(tmp_path / "gateway.db")]
    assert set(answered) <= set(kept)
    assert len(kept) == len(set(kept))


def test_sighup_reads_the_config_again(start):
    with RawUpstream(lambda sent: http(HELLO)) as upstream:
        served = start(upstream={"base_url": upstream.url})
        value = yaml.safe_load(served.config.read_text())
        served.config.write_text(yaml.safe_dump(value | {"policy": {"sensitive": ["list_orders"]}}))
        served.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + START_S
        with served.client() as client:
            while post(client, REQUEST).headers["x-distill-decided-by"] == "local":
                assert time.monotonic() < until, "it goes by the old config"
                time.sleep(0.05)


def test_four_processes_share_a_database_and_a_mode(start, postgres, monkeypatch):
    monkeypatch.setenv("GATEWAY_STORE", postgres.new_database())
    ids: list[str] = []

    def ask(client: httpx.Client, count: int) -> set[str]:
        answers = [post(client, REQUEST) for _ in range(count)]
        ids.extend(answer.headers["x-distill-request"] for answer in answers)
        return {answer.headers["x-distill-decided-by"] for answer in answers}

    with RawUpstream(lambda sent: http(HELLO)) as upstream:
        served = start(
            upstream={"base_url": upstream.url},
            workers=4,
            store={"url_env": "GATEWAY_STORE"},
            access={"admin_sha256": key_hash("dk-admin")},
        )
        with ExitStack() as stack:
            clients = [stack.enter_context(served.client()) for _ in range(8)]
            threads = [threading.Thread(target=ask, args=(client, 25)) for client in clients]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            switched = clients[0].put(
                "/admin/rollout",
                json={"mode": "off"},
                headers={"authorization": "Bearer dk-admin"},
            )
            assert switched.status_code == 200
            until = time.monotonic() + START_S
            while any(ask(client, 1) == {"local"} for client in clients):
                assert time.monotonic() < until, "a process goes by the old mode"
    with postgres.connect(os.environ["GATEWAY_STORE"].split("/")[3].split("?")[0]) as connection:
        kept = [row[0] for row in connection.execute("SELECT id FROM distill_records").fetchall()]
    assert sorted(kept) == sorted(ids)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"router": "/nowhere"}, "/nowhere/router.json"),
        ({"policy": {}}, "the router has no promises"),
        ({"upstream": {"base_url": "http://x/v1", "key_env": "NO_SUCH_KEY"}}, "NO_SUCH_KEY"),
        ({"store": {"url": "sqlite:////nowhere/gateway.db"}}, "store.url"),
        ({"host": "0.0.0.0"}, "only loopback"),
        ({"workers": 2}, "PostgreSQL"),
        ({"workers": 2, "engine": {"adapters": "adapters"}}, "engine.adapters"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(folder, tmp_path, changes, said):
    config = tmp_path / "serve.yaml"
    value = {"router": str(folder), "upstream": {"base_url": "http://x/v1"}}
    value |= {"policy": {"threshold": 0.5}, "store": {"url": f"sqlite:///{tmp_path}/g.db"}}
    config.write_text(yaml.safe_dump(value | changes))
    command = [*DISTILL, "serve", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


def test_a_taken_port_is_told_in_one_line(folder, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = tmp_path / "serve.yaml"
        value = {"router": str(folder), "upstream": {"base_url": "http://x/v1"}}
        value |= {"policy": {"threshold": 0.5}, "port": taken.getsockname()[1]}
        value["store"] = {"url": f"sqlite:///{tmp_path}/g.db"}
        config.write_text(yaml.safe_dump(value))
        command = [*DISTILL, "serve", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_a_key_and_its_hash_are_printed_once():
    command = [*DISTILL, "key"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=True)
    words = dict(line.split() for line in out.stdout.splitlines())
    assert key_hash(words["key"]) == words["sha256"]
