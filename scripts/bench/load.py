"""Load on an HTTP server: at a constant rate whatever it does, or as fast as it answers.

At a constant rate (an open loop) a latency is counted from the time at which a request should have
been sent, as wrk2 does (https://github.com/giltene/wrk2): counted from when it was sent, a server
that stalls would hold up the very requests that would tell of it (Tene's "coordinated omission").
A request that fails or has no answer counts as infinitely slow.

Each load runs in this process, on uvloop and httptools; give it a process of its own.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

import httptools
import uvloop

_GRACE_S = 5.0
"""Seconds that answers may come after the last request of an open loop."""
_IDLE_S = 3.0
"""An idle connection is not used after that; servers close them after 5 s and more."""
_PAUSE_S = 0.01
"""Before the next request of a closed loop, where one failed."""


@dataclass(frozen=True)
class Target:
    """Chat completions asked of 127.0.0.1, the bodies in turn.

    Args:
        key: the API key.
        connections: at most; further requests wait for one, and that is counted.
    """

    port: int
    key: str
    bodies: Sequence[bytes]
    connections: int

    def requests(self) -> list[bytes]:
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\n"
            f"content-type: application/json\r\nauthorization: Bearer {self.key}\r\n"
        )
        return [f"{head}content-length: {len(b)}\r\n\r\n".encode() + b for b in self.bodies]


@dataclass
class Measured:
    """What came of a load. `late_ms`: how much later than it should a request was issued."""

    seconds: float
    latencies_ms: list[float] = field(default_factory=list)
    """Infinite where there was no answer of status 200."""
    local: int = 0
    """Answers that a gateway said it decided locally."""
    late_ms: list[float] = field(default_factory=list)

    @property
    def errors(self) -> int:
        return self.latencies_ms.count(float("inf"))


@dataclass
class _Request:
    content: bytes
    due: float
    done: Callable[["_Request"], None]
    ended: float = float("inf")
    local: bool = False


class _Connection(asyncio.Protocol):
    """Carries one request at a time."""

    def __init__(self, client: "_Client", request: _Request) -> None:
        self._client, self._request = client, request
        self._asked: _Request | None = None
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class
        self._client.made(self)
        self.send(self._request)

    def send(self, request: _Request) -> None:
        self._asked = request
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request.content)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-distill-decided-by" and self._asked is not None:
            self._asked.local = value == b"local"

    def on_message_complete(self) -> None:
        asked, self._asked = self._asked, None
        if asked is None:
            return
        if self._parser.get_status_code() == 200:
            asked.ended = time.perf_counter()
        if self._parser.should_keep_alive():
            self.idle_since = time.perf_counter()
            self._client.free(self)
        else:
            self.close()
        asked.done(asked)

    def connection_lost(self, error: Exception | None) -> None:
        self._client.lost(self)
        if self._asked is not None:
            asked, self._asked = self._asked, None
            asked.done(asked)

    def close(self) -> None:
        self._transport.close()


class _Client:
    def __init__(self, port: int, connections: int) -> None:
        self._port, self._most = port, connections
        self._all: set[_Connection] = set()
        self._free: list[_Connection] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[_Request] = deque()

    def ask(self, request: _Request) -> None:
        oldest = time.perf_counter() - _IDLE_S
        while self._free:
            connection = self._free.pop()
            if connection.idle_since > oldest:
                connection.send(request)
                return
            connection.close()
        if len(self._all) + len(self._opening) < self._most:
            task = asyncio.ensure_future(self._open(request))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        else:
            self._waiting.append(request)

    async def _open(self, request: _Request) -> None:
        connection = _Connection(self, request)
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: connection, "127.0.0.1", self._port
            )
        except OSError:
            request.done(request)

    def made(self, connection: _Connection) -> None:
        self._all.add(connection)

    def free(self, connection: _Connection) -> None:
        if self._waiting:
            connection.send(self._waiting.popleft())
        else:
            self._free.append(connection)

    def lost(self, connection: _Connection) -> None:
        self._all.discard(connection)
        with suppress(ValueError):
            self._free.remove(connection)
        if self._waiting:
            self.ask(self._waiting.popleft())

    async def close(self) -> None:
        """Break off whatever is under way."""
        self._waiting.clear()
        for task in self._opening:
            task.cancel()
        for connection in list(self._all):
            connection.close()
        await asyncio.sleep(0)


def open_loop(target: Target, rate: float, seconds: float, warm_up: float) -> Measured:
    """Ask at a constant rate; what is asked in the `warm_up` before it is not counted."""
    return uvloop.run(_open_loop(target, rate, seconds, warm_up))


async def _open_loop(target: Target, rate: float, seconds: float, warm_up: float) -> Measured:
    loop, requests = asyncio.get_running_loop(), target.requests()
    client = _Client(target.port, target.connections)
    first, count = round(rate * warm_up), round(rate * (warm_up + seconds))
    asked: list[_Request] = []
    measured = Measured(seconds)
    open_ones, all_done, stopped = count, asyncio.Event(), threading.Event()
    start = time.perf_counter() + 0.05

    def done(request: _Request) -> None:
        nonlocal open_ones
        open_ones -= 1
        if open_ones == 0:
            all_done.set()

    def ask(i: int, due: float) -> None:
        request = _Request(requests[i % len(requests)], due, done)
        if i >= first:
            asked.append(request)
            measured.late_ms.append(1000 * (time.perf_counter() - due))
        client.ask(request)

    def tick() -> None:
        # A thread, because the timers of event loops are accurate to a millisecond only.
        for i in range(count):
            due = start + i / rate
            delay = due - time.perf_counter()
            if delay > 0:
                time.sleep(delay)
            if stopped.is_set():
                return
            loop.call_soon_threadsafe(ask, i, due)

    ticking = threading.Thread(target=tick)
    ticking.start()
    try:
        with suppress(TimeoutError):
            await asyncio.wait_for(all_done.wait(), warm_up + seconds + _GRACE_S)
    finally:
        stopped.set()
        await asyncio.to_thread(ticking.join)
    # Before the connections close: what has no answer by now has none.
    measured.latencies_ms = [1000 * (request.ended - request.due) for request in asked]
    measured.local = sum(request.local for request in asked)
    await client.close()
    return measured


def closed_loop(
    target: Target, connections: int, seconds: float, most: int | None = None
) -> Measured:
    """On each connection ask as soon as there is an answer, until the time or the number is up."""
    return uvloop.run(_closed_loop(target, connections, seconds, most))


async def _closed_loop(
    target: Target, connections: int, seconds: float, most: int | None
) -> Measured:
    loop, requests = asyncio.get_running_loop(), target.requests()
    client, measured = _Client(target.port, connections), Measured(0.0)
    start = time.perf_counter()
    asked, open_ones, all_done = 0, 0, asyncio.Event()

    def ask() -> None:
        nonlocal asked, open_ones
        now = time.perf_counter()
        if (most is not None and asked >= most) or now - start >= seconds:
            if open_ones == 0:
                all_done.set()
            return
        asked, open_ones = asked + 1, open_ones + 1
        client.ask(_Request(requests[asked % len(requests)], now, done))

    def done(request: _Request) -> None:
        nonlocal open_ones
        open_ones -= 1
        measured.latencies_ms.append(1000 * (request.ended - request.due))
        measured.local += request.local
        if request.ended < float("inf"):
            loop.call_soon(ask)
        else:
            loop.call_later(_PAUSE_S, ask)

    for _ in range(connections):
        ask()
    with suppress(TimeoutError):
        await asyncio.wait_for(all_done.wait(), seconds + _GRACE_S)
    measured.seconds = time.perf_counter() - start
    await client.close()
    return measured
