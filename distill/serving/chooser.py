"""The router in a thread of its own: contexts in, decisions out, in batches and within a time.

Whatever waits when the router is free goes to it together, so that a busy gateway decides in
batches and an idle one at once. A router that hangs costs one request its time; the next ones are
told at once, until it answers again. Nothing here knows HTTP.
"""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from distill.types import Context, Decision, Router


class ChooserError(Exception):
    """No decision could be had; the message says why, in a few words that can be counted."""


class _Asked(NamedTuple):
    context: Context
    answer: "asyncio.Future[Decision]"


class Chooser:
    """One router for any number of requests.

    Args:
        router: decides, in one thread.
        patience: seconds that a decision may take, the wait for its turn included.
        batch: contexts decided together at most.
    """

    def __init__(self, router: Router, patience: float, batch: int = 16) -> None:
        self.router, self.patience, self.batch = router, patience, batch
        self._waiting: list[_Asked] = []
        self._busy_since: float | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="router")
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def decide(self, context: Context) -> Decision:
        """The router's decision.

        Raises:
            ChooserError: it failed, or did not come in time.
        """
        if self._closed:
            raise ChooserError("router closed")
        if self._busy_since is not None and time.monotonic() - self._busy_since > self.patience:
            raise ChooserError("router hangs")
        asked = _Asked(context, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        self._start()
        try:
            return await asyncio.wait_for(asked.answer, self.patience)
        except TimeoutError:
            raise ChooserError("router too late") from None

    def close(self) -> None:
        """Take no more contexts; a decision under way is not waited for."""
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        if self._busy_since is None and self._waiting:
            self._busy_since = time.monotonic()
            task = asyncio.get_running_loop().create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        """Decide what waits, batch after batch, until nothing does."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting and not self._closed:
                self._busy_since = time.monotonic()
                taken, self._waiting = self._waiting[: self.batch], self._waiting[self.batch :]
                # Whoever waited too long has gone upstream.
                batch = [asked for asked in taken if not asked.answer.done()]
                if not batch:
                    continue
                answers = await loop.run_in_executor(
                    self._thread, self._decide, [asked.context for asked in batch]
                )
                for asked, answer in zip(batch, answers, strict=True):
                    if asked.answer.done():
                        continue
                    if isinstance(answer, str):
                        asked.answer.set_exception(ChooserError(f"router failed: {answer}"))
                    elif answer.error is not None:
                        kind = answer.error.partition(":")[0]
                        asked.answer.set_exception(ChooserError(f"router failed: {kind}"))
                    else:
                        asked.answer.set_result(answer)
        finally:
            self._busy_since = None

    def _decide(self, contexts: Sequence[Context]) -> list[Decision | str]:
        """A decision for each, or the name of the error; one that fails spoils no other's."""
        try:
            return list(self.router.decide(contexts))
        except Exception as error:
            if len(contexts) == 1:
                return [type(error).__name__]
        return [answer for context in contexts for answer in self._decide([context])]
