"""The answers that an endpoint gave, on disk: plain JSON files named by what was asked.

    <folder>/ab/ab12….json     {"format", "latency_ms", "response"}

The name is the SHA-256 of the request without its key, so a request is paid for once whoever makes
it: a killed evaluation goes on where it stopped, and several processes may share a folder, since
every file appears whole. A file that cannot be read is no answer, and is written anew.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from distill.runs import write

_FORMAT = 1


class Kept(NamedTuple):
    """A completion as the endpoint sent it, and the milliseconds that it took then."""

    response: dict[str, Any]
    latency_ms: float


class Cache:
    """Args: folder: made when the first answer is kept; None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, key: str) -> Kept | None:
        """The answer to the request of this digest; None where there is none."""
        if self._folder is None:
            return None
        try:
            value = orjson.loads(self._path(self._folder, key).read_bytes())
            if value["format"] != _FORMAT or not isinstance(value["response"], dict):
                return None
            return Kept(value["response"], float(value["latency_ms"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, response: Mapping[str, Any], latency_ms: float) -> None:
        """Keep an answer."""
        if self._folder is not None:
            value = {"format": _FORMAT, "latency_ms": latency_ms, "response": response}
            write(self._path(self._folder, key), orjson.dumps(value))

    @staticmethod
    def _path(folder: Path, key: str) -> Path:
        return folder / key[:2] / f"{key}.json"
