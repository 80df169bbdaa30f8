"""Lines come out of plain, gzip and zstd files alike, and a damaged file says so."""

import gzip
import random
import tracemalloc
from functools import partial
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import TraceError
from distill.traces.files import new_lines, read_lines

PACK = {
    "plain": lambda data: data,
    "gzip": partial(gzip.compress, compresslevel=1),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
PACKINGS = pytest.mark.parametrize("packing", PACK)
COMPRESSIONS = pytest.mark.parametrize("packing", ["gzip", "zstd"])
SKIPPABLE_FRAME = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"


def noise(lines: int) -> bytes:
    """Lines that hardly compress, so that a cut anywhere is a cut in the data."""
    random_ = random.Random(7)
    return b"".join(b"%d %d\n" % (i, random_.getrandbits(200)) for i in range(lines))


def read_until_fault(file: Path) -> tuple[list[bytes | None], TraceError]:
    got: list[bytes | None] = []
    try:
        for _, line in read_lines(file, 1000):
            got.append(line)
    except TraceError as fault:
        return got, fault
    raise AssertionError("the file was read to its end")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@PACKINGS
@settings(max_examples=60)
@given(
    parts=st.lists(
        st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\xff", b"bcdefgh"])), max_size=4
    ),
    limit=st.integers(1, 9),
)
def test_every_line_comes_once_and_only_long_ones_are_withheld(folder, packing, parts, limit):
    file = folder / "any-name.txt"
    pieces = [b"".join(part) for part in parts]
    # Rotated logs are often concatenated: several members or frames in one file.
    file.write_bytes(b"".join(map(PACK[packing], pieces)))
    *whole, last = b"".join(pieces).split(b"\n")
    lines = [line + b"\n" for line in whole] + ([last] if last else [])
    assert list(read_lines(file, limit)) == [
        (i, line if len(line.removesuffix(b"\n")) <= limit else None)
        for i, line in enumerate(lines, start=1)
    ]


def test_zstd_files_with_skippable_frames(tmp_path):
    file = tmp_path / "seekable.zst"
    file.write_bytes(SKIPPABLE_FRAME + PACK["zstd"](b"a\nb\n") + SKIPPABLE_FRAME)
    assert list(read_lines(file, 10)) == [(1, b"a\n"), (2, b"b\n")]


def zstd_with_window(log: int, text: bytes) -> bytes:
    """A frame of one raw block, made by hand: packing with such a window takes gigabytes."""
    last_raw_block = ((len(text) << 3) | 1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd\x00" + bytes([(log - 10) << 3]) + last_raw_block + text


@pytest.mark.parametrize("log", [28, 31])
def test_zstd_files_with_a_long_window(tmp_path, log):
    """What `zstd --long=28` and up write."""
    file = tmp_path / "long.zst"
    file.write_bytes(zstd_with_window(log, b"a\nb\n"))
    assert list(read_lines(file, 10)) == [(1, b"a\n"), (2, b"b\n")]


def test_a_zstd_window_beyond_all_bounds_is_not_called_corrupt(tmp_path):
    file = tmp_path / "longer.zst"
    file.write_bytes(zstd_with_window(32, b"a\n"))
    with pytest.raises(TraceError, match=r"memory.*pack it again without zstd's --long"):
        list(read_lines(file, 10))


@PACKINGS
def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path, packing):
    file = tmp_path / "bom"
    file.write_bytes(PACK[packing](b"\xef\xbb\xbf{}\n"))
    assert list(read_lines(file, 100)) == [(1, b"{}\n")]


@COMPRESSIONS
@settings(max_examples=60)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_stream_that_is_cut_off_gives_what_it_holds_and_then_says_where(folder, packing, share):
    data = noise(3000)
    packed = PACK[packing](data)
    file = folder / "cut"
    file.write_bytes(packed[: 4 + int(share * (len(packed) - 4))])
    got, fault = read_until_fault(file)
    assert "ends early" in fault.fault
    assert data.startswith(b"".join(got))
    assert fault.place == f"{file}:{len(got) + 1}"


@COMPRESSIONS
def test_most_of_a_cut_stream_is_readable(tmp_path, packing):
    data = noise(20_000)
    packed = PACK[packing](data)
    file = tmp_path / "cut"
    file.write_bytes(packed[: len(packed) // 2])
    got, _ = read_until_fault(file)
    assert 7_000 < len(got) < 11_000


@COMPRESSIONS
@settings(max_examples=60)
@given(share=st.floats(0.1, 0.9), flip=st.integers(1, 255))
def test_a_damaged_byte_never_passes_unseen(folder, packing, share, flip):
    packed = bytearray(PACK[packing](noise(500)))
    packed[int(share * len(packed))] ^= flip
    file = folder / "damaged"
    file.write_bytes(packed)
    with pytest.raises(TraceError, match="damaged:"):
        list(read_lines(file, 1000))


@COMPRESSIONS
def test_foreign_bytes_behind_the_stream_are_a_fault(tmp_path, packing):
    file = tmp_path / "tail"
    file.write_bytes(PACK[packing](b"a\n") + b"something else")
    lines = read_lines(file, 10)
    assert next(lines) == (1, b"a\n")
    with pytest.raises(TraceError, match="corrupt after line 1"):
        next(lines)


def test_what_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(TraceError, match="No such file"):
        next(read_lines(tmp_path / "missing", 10))
    with pytest.raises(TraceError, match="Is a directory"):
        next(read_lines(tmp_path, 10))


@PACKINGS
def test_a_large_file_is_never_held_whole(tmp_path, packing):
    """20 MB in lines of 1 kB, with one line of 10 MB among them that is over the limit."""
    # Hexadecimal noise halves in compression; what compresses better is another test's affair.
    random_ = random.Random(7)
    lines = [random_.randbytes(500).hex().encode() for _ in range(10_000)]
    lines.insert(5, random_.randbytes(5_000_000).hex().encode())
    file = tmp_path / "large"
    file.write_bytes(PACK[packing](b"\n".join(lines)))
    del lines
    tracemalloc.start()
    try:
        got = [number for number, line in read_lines(file, 64 * 1024) if line is not None]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert got == [*range(1, 6), *range(7, 10_002)]
    assert peak < 2_000_000


def test_a_zstd_bomb_is_unpacked_in_pieces(tmp_path):
    """One line of 256 MB in 8 kB; 2 KiB of it can become 64 MiB, and never more are held."""
    file = tmp_path / "bomb"
    packer = zstandard.ZstdCompressor().compressobj()
    packed = [packer.compress(b"a" * 1_000_000) for _ in range(256)]
    file.write_bytes(b"".join(packed) + packer.flush())
    assert file.stat().st_size < 20_000
    tracemalloc.start()
    try:
        assert list(read_lines(file, 1024)) == [(1, None)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 150_000_000


@COMPRESSIONS
def test_progress_counts_compressed_bytes_up_to_the_size(tmp_path, packing):
    file = tmp_path / "progress"
    file.write_bytes(PACK[packing](noise(3000)))
    seen = []
    for _ in read_lines(file, 1000, lambda done, size: seen.append((done, size))):
        pass
    size = file.stat().st_size
    assert len(seen) > 5
    assert seen == sorted(seen)
    assert seen[-1] == (size, size)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_writing_follows_the_suffix_and_gives_the_same_bytes_again(tmp_path, suffix):
    files = [tmp_path / f"{name}.jsonl{suffix}" for name in ("a", "b")]
    for file in files:
        with new_lines(file) as sink:
            sink.write(b"one\n")
            sink.write(b"two\n")
        assert list(read_lines(file, 10)) == [(1, b"one\n"), (2, b"two\n")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert (files[0].read_bytes() == b"one\ntwo\n") == (suffix == "")


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, suffix):
    file = tmp_path / f"out.jsonl{suffix}"
    file.write_bytes(b"old")

    def stop_half_way() -> None:
        with new_lines(file) as sink:
            sink.write(b"half a li")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_half_way()
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
