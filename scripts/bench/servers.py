"""The servers that `gateway.py` compares: the gateway in its modes, LiteLLM's proxy, the stub."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import httpx
import psutil
import yaml

from distill.errors import InputError

ARMS = ["direct", "pass-through", "shadow", "local", "litellm"]
MODEL = "large"
KEY = f"sk-{secrets.token_hex(32)}"
"""LiteLLM asks for a strong one; the others look at none."""
START_S = 180
_MODES = {"pass-through": "off", "shadow": "shadow", "local": "on"}
_LIBRARIES = ["uvicorn", "uvloop", "httptools", "httpx", "fastapi", "starlette", "sqlalchemy"]


@dataclass
class Arm:
    """A server on loopback; `process` is None where it is the stub itself."""

    name: str
    port: int
    process: psutil.Process | None = None

    def cpu_s(self) -> float:
        """Processor seconds so far, of its children, too."""
        return sum(cpu_s(process) for process in self._processes())

    def rss_mib(self) -> float:
        return float(sum(process.memory_info().rss for process in self._processes())) / 2**20

    def _processes(self) -> list[psutil.Process]:
        if self.process is None:
            return []
        return [self.process, *self.process.children(recursive=True)]


@dataclass
class Servers:
    """How they are started."""

    stub_port: int
    router: Path
    folder: Path
    """Of configs, logs and databases."""
    store: str | None
    litellm: Path | None
    workers: int

    @contextmanager
    def start(self, name: str) -> Iterator[Arm]:
        """An arm that answers."""
        if name == "direct":
            yield Arm(name, self.stub_port)
            return
        port = _free_port()
        command, environment, path = (
            self._litellm(port) if name == "litellm" else self._gateway(name, port)
        )
        with _started(name, command, environment, self.folder) as process:
            _await(process, f"http://127.0.0.1:{port}{path}", self.folder / f"{name}.log")
            yield Arm(name, port, psutil.Process(process.pid))

    def _gateway(self, name: str, port: int) -> tuple[list[str], dict[str, str], str]:
        config = {
            "router": str(self.router),
            "port": port,
            "workers": self.workers,
            "upstream": {"base_url": f"http://127.0.0.1:{self.stub_port}/v1"},
            "policy": {"threshold": 0.0},
            "rollout": {"mode": _MODES[name], "compare": 0.0, "rollback": None},
            "store": {"url": self.store or f"sqlite:///{self.folder / name}-{port}.db"},
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        program = "from distill.cli import main; main()"
        return [sys.executable, "-c", program, "serve", str(path)], dict(os.environ), "/readyz"

    def _litellm(self, port: int) -> tuple[list[str], dict[str, str], str]:
        assert self.litellm is not None
        upstream = f"http://127.0.0.1:{self.stub_port}/v1"
        model = {"model": f"openai/{MODEL}", "api_base": upstream, "api_key": KEY}
        config = {
            "model_list": [{"model_name": MODEL, "litellm_params": model}],
            "litellm_settings": {"set_verbose": False, "request_timeout": 120, "num_retries": 0},
        }
        path = self.folder / "litellm.yaml"
        path.write_text(yaml.safe_dump(config))
        kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
        # The table of prices that comes with it, not the one that it would fetch.
        own = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_MASTER_KEY": KEY}
        own |= {"LITELLM_LOCALMODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1"}
        program = str(self.litellm.parent / "litellm")
        workers = str(self.workers)
        options = ["--host", "127.0.0.1", "--port", str(port), "--num_workers", workers]
        command = [program, "--config", str(path), *options, "--telemetry", "False"]
        return command, kept | own, "/health/liveliness"


def versions(litellm: Path | None) -> dict[str, str]:
    """Of the libraries that matter to speed, and of LiteLLM.

    Raises:
        InputError: that interpreter has no LiteLLM.
    """
    found = {name: metadata.version(name) for name in _LIBRARIES}
    found["python"] = sys.version.split()[0]
    if litellm is not None:
        ask = "import sys; from importlib.metadata import version as v;"
        ask += "print(v('litellm'), sys.version.split()[0])"
        said = subprocess.run([litellm, "-c", ask], capture_output=True, text=True, check=False)
        if said.returncode:
            raise InputError("--litellm-python", "no LiteLLM there", "pip install 'litellm[proxy]'")
        found["litellm"], found["litellm_python"] = said.stdout.split()
    return found


@contextmanager
def _started(
    name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """A server, its output in a file, as a service's would be."""
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    until = time.monotonic() + START_S
    with httpx.Client(trust_env=False, timeout=5) as client:
        while True:
            if process.poll() is not None or time.monotonic() > until:
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise InputError(log.stem, f"it does not start: {''.join(last)}", "start it alone")
            try:
                if client.get(url).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_s(process: psutil.Process) -> float:
    """Processor seconds so far."""
    times = process.cpu_times()
    return float(times.user + times.system)
