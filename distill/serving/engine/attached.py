"""The engine of another process: asked, and not watched.

Several gateway processes share one engine, which their parent runs; each of them has one of these.
It has no adapters but the router's own.
"""

import os
import time
from pathlib import Path

from distill.config import EngineConfig
from distill.errors import EngineError, RouterError
from distill.serving.engine.client import Client
from distill.serving.engine.installed import installed
from distill.serving.engine.plan import HOST, own_name, served

_REMEMBERED_S = 1.0
"""How long good or bad health is taken for granted."""


class Attached:
    """What `served_router` needs of an engine, over HTTP alone.

    Args:
        router: what the engine was made for.
        key: the engine's `key`.

    Raises:
        RouterError, ModelError, EngineError: as `Engine`.
    """

    def __init__(self, router: Path, config: EngineConfig, key: str) -> None:
        self.part = served(router)
        self.installed = installed(config.python, dict(os.environ) | config.environment)
        self.url = f"http://{HOST}:{config.port}"
        self.client = Client(self.url, key, config.request_s)
        self._name = own_name(self.part)
        self._asked, self._healthy = float("-inf"), False

    @property
    def ready(self) -> bool:
        """Whether it can be asked now, as of a second ago."""
        if time.monotonic() - self._asked > _REMEMBERED_S:
            self._healthy, self._asked = self.client.healthy(), time.monotonic()
        return self._healthy

    def require_ready(self) -> None:
        """Raise EngineError unless it can be asked now."""
        if not self.ready:
            raise EngineError(self.url, "is not ready", "ask again later")

    def model(self, folder: Path) -> str:
        """As `Engine.model`."""
        if folder.resolve() != self.part.folder:
            raise RouterError(folder, "is not served by this engine", "name its router")
        return self._name

    def close(self) -> None:
        """End connections."""
        self.client.close()
