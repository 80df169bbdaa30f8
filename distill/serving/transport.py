"""What carries httpx's requests to the upstream: aiohttp.

httpx's own, httpcore, took more than half of the processor time of a request that passes, and looks
through all of its connections at each.

Nothing is added, decompressed, redirected or taken from the environment. A request that may be
repeated (RFC 9110, section 9.2.2; never a POST) is, once, where a kept connection proves closed.
Header values pass as they are where they are UTF-8, and as Latin-1 read in UTF-8 otherwise.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from io import BytesIO

import aiohttp
import httpx
from yarl import URL

_LINE = 64 * 1024
"""Bytes of a status line or header at most."""
_LARGE = 256 * 1024
_NOT_ADDED = ("accept", "accept-encoding", "content-type", "user-agent")


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Raises httpx's errors: of a connection, a time that is up, or what is not HTTP.

    Args:
        connections: open at most; further requests wait for one.
        idle_s: seconds after which an unused connection is dropped.
    """

    def __init__(self, connections: int, idle_s: float) -> None:
        self._idle_s = idle_s
        # Not the connector's limit: its wait and a slow connect would be the same error.
        self._free = asyncio.Semaphore(connections)
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        timeout = request.extensions["timeout"]
        try:
            async with asyncio.timeout(timeout["pool"]):
                await self._free.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout("all in use") from None
        try:
            answer = await self._answer(request, **timeout)
        except BaseException:
            self._free.release()
            raise
        body = _Body(answer, self._free)
        return httpx.Response(answer.status, headers=answer.raw_headers, stream=body)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _answer(
        self, request: httpx.Request, *, connect: float, write: float, read: float, pool: float
    ) -> aiohttp.ClientResponse:
        self._session = self._session or self._new_session()
        headers = [
            (name.decode("latin-1"), _text(value))
            for name, value in request.headers.raw
            if name.lower() not in (b"host", b"content-length")  # which aiohttp states
        ]
        with _told():
            try:
                # aiohttp itself waits for ever for an upstream that reads no more of the request.
                async with asyncio.timeout(connect + write + read):
                    return await self._session.request(
                        request.method,
                        URL(str(request.url), encoded=True),
                        headers=headers,
                        data=_data(request.content),
                        allow_redirects=False,
                        timeout=aiohttp.ClientTimeout(connect=connect, sock_read=read),
                    )
            except TimeoutError as error:
                if isinstance(error, aiohttp.ServerTimeoutError):
                    raise
                raise httpx.WriteTimeout("the request is not taken") from None

    def _new_session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0,
            keepalive_timeout=self._idle_s,
            ssl=httpx.create_ssl_context(trust_env=False),
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_NOT_ADDED,
            auto_decompress=False,
            max_line_size=_LINE,
            max_field_size=_LINE,
        )


class _Body(httpx.AsyncByteStream):
    """An answer's body as it comes; its connection is free again once it is closed."""

    def __init__(self, answer: aiohttp.ClientResponse, free: asyncio.Semaphore) -> None:
        self._answer, self._free = answer, free
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _told():
            async for piece in self._answer.content.iter_any():
                yield piece

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._answer.close()  # whole, it has given its connection back by now
            self._free.release()


def _data(content: bytes) -> bytes | BytesIO | None:
    """A request's body for aiohttp, which writes bytes at one go, and a file in pieces."""
    return BytesIO(content) if len(content) > _LARGE else content or None


def _text(value: bytes) -> str:
    """A header's value for aiohttp, which writes UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


@contextmanager
def _told() -> Iterator[None]:
    """aiohttp's errors in the block become httpx's."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise httpx.ConnectTimeout(str(error)) from None
    except aiohttp.ServerTimeoutError as error:
        raise httpx.ReadTimeout(str(error)) from None
    except aiohttp.ClientConnectorError as error:
        raise httpx.ConnectError(str(error)) from None
    except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError) as error:
        raise httpx.RemoteProtocolError(str(error)) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise httpx.NetworkError(str(error)) from None
