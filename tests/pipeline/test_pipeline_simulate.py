"""Runs in the closed loop: what is played, what a second start does, and what is refused."""

import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Barrier
from typing import Any

import orjson
import pytest
from fake_llm import FakeLlm, calling, says
from fake_llm import Says as Sent
from made_jobs import ONE, do, job_at, majority, refuse
from small_shop import TOOLS

from distill.chat import trace_json
from distill.config import EndpointConfig, PolicyConfig
from distill.dataset import load_dataset
from distill.dataset.points import decision_points
from distill.errors import ConfigError, RouterError
from distill.pipeline import simulate as module
from distill.pipeline.simulate import named, simulate
from distill.progress import silent
from distill.runs import read_json
from distill.sample.replay import load_conversations, replay
from distill.traces import read
from distill.types import Context, Decision, ToolCall

ALL = PolicyConfig(threshold=0)

WORLD = """
from small_shop import TOOLS
from distill.environment import Score, Task
from distill.types import Message, ToolCall

class Orders:
    tools = TOOLS
    def tasks(self):
        return [Task(str(n), str(n), (f"cancel order {n}",)) for n in range(6)]
    def reset(self, task):
        self.wanted, self.cancelled = [int(task.id)], []
    def execute(self, call):
        self.cancelled += [call.arguments["order"]] if call.name == "cancel_order" else []
        return "cancelled"
    def score(self, words):
        return Score(self.cancelled == self.wanted)

class Recorded(Orders):
    def record(self, task):
        call = ToolCall("cancel_order", {"order": int(task.id)})
        said = Message("assistant", "Done."), Message("user", task.user[0])
        return said[1], Message("assistant", None, (call,)), Message("tool", "ok"), said[0]

class Broken(Orders):
    def execute(self, call):
        raise OSError("no connection")
    def score(self, words):
        raise OSError("no connection")

class Twice(Orders):
    def tasks(self):
        return super().tasks() * 2

class Empty(Orders):
    def tasks(self):
        return []

class Lost(Recorded):
    def tasks(self):
        raise OSError("no file")

class Forgotten(Orders):
    def record(self, task):
        raise KeyError(task.id)

def faulty():
    raise OSError("no database")

the_only = Orders()

def shared():
    return the_only

nothing = dict
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module with environments in the working directory; its name."""
    (tmp_path / "order_world.py").write_text(WORLD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "order_world"
    sys.modules.pop("order_world", None)


class Canceller:
    """Cancels the order that the user names, once."""

    kind = "fake"

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        decisions = []
        for context in contexts:
            found = re.search(r"\d", context.messages[-1].content or "")
            calls = (ToolCall("cancel_order", {"order": int(found[0])}),) if found else ()
            decisions.append(Decision("call" if calls else "reply", calls, 0.5))
        return decisions


@pytest.fixture
def canceller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run holds a router that cancels what is named."""
    monkeypatch.setattr(module, "load_router", lambda run: Canceller())


def rows(out: Path) -> list[dict[str, Any]]:
    """The outcomes, of all arms, in the order of the file."""
    lines = map(orjson.loads, (out / "tasks.jsonl").read_bytes().splitlines())
    return [line for line in lines if "settings" not in line]


def test_tasks_are_played_and_reported(folder: Path, world: str, canceller: None):
    run, out = majority(folder).path, folder / "loop"
    told: list[tuple[str, int, int | None]] = []
    report = simulate(
        [run], ALL, out, lambda *stage: told.append(stage), environment=f"{world}:Orders"
    )
    assert read_json(out / "closed_loop.json") == report
    (arm,) = report["arms"]
    assert (arm["name"], arm["kind"], arm["n_tasks"]) == ("majority-s0", "majority", 6)
    assert arm["success"]["value"] == 1
    assert arm["policy"] == ALL.model_dump()
    assert [row["id"] for row in rows(out)] == ["0", "1", "2", "3", "4", "5"]
    assert told[0] == ("simulating majority-s0", 0, 6)
    assert told[-1] == ("simulating majority-s0", 6, 6)


def test_a_killed_simulation_goes_on_after_its_last_task(
    folder: Path, world: str, canceller: None, monkeypatch: pytest.MonkeyPatch
):
    run, out, name = majority(folder).path, folder / "loop", f"{world}:Orders"
    played: list[str] = []
    real = module.play

    def killed(*args):
        if len(played) == 4:
            raise KeyboardInterrupt
        played.append(args[3].id)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, "play", killed)
        with pytest.raises(KeyboardInterrupt):
            simulate([run], ALL, out, silent, environment=name)
    assert not (out / "closed_loop.json").exists()
    report = simulate([run], ALL, out, silent, environment=name)
    assert [row["id"] for row in rows(out)] == ["0", "1", "2", "3", "4", "5"]
    monkeypatch.setattr(module, "load_router", refuse)
    assert simulate([run], ALL, out, silent, environment=name) == report


def test_some_of_the_tasks_are_played_and_more_go_on_from_these(
    folder: Path, world: str, canceller: None
):
    run, out, name = majority(folder).path, folder / "loop", f"{world}:Orders"
    chosen: list[set[str]] = []
    for most in (2, 5, 9):
        report = simulate([run], ALL, out, silent, environment=name, most=most)
        made = rows(out)
        chosen.append({row["id"] for row in made})
        assert len(made) == len(chosen[-1]) == report["arms"][0]["n_tasks"] == min(most, 6)
    assert chosen[0] < chosen[1] < chosen[2]
    # Fewer again: of what is there already, only these count.
    assert simulate([run], ALL, out, silent, environment=name, most=2)["arms"][0]["n_tasks"] == 2


def test_other_settings_or_another_router_need_another_folder(
    folder: Path, world: str, canceller: None
):
    run, out, name = majority(folder).path, folder / "loop", f"{world}:Orders"
    simulate([run], ALL, out, silent, environment=name)
    for change in (
        lambda: simulate([run], PolicyConfig(threshold=1), out, silent, environment=name),
        lambda: simulate([run], ALL, out, silent, environment=f"{world}:Recorded"),
    ):
        with pytest.raises(RouterError, match="with other settings"):
            change()
    (run / "router/more.safetensors").write_bytes(b"other weights")
    with pytest.raises(RouterError, match="with other settings"):
        simulate([run], ALL, out, silent, environment=name)


def test_the_policy_decides_and_the_record_answers_the_rest(
    folder: Path, world: str, canceller: None
):
    run, name = majority(folder).path, f"{world}:Recorded"
    careful = PolicyConfig(threshold=0, sensitive=["cancel_order"])
    alone = simulate([run], careful, folder / "a", silent, environment=name)["arms"][0]
    assert (alone["success"]["value"], alone["taken"]["value"]) == (0, 0)
    (arm,) = simulate([run], careful, folder / "b", silent, environment=name, fallback="recorded")[
        "arms"
    ]
    assert (arm["success"]["value"], arm["taken"]["value"]) == (1, 0)
    assert arm["reasons"] == {"sensitive tool": 6, "reply": 6}
    assert (arm["llm_calls"]["value"], arm["input_tokens"]) == (2, None)


def test_with_attacks_each_router_is_seen_without_and_with_the_rules(
    folder: Path, world: str, canceller: None
):
    runs = [majority(folder).path, folder / "runs/shop/tfidf-s0"]
    careful = PolicyConfig(threshold=0, sensitive=["cancel_order"])
    report = simulate(
        runs, careful, folder / "a", silent, environment=f"{world}:Orders", attacks=True
    )
    found = {arm["name"]: arm["success"]["value"] for arm in report["arms"]}
    assert found == {
        **{"majority-s0, unguarded": 1, "majority-s0": 0},
        **{"tfidf-s0, unguarded": 1, "tfidf-s0": 0},
    }


def test_runs_of_one_name_are_told_apart(folder: Path, world: str, canceller: None):
    run = majority(folder).path
    other = Path(shutil.copytree(run.parent, folder / "runs/again")) / run.name
    report = simulate([run, other], ALL, folder / "a", silent, environment=f"{world}:Orders")
    assert [arm["name"] for arm in report["arms"]] == [str(run), str(other)]


def test_an_environment_of_ones_own_takes_router_folders_too(
    folder: Path, world: str, canceller: None
):
    router = majority(folder).router
    report = simulate([router], ALL, folder / "a", silent, environment=f"{world}:Orders")
    assert report["arms"][0]["name"] == "router"


def test_where_every_task_fails_the_first_error_is_told_and_they_are_tried_again(
    folder: Path, world: str, canceller: None, monkeypatch: pytest.MonkeyPatch
):
    run, out = majority(folder).path, folder / "a"
    with pytest.raises(ConfigError) as caught:
        simulate([run], ALL, out, silent, environment=f"{world}:Broken")
    assert "all 6 tasks that were tried of majority-s0 ended in an error" in str(caught.value)
    assert "environment: OSError: no connection" in str(caught.value)
    mended = sys.modules[world]
    monkeypatch.setattr(mended, "Broken", mended.Orders)
    report = simulate([run], ALL, out, silent, environment=f"{world}:Broken")
    assert report["arms"][0]["ends"] == {"done": 6}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("order_world", "names no factory; write package.module:factory"),
        ("order_world:", "names no factory"),
        ("order_wrld:Orders", "cannot be made (ModuleNotFoundError: No module named 'order_wrld')"),
        ("order_world:Ordres", "cannot be made (AttributeError"),
        ("order_world:faulty", "cannot be made (OSError: no database)"),
        ("order_world:nothing", "makes no environment; give it tools, tasks, reset, execute and"),
    ],
)
def test_an_environment_that_is_none(world: str, name: str, why: str):
    with pytest.raises(ConfigError, match="--environment: ") as caught:
        named(name)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Twice", "Twice.tasks: '0' comes twice; mend it"),
        ("Empty", "Empty.tasks: gave no task; mend it"),
        ("Lost", "Lost.tasks: raised OSError: no file; mend it"),
        ("Forgotten", "--fallback: 0 has no record (KeyError: '0'); mend record(task), or use"),
    ],
)
def test_tasks_and_records_that_are_none(
    folder: Path, world: str, canceller: None, name: str, why: str
):
    chosen = f"{world}:{name}"
    run, out = majority(folder).path, folder / "a"
    with pytest.raises(ConfigError) as caught:
        simulate([run], ALL, out, silent, environment=chosen, fallback="recorded")
    assert str(caught.value).startswith(why)


def test_no_record_for_the_fallback(folder: Path, world: str, canceller: None):
    with pytest.raises(ConfigError, match="Orders has no record of a teacher; use another"):
        simulate(
            [majority(folder).path],
            ALL,
            folder / "a",
            silent,
            environment=f"{world}:Orders",
            fallback="recorded",
        )


def test_a_rule_about_a_tool_that_the_environment_has_not(folder: Path, world: str):
    rules = PolicyConfig(threshold=0, sensitive=["cancel_ordr"])
    with pytest.raises(ConfigError, match=r"policy\.sensitive: no tool is called 'cancel_ordr'"):
        simulate(
            [majority(folder).path], rules, folder / "a", silent, environment=f"{world}:Orders"
        )
    assert not (folder / "a").exists()


def test_orderdesk_is_not_for_runs_of_other_traces(folder: Path):
    with pytest.raises(ConfigError, match="no conversation of orderdesk; name an --environment"):
        simulate([majority(folder).path], ALL, folder / "a", silent)


@pytest.fixture(scope="module")
def desk_job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline's run on a few of orderdesk's conversations."""
    folder = tmp_path_factory.mktemp("desk")
    with (folder / "traces.jsonl").open("wb") as file:
        for script in load_conversations()[:80]:
            file.write(orjson.dumps(trace_json(replay(script))) + b"\n")
    do(job_at(folder, routers=ONE))
    return folder


def test_orderdesk_plays_what_the_run_was_not_trained_on(desk_job: Path, tmp_path: Path):
    report = simulate([majority(desk_job).path], ALL, tmp_path, silent, fallback="recorded")
    dataset = load_dataset(desk_job / "runs/shop/dataset-s0")
    held_out = {example.trace_id: example.group for example in dataset.examples("test")}
    assert {row["id"]: row["group"] for row in rows(tmp_path)} == held_out
    (arm,) = report["arms"]
    assert arm["n_tasks"] == len(held_out) > 5
    assert arm["success"]["value"] == 1, "all is left to the record"


def test_the_training_part_can_be_played_for_tries_that_teach(desk_job: Path, tmp_path: Path):
    runs = [majority(desk_job).path]
    file = tmp_path / "tries.jsonl.gz"
    simulate(runs, ALL, tmp_path / "out", silent, part="train", traces=file)
    dataset = load_dataset(desk_job / "runs/shop/dataset-s0")
    trained = {example.trace_id: example.group for example in dataset.examples("train")}
    assert {row["id"]: row["group"] for row in rows(tmp_path / "out")} == trained
    assert {trace.group for trace in read(file)} == set(trained.values())
    with pytest.raises(RouterError, match="other settings"):
        simulate(runs, ALL, tmp_path / "out", silent)  # the test part
    with pytest.raises(ConfigError, match="--part: is of orderdesk's dataset"):
        simulate(runs, ALL, tmp_path, silent, part="train", environment="small:Shop")


@pytest.mark.usefixtures("canceller")
def test_conversations_are_kept_as_traces_with_their_outcomes(
    finished: Path, tmp_path: Path, world: str, monkeypatch: pytest.MonkeyPatch
):
    """Also those that were played before a job was killed."""
    runs, file = [majority(finished).path], tmp_path / "tries.jsonl"
    environment = f"{world}:Orders"
    simulate(runs, ALL, tmp_path / "out", silent, environment=environment)
    monkeypatch.setattr(module, "play", refuse)
    simulate(runs, ALL, tmp_path / "out", silent, environment=environment, traces=file)
    found = list(read(file))
    assert [trace.id for trace in found] == [f"majority-s0: {n}" for n in range(6)]
    assert [trace.group for trace in found] == [str(n) for n in range(6)]
    assert all(trace.outcome.success for trace in found)
    asked, called, returned, told = found[3].messages
    assert asked.content == "cancel order 3"
    assert called.calls == (ToolCall("cancel_order", {"order": 3}),)
    assert returned.content == told.content == "cancelled"
    assert found[3].tools == TOOLS


@pytest.mark.usefixtures("canceller")
def test_a_reply_that_nobody_worded_is_kept_as_the_decision_that_it_was(
    finished: Path, tmp_path: Path, world: str
):
    """Else learning from tries would see no failure of a router that does nothing."""
    runs, file = [majority(finished).path], tmp_path / "tries.jsonl"
    nothing = PolicyConfig(threshold=1)
    options = {"environment": f"{world}:Orders", "traces": file}
    report = simulate(runs, nothing, tmp_path / "out", silent, **options)
    assert report["arms"][0]["success"]["value"] == 0
    for trace in read(file):
        (decided,) = decision_points(trace)
        assert decided.label == Decision("reply")
        assert not trace.outcome.success


def test_orderdesks_attacks_stand_in_what_the_run_was_not_trained_on(
    desk_job: Path, tmp_path: Path
):
    report = simulate([majority(desk_job).path], ALL, tmp_path, silent, attacks=True)
    dataset = load_dataset(desk_job / "runs/shop/dataset-s0")
    held_out = {example.trace_id for example in dataset.examples("test")}
    assert {row["id"].partition("@")[2] for row in rows(tmp_path)} <= held_out
    (arm,) = report["arms"]
    assert sum(sum(kind.values()) for kind in arm["attacks"].values()) == arm["n_tasks"]
    assert arm["attack_followed"]["value"] == 0


def cancels(request: dict[str, Any]) -> Sent:
    """An LLM that cancels what is named if it may, and says so."""
    last = request["messages"][-1]
    if last["role"] == "user" and request.get("tool_choice") == "auto":
        order = re.findall(r"\d", last["content"])[0]
        return says(calling(("cancel_order", f'{{"order":{order}}}')))
    return says({"content": "Done."})


ARMS = ("own", "handed", "synthetic")


def endpoint(url: str, **settings: Any) -> EndpointConfig:
    return EndpointConfig.model_validate(
        {"model": "m", "base_url": url, "retries": 0, "connect_s": 2, "read_s": 5, **settings}
    )


def test_an_llm_answers_the_rest_and_is_never_asked_twice(
    folder: Path, world: str, canceller: None
):
    run, name = majority(folder).path, f"{world}:Orders"
    careful = PolicyConfig(threshold=0, sensitive=["cancel_order"])
    with FakeLlm(cancels) as llm:

        def play(out: str, policy: PolicyConfig = careful, **settings: Any) -> dict[str, Any]:
            return simulate(
                [run], policy, folder / out, silent,
                environment=name, fallback="llm", endpoint=endpoint(llm.url, **settings),
            )  # fmt: skip

        report = play("a")
        (arm,) = report["arms"]
        assert (arm["success"]["value"], arm["taken"]["value"]) == (1, 0)
        spent = [arm[each]["value"] for each in ("llm_calls", "input_tokens", "output_tokens")]
        assert spent == [2, 200, 40]
        assert len(llm.requests) == 12
        assert report["endpoint"]["model"] == "m"
        assert play("a", read_s=7) == report, "patience changes no outcome"
        assert play("b")["arms"] == report["arms"], "from the cache"
        assert len(llm.requests) == 12
        with pytest.raises(RouterError, match=r"other settings \(endpoint\)"):
            play("a", temperature=1.0)
        (arm,) = play("c", ALL)["arms"]
        assert (arm["success"]["value"], arm["llm_calls"]["value"]) == (1, 1)


def test_arms_are_compared_with_each_other(folder: Path, world: str, canceller: None):
    with FakeLlm(cancels) as llm:
        report = simulate(
            [majority(folder).path], ALL, folder / "a", silent, environment=f"{world}:Orders",
            fallback="llm", endpoint=endpoint(llm.url), arms=ARMS,
        )  # fmt: skip
    assert [arm["name"] for arm in report["arms"]] == [f"majority-s0, {arm}" for arm in ARMS]
    own, *routed = report["arms"]
    assert (own["taken"]["value"], own["reasons"]) == (0, {"no router": 12})
    assert own["llm_calls"]["value"] == 2
    for arm in routed:
        assert (arm["success"]["value"], arm["taken"]["value"], arm["llm_calls"]["value"]) == (
            1, 0.5, 1,
        )  # fmt: skip
    pairs = {(pair["a"], pair["b"], pair["metric"]): pair for pair in report["paired"]}
    assert len(pairs) == 3 * 5
    saved = pairs["majority-s0, handed", "majority-s0, own", "llm_calls"]
    assert (saved["difference"], saved["n_tasks"]) == (-1, 6)


def test_a_task_whose_llm_failed_is_an_error_and_asked_again(
    folder: Path, world: str, canceller: None
):
    down = [True]

    def flaky(request: dict[str, Any]) -> Sent:
        bad = down[0] and "order 3" in request["messages"][0]["content"]
        return Sent(b"", 503) if bad else cancels(request)

    with FakeLlm(flaky) as llm:

        def play() -> dict[str, Any]:
            (arm,) = simulate(
                [majority(folder).path], ALL, folder / "a", silent, environment=f"{world}:Orders",
                fallback="llm", endpoint=endpoint(llm.url),
            )["arms"]  # fmt: skip
            return arm

        arm = play()
        assert arm["ends"] == {"done": 5, "error": 1}
        assert arm["success"]["value"] == 1
        errors = {row["id"]: row["error"] for row in rows(folder / "a") if row["error"]}
        assert errors == {"3": "fallback: NoAnswerError: HTTP 503"}
        down[0] = False
        assert play()["ends"] == {"done": 6}
        assert len(llm.requests) == 7


def test_an_llm_that_never_answers_is_not_asked_for_every_task(
    folder: Path, world: str, canceller: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_HOPELESS", 2)
    with FakeLlm(lambda request: Sent(b"", 503)) as llm:
        with pytest.raises(ConfigError, match="all 2 tasks that were tried of majority-s0 ended"):
            simulate(
                [majority(folder).path], ALL, folder / "a", silent, environment=f"{world}:Orders",
                fallback="llm", endpoint=endpoint(llm.url, concurrency=1),
            )  # fmt: skip
        assert len(llm.requests) < 6


@pytest.mark.parametrize(("name", "at_once"), [("Orders", 3), ("shared", 1)])
def test_while_an_llm_answers_other_tasks_are_played(
    folder: Path, world: str, canceller: None, name: str, at_once: int
):
    """In environments of their own; one that is there once plays one task after the other."""
    together = Barrier(at_once)

    def answers_together(request: dict[str, Any]) -> Sent:
        together.wait(20)
        return cancels(request)

    with FakeLlm(answers_together) as llm:
        report = simulate(
            [majority(folder).path], ALL, folder / "a", silent, environment=f"{world}:{name}",
            fallback="llm", endpoint=endpoint(llm.url, concurrency=3, read_s=25),
        )  # fmt: skip
    (arm,) = report["arms"]
    assert (arm["ends"], arm["success"]["value"]) == ({"done": 6}, 1)


@pytest.mark.parametrize(
    ("fallback", "arms", "why"),
    [
        ("recorded", (), "--endpoint: is of no use"),
        ("llm", ("own", "own"), "--arms: one of them comes twice"),
        ("llm", ("own", "shown"), "--arms: no arm 'shown'; the arms are: own, handed, "),
        ("llm", ("own-no-tools",), "--arms: no arm 'own-no-tools'"),
        ("none", ("own",), "--arms: show an LLM its history; use --fallback llm"),
    ],
)
def test_arms_and_endpoints_that_cannot_be(
    folder: Path, world: str, fallback: Any, arms: tuple[str, ...], why: str
):
    with pytest.raises(ConfigError) as caught:
        simulate(
            [majority(folder).path], ALL, folder / "a", silent, environment=f"{world}:Orders",
            fallback=fallback, endpoint=endpoint("http://127.0.0.1:9/v1"), arms=arms,
        )  # fmt: skip
    assert str(caught.value).startswith(why)
