"""The callback: a trace says what a program did, and counts as decisions what the LM chose."""

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy import lm15
from dspy.predict.react_v2 import ReActV2
from shop_program import (
    ANSWER,
    FINISH,
    QUESTION,
    REPLY,
    SIGNATURE,
    TOOLS,
    Says,
    calls,
    get_order,
    lm,
    step,
)

from distill.integrations.dspy import RoutedReAct, TraceRecorder
from distill.traces import read
from distill.types import Trace

GET = ("get_order", {"order": 7})


@pytest.fixture
def recorder(tmp_path: Path) -> TraceRecorder:
    return TraceRecorder(tmp_path / "traces.jsonl")


def recorded(recorder: TraceRecorder) -> list[Trace]:
    """Every trace; none of the lines is rejected."""
    if not recorder.path.exists():
        return []
    rejected: list[str] = []
    found = list(read(recorder.path, on_reject=lambda line, reason: rejected.append(reason)))
    assert rejected == []
    return found


def run(recorder: TraceRecorder, program: Any, *answers: dict[str, Any]) -> Any:
    with dspy.context(lm=lm(*answers), callbacks=[recorder]):
        return program(question=QUESTION)


def made(trace: Trace) -> list[list[tuple[str, Any]]]:
    return [[(c.name, c.arguments) for c in m.calls] for m in trace.messages if m.calls]


def results(trace: Trace) -> list[str | None]:
    return [message.content for message in trace.messages if message.role == "tool"]


def decided(trace: Trace) -> list[str]:
    """Of the messages that are decisions, the tool or the words."""
    said = [trace.messages[i] for i in trace.decisions or ()]
    return [message.content or message.calls[0].name for message in said]


def test_a_run_of_react_reads_back_as_what_it_did(recorder: TraceRecorder):
    run(recorder, dspy.ReAct(SIGNATURE, TOOLS), step("get_order", order=7), FINISH, ANSWER)
    (trace,) = recorded(recorder)
    assert recorder.written == 1
    assert made(trace) == [[GET]]
    assert results(trace) == ["order 7: shipped"]
    assert [message.role for message in trace.messages][:2] == ["system", "user"]
    assert trace.messages[1].content == QUESTION
    assert decided(trace) == ["get_order", "Shipped."]
    assert [tool.name for tool in trace.tools] == ["get_order", "list_orders"]
    assert (trace.teacher, trace.usage.llm_calls) == ("dummy", 3)
    assert trace.outcome.success is None


def test_a_tool_that_raises_is_recorded_with_what_it_said(recorder: TraceRecorder):
    script = (step("get_order", order=-1), step("get_order", order=7), FINISH, ANSWER)
    run(recorder, dspy.ReAct(SIGNATURE, TOOLS), *script)
    (trace,) = recorded(recorder)
    assert results(trace) == ["Execution error in get_order: no order -1", "order 7: shipped"]


def test_a_program_that_fails_leaves_what_it_did_without_a_reply(recorder: TraceRecorder):
    program = dspy.ReAct(SIGNATURE, TOOLS)

    def extract(**inputs: Any) -> Any:
        raise RuntimeError("no more")

    program.extract = extract
    with pytest.raises(RuntimeError, match="no more"):
        run(recorder, program, step("get_order", order=7), FINISH)
    (trace,) = recorded(recorder)
    assert trace.messages[-1].role == "tool"
    assert decided(trace) == ["get_order"]


def test_what_a_router_chose_teaches_nothing(recorder: TraceRecorder):
    router = Says(calls(GET, ("list_orders", {})), calls(GET, confidence=None))
    run(
        recorder,
        RoutedReAct(SIGNATURE, TOOLS, router=router),
        *(step("list_orders"), FINISH, ANSWER),
    )
    (trace,) = recorded(recorder)
    assert made(trace) == [[GET, ("list_orders", {})], [("list_orders", {})]]
    assert decided(trace) == ["list_orders", "Shipped."]


def test_a_reply_that_the_router_or_nobody_chose_is_no_decision(recorder: TraceRecorder):
    run(recorder, RoutedReAct(SIGNATURE, TOOLS, router=Says(calls(GET), REPLY)), ANSWER)
    run(recorder, dspy.ReAct(SIGNATURE, TOOLS, 1), step("get_order", order=7), ANSWER)
    routed, cut_off = recorded(recorder)
    assert decided(routed) == []
    assert decided(cut_off) == ["get_order"]
    assert routed.messages[-1].content == cut_off.messages[-1].content == "Shipped."


