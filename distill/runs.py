"""The run directory, and how files are written so that a crash loses nothing.

    runs/<name>/<router>-s<seed>/
        config.yaml     the resolved config, this router and this seed alone
        checkpoints/    what a killed training resumes from; emptied when the run is whole
        router/         the router folder
        log.jsonl       one line per logged step; log-arguments.jsonl of what fills arguments
        tensorboard/    its event files, when that tracker was asked for
        calibration.jsonl   decisions on the calibration part, with raw confidences
        predictions.jsonl   decisions on the test part
        *.part.jsonl    either of these while its decisions are made
        report.json     the evaluation
        manifest.json   what the run was made from; written last, so its existence means "whole"

A file appears under any other name only when it is complete (`write`), so a reader never meets half
of one and a full disk leaves the old one in place. Logs grow line by line.
"""

import fcntl
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import orjson

from distill.errors import RouterError

_REPORTED_LIBRARIES = [
    "tool-router-distill",
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "datasets",
    "tokenizers",
    "scikit-learn",
]


_reading_umask = Lock()


def _umask() -> int:
    """The process's umask. To read it is to set it, so two threads must not do so at once."""
    with _reading_umask:
        umask = os.umask(0)
        os.umask(umask)
        return umask


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Fill a temporary file beside `path`; it takes the name only when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write(path: Path, content: bytes | str) -> None:
    """Write a whole file or nothing: a temporary file beside it, fsync, rename."""
    with new_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def append_line(path: Path, line: bytes) -> None:
    """Add a line to a file that others may be adding to: whole or not at all, on disk on return.

    A line that a crash cut off earlier is ended first, so that it alone is lost.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        try:
            if end:
                file.seek(end - 1)
                line = line if file.read(1) == b"\n" else b"\n" + line
            rest = memoryview(line + b"\n")
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(end)
            raise


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, atomically."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
    write(path, orjson.dumps(value, option=options))


def read_json(path: Path) -> Any:
    """Read a JSON file of ours.

    Raises:
        RouterError: it is missing or not JSON.
    """
    try:
        return orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise RouterError(path, "missing", "the step that writes it has not finished") from None
    except orjson.JSONDecodeError as error:
        raise RouterError(path, f"not JSON ({error})", "restore or rebuild it") from None


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder beside `path`; it takes the name only when the block succeeds.

    An existing folder at `path` is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
        fresh = Path(temporary) / "new"
        fresh.mkdir()
        yield fresh
        if path.exists():
            path.replace(Path(temporary) / "old")
        fresh.replace(path)


@dataclass(frozen=True)
class RunDir:
    """The paths of one run. `training` names a further training of it, beside the router's."""

    path: Path
    training: str = ""

    @property
    def title(self) -> str:
        """What the training is called where its progress is told."""
        return f"{self.path.name} {self.training}".rstrip()

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints" / self.training

    @property
    def router(self) -> Path:
        return self.path / "router"

    @property
    def log(self) -> Path:
        return self.path / (f"log-{self.training}.jsonl" if self.training else "log.jsonl")

    @property
    def report(self) -> Path:
        return self.path / "report.json"

    @property
    def calibration(self) -> Path:
        return self.path / "calibration.jsonl"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions.jsonl"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def whole(self) -> bool:
        """Whether the run finished training; only then is `router/` complete."""
        return self.manifest.is_file()

    @property
    def begun(self) -> bool:
        """Whether there is training in the run that another config or dataset must not continue."""
        return self.whole or any(self.checkpoints.glob("checkpoint-*"))

    def require_whole(self) -> None:
        """Raise RouterError unless the run is whole."""
        if not self.whole:
            raise RouterError(
                self.path, "no manifest.json: not a finished run", "finish it with distill train"
            )


def environment() -> dict[str, Any]:
    """Library versions, git commit and hardware, for a manifest."""
    return {
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _REPORTED_LIBRARIES},
        "git_commit": _git_commit(),
        "hardware": hardware(),
    }


def hardware() -> dict[str, Any]:
    """The processor, its cores, and the GPUs that torch sees."""
    import torch  # noqa: PLC0415  (seconds to import, and most commands need no hardware line)

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": _cpu_name(), "cores": cores, "gpus": gpus}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the code that runs, None for an installed copy without its repository."""
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
