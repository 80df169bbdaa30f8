"""RoutedReAct: what the router decides, what is left to the LM, and what the LM is shown."""

import asyncio
import copy
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy import lm15
from dspy.utils import DummyLM
from hypothesis import given, settings
from hypothesis import strategies as st
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
    made,
    requests,
    step,
)

from distill.config import PolicyConfig
from distill.dataset.points import decision_points
from distill.errors import RouterError
from distill.integrations.dspy import RoutedReAct, TraceRecorder
from distill.policy import Policy
from distill.traces import read
from distill.types import Context, Decision

GET = ("get_order", {"order": 7})
LIST = ("list_orders", {})


def program(*decisions: Decision, **options: Any) -> RoutedReAct:
    return RoutedReAct(SIGNATURE, TOOLS, router=Says(*decisions), **options)


def test_what_the_router_is_sure_of_costs_the_llm_no_call():
    used = lm(ANSWER)
    with dspy.context(lm=used):
        found = program(calls(GET, LIST), REPLY)(question=QUESTION)
    assert found.answer == "Shipped."
    assert made(found) == [
        (*GET, "order 7: shipped"),
        (*LIST, ["A", "B"]),
        ("finish", {}, "Completed."),
    ]
    assert (found.routing.lm_calls, found.routing.router_calls, found.routing.fallbacks) == (
        1,
        2,
        0,
    )


def test_the_llm_sees_the_routers_calls_as_its_own():
    used = lm(step("list_orders"), ANSWER)
    with dspy.context(lm=used):
        program(calls(GET), Decision("reply"), REPLY)(question=QUESTION)
    _, last = requests(used)
    roles = [message["role"] for message in last]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "tool", "user"]
    assert QUESTION in last[1]["content"]
    assert last[2]["content"] is None
    assert last[2]["tool_calls"][0]["function"]["name"] == "get_order"
    assert json.loads(last[2]["tool_calls"][0]["function"]["arguments"]) == {"order": 7}
    assert last[3]["tool_call_id"] == last[2]["tool_calls"][0]["id"]
    assert last[3]["content"] == "order 7: shipped"
    assert "Hm." in last[4]["content"], "its own thought stands beside its own call"
    assert last[5]["content"] == '["A", "B"]'


def test_handed_results_are_text_without_a_sign_of_a_tool():
    used = lm(ANSWER)
    with dspy.context(lm=used):
        program(calls(GET, LIST), REPLY, history="handed")(question=QUESTION)
    (last,) = requests(used)
    assert [message["role"] for message in last] == ["system", "user"]
    assert 'Looked up for you:\norder 7: shipped\n["A", "B"]' in last[1]["content"]
    assert "get_order" not in last[1]["content"]


@pytest.mark.parametrize(
    "decision",
    [
        calls(GET, confidence=0.5),
        calls(GET, confidence=None),
        calls(("get_order", None)),
        calls(("get_order", {"order": "seven"})),
        calls(("get_order", {})),
        calls(("refund", {"order": 7})),
        calls(GET, ("refund", {})),
        Decision("reply", confidence=None),
        Decision("reply", confidence=0.2),
    ],
    ids=lambda decision: f"{[c.name for c in decision.calls]}-{decision.confidence}",
)
def test_what_cannot_be_relied_on_is_the_llms_step(decision: Decision):
    with dspy.context(lm=lm(step("list_orders"), ANSWER)):
        found = program(decision, REPLY)(question=QUESTION)
    assert made(found)[0] == (*LIST, ["A", "B"])
    assert len(made(found)) == 2
    assert (found.routing.lm_calls, found.routing.fallbacks) == (2, 1)


