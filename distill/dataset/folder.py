"""The dataset folder, format 1: written whole, read back lazily, refused when it is not whole.

    train/ validation/ calibration/ test/
        examples.arrow      one row per example (Arrow IPC stream, readable with `datasets`)
    catalogues.jsonl        each distinct tool list once: {"hash", "tools"}; rows name it by hash
    manifest.json           counts, config, seed, teacher, and the hash over all contents
    README.md               the dataset card

A row: id, trace_id, group; messages and label as JSON; catalogue (hash); weight (decision points
merged into it); and what reports bucket by: n_tools, step (assistant turns before), n_calls,
n_arguments. The hash is SHA-256 over rows and catalogues, not over files: it survives another
version of Arrow. This module knows nothing of traces.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import orjson
from datasets.arrow_dataset import Dataset as ArrowDataset
from datasets.arrow_writer import ArrowWriter
from datasets.features import Features, Value

from distill.chat import parse_decision, parse_messages, parse_tools
from distill.dataset.parts import PARTS, Part
from distill.errors import DatasetError
from distill.types import Context, Example, ToolSpec

FORMAT = 1

_TEXTS = ("id", "trace_id", "group", "messages", "catalogue", "label")
_COUNTS = ("weight", "n_tools", "step", "n_calls", "n_arguments")
COLUMNS = _TEXTS + _COUNTS

_ROWS = "examples.arrow"
_CATALOGUES = "catalogues.jsonl"
_MANIFEST = "manifest.json"
_REBUILD = "build it again with distill build"
_BATCH_BYTES = 1024 * 1024


class PartWriter:
    """Appends rows to one part, a megabyte at a time, and hashes them."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._batch: dict[str, list[Any]] = {column: [] for column in COLUMNS}
        self._bytes = 0
        self._sha256 = hashlib.sha256()
        self.examples = 0

    def add(self, row: dict[str, Any]) -> None:
        """Append one row; its keys are `COLUMNS`."""
        _hash_row(self._sha256, [row[column] for column in COLUMNS])
        for column in COLUMNS:
            self._batch[column].append(row[column])
        self.examples += 1
        self._bytes += len(row["messages"])
        if self._bytes > _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write out what is held back."""
        if self._batch["id"]:
            self._writer.write_batch(self._batch)
        self._batch = {column: [] for column in COLUMNS}
        self._bytes = 0

    @property
    def hash(self) -> str:
        return self._sha256.hexdigest()


@contextmanager
def write_part(folder: Path, part: Part) -> Iterator[PartWriter]:
    """Write `folder/part`."""
    (folder / part).mkdir()
    types = dict.fromkeys(_TEXTS, Value("string")) | dict.fromkeys(_COUNTS, Value("int32"))
    features = Features({column: types[column] for column in COLUMNS})  # type: ignore[arg-type]
    with ArrowWriter(path=str(folder / part / _ROWS), features=features) as writer:
        rows = PartWriter(writer)
        yield rows
        rows.flush()
        writer.finalize()


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
        raise DatasetError(path, "no manifest.json: not a dataset folder", _REBUILD) from None
    except orjson.JSONDecodeError:
        raise DatasetError(path / _MANIFEST, "not JSON", _REBUILD) from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise DatasetError(path, f"dataset format {found!r}, not {FORMAT}", _REBUILD)
    tables = {part: _open_part(path, part) for part in PARTS}
    catalogues = _read_catalogues(path)
    digest = whole_hash(
        {part: _hash_table(table) for part, table in tables.items()},
        hashlib.sha256("".join(catalogues).encode()).hexdigest(),
    )
    if digest != manifest.get("hash"):
        raise DatasetError(path, "its contents do not match the manifest's hash", _REBUILD)
    return Dataset(path, manifest, tables, catalogues)


class Dataset:
    """A whole dataset folder; examples are decoded when they are asked for."""

    def __init__(
        self,
        path: Path,
        manifest: dict[str, Any],
        tables: dict[Part, ArrowDataset],
        catalogues: dict[str, bytes],
    ) -> None:
        self.path = path
        self.manifest = manifest
        self._tables = tables
        self._catalogues = catalogues
        self._tools: dict[str, tuple[ToolSpec, ...]] = {}

    def examples(self, part: Part) -> Sequence[Example]:
        """A part's examples, ordered by group, trace id and turn."""
        return _Examples(self._tables[part], self._catalogue)

    def catalogue(self) -> tuple[ToolSpec, ...]:
        """The union of the tools offered in train; a name's first specification stands."""
        return self._train_catalogue

    @cached_property
    def _train_catalogue(self) -> tuple[ToolSpec, ...]:
        union: dict[str, ToolSpec] = {}
        for key in dict.fromkeys(self._tables["train"]["catalogue"]):
            for tool in self._catalogue(key):
                union.setdefault(tool.name, tool)
        return tuple(union.values())

    def _catalogue(self, key: str) -> tuple[ToolSpec, ...]:
        if key not in self._tools:
            self._tools[key] = parse_tools(orjson.loads(self._catalogues[key]))
        return self._tools[key]


class _Examples(Sequence[Example]):
    """Rows of a memory-mapped table as examples; those of one catalogue share one tuple of it."""

    def __init__(
        self, table: ArrowDataset, catalogue: Callable[[str], tuple[ToolSpec, ...]]
    ) -> None:
        self._table = table
        self._catalogue = catalogue

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row: dict[str, Any] = self._table[index]
        return Example(
            id=row["id"],
            trace_id=row["trace_id"],
            group=row["group"],
            context=Context(
                parse_messages(orjson.loads(row["messages"])), self._catalogue(row["catalogue"])
            ),
            label=parse_decision(orjson.loads(row["label"])),
            weight=float(row["weight"]),
        )


def _open_part(path: Path, part: Part) -> ArrowDataset:
    file = path / part / _ROWS
    if not file.is_file():
        raise DatasetError(file, "missing", _REBUILD)
    try:
        table = ArrowDataset.from_file(str(file))
    except (OSError, ValueError):  # pyarrow's own errors derive from these
        raise DatasetError(file, "not a whole Arrow file", _REBUILD) from None
    if tuple(table.column_names) != COLUMNS:
        raise DatasetError(file, f"has columns {', '.join(table.column_names)}", _REBUILD)
    return table


def _read_catalogues(path: Path) -> dict[str, bytes]:
    """Each catalogue's JSON tool list by its SHA-256, which is checked."""
    file = path / _CATALOGUES
    catalogues = {}
    try:
        lines = file.read_bytes().splitlines()
    except FileNotFoundError:
        raise DatasetError(file, "missing", _REBUILD) from None
    for number, line in enumerate(lines, 1):
        head, _, tools = line.partition(b',"tools":')
        key, tools = head[len(b'{"hash":"') : -1].decode(errors="replace"), tools[:-1]
        if hashlib.sha256(tools).hexdigest() != key:
            raise DatasetError(f"{file}:{number}", "does not match its hash", _REBUILD)
        catalogues[key] = tools
    return catalogues


def _hash_table(table: ArrowDataset) -> str:
    sha256 = hashlib.sha256()
    for batch in table.iter(batch_size=256):
        for values in zip(*(batch[column] for column in COLUMNS), strict=True):
            _hash_row(sha256, values)
    return sha256.hexdigest()


def _hash_row(sha256: Any, values: Sequence[Any]) -> None:
    """Add one row's values, in the order of `COLUMNS`."""
    sha256.update(orjson.dumps(values) + b"\n")
