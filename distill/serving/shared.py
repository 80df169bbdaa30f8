"""The rollout's mode as all processes of a gateway share it, and as it outlives them.

A mode that an admin set, or that a rollback fell to, is stored with the mode that the config had at
the time. It holds until the config's own mode is another: then whoever changed the file has had the
last word.
"""

import asyncio
from contextlib import suppress
from typing import Protocol

import orjson

from distill.errors import StoreError
from distill.serving.rollout import Mode, Rollout

_NAME = "rollout.mode"
FOLLOW_S = 1.0
"""Seconds after which a process knows what another was told."""


class Settings(Protocol):
    """What processes share: `distill.store.Store`."""

    def setting(self, name: str) -> str | None:
        """What was stored last under the name."""

    def set_setting(self, name: str, value: str) -> None:
        """Store a value for all."""


class SharedMode:
    """Keeps one process's rollout to the mode that all share."""

    def __init__(self, rollout: Rollout, settings: Settings) -> None:
        self._rollout, self._settings = rollout, settings
        self._seen: str | None = None
        self._fell_back = False

    async def switch(self, mode: Mode) -> None:
        """Set the mode, here and for all.

        Raises:
            StoreError: it could not be stored, and is not set.
        """
        value = orjson.dumps({"mode": mode, "configured": self._rollout.config.mode}).decode()
        await asyncio.to_thread(self._settings.set_setting, _NAME, value)
        self._seen = value
        self._rollout.switch(mode)

    async def look(self) -> None:
        """Go by what is stored, if it is news.

        Raises:
            StoreError: it cannot be read; the mode stays.
        """
        value = await asyncio.to_thread(self._settings.setting, _NAME)
        if value is None or value == self._seen:
            return
        self._seen = value
        stored = orjson.loads(value)
        if stored["configured"] == self._rollout.config.mode:
            self._rollout.switch(stored["mode"])

    def fell_back(self) -> None:
        """Have all know that this process went back to shadow by itself."""
        self._fell_back = True

    async def follow(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            with suppress(StoreError):  # records fail then, too, and those are counted
                if self._fell_back:
                    await self.switch("shadow")
                    self._fell_back = False
                await self.look()
            await asyncio.sleep(FOLLOW_S)