def test_a_policy_is_asked_about_what_could_be_done_and_nothing_else():
    asked: list[tuple[Decision, Context]] = []

    def never(decision: Decision, context: Context) -> bool:
        asked.append((decision, context))
        return False

    unfilled = calls(("get_order", None))
    with dspy.context(lm=lm(FINISH, ANSWER)):
        program(unfilled, policy=never)(question=QUESTION)
    assert asked == []
    with dspy.context(lm=lm(FINISH, ANSWER)):
        found = program(calls(GET), policy=never)(question=QUESTION)
    ((decision, context),) = asked
    assert decision == calls(GET)
    assert [tool.name for tool in context.tools] == ["get_order", "list_orders"]
    assert [name for name, _, _ in made(found)] == ["finish"]


def test_the_projects_own_policy_takes_what_it_allows_and_no_refusal_for_a_yes():
    never = Policy(PolicyConfig(threshold=0.5, sensitive=["get_order"]))
    allow = Policy(PolicyConfig(threshold=0.5))
    for policy, by_router in ((allow, 1), (never, 0)):
        with dspy.context(lm=lm(FINISH, ANSWER)):
            found = program(calls(GET), REPLY, policy=policy)(question=QUESTION)
        assert [name for name, _, _ in made(found)] == ["get_order"] * by_router + ["finish"]


def test_calls_just_made_are_not_made_again_on_the_routers_word():
    with dspy.context(lm=lm(FINISH, ANSWER)):
        found = program(calls(GET), calls(GET))(question=QUESTION)
    assert [name for name, _, _ in made(found)] == ["get_order", "finish"]
    assert found.routing.fallbacks == 1


def test_a_tool_that_raises_says_so_and_the_loop_goes_on():
    router = Says(calls(("get_order", {"order": -1})), calls(LIST), REPLY)
    with dspy.context(lm=lm(ANSWER)):
        found = RoutedReAct(SIGNATURE, TOOLS, router=router)(question=QUESTION)
    (_, _, result), *others = made(found)
    assert result == "Execution error in get_order: no order -1"
    assert [name for name, _, _ in others] == ["list_orders", "finish"]
    assert router.seen[1].messages[-1].content == result
    with dspy.context(lm=lm(step("get_order", order=-2), FINISH, ANSWER)):
        found = program()(question=QUESTION)
    assert [name for name, _, _ in made(found)] == ["get_order", "finish"]


@pytest.mark.parametrize("result", [[1, 2], {"a": None}, {1: {2}}, None, float("nan"), "\ud800"])
def test_whatever_a_tool_returns_is_shown(result: Any):
    def look() -> Any:
        """Looks."""
        return result

    router = Says(calls(("look", {})), Decision("reply"))
    with dspy.context(lm=lm(FINISH, ANSWER)):
        found = RoutedReAct(SIGNATURE, [look], router=router)(question=QUESTION)
    assert found.answer == "Shipped."
    assert made(found)[0][2] is result


def test_a_tool_that_the_llm_makes_up_ends_the_loop_not_the_program(caplog):
    with caplog.at_level(logging.WARNING), dspy.context(lm=lm(step("fly"), step("fly"), ANSWER)):
        found = program(calls(GET))(question=QUESTION)
    assert found.answer == "Shipped."
    assert [name for name, _, _ in made(found)] == ["get_order"]
    assert "no tool that can be called" in caplog.text


def test_turns_are_bounded_whoever_takes_them():
    router = Says(calls(GET), calls(LIST), calls(GET), calls(LIST))
    with dspy.context(lm=lm(ANSWER)):
        found = RoutedReAct(SIGNATURE, TOOLS, 3, router=router)(question=QUESTION)
    assert len(made(found)) == 3
    router = Says(calls(GET), calls(LIST))
    with dspy.context(lm=lm(ANSWER)):
        found = RoutedReAct(SIGNATURE, TOOLS, router=router)(question=QUESTION, max_iters=1)
    assert len(made(found)) == 1
    assert found.answer == "Shipped."


