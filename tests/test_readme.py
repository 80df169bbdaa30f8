"""Every command in the README runs as it stands there, on small data and for few steps."""

import gzip
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest
import torch
from fake_llm import FakeLlm, says

from distill.chat import message_json, tool_json, trace_json
from distill.config import PolicyConfig
from distill.environment import Environment, Score
from distill.evaluation.closed_loop import NoFallback, play
from distill.policy import Policy
from distill.sample.replay import traces
from distill.types import Context, Decision, ToolCall, Trace

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

FEW = "evaluation.latency_samples=2 evaluation.max_examples=40 evaluation.bootstrap=100"
SHORT_ENCODER = "routers.encoder.train.epochs=0.05 routers.encoder.train.evaluations=1"
SHORT_DECODER = "routers.decoder.max_examples=4 routers.decoder.train.epochs=1 risk.max_examples=16"
ONE_ROUTER = "'routers={majority: {kind: majority}}'"
SHORTER = {
    "distill run mine.yaml": f"{FEW} {SHORT_ENCODER}",
    "distill train mine.yaml": f"{FEW} {SHORT_ENCODER}",
    "distill run configs/run/workbench.yaml": f"{FEW} seeds=[0] {ONE_ROUTER}",
    "scripts/train.py configs/run/encoder.yaml": SHORT_ENCODER,
    "scripts/train.py configs/run/decoder.yaml": SHORT_DECODER,
}
"""What is added to a command so that it takes seconds; nothing of it is taken away."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]


def request_log(trace: Trace) -> list[bytes]:
    """The trace as an application logs it: each request with its response."""
    lines = []
    for i, message in enumerate(trace.messages):
        if message.role == "assistant":
            request = {
                "model": "teacher",
                "messages": [message_json(m) for m in trace.messages[:i]],
                "tools": [tool_json(tool) for tool in trace.tools],
            }
            response = {"choices": [{"index": 0, "message": message_json(message)}]}
            line = {"session": trace.group, "request": request, "response": response}
            lines.append(orjson.dumps(line) + b"\n")
    return lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout as the README's reader has it, with a request log and a converted trace file."""
    path = tmp_path_factory.mktemp("readme")
    for name in ("configs", "scripts"):
        shutil.copytree(ROOT / name, path / name)
    sample = list(islice(traces(), 90))
    with gzip.open(path / "requests.jsonl.gz", "wb") as file:
        file.writelines(line for trace in sample for line in request_log(trace))
    (path / "data").mkdir()
    with gzip.open(path / "data" / "workbench.jsonl.gz", "wb") as file:
        for trace in sample:
            extra = {"template": trace.group, "toolset": "all"}
            file.write(orjson.dumps(trace_json(trace) | extra) + b"\n")
    (config,) = (block for block in blocks("yaml") if block.startswith("# mine.yaml"))
    (path / "mine.yaml").write_text(config, encoding="utf-8")
    (path / "lamps.py").write_text(blocks("python")[0], encoding="utf-8")
    return path


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    extra = next((more for start, more in SHORTER.items() if start in command), "")
    bin_folder = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    if torch.cuda.device_count() < 4:  # the README's several processes share the processor then
        environment["ACCELERATE_USE_CPU"] = "true"
    return subprocess.run(
        shlex.split(f"{command} {extra}"),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )


def ask_through(command: str, folder: Path) -> None:
    """Start the gateway, have an OpenAI client ask through it as the README says, and end it."""
    (line,) = (block for block in blocks("python") if block.startswith("client = "))
    with FakeLlm(lambda request: says({"content": "Hello."})) as llm, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        changes = [f"port={port}", f"upstream.base_url={llm.url}"]
        program = shlex.split(command)
        program[0] = str(Path(sys.executable).with_name(program[0]))
        with subprocess.Popen([*program, *changes], cwd=folder) as process:
            try:
                ready = f"http://127.0.0.1:{port}/readyz"
                while not is_there(ready):
                    assert process.poll() is None
                    time.sleep(0.1)
                names: dict[str, Any] = {"openai": openai}
                exec(line.replace("8010", str(port)).replace(")", ", api_key='none')"), names)
                with names["client"] as client:
                    asked = [{"role": "user", "content": "Hi"}]
                    said = client.chat.completions.create(model="m", messages=asked)
                assert said.choices[0].message.content == "Hello."
            finally:
                process.terminate()


