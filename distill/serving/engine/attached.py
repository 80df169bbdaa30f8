"""The engine of another process: asked, and not watched.

Several gateway processes share one engine, which their parent runs; each of them has one of these.
It has no adapters but the router's own. That an answer did not come in time is not told to the
parent, which finds out by its own requests.
"""

from dataclasses import dataclass, field
from pathlib import Path

import orjson

from distill.errors import EngineError, RouterError
from distill.serving.engine.client import Client
from distill.serving.engine.plan import own_name, served


@dataclass(frozen=True)
class Attachment:
    """What another process must know of a running engine."""

    url: str
    key: str = field(repr=False)
    """What vLLM asks for; a secret, for the environment of child processes."""
    router: Path
    """The router folder that it was made for, resolved."""
    sign: Path
    """A file that is there while the engine is ready."""

    def dump(self) -> str:
        """As JSON, for an environment variable."""
        return orjson.dumps([self.url, self.key, str(self.router), str(self.sign)]).decode()

    @staticmethod
    def parse(text: str) -> "Attachment":
        """Inverse of `dump`."""
        url, key, router, sign = orjson.loads(text)
        return Attachment(url, key, Path(router), Path(sign))


class Attached:
    """What `served_router` needs of an engine.

    Args:
        router: what the engine was made for.
        request_s: seconds for one request.

    Raises:
        RouterError: the engine was made for another router, or as `Engine` does.
        ModelError: as `Engine`.
    """

    def __init__(self, router: Path, attachment: Attachment, request_s: float) -> None:
        self.part = served(router)
        if self.part.folder != attachment.router:
            raise RouterError(router, "is not what the engine serves", "start the gateway again")
        self.url, self._sign = attachment.url, attachment.sign
        self.client = Client(self.url, attachment.key, request_s)
        self._name = own_name(self.part)

    def start(self) -> None:
        """Nothing: the process that watches it has."""

    @property
    def ready(self) -> bool:
        """Whether it can be asked now, as far as the process that watches it knows."""
        return self._sign.exists()

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
