"""An LLM in the loop: what it is shown and offered under each arm, what it costs, how it fails."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from fake_llm import FakeLlm, calling, says
from fake_llm import Says as Sent
from made_tasks import Says, Sums, add

from distill.config import EndpointConfig, PolicyConfig
from distill.endpoint import Endpoint
from distill.environment import Task
from distill.evaluation.arms import ARMS
from distill.evaluation.closed_loop import FromLlm, Outcome, play
from distill.history import HANDED
from distill.policy import Policy
from distill.types import Usage

EVERYTHING = Policy(PolicyConfig(threshold=0))
TWO_TURNS = Task("t5", "g", ("make it 2", "make it 5"), "You add.")


def adds(request: dict[str, Any]) -> Sent:
    """Adds what is missing if it may, and else reads out the latest result."""
    *_, last = request["messages"]
    if last["role"] == "user" and request.get("tool_choice") == "auto":
        n = {"make it 2": 2, "make it 5": 3}[last["content"]]
        return says({**calling(("add", f'{{"n":{n}}}')), "content": "One moment."})
    results = re.findall(r"sum is (\d+)", "".join(m["content"] or "" for m in request["messages"]))
    return says({"content": f"It is {results[-1]}." if results else "Who knows."})


def outcome(
    answer: Callable[[dict[str, Any]], Sent],
    arm: str | None,
    router: Says | None = None,
) -> tuple[Outcome, list[dict[str, Any]]]:
    """The outcome of two turns, and the requests that were sent."""
    if arm != "own" and router is None:
        router = Says([add(2)], [], [add(3)])
    values = {"model": "m", "cache": None, "retries": 0, "connect_s": 2, "read_s": 5}
    with FakeLlm(answer) as llm:
        endpoint = Endpoint(EndpointConfig.model_validate({"base_url": llm.url, **values}))
        fallback = FromLlm(endpoint) if arm is None else FromLlm(endpoint, ARMS[arm])
        found = play(None if arm == "own" else router, EVERYTHING, Sums(), TWO_TURNS, fallback)
        endpoint.close()
    return found, llm.requests


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "own-no-tools"])
def test_each_arm_solves_the_task_and_pays_for_its_own_requests(arm: str):
    found, requests = outcome(adds, arm)
    assert (found.end, found.success) == ("done", True)
    assert found.words[-1] == "It is 5."
    count = 4 if arm == "own" else 2  # a call and its words, or the words alone; two turns
    assert len(requests) == count
    usage = found.usage
    assert (usage.llm_calls, usage.input_tokens, usage.output_tokens) == (
        count, 100 * count, 20 * count,
    )  # fmt: skip
    assert usage.cached_tokens == 40 * count
    assert usage.duration_ms > 0


@pytest.mark.parametrize("arm", [arm for arm in ARMS if not arm.startswith("own")])
def test_who_words_replies_sees_the_routers_calls_as_the_arm_has_them(arm: str):
    _, requests = outcome(adds, arm)
    for request in requests:
        assert ("tools" in request) == ARMS[arm].tools
        assert request.get("tool_choice") == ("none" if ARMS[arm].tools else None)
        called = [m for m in request["messages"] if m.get("tool_calls")]
        assert bool(called) == arm.startswith("synthetic")
        assert not any(message["content"] for message in called)
        assert any(m["role"] == "tool" for m in request["messages"]) == bool(called)
        last = request["messages"][-1]["content"]
        assert (HANDED in last) == arm.startswith("handed")


def test_an_llm_alone_sees_its_own_words_beside_its_calls():
    _, requests = outcome(adds, "own")
    assert all(request["tool_choice"] == "auto" for request in requests)
    beside = [m["content"] for m in requests[-1]["messages"] if m.get("tool_calls")]
    assert beside == ["One moment."] * 2


def test_without_an_arm_it_may_call_after_the_router_has():
    found, requests = outcome(adds, None, Says([add(2)]))
    assert [step["by"] for step in found.steps] == ["router", *["fallback"] * 3]
    assert found.success
    assert [request["tool_choice"] for request in requests] == ["auto"] * 3


def test_one_that_calls_where_words_are_wanted_is_asked_again_without_tools():
    def eager(request: dict[str, Any]) -> Sent:
        return says(calling(("add", '{"n":1}'))) if "tools" in request else adds(request)

    found, requests = outcome(eager, "synthetic")
    assert (found.success, found.usage.llm_calls, len(found.steps)) == (True, 4, 4)
    assert ["tools" in request for request in requests] == [True, False] * 2
    found, _ = outcome(lambda request: says(calling(("add", "{}"))), "handed")
    assert (found.end, found.error) == ("error", "fallback: NoAnswerError: unknown tool: 'add'")


def test_a_call_that_does_not_fit_is_told_to_it_and_not_made():
    def wrong(request: dict[str, Any]) -> Sent:
        first = len(request["messages"]) == 2
        return says(calling(("add", '{"n":"two"}'))) if first else adds(request)

    found, requests = outcome(wrong, "own")
    assert "schema" in requests[1]["messages"][-1]["content"]
    assert (found.success, found.score.wrong_calls) == (False, 1)


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (Sent(b'{"error":{"message":"overloaded"}}', 500), "HTTP 500: overloaded"),
        (Sent(b"<html>"), "not JSON"),
        (says({"content": ""}, finish_reason="length"), "cut off: "),
        (says(calling(("multiply", "{}"))), "unknown tool: 'multiply'"),
    ],
)
@pytest.mark.parametrize("arm", ["own", "handed"])
def test_one_that_fails_leaves_no_outcome(sent: Sent, error: str, arm: str):
    found, _ = outcome(lambda request: sent, arm)
    assert (found.end, found.success, found.score) == ("error", None, None)
    assert found.error.startswith(f"fallback: NoAnswerError: {error}")


def test_tokens_that_it_did_not_state_once_are_not_known():
    sent: list[int] = []

    def silent(request: dict[str, Any]) -> Sent:
        sent.append(1)
        message = {"content": "Fine."}
        return says(message, usage=None) if len(sent) == 1 else says(message)

    found, _ = outcome(silent, "handed")
    assert (found.usage.llm_calls, found.usage.input_tokens) == (2, None)
    assert found.usage != Usage()
