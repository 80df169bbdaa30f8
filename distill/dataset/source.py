"""What a dataset was made from, by content, so that a change of it is noticed.

A trace file counts with the catalogues that its rows name (`tools_ref`), the embedded sample with
the files that make it. Any other source, a gateway's records for one, is a name alone. What is in
those files is not known here.
"""

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from distill import sample
from distill.traces import GATEWAY
from distill.traces.files import read_lines

SAMPLE = "sample:orderdesk"
"""How configs name the embedded sample."""

# Found without parsing the line, which a second pass over a large file should not do again. Within
# a JSON string the quotes would be escaped, and a name too many costs one digest.
_REFERENCE = re.compile(rb'"tools_ref"\s*:\s*("(?:[^"\\]|\\.)*")')


def describe(source: str, max_line_bytes: int) -> dict[str, Any]:
    """A manifest's `source`: no path, only names and digests.

    Returns:
        `name`; `sha256` of the trace file, or over the sample's files, or None; `catalogues`:
        SHA-256 by name of the catalogue files that the trace file names.

    Raises:
        TraceError: the trace file cannot be read to its end.
    """
    if source == SAMPLE:
        return {"name": source, "sha256": _sample_sha256(), "catalogues": {}}
    if source.startswith(GATEWAY):
        # It grows, and a dataset made of it is none the worse.
        name = GATEWAY + Path(source.removeprefix(GATEWAY)).name
        return {"name": name, "sha256": None, "catalogues": {}}
    path = Path(source)
    if not path.is_file():
        return {"name": source, "sha256": None, "catalogues": {}}
    files = (path.parent / name for name in sorted(_named_catalogues(path, max_line_bytes)))
    return {
        "name": path.name,
        "sha256": _sha256(path),
        "catalogues": {file.name: _sha256(file) for file in files if _is_file(file)},
    }


def is_unchanged(recorded: dict[str, Any], source: str) -> bool:
    """Whether what `describe` recorded still holds; files that are gone have not changed."""
    if source == SAMPLE:
        return bool(recorded["sha256"] == _sample_sha256())
    path = Path(source)
    if recorded["sha256"] is None or not path.is_file():
        return True
    files = {path: recorded["sha256"]}
    files |= {path.parent / name: sha256 for name, sha256 in recorded["catalogues"].items()}
    return all(sha256 == _known_sha256(file) for file, sha256 in files.items() if file.is_file())


def _named_catalogues(path: Path, max_line_bytes: int) -> set[str]:
    names = set()
    for _, line in read_lines(path, max_line_bytes):
        for match in _REFERENCE.finditer(line or b""):
            try:
                name = orjson.loads(match[1])
            except orjson.JSONDecodeError:
                continue  # such a line is rejected where it is read
            if name == Path(name).name:  # others are no siblings of the trace file
                names.add(name)
    return names


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file system takes, in a row that no trace was made of
        return False


def _sample_sha256() -> str:
    """Over the conversations and the code that executes them."""
    sha256 = hashlib.sha256()
    (folder,) = sample.__path__
    for file in sorted(Path(folder).rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.suffix in {".py", ".yaml"} and not name.startswith("tasks/"):  # make no traces
            sha256.update(f"{name} {_known_sha256(file)}\n".encode())
    return sha256.hexdigest()


def _known_sha256(file: Path) -> str:
    facts = file.stat()
    return _cached_sha256(file, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=256)
def _cached_sha256(file: Path, modified_ns: int, size: int) -> str:
    return _sha256(file)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
