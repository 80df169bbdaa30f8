"""A response whose handler sends it itself, and is cancelled when the client leaves."""

import asyncio
from collections.abc import Awaitable, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class Attended(Response):
    """Runs `handle(send)` for as long as the client is there.

    A handler that returns without a last piece breaks the connection off, so that the client does
    not take what it has for the whole. The request's body must have been read.
    """

    def __init__(self, handle: Callable[[Send], Awaitable[None]]) -> None:
        super().__init__()
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handling = asyncio.ensure_future(self._handle(send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((handling, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not handling.done():
                handling.cancel()
        try:
            await handling
        except asyncio.CancelledError:
            # The client's leaving; the server's own end cancels us, too, and goes on.
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