def is_there(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_scripts_named_first_are_what_ci_runs() -> None:
    assert COMMANDS[:2] == ["./scripts/quickstart", "./scripts/test"]
    assert "exec ./scripts/test" in (ROOT / ".ci" / "run").read_text()
    for command in (*COMMANDS[:2], ".ci/run"):
        assert os.access(ROOT / command, os.X_OK)
        subprocess.run(["bash", "-n", str(ROOT / command)], check=True)


@pytest.mark.skipif(
    not list(Path(sys.prefix).glob("installed*")), reason="not scripts/test's environment"
)
def test_the_quick_start_runs_its_job(tmp_path: Path) -> None:
    """The real script and config, with one router: what it trains has tests of its own."""
    command = f"scripts/quickstart output={tmp_path} {FEW} {ONE_ROUTER}"
    done = subprocess.run(
        shlex.split(command),
        cwd=ROOT,
        env=os.environ | {"DISTILL_VENV": sys.prefix},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    report = tmp_path / "quickstart" / "comparison" / "report.html"
    assert report.is_file()
    assert done.stdout.splitlines()[-1] == f"Report: {report}"


@pytest.mark.timeout(1500)
def test_commands_run_in_the_order_in_which_they_stand(folder: Path) -> None:
    for command in COMMANDS[2:]:
        if "quickstart" in command or command.startswith("distill serve"):
            # Both stand in for what the quick start would have left.
            quick = folder / "runs/quickstart/encoder-s0"
            shutil.copytree(folder / "runs/mine/encoder-s0", quick, dirs_exist_ok=True)
        if command.startswith("distill serve"):
            ask_through(command, folder)
            continue
        done = run(command, folder)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
    assert (folder / "runs/mine/comparison/report.html").is_file()
    assert (folder / "comparison/report.html").is_file()
    assert (folder / "runs/decoder/decoder-s0/router/adapter_model.safetensors").is_file()
    published = {p.name for p in (folder / "runs/quickstart/encoder-s0/push").iterdir()}
    assert {"README.md", "router.json", "model.safetensors"} <= published

    (snippet,) = (block for block in blocks("python") if "load_router(" in block)
    here = Path.cwd()
    os.chdir(folder)
    try:
        names: dict[str, Any] = {}
        exec(snippet, names)
    finally:
        os.chdir(here)
    assert names["decision"].action in ("call", "reply")


def test_the_environment_of_the_readme_judges_a_router_that_understands_it():
    code = blocks("python")[0]
    assert len(code.splitlines()) < 30
    names: dict[str, Any] = {}
    exec(code, names)
    lamps = names["Lamps"]()
    assert isinstance(lamps, Environment)

    class Switch:
        kind = "fake"

        def __init__(self, sign: bool) -> None:
            self.sign = sign

        def decide(self, contexts: list[Context]) -> list[Decision]:
            (context,) = contexts
            words = (context.messages[-1].content or "").split()
            if "lamp" not in words:
                return [Decision("reply")]
            on = words[3].startswith("on") == self.sign
            call = ToolCall("switch", {"lamp": words[1], "on": on})
            return [Decision("call", (call,), 1.0)]

    policy = Policy(PolicyConfig(threshold=0))
    tasks = list(lamps.tasks())
    assert len(tasks) == 4
    for task in tasks:
        right, wrong = (
            play(Switch(sign), policy, lamps, task, NoFallback()) for sign in (True, False)
        )
        assert (right.success, right.score) == (True, Score(True))
        assert (wrong.success, wrong.score) == (False, Score(False, (), 1, 1))


def test_the_workflow_of_the_readme_finds_where_refunds_pay(tmp_path, monkeypatch):
    (code,) = (block for block in blocks("python") if "Workflow(" in block)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code, found)
    first, *_, last = found["learned"].evaluations
    assert first.thresholds["large"] == 1
    assert last.thresholds["large"] == pytest.approx(5.4, abs=0.4)
    assert "measure ≥ 5." in found["mermaid"](found["flow"])


def test_files_that_the_readme_points_to_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