def test_tools_may_be_coroutines():
    async def get_order(order: int) -> str:
        """Reads."""
        await asyncio.sleep(0)
        if order < 0:
            raise LookupError("none")
        return f"order {order}: late"

    async def answer() -> dspy.Prediction:
        router = Says(calls(GET), calls(("get_order", {"order": -1})), Decision("reply"), REPLY)
        routed = RoutedReAct(SIGNATURE, [get_order, dspy.Tool(TOOLS[1])], router=router)
        with dspy.context(lm=lm(step("list_orders"), ANSWER)):
            return await routed.acall(question=QUESTION)

    found = asyncio.run(answer())
    assert [result for _, _, result in made(found)] == [
        "order 7: late",
        "Execution error in get_order: none",
        ["A", "B"],
        "Completed.",
    ]
    assert (found.routing.lm_calls, found.routing.router_calls, found.routing.fallbacks) == (
        2,
        4,
        1,
    )


def test_an_earlier_conversation_is_seen_by_router_and_llm():
    past = dspy.History(messages=[{"question": "hi", "answer": "Hello!"}])
    router = Says(calls(GET), REPLY)
    used = lm(ANSWER)
    with dspy.context(lm=used):
        RoutedReAct("past: dspy.History, question -> answer", TOOLS, router=router)(
            past=past, question=QUESTION
        )
    first, *_ = router.seen
    assert [message.role for message in first.messages] == ["system", "user", "assistant", "user"]
    assert [message.content for message in first.messages[1:]] == ["hi", "Hello!", QUESTION]
    (last,) = requests(used)
    roles = [message["role"] for message in last]
    assert roles == ["system", "user", "assistant", "user", "assistant", "tool", "user"]


def test_a_router_is_asked_what_it_was_trained_on(tmp_path: Path):
    """The contexts of a recorded run are, one by one, those that a router sees in such a run."""
    script = (step("get_order", order=7), step("list_orders"), FINISH, ANSWER)
    with dspy.context(lm=lm(*script), callbacks=[TraceRecorder(tmp_path / "traces.jsonl")]):
        dspy.ReAct(SIGNATURE, TOOLS)(question=QUESTION)
    (trace,) = read(tmp_path / "traces.jsonl")
    router = Says(calls(GET), calls(LIST), REPLY)
    with dspy.context(lm=lm(ANSWER)):
        RoutedReAct(SIGNATURE, TOOLS, router=router)(question=QUESTION)
    assert [point.context for point in decision_points(trace)] == router.seen


@given(
    st.lists(
        st.builds(
            calls,
            st.tuples(
                st.sampled_from(["get_order", "list_orders", "refund"]),
                st.none() | st.dictionaries(st.sampled_from(["order", "x"]), st.integers(0, 3)),
            ),
            confidence=st.none() | st.floats(0, 1),
        ),
        max_size=6,
    )
)
@settings(max_examples=40)
def test_whatever_a_router_says_the_llm_answers(decisions: list[Decision]):
    done: list[int] = []

    def get_order(order: int) -> str:
        """Reads."""
        done.append(order)
        return "shipped"

    with dspy.context(lm=lm(FINISH, ANSWER)):
        routed = RoutedReAct(SIGNATURE, [get_order, TOOLS[1]], router=Says(*decisions))
        found = routed(question=QUESTION)
    assert found.answer == "Shipped."
    named = [made_call for made_call in made(found) if made_call[0] == "get_order"]
    assert [arguments["order"] for _, arguments, _ in named if "x" not in arguments] == done
    assert found.routing.lm_calls == 1 + found.routing.fallbacks
    assert found.routing.fallbacks == 1, "the LM finishes once it is asked"
    assert all(name != "refund" for name, _, _ in made(found))


def test_the_oldest_steps_are_left_out_of_a_context_window_that_is_too_small():
    routed = program(calls(GET), calls(LIST), REPLY)
    given_up: list[int] = []

    class Small(dspy.Module):
        def forward(self, **inputs: Any) -> dspy.Prediction:
            given_up.append(len(inputs["history"].messages))
            if given_up[-1] > 1:
                raise dspy.ContextWindowExceededError(message="too long")
            assert inputs["history"].messages[0]["question"] == QUESTION
            return dspy.Prediction(**ANSWER)

    routed.extract = Small()
    with dspy.context(lm=lm()):
        assert routed(question=QUESTION).answer == "Shipped."
    assert given_up == [2, 1]


