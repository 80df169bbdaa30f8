"""Files and folders appear whole or not at all, whatever goes wrong while they are written."""

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from distill import runs
from distill.errors import RouterError
from distill.runs import RunDir, append_line, new_file, new_folder, read_json, write, write_json


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch):
    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runs.os, "fsync", fsync)


def test_write_replaces_a_file_and_makes_its_folder(tmp_path: Path):
    path = tmp_path / "new" / "a.txt"
    write(path, "old")
    write(path, "grüße")
    assert path.read_text(encoding="utf-8") == "grüße"
    assert files(tmp_path) == ["new", "new/a.txt"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, full_disk):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"new": True})
    assert path.read_bytes() == b"old"
    assert files(tmp_path) == ["a.json"]


def test_a_file_that_the_system_cuts_off_is_not_taken(tmp_path: Path):
    """A limit of the operating system, met in the middle of the content."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(path, "x" * 1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert files(tmp_path) == ["a.txt"]


def test_lines_are_added_and_one_that_a_crash_cut_off_is_ended(tmp_path: Path):
    path = tmp_path / "new" / "lines"
    append_line(path, b"one")
    append_line(path, b"two")
    with path.open("ab") as file:
        file.write(b"cut o")
    append_line(path, b"three")
    assert path.read_bytes() == b"one\ntwo\ncut o\nthree\n"


def test_a_line_that_does_not_fit_on_the_disk_leaves_nothing(tmp_path: Path):
    path = tmp_path / "lines"
    append_line(path, b"one")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            append_line(path, b"x" * 1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"one\n"


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_interrupted_file_leaves_nothing(tmp_path: Path, kind: type[BaseException]):

    def interrupted() -> None:
        with new_file(tmp_path / "a.txt") as file:
            file.write(b"half")
            raise kind

    with pytest.raises(kind):
        interrupted()
    assert files(tmp_path) == []


def test_a_reader_meets_the_old_file_until_the_new_one_is_whole(tmp_path: Path):
    path = tmp_path / "a.txt"
    write(path, "old")
    with new_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_files_have_the_permissions_that_the_user_asked_for(tmp_path: Path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_json_takes_numpy_and_ends_with_a_newline(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, {"value": np.float64(0.5), "row": np.arange(2)})
    assert read_json(path) == {"value": 0.5, "row": [0, 1]}
    assert path.read_bytes().endswith(b"}\n")


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"path": object()})
    assert read_json(path) == {"old": 1}


def test_reading_a_file_that_is_not_there_or_not_json(tmp_path: Path):
    path = tmp_path / "manifest.json"
    with pytest.raises(RouterError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: missing; ")
    path.write_text('{"cut": ')
    with pytest.raises(RouterError, match=r"manifest\.json: not JSON \(.*\); restore or rebuild"):
        read_json(path)


def test_a_new_folder_replaces_the_old_one_as_a_whole(tmp_path: Path):
    path = tmp_path / "router"
    for name in ("old.txt", "new.txt"):
        with new_folder(path) as folder:
            (folder / name).write_text("x")
    assert files(tmp_path) == ["router", "router/new.txt"]


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_an_interrupted_folder_leaves_the_old_one(tmp_path: Path, kind: type[BaseException]):
    path = tmp_path / "deep" / "router"
    with new_folder(path) as folder:
        (folder / "old.txt").write_text("x")

    def interrupted() -> None:
        with new_folder(path) as folder:
            (folder / "new.txt").write_text("x")
            raise kind

    with pytest.raises(kind):
        interrupted()
    assert files(tmp_path / "deep") == ["router", "router/old.txt"]


def test_a_run_is_whole_when_its_manifest_is_there(tmp_path: Path):
    run = RunDir(tmp_path / "job")
    run.router.mkdir(parents=True)
    run.report.write_text("{}")
    assert not run.whole
    with pytest.raises(RouterError, match="not a finished run; finish it with distill train"):
        run.require_whole()
    write_json(run.manifest, {})
    assert run.whole
    run.require_whole()


def test_the_environment_says_what_a_manifest_needs():
    facts = runs.environment()
    assert facts["libraries"]["torch"]
    assert facts["libraries"]["tool-router-distill"]
    assert facts["hardware"]["cpu"]
    assert facts["hardware"]["cores"] >= 1
    assert isinstance(facts["hardware"]["gpus"], list)


def test_a_library_that_is_not_there_has_no_version(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runs, "_REPORTED_LIBRARIES", ["no-such-distribution"])
    assert runs.environment()["libraries"] == {"no-such-distribution": None}
