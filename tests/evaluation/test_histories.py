"""The three arms online: who decides, what the LLM is shown, and what is counted, task by task."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from made_up import Scripted

from distill.errors import ConfigError, DatasetError, RouterError
from distill.evaluation.histories import AMOUNTS, experiment
from distill.history import HANDED
from distill.types import Context, Decision, Message, ToolCall, ToolSpec, Usage

ADD = ToolSpec(
    "add",
    "Adds.",
    {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
)
ARMS = ("own", "handed", "synthetic")


@dataclass(frozen=True)
class Sum:
    """Add each number that the user names; the reply must tell the total."""

    id: str
    group: str
    user: tuple[str, ...]
    system: str | None = "You add."


@dataclass(frozen=True)
class Graded:
    success: bool
    reasons: tuple[str, ...] = ()


@dataclass
class Sums:
    """An environment whose one tool adds to a total; a number of 13 is bad luck."""

    asked: Sequence[Sum]
    tools: tuple[ToolSpec, ...] = (ADD,)
    total: int = 0
    played: list[str] = field(default_factory=list)

    def tasks(self) -> Iterator[Sum]:
        return iter(self.asked)

    def reset(self, task: Sum) -> None:
        self.total, self.task = 0, task
        self.played.append(task.id)

    def execute(self, call: ToolCall) -> str:
        if call.arguments["n"] == 13:
            raise RuntimeError("bad luck")
        self.total += call.arguments["n"]
        return f"total {self.total}"

    def score(self, words: Sequence[str]) -> Graded:
        right = sum(int(said) for said in self.task.user)
        told = str(right) in words[-1] if words else False
        missing = () if told else (f"{right} was not told",)
        return Graded(told and self.total == right, missing)


UNKNOWN, STATED = Usage(), Usage(100, 10)


@dataclass(frozen=True)
class Said:
    decision: Decision | None
    words: str | None = None
    usage: Usage = UNKNOWN
    latency_ms: float | None = 5.0
    error: str | None = None


REPLY = Decision("reply")


class Fake:
    """An LLM that calls what is not added yet if it may, and else reads the last total out."""

    def __init__(self, usage: Usage = STATED, fault: Callable[..., Any] | None = None) -> None:
        self.usage, self.fault = usage, fault
        self.seen: list[tuple[tuple[Message, ...], tuple[ToolSpec, ...], str]] = []

    def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        *,
        max_tokens: int,
        tool_choice: str,
    ) -> Said:
        self.seen.append((tuple(messages), tuple(tools), tool_choice))
        fault = self.fault and self.fault(messages, tools)
        if fault is not None:
            return fault
        if tool_choice == "auto" and messages[-1].role == "user":
            call = ToolCall("add", {"n": int(messages[-1].content or "")}, "id")
            return Said(Decision("call", (call,)), "One moment.", self.usage)
        results = [m.content or "" for m in messages if "total" in (m.content or "")]
        return Said(REPLY, results[-1].rsplit("total ", 1)[1] if results else "nothing", self.usage)


def adds(context: Context) -> Decision:
    """A router that adds what the user said last, once."""
    last = context.messages[-1]
    if last.role != "user":
        return REPLY
    return Decision("call", (ToolCall("add", {"n": int(last.content or "")}),))


TASKS = [Sum(f"t{i}", f"g{i % 6}", (str(i + 20), str(i + 40))) for i in range(12)]


def play(
    out: Path,
    *,
    llm: Fake | None = None,
    router: Callable[[Context], Decision] = adds,
    tasks: Sequence[Sum] = TASKS,
    **settings: Any,
) -> dict[str, Any]:
    return experiment(
        Sums(tasks),
        llm or Fake(),
        Scripted(router),
        out,
        **{"settings": {"llm": "fake"}, "arms": ARMS, "bootstrap": 100, **settings},
    )


def rows(out: Path) -> dict[str, dict[str, Any]]:
    _, *lines = map(orjson.loads, (out / "tasks.jsonl").read_bytes().splitlines())
    return {row["id"]: row for row in lines}


def test_each_arm_solves_its_tasks_and_pays_for_its_own_requests(tmp_path: Path):
    report = play(tmp_path)
    by_arm = {arm["name"]: arm for arm in report["arms"]}
    assert list(by_arm) == list(ARMS)
    for name, arm in by_arm.items():
        assert arm["success"]["value"] == 1
        assert arm["ends"] == {"done": 12}
        requests = 4 if name == "own" else 2  # a call and its words, or the words alone; two turns
        assert arm["llm_calls"]["value"] == requests
        assert arm["input_tokens"]["value"] == 100 * requests
        assert arm["output_tokens"]["value"] == 10 * requests
        assert arm["latency_ms"]["value"] == 5 * requests
    assert all(row["steps"] == 2 for row in rows(tmp_path).values())
    pairs = {(pair["a"], pair["b"], pair["metric"]): pair for pair in report["paired"]}
    assert len(pairs) == 3 * 5
    saved = pairs["handed", "own", "llm_calls"]
    assert (saved["difference"], saved["n_tasks"]) == (-2, 12)
    assert saved["low"] <= -2 <= saved["high"] < 0
    assert pairs["synthetic", "handed", "success"]["difference"] == 0
    assert orjson.loads((tmp_path / "histories.json").read_bytes()) == orjson.loads(
        orjson.dumps(report)
    )


def test_the_llm_is_shown_each_arm_s_history_and_offered_its_tools(tmp_path: Path):
    llm = Fake()
    arms = (*ARMS, "synthetic-no-tools", "handed-with-tools")
    play(tmp_path, llm=llm, tasks=TASKS[:1], arms=arms)
    own, seen = llm.seen[:4], llm.seen[4:]
    assert all((tools, choice) == ((ADD,), "auto") for _, tools, choice in own)
    assert [message.content for message in own[-1][0] if message.calls] == ["One moment."] * 2
    assert all(choice == "none" for _, _, choice in seen)
    shown = dict(zip(arms[1:], (seen[i : i + 2] for i in range(0, 8, 2)), strict=True))
    for name, requests in shown.items():
        for messages, tools, _ in requests:
            assert tools == ((ADD,) if name in ("synthetic", "handed-with-tools") else ())
            sees_calls = any(message.calls for message in messages)
            assert sees_calls == name.startswith("synthetic")
            assert not any(message.content for message in messages if message.calls)
            assert any(message.role == "tool" for message in messages) == sees_calls
            assert (HANDED in (messages[-1].content or "")) == name.startswith("handed")
    *before, last = shown["synthetic"][1][0]
    assert last.call_id == before[-1].calls[0].id


def test_the_router_sees_what_it_was_taught_on_whatever_the_llm_is_shown(tmp_path: Path):
    seen: list[tuple[str, ...]] = []

    def watching(context: Context) -> Decision:
        seen.append(tuple(message.role for message in context.messages))
        return adds(context)

    play(tmp_path, router=watching, tasks=TASKS[:1], arms=("handed",))
    turn = ("user", "assistant", "tool")
    assert seen == [
        ("system", "user"),
        ("system", *turn),
        ("system", *turn, "assistant", "user"),
        ("system", *turn, "assistant", *turn),
    ]


def test_what_failed_has_no_outcome_and_is_counted(tmp_path: Path):
    unlucky = [*TASKS, Sum("bad", "g1", ("13",))]
    report = play(tmp_path, tasks=unlucky)
    for arm in report["arms"]:
        assert (arm["n_tasks"], arm["ends"]) == (13, {"done": 12, "error": 1})
        assert arm["success"]["value"] == 1
    row = rows(tmp_path)["handed bad"]
    assert row["success"] is None
    assert row["error"] == "environment: RuntimeError: bad luck"
    assert all(pair["n_tasks"] == 12 for pair in report["paired"])


def test_an_llm_that_fails_or_raises_has_no_outcome(tmp_path: Path):
    def failing(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> Said | None:
        if messages[-1].content == "20":
            return Said(None, error="timeout: after 3 attempts")
        if messages[-1].content == "21":
            raise ConnectionError("gone")
        return None

    report = play(tmp_path, llm=Fake(fault=failing))
    found = rows(tmp_path)
    assert found["own t0"]["error"] == "LLM: timeout: after 3 attempts"
    assert found["own t1"]["error"] == "LLM: ConnectionError: gone"
    own, handed, _ = report["arms"]
    assert own["ends"] == {"error": 2, "done": 10}
    assert handed["ends"] == {"done": 12}
    pairs = {(pair["a"], pair["b"]): pair["n_tasks"] for pair in report["paired"]}
    assert pairs == {("handed", "own"): 10, ("synthetic", "own"): 10, ("synthetic", "handed"): 12}


def test_tokens_that_nobody_stated_are_not_known(tmp_path: Path):
    report = play(tmp_path, llm=Fake(usage=Usage(100, None)), arms=("own", "handed"))
    for arm in report["arms"]:
        assert arm["output_tokens"] is None
        assert arm["input_tokens"] is not None
    assert {pair["metric"] for pair in report["paired"]} == {"success", *AMOUNTS} - {
        "output_tokens"
    }


def test_calls_that_do_not_fit_are_not_executed(tmp_path: Path):
    """A router's are left to the LLM, an LLM's own are answered with an error."""

    def wrong(context: Context) -> Decision:
        last = context.messages[-1]
        made = {
            "20": ToolCall("add", {"n": "many"}),
            "21": ToolCall("sub", {"n": 1}),
            "22": ToolCall("add"),
        }
        return Decision("call", (made[last.content],)) if last.content in made else adds(context)

    play(tmp_path, router=wrong, tasks=TASKS[:4])
    found = rows(tmp_path)
    assert [found[f"handed t{i}"]["refused"] for i in range(4)] == [1, 1, 1, 0]
    assert [found[f"handed t{i}"]["success"] for i in range(4)] == [False, False, False, True]
    assert found["handed t0"]["reasons"] == ["60 was not told"]

    def unknown(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> Said | None:
        if messages[-1].content == "20":
            return Said(Decision("call", (ToolCall("sub", {}, "x"),)), None, Usage(1, 1))
        return None

    llm = Fake(fault=unknown)
    play(tmp_path / "llm", llm=llm, tasks=TASKS[:1], arms=("own",))
    assert rows(tmp_path / "llm")["own t0"]["refused"] == 1
    assert llm.seen[1][0][-1].content == "Error: no tool sub"


def test_an_llm_that_calls_where_words_are_wanted_is_asked_again_without_tools(tmp_path: Path):
    def eager(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> Said | None:
        call = ToolCall("add", {"n": 1})
        return Said(Decision("call", (call,)), None, Usage(1, 1)) if tools else None

    play(tmp_path, llm=Fake(fault=eager), tasks=TASKS[:1], arms=("synthetic",))
    row = rows(tmp_path)["synthetic t0"]
    assert (row["success"], row["llm_calls"], row["steps"]) == (True, 4, 2)

    def mad(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> Said:
        return Said(Decision("call", (ToolCall("add", {"n": 1}),)))

    with pytest.raises(DatasetError, match="none ended"):
        play(tmp_path / "mad", llm=Fake(fault=mad), tasks=TASKS[:1], arms=("handed",))
    assert rows(tmp_path / "mad")["handed t0"]["error"] == "LLM: calls where it is offered no tools"


def test_a_task_that_never_ends_has_failed(tmp_path: Path):
    def endless(context: Context) -> Decision:
        return Decision("call", (ToolCall("add", {"n": 1}),))

    report = play(tmp_path, router=endless, tasks=TASKS[:1], arms=("handed",), most_steps=4)
    row = rows(tmp_path)["handed t0"]
    assert (row["end"], row["steps"], row["success"]) == ("too many steps", 4, False)
    assert report["arms"][0]["success"]["value"] == 0


def test_a_killed_experiment_goes_on_after_the_last_task(tmp_path: Path):
    def dying(stage: str, done: int, total: int | None = None) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(tmp_path, progress=dying)
    assert len(rows(tmp_path)) == 5
    llm = Fake()
    report = play(tmp_path, llm=llm)
    assert len({row["task"] for row in rows(tmp_path).values()}) == 12
    assert report == play(tmp_path / "fresh")
    assert len(llm.seen) == 12 * 8 - (8 + 6)  # t0 under all arms, t1 under own and handed
    with pytest.raises(RouterError, match=r"other settings \(llm\)"):
        play(tmp_path, settings={"llm": "another"})


@pytest.mark.parametrize("arms", [(), ("own", "own"), ("own-no-tools",)])
def test_arms_that_cannot_be_are_refused(tmp_path: Path, arms: tuple[Any, ...]):
    with pytest.raises(ConfigError):
        play(tmp_path, arms=arms)
    assert not (tmp_path / "tasks.jsonl").exists()