def test_an_agent_that_is_a_tool_has_a_trace_of_its_own(recorder: TraceRecorder):
    inner = dspy.ReAct("task -> answer", [get_order])

    def delegate(task: str) -> str:
        """Hands a task on."""
        get_order_again = dspy.Tool(get_order)
        get_order_again(order=1)  # what a tool does inside is not the agent's choice
        return str(inner(task=task).answer)

    script = (
        step("delegate", task="look at 7"),
        *(step("get_order", order=7), FINISH, {"reasoning": "", "answer": "Late."}),
        *(FINISH, ANSWER),
    )
    run(recorder, dspy.ReAct(SIGNATURE, [delegate]), *script)
    first, outer = recorded(recorder)
    assert made(first) == [[GET]]
    assert made(outer) == [[("delegate", {"task": "look at 7"})]]
    assert results(outer) == ["Late."]
    assert (first.usage.llm_calls, outer.usage.llm_calls) == (3, 3)
    assert decided(outer) == ["delegate", "Shipped."]


def test_an_agent_that_is_a_part_is_recorded_in_place_of_the_whole(recorder: TraceRecorder):
    class Desk(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.agent = dspy.ReAct("task -> answer", TOOLS)

        def forward(self, question: str) -> Any:
            return self.agent(task=f"please: {question}")

    run(recorder, Desk(), step("get_order", order=7), FINISH, ANSWER)
    (trace,) = recorded(recorder)
    assert trace.messages[1].content == f"please: {QUESTION}"
    assert made(trace) == [[GET]]


def test_programs_without_agents_are_recorded_whole(recorder: TraceRecorder):
    class Lookup(dspy.Module):
        """Calls a tool itself, asks, and returns a bare text."""

        def __init__(self) -> None:
            super().__init__()
            self.answer = dspy.Predict("question, found -> answer")
            self.look = dspy.Tool(get_order)

        def forward(self, question: str) -> str:
            return str(self.answer(question=question, found=self.look(order=7)).answer)

    run(recorder, Lookup(), ANSWER)
    (trace,) = recorded(recorder)
    assert made(trace) == [[GET]]
    assert [tool.name for tool in trace.tools] == ["get_order"]
    assert trace.messages[-1].content == "Shipped."
    assert decided(trace) == ["Shipped."], "no LM was asked before the call"


def test_calls_that_are_left_to_whoever_asked_are_the_decision(recorder: TraceRecorder):
    signature = dspy.Signature("question, tools: list[dspy.Tool] -> calls: dspy.ToolCalls")
    answer = {"calls": {"tool_calls": [{"name": "get_order", "args": {"order": 7}}]}}
    with dspy.context(lm=lm(answer), callbacks=[recorder]):
        dspy.Predict(signature)(question=QUESTION, tools=[dspy.Tool(get_order)])
    (trace,) = recorded(recorder)
    assert made(trace) == [[GET]]
    assert [tool.name for tool in trace.tools] == ["get_order"]
    assert trace.messages[1].content == QUESTION
    assert len(trace.decisions or ()) == 1


def test_programs_that_ask_no_lm_and_call_no_tool_leave_no_trace(recorder: TraceRecorder):
    class Echo(dspy.Module):
        def forward(self, question: str) -> str:
            return question

    run(recorder, Echo())
    assert recorded(recorder) == []


def test_turns_of_one_conversation_stay_together(recorder: TraceRecorder):
    program = dspy.ReAct("past: dspy.History, question -> answer", TOOLS)
    past: list[dict[str, str]] = []
    for question in ("hi", "and order 7?", "hello"):
        history = dspy.History(messages=past if question != "hello" else [])
        with dspy.context(lm=lm(FINISH, ANSWER), callbacks=[recorder]):
            found = program(question=question, past=history)
        past = [*past, {"question": question, "answer": found.answer}]
    first, second, other = recorded(recorder)
    assert [message.content for message in second.messages[1:4]] == [
        "hi",
        "Shipped.",
        "and order 7?",
    ]
    assert len(second.decisions or ()) == 1, "earlier replies are context"
    assert first.group == second.group != other.group


class Counting:
    """An LM engine that counts tokens."""

    def complete(self, request: lm15.Request) -> lm15.Response:
        text = "[[ ## answer ## ]]\nShipped.\n\n[[ ## completed ## ]]"
        return lm15.Response(
            id=None,
            model="counting",
            message=lm15.Message.assistant([lm15.TextPart(text)]),
            finish_reason="stop",
            usage=lm15.Usage(input_tokens=11, output_tokens=5, total_tokens=16),
        )

    def close(self) -> None:
        pass


def test_tokens_are_those_that_dspy_tracked_or_not_known(recorder: TraceRecorder):
    used = dspy.LM("made/up", engine=Counting(), cache=False)
    for track in (True, False):
        with dspy.context(lm=used, callbacks=[recorder], track_usage=track):
            dspy.Predict(SIGNATURE)(question=QUESTION)
    run(recorder, dspy.Predict(SIGNATURE), ANSWER)
    known, *unknown = recorded(recorder)
    assert (known.usage.input_tokens, known.usage.output_tokens) == (11, 5)
    assert [trace.usage.input_tokens for trace in unknown] == [None, None]
    assert known.usage.duration_ms is not None


def test_secrets_of_the_environment_are_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SHOP_API_KEY", "hunter2hunter2")
    monkeypatch.setenv("SHORT_TOKEN", "7")
    recorder = TraceRecorder(tmp_path / "traces.jsonl")

    def fetch(url: str) -> str:
        """Fetches."""
        raise OSError(f"401 for {url}?key={os.environ['SHOP_API_KEY']}")

    script = (step("fetch", url="http://shop/hunter2hunter2"), FINISH, ANSWER)
    run(recorder, dspy.ReAct(SIGNATURE, [fetch]), *script)
    (trace,) = recorded(recorder)
    assert made(trace) == [[("fetch", {"url": "http://shop/***"})]]
    assert results(trace) == ["Execution error in fetch: 401 for http://shop/***?key=***"]
    assert b"hunter2" not in recorder.path.read_bytes()


def test_sizes_are_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    def long(n: int) -> str:
        """Long."""
        return "x" * n

    recorder = TraceRecorder(tmp_path / "traces.jsonl", max_chars=100, max_bytes=3000)
    program = dspy.ReAct(SIGNATURE, [long])
    run(recorder, program, step("long", n=5000), FINISH, ANSWER)
    (trace,) = recorded(recorder)
    assert [len(result or "") for result in results(trace)] == [100]
    with caplog.at_level(logging.WARNING):
        run(recorder, program, *[step("long", n=5000)] * 19, FINISH, ANSWER)
    assert (recorder.written, recorder.left_out) == (1, 1)
    assert "left out" in caplog.text
    assert len(recorded(recorder)) == 1


@pytest.mark.parametrize("order", [2**70, "\ud800"])
def test_arguments_that_no_file_can_hold_are_not_filled(recorder: TraceRecorder, order: Any):
    class Odd(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.look = dspy.Tool(
                lambda order: "none", name="look", args={"order": {}}, arg_types={}
            )

        def forward(self, question: str) -> Any:
            return self.look(order=order)

    run(recorder, Odd())
    (trace,) = recorded(recorder)
    assert made(trace) == [[("look", None)]]


def test_parallel_calls_of_tasks_keep_their_results(recorder: TraceRecorder):
    async def wait(n: int) -> str:
        """Waits."""
        await asyncio.sleep(0.01 * (3 - n))
        return f"after {n}"

    class Both(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wait = dspy.Tool(wait)

        async def aforward(self, question: str) -> str:
            return " ".join(await asyncio.gather(*(self.wait.acall(n=n) for n in range(3))))

    async def both() -> None:
        with dspy.context(callbacks=[recorder]):
            await Both().acall(question=QUESTION)

    asyncio.run(both())
    (trace,) = recorded(recorder)
    assert made(trace) == [[("wait", {"n": 0}), ("wait", {"n": 1}), ("wait", {"n": 2})]]
    assert results(trace) == ["after 0", "after 1", "after 2"]


def test_threads_write_whole_lines(recorder: TraceRecorder):
    def one(i: int) -> None:
        with dspy.context(lm=lm({"answer": "x" * 5000}), callbacks=[recorder]):
            dspy.Predict(SIGNATURE)(question=f"question {i}")

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(copy_context().run, one, i) for i in range(24)]:
            done.result()
    asked = {trace.messages[1].content for trace in recorded(recorder)}
    assert asked == {f"question {i}" for i in range(24)}


def test_a_full_disk_stops_no_program(recorder: TraceRecorder, monkeypatch, caplog):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    run(recorder, dspy.Predict(SIGNATURE), ANSWER)
    before = recorder.path.read_bytes()
    monkeypatch.setattr("distill.runs.os.fsync", full)
    with caplog.at_level(logging.WARNING):
        assert run(recorder, dspy.Predict(SIGNATURE), ANSWER).answer == "Shipped."
    assert "No space left" in caplog.text
    assert (recorder.written, recorder.path.read_bytes()) == (1, before)


def test_dspys_newer_agent_is_recorded_alike(recorder: TraceRecorder):
    """It may call several tools at once, and replies by a tool."""

    def answer(*made: tuple[str, dict[str, Any]]) -> dict[str, Any]:
        chosen = [{"name": name, "args": arguments} for name, arguments in made]
        return {"next_thought": "Hm.", "tool_calls": {"tool_calls": chosen}}

    script = (answer(GET, ("list_orders", {})), answer(("submit", {"answer": "Shipped."})))
    run(recorder, ReActV2(SIGNATURE, TOOLS), *script)
    (trace,) = recorded(recorder)
    assert made(trace) == [[GET, ("list_orders", {})]]
    assert results(trace) == ["order 7: shipped", '["A", "B"]']
    assert [tool.name for tool in trace.tools] == ["get_order", "list_orders"]
    assert decided(trace) == ["get_order", "Shipped."]