@pytest.mark.parametrize("adapter", [dspy.JSONAdapter, dspy.XMLAdapter])
def test_every_adapter_carries_the_routers_calls(adapter: type[dspy.Adapter]):
    used = DummyLM([ANSWER], adapter=adapter())
    with dspy.context(lm=used, adapter=adapter()):
        found = program(calls(GET), REPLY)(question=QUESTION)
    assert found.answer == "Shipped."
    (last,) = requests(used)
    assert [message["role"] for message in last] == ["system", "user", "assistant", "tool", "user"]


def test_an_lm_is_sent_calls_as_calls():
    """What DSPy makes of the messages on their way to a provider."""
    sent: list[lm15.Request] = []

    class Engine:
        def complete(self, request: lm15.Request) -> lm15.Response:
            sent.append(request)
            text = "".join(f"[[ ## {name} ## ]]\n{value}\n\n" for name, value in ANSWER.items())
            return lm15.Response(
                id=None,
                model="engine",
                message=lm15.Message.assistant([lm15.TextPart(text)]),
                finish_reason="stop",
                usage=lm15.Usage(input_tokens=9, output_tokens=1, total_tokens=10),
            )

        def close(self) -> None:
            pass

    used = dspy.LM("made/up", engine=Engine(), cache=False)
    with dspy.context(lm=used, track_usage=True):
        found = program(calls(GET), REPLY)(question=QUESTION)
    (request,) = sent
    kinds = [(message.role, message.parts[0].type) for message in request.messages]
    assert kinds[1:3] == [("assistant", "tool_call"), ("tool", "tool_result")]
    assert found.get_lm_usage()["made/up"]["prompt_tokens"] == 9


def test_optimizers_take_it_for_a_program_like_any_other():
    routed = program(*[calls(GET), REPLY] * 4)
    examples = [dspy.Example(question=f"q{i}").with_inputs("question") for i in range(2)]
    optimizer = dspy.BootstrapFewShot(
        metric=lambda example, prediction, trace=None: prediction.answer == "Shipped.",
        max_labeled_demos=0,
    )
    with dspy.context(lm=lm(*[ANSWER] * 4)):
        better = optimizer.compile(routed, trainset=examples)
        assert better(question=QUESTION).routing.lm_calls == 1
    assert len(better.extract.predict.demos) == 2
    assert better.router is not routed.router


def test_without_dspy_its_extra_is_named():
    hidden = "import sys; sys.modules['dspy'] = None; import distill.integrations.dspy"
    done = subprocess.run(
        [sys.executable, "-c", hidden], capture_output=True, text=True, check=False, timeout=120
    )
    assert "pip install 'tool-router-distill[dspy]'" in done.stderr


def test_threads_share_one_program():
    routed = RoutedReAct(SIGNATURE, TOOLS, router=Says(*[REPLY] * 8))
    examples = [dspy.Example(question=f"q{i}").with_inputs("question") for i in range(8)]
    with dspy.context(lm=lm(*[ANSWER] * 8)):
        found = routed.batch(examples, num_threads=4, disable_progress_bar=True)
    assert [prediction.routing.lm_calls for prediction in found] == [1] * 8


