"""The dataset folder, format 2: written whole, read back lazily, refused when it is not whole.

    train/ validation/ calibration/ test/
        examples.arrow      one row per example
        messages.arrow      the messages of each trace once: {"message": JSON}
    catalogues.jsonl        each distinct tool list once: {"hash", "tools"}; rows name it by hash
    manifest.json           counts, config, seed, teacher, and the hash over all contents
    README.md               the dataset card

A row: id, trace_id, group (`distill.dataset.split`); start and end: its context is the messages
from number start up to, and without, end of its part's `messages.arrow`; label as JSON; catalogue
(hash); weight (decision points merged into it); and what reports bucket by: n_tools, step
(assistant turns before), n_calls, n_arguments. Rows of one trace start at the same message, so a
conversation takes the space of its messages, not of all its prefixes; nothing after the last kept
decision is stored, and no part holds messages of another part's traces.

The hash is SHA-256 over rows, messages and catalogues, not over files: it survives another version
of Arrow. This module knows nothing of traces.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import orjson
from datasets.arrow_dataset import Dataset as ArrowDataset

from distill.chat import parse_decision, parse_messages, parse_tools
from distill.dataset.parts import PARTS, Part
from distill.dataset.tables import (
    REBUILD,
    Columns,
    TableWriter,
    hash_table,
    open_table,
    write_table,
)
from distill.errors import DatasetError
from distill.types import Context, Example, Message, ToolSpec

FORMAT = 2

_EXAMPLES: Columns = {
    **dict.fromkeys(("id", "trace_id", "group"), "string"),
    **dict.fromkeys(("start", "end"), "int64"),
    **dict.fromkeys(("catalogue", "label"), "string"),
    **dict.fromkeys(("weight", "n_tools", "step", "n_calls", "n_arguments"), "int32"),
}
_MESSAGES: Columns = {"message": "string"}

_ROWS = "examples.arrow"
_TEXT = "messages.arrow"
_CATALOGUES = "catalogues.jsonl"
_MANIFEST = "manifest.json"


class PartWriter:
    """Appends the examples of one part, and the messages that they need."""

    def __init__(self, rows: TableWriter, messages: TableWriter) -> None:
        self._rows = rows
        self._messages = messages
        self._trace: str | None = None
        self._start = 0

    def add(self, row: Mapping[str, Any], messages: Callable[[int], Iterable[str]]) -> None:
        """Append one example; those of a trace must come one after another, in order.

        Args:
            row: the columns but start and end, and `n_messages`, the length of its context.
            messages: gives the JSON of the context's messages from this number on; only those are
                asked for that no earlier example of the trace had.
        """
        if row["trace_id"] != self._trace:
            self._trace, self._start = row["trace_id"], self._messages.rows
        for text in messages(self._messages.rows - self._start):
            self._messages.add({"message": text})
        end = self._start + row["n_messages"]
        assert end == self._messages.rows
        self._rows.add({**row, "start": self._start, "end": end})

    @property
    def examples(self) -> int:
        return self._rows.rows

    @property
    def hash(self) -> str:
        return _part_hash(self._rows.hash, self._messages.hash)


@contextmanager
def write_part(folder: Path, part: Part) -> Iterator[PartWriter]:
    """Write `folder/part`."""
    place = folder / part
    place.mkdir()
    with (
        write_table(place / _ROWS, _EXAMPLES) as rows,
        write_table(place / _TEXT, _MESSAGES) as messages,
    ):
        yield PartWriter(rows, messages)


def _part_hash(rows: str, messages: str) -> str:
    return hashlib.sha256(f"examples {rows}\nmessages {messages}\n".encode()).hexdigest()


def write_catalogues(
    folder: Path, catalogues: Iterator[tuple[str, bytes]]
) -> tuple[str, list[str]]:
    """Write `catalogues.jsonl`; return the hash over it and the sorted names of all tools."""
    sha256, names = hashlib.sha256(), set[str]()
    with (folder / _CATALOGUES).open("wb") as file:
        for key, tools in catalogues:
            file.write(orjson.dumps({"hash": key, "tools": orjson.Fragment(tools)}) + b"\n")
            sha256.update(key.encode())
            names.update(tool["function"]["name"] for tool in orjson.loads(tools))
    return sha256.hexdigest(), sorted(names)


def whole_hash(parts: dict[Part, str], catalogues: str) -> str:
    """The manifest's `hash` from the parts' and the catalogues' hashes."""
    text = "".join(f"{name} {digest}\n" for name, digest in sorted(parts.items()))
    return hashlib.sha256(f"{text}catalogues {catalogues}\n".encode()).hexdigest()


