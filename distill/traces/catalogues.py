"""Tool lists, each held once however many rows repeat it.

Most trace files offer the same tools on every line. Rows with equal lists share one tuple, which
keeps a file's traces small in memory; rows may also name a catalogue file instead (`tools_ref`).
This module knows nothing of messages.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from distill.chat import check_json, digest, parse_tools, tool_json
from distill.errors import TraceError
from distill.runs import write
from distill.types import ToolSpec

_REMEMBERED = 64  # distinct lists; a file that offers other tools on every line gains nothing
_CURE = "put the tool list (a JSON array of tools) beside the trace file"


class Catalogues:
    """Parses tool lists; `folder` is where the trace file lies and `tools_ref` names look."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._named: dict[str, tuple[ToolSpec, ...]] = {}
        self._recent: OrderedDict[bytes, tuple[ToolSpec, ...]] = OrderedDict()

    def parse(self, value: Any) -> tuple[ToolSpec, ...]:
        """Read a `tools` list; equal lists give the same tuple."""
        key = hashlib.blake2b(orjson.dumps(value), digest_size=16).digest()
        tools = self._recent.get(key)
        if tools is None:
            tools = self._recent[key] = parse_tools(value)
            if len(self._recent) > _REMEMBERED:
                self._recent.popitem(last=False)
        self._recent.move_to_end(key)
        return tools

    def named(self, name: Any) -> tuple[ToolSpec, ...]:
        """Read the catalogue file `name`, a sibling of the trace file.

        Raises:
            ValueError: `name` is no bare file name; the row is at fault.
            TraceError: the file is missing or holds no tool list; every row that names it is lost.
        """
        if not _is_bare(name):
            raise ValueError("tools_ref: not a bare file name")
        if name not in self._named:
            self._named[name] = _read_catalogue(self._folder / name)
        return self._named[name]


def _is_bare(name: Any) -> bool:
    # An imported file must not reach outside its own folder.
    return isinstance(name, str) and name not in {"", ".", ".."} and not set(name) & set("/\\\0")


def _read_catalogue(path: Path) -> tuple[ToolSpec, ...]:
    try:
        text = path.read_bytes()
        value = orjson.loads(text)
    except OSError as error:
        raise TraceError(path, f"tool catalogue cannot be read ({error.strerror})", _CURE) from None
    except orjson.JSONDecodeError as error:
        raise TraceError(path, f"tool catalogue is not JSON ({error})", _CURE) from None
    try:
        check_json(value, text, "tools")
        return parse_tools(value)
    except ValueError as error:
        raise TraceError(path, f"not a tool catalogue ({error})", _CURE) from None


class CatalogueFiles:
    """Catalogues that many rows share, each a file named by its content, beside a trace file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[int, tuple[str, tuple[ToolSpec, ...]]] = {}
        self.created: list[Path] = []

    def name(self, tools: tuple[ToolSpec, ...]) -> str:
        """The file name to put into `tools_ref`; the file is there after `write`."""
        known = self._names.get(id(tools))
        if known is None:
            # The tuple is kept so that its id stays its own.
            known = self._names[id(tools)] = (f"tools-{digest(_value(tools))[:12]}.json", tools)
        return known[0]

    def write(self) -> None:
        """Write every file that was named."""
        for name, tools in self._names.values():
            path = self._folder / name
            if not path.exists():
                self.created.append(path)
            write(path, orjson.dumps(_value(tools), option=orjson.OPT_APPEND_NEWLINE))


@contextmanager
def new_catalogues(folder: Path) -> Iterator[CatalogueFiles]:
    """Catalogue files for a trace file that is written in the block; if it fails, none is left.

    A file that was there before stays: it is another trace file's too.
    """
    files = CatalogueFiles(folder)
    try:
        yield files
    except BaseException:
        for path in files.created:
            path.unlink(missing_ok=True)
        raise


def _value(tools: tuple[ToolSpec, ...]) -> list[dict[str, Any]]:
    return [tool_json(tool) for tool in tools]