class TestSaved:
    @pytest.fixture
    def folder(self, trained: Callable[[str], Any]) -> str:
        return str(trained("tfidf").folder)

    def test_a_program_names_its_router_and_no_weights(self, folder: str, tmp_path: Path):
        routed = RoutedReAct(SIGNATURE, TOOLS, router=folder, policy=0.7)
        routed.save(tmp_path / "program.json")
        state = json.loads((tmp_path / "program.json").read_text())
        assert state["router"] == {"path": folder, "threshold": 0.7}
        loaded = RoutedReAct(SIGNATURE, TOOLS, router=Says())
        loaded.load(tmp_path / "program.json")
        assert loaded.router.dump_state() == state["router"]
        context = Context((), ())
        assert loaded.router(context) == routed.router(context)

    def test_no_file_loosens_a_policy_of_the_codes_own(self, folder: str, tmp_path: Path):
        RoutedReAct(SIGNATURE, TOOLS, router=folder, policy=0.0).save(tmp_path / "lax.json")
        strict = RoutedReAct(
            SIGNATURE, TOOLS, router=folder, policy=lambda decision, context: False
        )
        strict.load(tmp_path / "lax.json")
        assert not strict.router.takes(REPLY, Context((), ()))

    def test_it_may_be_part_of_a_larger_one(self, folder: str, tmp_path: Path):
        class Desk(dspy.Module):
            def __init__(self, router: Any) -> None:
                super().__init__()
                self.agent = RoutedReAct(SIGNATURE, TOOLS, router=router)

        Desk(folder).save(tmp_path / "desk.json")
        loaded = Desk(Says())
        loaded.load(tmp_path / "desk.json")
        assert loaded.agent.router.place == folder

    def test_a_router_that_is_gone_is_named(self, folder: str, tmp_path: Path):
        RoutedReAct(SIGNATURE, TOOLS, router=folder).save(tmp_path / "program.json")
        moved = (tmp_path / "program.json").read_text().replace(folder, "/nowhere")
        (tmp_path / "program.json").write_text(moved)
        routed = RoutedReAct(SIGNATURE, TOOLS, router=folder)
        with pytest.raises(RouterError, match=r"/nowhere: no router's folder lies there; .*state"):
            routed.load(tmp_path / "program.json")
        assert routed.router.place == folder, "it is left as it was"
        with pytest.raises(RouterError, match="/nowhere"):
            RoutedReAct(SIGNATURE, TOOLS, router="/nowhere")

    def test_a_plain_react_hands_over_what_it_has_learned(self, tmp_path: Path):
        plain = dspy.ReAct(SIGNATURE, TOOLS)
        plain.react.demos = [dspy.Example(question="q", trajectory="", **FINISH)]
        plain.extract.predict.signature = plain.extract.predict.signature.with_instructions(
            "Be brief"
        )
        plain.save(tmp_path / "plain.json")
        routed = program()
        routed.load(tmp_path / "plain.json")
        assert [demo["next_tool_name"] for demo in routed.react.demos] == ["finish"]
        assert routed.extract.predict.signature.instructions == "Be brief"

    def test_a_router_given_as_an_object_has_no_place(self, tmp_path: Path):
        router = Says()
        routed = RoutedReAct(SIGNATURE, TOOLS, router=router)
        routed.save(tmp_path / "program.json")
        routed.load(tmp_path / "program.json")
        with dspy.context(lm=lm(FINISH, ANSWER)):
            routed(question=QUESTION)
        assert len(router.seen) == 1, "its own router stays"

    def test_weights_are_neither_copied_nor_pickled(self, tmp_path: Path):
        router = Says()
        routed = copy.deepcopy(RoutedReAct(SIGNATURE, TOOLS, router=router))
        with dspy.context(lm=lm(FINISH, ANSWER)):
            routed.reset_copy()(question=QUESTION)
        assert len(router.seen) == 1
        with pytest.raises(RuntimeError, match=r"save the program's state as \.json"):
            routed.save(tmp_path / "whole", save_program=True)


def test_a_closed_router_leaves_other_tools_to_the_llm(trained: Callable[[str], Any]):
    """Its confidence says nothing of a tool that it does not know."""

    def fly(to: str) -> str:
        """Flies."""
        return to

    with dspy.context(lm=lm(step("fly", to="Rome"), FINISH, ANSWER)):
        routed = RoutedReAct(
            SIGNATURE, [get_order, fly], router=trained("tfidf").folder, policy=0.0
        )
        found = routed(question="thank you")
    assert [name for name, _, _ in made(found)] == ["fly", "finish"]
    assert found.routing.fallbacks == found.routing.router_calls == 2
