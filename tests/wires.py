"""An upstream that is nothing but bytes on a socket, and a gateway that listens before it.

What a test has the upstream say goes out byte by byte as it stands, faults included, and what the
gateway sent is kept as it came.
"""

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvicorn
from fastapi import FastAPI

from distill.config import ServeConfig
from distill.errors import StoreError
from distill.serving.app import create_app
from distill.serving.gateway import Gateway
from distill.store.record import Record
from distill.types import Context, Decision, Message, ToolCall

WAIT_S = 20.0


@dataclass(frozen=True)
class Sent:
    """A request as the upstream got it: the head's lines, and the body."""

    line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: str) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name.encode()]


@dataclass
class Wire:
    """What an upstream says to a request: pieces of bytes, and seconds to wait before each.

    `hangs`: after them the connection stays open and silent; else it is closed when `closes`.
    """

    pieces: Sequence[bytes | float]
    hangs: bool = False
    closes: bool = True


def http(
    body: bytes, status: str = "200 OK", *headers: str, kind: str = "application/json"
) -> Wire:
    """A whole answer with its length."""
    lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(body)}"]
    return Wire(["\r\n".join([*lines, *headers, "", ""]).encode() + body], closes=False)


def events(*pieces: bytes | float, hangs: bool = False, whole: bool = True) -> Wire:
    """A stream of events in chunks (HTTP), one a piece; unless `whole`, cut before the last."""
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    chunks = [b"%x\r\n%s\r\n" % (len(p), p) if isinstance(p, bytes) else p for p in pieces]
    return Wire([head, *chunks, *([b"0\r\n\r\n"] if whole else [])], hangs=hangs, closes=not whole)


class RawUpstream:
    """A server on loopback; `answer` says what goes out for a request. Use as a context manager."""

    def __init__(self, answer: Callable[[Sent], Wire]) -> None:
        self.requests: list[Sent] = []
        self.left = threading.Event()
        """Set when a client closed the connection while the upstream was silent or sending."""
        self._ended = threading.Event()
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while (sent := _read(self.rfile)) is not None:
                    outer.requests.append(sent)
                    if not outer._say(self.connection, answer(sent)):
                        return

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a gateway that hung up

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def _say(self, connection: socket.socket, wire: Wire) -> bool:
        """Whether the connection goes on."""
        try:
            for piece in wire.pieces:
                if isinstance(piece, bytes):
                    connection.sendall(piece)
                elif self._gone(connection, piece):
                    return False
            if wire.hangs:
                self._gone(connection, WAIT_S)
                return False
        except OSError:
            self.left.set()
            return False
        return not wire.closes

    def _gone(self, connection: socket.socket, seconds: float) -> bool:
        """Wait, and tell whether the client went meanwhile."""
        connection.settimeout(0.02)
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end and not self._ended.is_set():
                try:
                    if connection.recv(1, socket.MSG_PEEK) == b"":
                        self.left.set()
                        return True
                    time.sleep(0.005)
                except TimeoutError:
                    pass
        finally:
            connection.settimeout(None)
        return False

    def __enter__(self) -> "RawUpstream":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _read(stream: Any) -> Sent | None:
    line = stream.readline()
    if not line:
        return None
    headers = []
    while (header := stream.readline()) not in (b"\r\n", b""):
        name, _, value = header.partition(b":")
        headers.append((name, value.strip()))
    length = next((int(v) for n, v in headers if n.lower() == b"content-length"), 0)
    return Sent(line.strip(), headers, stream.read(length))


@dataclass
class Says:
    """A router that decides as a test says; it remembers what it was asked."""

    answer: Callable[[Context], Decision]
    kind: str = "says"
    asked: list[Context] = field(default_factory=list)

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        self.asked += contexts
        return [self.answer(context) for context in contexts]

    def save(self, path: object) -> None:
        raise NotImplementedError


@dataclass
class Memory:
    """A store in memory; with `broken` it keeps nothing."""

    kept: list[Record] = field(default_factory=list)
    broken: bool = False
    settings: dict[str, str] = field(default_factory=dict)

    def setting(self, name: str) -> str | None:
        return self.settings.get(name)

    def set_setting(self, name: str, value: str) -> None:
        if self.broken:
            raise StoreError("the disk is full")
        self.settings[name] = value

    async def put(self, record: Record) -> None:
        if self.broken:
            raise StoreError("the disk is full")
        self.kept.append(record)

    def healthy(self) -> bool:
        return not self.broken

    def last(self) -> Record:
        """The one record that a test waits for."""
        end = time.monotonic() + WAIT_S
        while not self.kept:
            assert time.monotonic() < end, "no record came"
            time.sleep(0.01)
        return self.kept[-1]


@contextmanager
def listening(
    gateway: Gateway,
    log_config: dict[str, Any] | None = None,
    attach: Callable[[FastAPI], object] = lambda app: None,
) -> Iterator[str]:
    """The address of a gateway that listens on loopback, on a port of its own.

    Args:
        log_config: where uvicorn's logs go; None: nowhere.
        attach: adds to the app.
    """
    app = create_app(gateway)
    attach(app)
    logs = {"log_level": "critical"} if log_config is None else {"log_config": log_config}
    settings = uvicorn.Config(app, port=0, lifespan="on", **logs)
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    end = time.monotonic() + WAIT_S
    while not server.started:
        assert thread.is_alive(), "the gateway did not start"
        assert time.monotonic() < end, "the gateway did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        assert not thread.is_alive()


def calls(name: str, confidence: float | None = 0.9, **arguments: object) -> Decision:
    return Decision("call", (ToolCall(name, arguments),), confidence)


REPLIES = Decision("reply", (), 0.9)


def serve_config(url: str, **changes: Any) -> ServeConfig:
    """Mode `on` with a threshold of 0.5 and nothing compared, unless a test changes it."""
    value: dict[str, Any] = {
        "router": "unused",
        "upstream": {"base_url": url, "connect_s": 2, "read_s": 2},
        "policy": {"threshold": 0.5},
        "rollout": {"mode": "on", "compare": 0.0},
    }
    for key, change in changes.items():
        known = value.get(key)
        value[key] = {**known, **change} if isinstance(known, dict) else change
    return ServeConfig.model_validate(value)


TOOL = {
    "type": "function",
    "function": {
        "name": "get_order",
        "description": "Reads.",
        "parameters": {
            "type": "object",
            "properties": {"order": {"type": "integer"}},
            "required": ["order"],
        },
    },
}
CANCEL = {"type": "function", "function": {"name": "cancel_order", "parameters": {}}}


def body(text: str = "Where is order 7?", **changes: Any) -> dict[str, Any]:
    """A request that offers two tools."""
    messages = [{"role": "user", "content": text}]
    return {"model": "large", "messages": messages, "tools": [TOOL, CANCEL]} | changes


def answer_of(message: Message) -> bytes:
    """A completion of an LLM with this message, as bytes with a spacing of its own."""
    from distill.chat import message_json  # noqa: PLC0415

    finish = "tool_calls" if message.calls else "stop"
    choice = {"index": 0, "message": message_json(message), "finish_reason": finish}
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    whole = {"id": "chatcmpl-up", "object": "chat.completion", "created": 1, "model": "large"}
    return orjson.dumps(whole | {"choices": [choice], "usage": usage}, option=orjson.OPT_INDENT_2)