def load_dataset(path: Path | str) -> "Dataset":
    """Open a dataset folder after checking that it is whole (reads every row once).

    Raises:
        DatasetError: a file is missing or damaged, or the folder is of another format.
    """
    path = Path(path)
    try:
        manifest = orjson.loads((path / _MANIFEST).read_bytes())
    except FileNotFoundError:
        raise DatasetError(path, "no manifest.json: not a dataset folder", REBUILD) from None
    except orjson.JSONDecodeError:
        raise DatasetError(path / _MANIFEST, "not JSON", REBUILD) from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise DatasetError(path, f"dataset format {found!r}, not {FORMAT}", REBUILD)
    parts = {part: _open_part(path / part) for part in PARTS}
    catalogues = _read_catalogues(path)
    digest = whole_hash(
        {part: opened.hash(path / part) for part, opened in parts.items()},
        hashlib.sha256("".join(catalogues).encode()).hexdigest(),
    )
    if digest != manifest.get("hash"):
        raise DatasetError(path, "its contents do not match the manifest's hash", REBUILD)
    return Dataset(path, manifest, parts, catalogues)


@dataclass(frozen=True)
class _Opened:
    """The two memory-mapped tables of a part."""

    rows: ArrowDataset
    messages: ArrowDataset

    def hash(self, place: Path) -> str:
        try:
            return _part_hash(hash_table(self.rows), hash_table(self.messages))
        except ValueError:
            raise DatasetError(place, "damaged", REBUILD) from None


def _open_part(place: Path) -> _Opened:
    return _Opened(open_table(place / _ROWS, _EXAMPLES), open_table(place / _TEXT, _MESSAGES))


class Dataset:
    """A whole dataset folder; examples are decoded when they are asked for."""

    def __init__(
        self,
        path: Path,
        manifest: dict[str, Any],
        parts: dict[Part, _Opened],
        catalogues: dict[str, bytes],
    ) -> None:
        self.path = path
        self.manifest = manifest
        self._parts = parts
        self._catalogues = catalogues
        self._tools: dict[str, tuple[ToolSpec, ...]] = {}

    def examples(self, part: Part) -> Sequence[Example]:
        """A part's examples; those of a group, and of a trace in turn, stand side by side.

        Contexts of one trace may share their messages.
        """
        return _Examples(self._parts[part], self._catalogue)

    def catalogue(self) -> tuple[ToolSpec, ...]:
        """The union of the tools offered in train; a name's first specification stands."""
        return self._train_catalogue

    @cached_property
    def _train_catalogue(self) -> tuple[ToolSpec, ...]:
        union: dict[str, ToolSpec] = {}
        for key in dict.fromkeys(self._parts["train"].rows["catalogue"]):
            for tool in self._catalogue(key):
                union.setdefault(tool.name, tool)
        return tuple(union.values())

    def _catalogue(self, key: str) -> tuple[ToolSpec, ...]:
        if key not in self._tools:
            self._tools[key] = parse_tools(orjson.loads(self._catalogues[key]))
        return self._tools[key]


class _Examples(Sequence[Example]):
    """Rows of memory-mapped tables as examples; those of one catalogue share one tuple of it.

    The latest conversation is kept parsed, so that reading a trace's examples one after another
    parses each message once.
    """

    def __init__(self, part: _Opened, catalogue: Callable[[str], tuple[ToolSpec, ...]]) -> None:
        self._part = part
        self._catalogue = catalogue
        self._latest: tuple[int, tuple[Message, ...]] = (0, ())

    def __len__(self) -> int:
        return len(self._part.rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row: dict[str, Any] = self._part.rows[index]
        return Example(
            id=row["id"],
            trace_id=row["trace_id"],
            group=row["group"],
            context=Context(
                self._messages(row["start"], row["end"]), self._catalogue(row["catalogue"])
            ),
            label=parse_decision(orjson.loads(row["label"])),
            weight=float(row["weight"]),
        )

    def _messages(self, start: int, end: int) -> tuple[Message, ...]:
        first, known = self._latest
        if first != start:
            known = ()
        if len(known) < end - start:
            texts = self._part.messages[start + len(known) : end]["message"]
            known += parse_messages([orjson.loads(text) for text in texts])
            self._latest = start, known  # at once: several threads may read
        return known[: end - start]


def _read_catalogues(path: Path) -> dict[str, bytes]:
    """Each catalogue's JSON tool list by its SHA-256, which is checked."""
    file = path / _CATALOGUES
    catalogues = {}
    try:
        lines = file.read_bytes().splitlines()
    except FileNotFoundError:
        raise DatasetError(file, "missing", REBUILD) from None
    for number, line in enumerate(lines, 1):
        head, _, tools = line.partition(b',"tools":')
        key, tools = head[len(b'{"hash":"') : -1].decode(errors="replace"), tools[:-1]
        if hashlib.sha256(tools).hexdigest() != key:
            raise DatasetError(f"{file}:{number}", "does not match its hash", REBUILD)
        catalogues[key] = tools
    return catalogues
