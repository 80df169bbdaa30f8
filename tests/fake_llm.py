"""A chat-completions server on loopback that answers as a test says, the wire's faults included."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import orjson

USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "prompt_tokens_details": {"cached_tokens": 40},
}


@dataclass
class Says:
    """One response. `lacks` bytes are promised and not sent; `trickles` seconds pass between bytes;
    with `hangs` nothing is sent before the server ends."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    lacks: int = 0
    trickles: float = 0.0
    hangs: bool = False


def completion(message: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A completion with this message; changes are its other keys (`usage`, `finish_reason`)."""
    finish = changes.pop("finish_reason", "tool_calls" if message.get("tool_calls") else "stop")
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {"id": "c1", "choices": [choice], "usage": USAGE} | changes


def calling(*calls: tuple[str, str]) -> dict[str, Any]:
    """A message that calls tools, by name and arguments in JSON."""
    return {
        "content": None,
        "tool_calls": [
            {"id": f"id{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, (name, arguments) in enumerate(calls)
        ],
    }


def says(message: dict[str, Any], **changes: Any) -> Says:
    """A completion as a response."""
    return Says(orjson.dumps(completion(message, **changes)))


class FakeLlm:
    """Use as a context manager; `answer` makes the response to a request's JSON.

    `requests` and `keys` (Authorization headers) are what came, in order.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], Says]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self._ended = threading.Event()
        llm = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
                llm.requests.append(request)
                llm.keys.append(self.headers.get("Authorization"))
                assert self.path == "/v1/chat/completions"
                said = answer(request)
                if said.hangs:
                    llm._ended.wait(30)
                    self.close_connection = True
                    return
                self.send_response(said.status)
                for name, value in said.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(said.body) + said.lacks))
                self.end_headers()
                if said.trickles:
                    for byte in said.body:
                        if llm._ended.wait(said.trickles):
                            break
                        self.wfile.write(bytes([byte]))
                else:
                    self.wfile.write(said.body)
                self.close_connection = bool(said.lacks or said.trickles)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = False

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a client that hung up

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> "FakeLlm":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
