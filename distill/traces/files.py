"""Lines of plain, gzip and zstd files in bounded memory, and the way back.

Compression is told by the first bytes, not by the name. Memory holds the longest line and, for
zstd, the window that the file was packed with: 8 MiB at most unless it was asked for
(`zstd --long`), 2 GiB (`--long=31`) at the very most. What stands in a line is nobody's concern
here: no JSON, no traces.
"""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from distill.errors import TraceError
from distill.runs import new_file

OnBytes = Callable[[int, int], None]
"""Told the bytes read so far of the (compressed) file and the file's size."""

_Stream = io.BufferedReader | gzip.GzipFile

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # after one byte 0x50-0x5f; pzstd and seekable files begin so
# The largest window that the library takes; its own default refuses what --long=28 and up packed.
_ZSTD_MAX_WINDOW = 2**31
# A zstd block of 4 bytes can hold 128 KiB, so this much input never becomes more than 64 MiB.
_ZSTD_CHUNK = 2048
_SKIP_CHUNK = 64 * 1024
_PROGRESS_LINES = 256


def read_lines(
    path: Path, max_line_bytes: int, progress: OnBytes | None = None
) -> Iterator[tuple[int, bytes | None]]:
    """Yield (line number from 1, line with its newline), None for a line over `max_line_bytes`.

    A UTF-8 byte order mark at the file's start is dropped.

    Raises:
        TraceError: the file cannot be opened, or its compressed stream is cut off or corrupt;
            every line that was readable has been yielded before.
    """
    try:
        raw = path.open("rb")
    except OSError as error:
        raise TraceError(
            path, f"cannot be read ({error.strerror})", "give a file of JSON lines"
        ) from None
    with raw:
        size = path.stat().st_size if progress else 0
        stream = _decompressed(raw)
        number = 0
        while True:
            try:
                line = _next_line(stream, max_line_bytes)
            except EOFError:
                fault = f"the compressed stream ends early, after line {number}"
                raise TraceError(f"{path}:{number + 1}", fault, "fetch the file again") from None
            except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
                if "memory" in str(error):
                    fault = f"unpacking takes more memory than there is or is allowed ({error})"
                    cure = "pack it again without zstd's --long"
                    raise TraceError(f"{path}:{number + 1}", fault, cure) from None
                fault = f"the compressed stream is corrupt after line {number} ({error})"
                raise TraceError(f"{path}:{number + 1}", fault, "fetch the file again") from None
            except OSError as error:
                fault = f"cannot be read beyond line {number} ({error.strerror})"
                raise TraceError(f"{path}:{number + 1}", fault, "check the disk") from None
            if line == b"":
                break
            number += 1
            if number == 1 and line is not None:
                line = line.removeprefix(b"\xef\xbb\xbf")
            yield number, line
            if progress and number % _PROGRESS_LINES == 0:
                progress(raw.tell(), size)
        if progress:
            progress(size, size)


def _next_line(stream: _Stream, limit: int) -> bytes | None:
    """The next line, b"" at the end, None for one longer than `limit` (read past, not kept)."""
    line = stream.readline(limit + 1)
    if len(line) <= limit or line.endswith(b"\n"):
        return line
    while line and not line.endswith(b"\n"):
        line = stream.readline(_SKIP_CHUNK)
    return None


def _decompressed(raw: io.BufferedReader) -> _Stream:
    head = raw.peek(4)[:4]
    if head.startswith(_GZIP):
        return gzip.GzipFile(fileobj=raw, mode="rb")
    skippable = head[1:] == _ZSTD_SKIPPABLE and head[0] & 0xF0 == 0x50
    if head == _ZSTD or skippable:
        return io.BufferedReader(_ZstdFrames(raw))
    return raw


class _ZstdFrames(io.RawIOBase):
    """A zstd file's frames, one after another.

    `ZstdDecompressor.stream_reader` takes a frame that is cut off for a whole one, hence this.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._output:
            if not self._decompress():
                return 0
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self._output))
        view[:count] = self._output[:count]
        self._output = self._output[count:]
        return count

    def _decompress(self) -> bool:
        """Decompress one piece of input; False at a whole file's end."""
        piece = self._input or self._file.read(_ZSTD_CHUNK)
        if not piece:
            if self._frame is not None:
                raise EOFError
            return False
        frame = self._frame or self._decompressor.decompressobj()
        self._output = memoryview(frame.decompress(piece))
        self._frame, self._input = (None, frame.unused_data) if frame.eof else (frame, b"")
        return True


@contextmanager
def new_lines(path: Path) -> Iterator[BinaryIO]:
    """Write a file atomically, compressed as its name (`.gz`, `.zst`) says.

    The same lines give the same bytes: no time or name is stored.
    """
    with new_file(path) as file:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                yield packed  # type: ignore[misc]  # it has every method of BinaryIO
        elif path.suffix == ".zst":
            compressor = zstandard.ZstdCompressor(write_checksum=True)
            with compressor.stream_writer(file, closefd=False) as packed_zstd:
                yield packed_zstd
        else:
            yield file
