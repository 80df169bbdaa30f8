"""Bytes to the large LLM and back, untouched.

Bodies pass as they are, in both directions. Of the headers only those change that belong to a
connection (RFC 9110, section 7.6.1), that name the host, or that carry the gateway's own key in
place of the client's. `Accept-Encoding` is `identity`, so that what is recorded can be read.

No completion is asked for twice: it costs money, and a proxy must not repeat what is not idempotent
(RFC 9110, section 9.2.2). The client's library repeats a 502, as it would a broken connection.
"""

from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

import httpx

from distill.config import UpstreamConfig
from distill.endpoint.key import key_of
from distill.serving.transport import AiohttpTransport

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, and values, in order, as ASGI has them."""

_OF_A_CONNECTION = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization"),
        *(b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    )
)
_OURS = frozenset((b"host", b"content-length", b"accept-encoding", b"expect"))
_IDLE_S = 4.0
"""Connections are dropped before the upstream does so, which may be as a request is on its way: of
the servers in use uvicorn, vLLM's too, waits least, 5 s."""
PREFIX = "/v1"
"""What the gateway's paths begin with, in place of the path of `base_url`."""


class UpstreamError(Exception):
    """No answer at all: an HTTP status for the client, and a few words that can be counted."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Upstream:
    """One LLM's server.

    Args:
        config: where it is.
        private: the client's `Authorization` is meant for the gateway alone.
        transport: what carries requests, in place of the network.

    Raises:
        ConfigError: the key's environment variable is not set.
    """

    def __init__(
        self,
        config: UpstreamConfig,
        *,
        private: bool,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.config = config
        self._private = private
        self._key = key_of(config.key_env)
        self._base = config.base_url
        # No client of httpx's around it: that would keep one client's cookies for the next.
        self._transport = transport or AiohttpTransport(config.connections, _IDLE_S)
        timeout = httpx.Timeout(config.read_s, connect=config.connect_s, pool=config.connect_s)
        self._extensions = {"timeout": timeout.as_dict()}

    async def close(self) -> None:
        await self._transport.aclose()

    async def send(
        self, method: str, target: str, headers: Iterable[tuple[bytes, bytes]], content: bytes
    ) -> httpx.Response:
        """Send a request on; its answer's body is still to be read (`aiter_raw`), and closed.

        Args:
            target: the path as the client sent it, still encoded, with its query.

        Raises:
            UpstreamError: no answer came.
        """
        request = httpx.Request(
            method,
            self._url(target),
            headers=self._outward(headers),
            content=content,
            extensions=self._extensions,
        )
        try:
            return await self._transport.handle_async_request(request)
        except httpx.ConnectTimeout:
            raise UpstreamError(504, "upstream not connected in time") from None
        except httpx.PoolTimeout:
            raise UpstreamError(503, "upstream connections all in use") from None
        except httpx.TimeoutException:
            raise UpstreamError(504, "upstream too late") from None
        except httpx.TransportError:
            raise UpstreamError(502, "upstream not reached") from None

    def _url(self, target: str) -> str:
        parts = urlsplit(target)
        inside = parts.path.removeprefix(PREFIX)
        # Decoded twice, as careless servers do: no way out of the base's own path.
        if ".." in unquote(unquote(inside)).split("/"):
            raise UpstreamError(400, "path leaves the API")
        return f"{self._base}{inside}" + (f"?{parts.query}" if parts.query else "")

    def _outward(self, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
        replaced = self._private or self._key is not None
        kept = [
            (name, value)
            for name, value in _without_connection(headers)
            if name not in _OURS and not (replaced and name == b"authorization")
        ]
        kept.append((b"accept-encoding", b"identity"))
        if self._key is not None:
            kept.append((b"authorization", f"Bearer {self._key}".encode()))
        return kept


def inward(response: httpx.Response) -> Headers:
    """The answer's headers for the client."""
    lower = ((name.lower(), value) for name, value in response.headers.raw)
    return [(n, v) for n, v in _without_connection(lower) if n not in (b"date", b"server")]


def _without_connection(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    found = list(headers)
    named = {
        word.strip().lower()
        for name, value in found
        if name == b"connection"
        for word in value.split(b",")
    }
    return [(n, v) for n, v in found if n not in _OF_A_CONNECTION and n not in named]
