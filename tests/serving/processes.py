"""`distill serve` as a process of its own, as its user starts it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from ports import free_port

START_S = 180
DISTILL = [sys.executable, "-c", "from distill.cli import main; main()"]


@dataclass
class Served:
    """A gateway's process, its address and its config file."""

    process: "subprocess.Popen[bytes]"
    url: str
    config: Path

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20, trust_env=False)


@contextmanager
def gateway(router: Path, folder: Path, **changes: Any) -> Iterator[Served]:
    """A gateway on a free port, ready to answer; what is left of it in the end is killed.

    It takes every call, compares nothing and keeps its records in `folder`; changes are top-level
    keys of its config.
    """
    config = folder / "serve.yaml"
    port = free_port()
    value = {"router": str(router), "port": port, "policy": {"threshold": 0.0}}
    value["rollout"] = {"mode": "on", "compare": 0.0}
    value["store"] = {"url": f"sqlite:///{folder / 'gateway.db'}"}
    config.write_text(yaml.safe_dump(value | changes))
    with subprocess.Popen(
        [*DISTILL, "serve", str(config)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        served = Served(process, f"http://127.0.0.1:{port}", config)
        try:
            _await_ready(served)
            yield served
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(START_S)


def _await_ready(served: Served) -> None:
    until = time.monotonic() + START_S
    with served.client() as client:
        while True:
            stderr = served.process.stderr
            assert stderr is not None
            assert served.process.poll() is None, stderr.read().decode()
            assert time.monotonic() < until, "the gateway did not start"
            try:
                if client.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
